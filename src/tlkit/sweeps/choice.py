"""The figure that a choice among variants is worth: chosen on `val`, judged by other images."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from tlkit.sweeps.summary import Outcome, VariantSummary, accuracy_of, summary_of
from tlkit.sweeps.trials import Trials


def choice(
    outcomes: Sequence[Outcome], summaries: Sequence[VariantSummary], *, of_search: bool
) -> VariantSummary | None:
    """Return the result of choosing the variant on `val`, judged by `test` images.

    The choice never sees these, so unlike the best of several variants it is not optimistic. With
    folds, it is made in each of them; without folds, only a search chooses. None if there is
    nothing to choose from or to judge by, or runs are missing that are not a search's.
    """
    is_complete = [s.runs == s.planned for s in summaries]
    folds = sorted({o.trial.fold for o in outcomes if o.trial.fold is not None})
    if len(summaries) < 2 or not (all(is_complete) or (of_search and any(is_complete))):
        return None
    runs = {
        number: [o for o in outcomes if o.trial.variant == summary.variant]
        for number, summary in enumerate(summaries, start=1)
        if is_complete[number - 1]
    }
    tried = f" among {len(summaries)} tried" if of_search else ""
    if not folds:
        if not of_search or summaries[next(iter(runs)) - 1].split == "val":
            return None
        best = max(runs, key=lambda number: on_val(runs[number]))
        return summary_of(None, f"chosen on val{tried} (variant {best})", runs[best])
    chosen: list[Outcome] = []
    numbers: list[str] = []
    for fold in folds:
        in_fold = {n: [o for o in some if o.trial.fold == fold] for n, some in runs.items()}
        best = max(in_fold, key=lambda number: on_val(in_fold[number]))
        numbers.append(str(best))
        chosen += in_fold[best]
    label = f"chosen on val in each fold{tried} (variants {', '.join(numbers)})"
    return summary_of(None, label, chosen)


def on_val(outcomes: Sequence[Outcome]) -> float:
    """Return the mean accuracy of finished runs on `val`."""
    return statistics.fmean(accuracy_of(outcome.confusions["val"]) for outcome in outcomes)


def search_note(trials: Trials, summaries: Sequence[VariantSummary]) -> str:
    """Return how many variants a search has tried, and where they ended; empty without one."""
    if trials.search is None:
        return ""
    dropped = Counter(s.dropped for s in summaries if s.dropped)
    complete = sum(s.runs == s.planned for s in summaries)
    failed = sum(s.failed > 0 and not s.dropped for s in summaries)
    left = trials.waiting_draws + len(summaries) - dropped.total() - complete - failed
    texts = [f"{len(summaries)} variants drawn, {trials.search.sampler}"]
    texts += [f"{count} dropped after epoch {epochs}" for epochs, count in sorted(dropped.items())]
    texts.append(f"{complete} made to their end")
    texts += [f"{failed} failed"] * bool(failed) + [f"{left} not decided yet"] * bool(left)
    return ", ".join(texts)
