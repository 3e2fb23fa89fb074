"""What a reader of results must know before believing them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from tlkit.data.splits import Example
from tlkit.metrics.intervals import FEW
from tlkit.metrics.scores import Scores
from tlkit.runfolder.run_record import RunRecord

# How many of the images a source's commonest class must get right, beyond the commonest class of
# all, before the source is said to tell the class.
TELLS, BEYOND = 0.9, 0.1
LISTED = 6  # so many classes are named one by one


def caveats(run: RunRecord) -> list[str]:
    """Return what speaks against trusting a run's figures, the gravest first, a sentence each."""
    found = []
    if run.stand_in:
        found.append(
            f"The images are drawn {run.stand_in}s in place of data that were not there. "
            "The figures only show that things work."
        )
    facts = run.plan.get("data", {})
    if facts.get("leakage_accepted"):
        found.append(
            "Leakage was accepted: a picture or a patient is in more than one split, so the "
            "figures flatter the model."
        )
    if skipped := facts.get("skipped"):
        listed = _listed(f"{count} of {split}" for split, count in skipped.items())
        found.append(f"Images that could not be read were left out: {listed}.")
    if run.split == "val":
        found.append(
            "There is no test split. The figures are those on the validation images, which were "
            "watched while the model was made, so they flatter it."
        )
    train = run.manifest["train"]
    found += source_cautions(train)
    if not run.stand_in and not any(example.patient for example in train):
        found.append(
            "No patients are given: images of one patient, or of one thing, may be in two splits, "
            "and the intervals take each image for an independent one."
        )
    return found + score_cautions(run.scores)


def score_cautions(scores: Scores) -> list[str]:
    """Return what the figures themselves warn of."""
    found = []
    counts = {name: one.support for name, one in scores.per_class.items()}
    commonest = max(counts, key=lambda name: counts[name])
    share = counts[commonest] / scores.images
    interval = scores.intervals.get("accuracy")
    if len(scores.never_predicted) == len(scores.classes) - 1:
        said = next(name for name in scores.classes if name not in scores.never_predicted)
        found.append(f"Every image is called {said}: the model tells nothing apart.")
    elif scores.never_predicted:
        found.append(f"No image is ever called {_listed(scores.never_predicted)}.")
    if interval and interval.low <= share < 1:
        than = "worse" if interval.high < share else "not clearly better"
        found.append(
            f"The accuracy is {than} than calling every image {commonest}, which is right for "
            f"{100 * share:.1f} %."
        )
    if scores.few:
        listed = _listed(f"{name} ({count})" for name, count in scores.few.items())
        if len(scores.few) > LISTED:
            listed = f"{len(scores.few)} of {len(scores.classes)} classes have fewer than {FEW}"
        found.append(f"Few images to judge by: {listed}. Read the intervals, not the figures.")
    return found


def source_cautions(examples: Sequence[Example]) -> list[str]:
    """Return a warning if the collection that an image comes from tells its class."""
    known = [example for example in examples if example.source]
    if not known:
        return []
    pairs = Counter((example.source, example.label) for example in known)
    best: dict[str, int] = {}
    for (source, _), count in pairs.items():
        best[source] = max(best.get(source, 0), count)
    told = sum(best.values()) / len(known)
    commonest = max(Counter(example.label for example in known).values()) / len(known)
    learnt = "the model may have learnt to tell sources apart and not findings."
    if told >= max(TELLS, commonest + BEYOND):
        share = f"{100 * told:.0f} % of the training images"
        return [f"The source of an image tells its class for {share}: {learnt}"]
    if away := _given_away(pairs):
        text = f"The source of an image gives {_listed(away)} away"
        return [f"{text}, as hardly any other image comes from there: {learnt}"]
    return []


def _given_away(pairs: Mapping[tuple[str, str], int]) -> list[str]:
    """Return the classes whose images come from sources that are almost theirs alone.

    Args:
        pairs: How many images there are of each source and class.
    """
    of_source, of_class, own = Counter[str](), Counter[str](), Counter[str]()
    for (source, label), count in pairs.items():
        of_source[source] += count
        of_class[label] += count
    for (source, label), count in pairs.items():
        own[label] += count if count >= TELLS * of_source[source] else 0
    rare = {k: n for k, n in of_class.items() if n < (TELLS - BEYOND) * of_class.total()}
    return [label for label, count in rare.items() if own[label] >= TELLS * count]


def source_table(run: RunRecord) -> list[tuple[str, dict[str, int]]]:
    """Return, for each source, how many images of each class the run has; unknown sources last."""
    pairs = Counter(
        (example.source, example.label) for images in run.manifest.values() for example in images
    )
    sources = sorted({source for source, _ in pairs}, key=lambda name: (not name, name))
    return [(name, {label: pairs[name, label] for label in run.classes}) for name in sources]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
