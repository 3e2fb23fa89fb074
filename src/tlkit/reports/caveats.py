"""What a reader of a run's results must know before believing them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tlkit.data.splits import Example
from tlkit.metrics.intervals import FEW, format_value
from tlkit.metrics.scores import Scores
from tlkit.reports.console import stand_in_text
from tlkit.runfolder.learned_from import UNKNOWN, learned_caveats
from tlkit.runfolder.record import RunRecord
from tlkit.runfolder.results import Threshold

# A source predicts the class if always guessing its most frequent class is right for this share of
# images, and better by this margin than always guessing the most frequent class of all.
SHARE, MARGIN = 0.9, 0.1
MAX_LISTED = 6  # classes named one by one
CONSEQUENCE = "the model may have learned to recognize the source instead of the class."


def caveats(run: RunRecord) -> list[str]:
    """Return the reasons to distrust a run's results, one sentence each, most serious first."""
    texts = []
    if run.stand_in:
        texts.append(f"The data are {stand_in_text(run.stand_in)}.")
    facts = run.plan.data
    if facts.leakage_accepted:
        texts.append(
            "Leakage was accepted: some images or patients are in more than one split, so the "
            "results are too good."
        )
    tested = run.manifest.get(run.split, ())
    texts += learned_caveats(run.learned_before, [(image.sha256, UNKNOWN) for image in tested])
    if skipped := facts.skipped:
        counts = ", ".join(f"{count} of {split}" for split, count in skipped.items())
        texts.append(f"Images that could not be read were skipped: {counts}.")
    if run.split == "val":
        texts.append(
            "There is no test split. The results are on the validation images, which were used "
            "during development, so they are too good."
        )
    train = run.manifest["train"]
    texts += source_caveats(train)
    if not run.stand_in and not any(example.patient for example in train):
        texts.append(
            "No patients are given: images of the same patient or object may be in two splits, "
            "and the intervals treat all images as independent."
        )
    if run.calibration and run.calibration.threshold:
        wanted = run.experiment.calibration.min_recall
        texts += threshold_caveats(run.calibration.threshold, wanted, run.scores)
    return texts + score_caveats(run.scores)


def threshold_caveats(
    threshold: Threshold, wanted: Mapping[str, float], scores: Scores
) -> list[str]:
    """Return warnings about a class's threshold: few images behind it, or a recall it misses."""
    texts, name = [], threshold.name
    if threshold.images is not None and threshold.images < FEW:
        texts.append(
            f"The threshold of {name} was chosen on {threshold.images} validation images: on "
            "others its recall may be far from the one that was asked for."
        )
    recall, least = scores.per_class[name].recall, wanted.get(name)
    if recall is not None and least is not None and recall < least:
        texts.append(
            f"The recall of {name} is {format_value(recall)}, below the {format_value(least)} that "
            "its threshold was to meet."
        )
    return texts


def score_caveats(scores: Scores) -> list[str]:
    """Return the warnings that follow from the scores themselves."""
    texts = []
    if len(scores.never_predicted) == len(scores.classes) - 1:
        only = next(name for name in scores.classes if name not in scores.never_predicted)
        texts.append(f"Every image is classified as {only}: the model distinguishes nothing.")
    elif scores.never_predicted:
        texts.append(f"No image is classified as {', '.join(scores.never_predicted)}.")
    if text := chance_caveat(scores):
        texts.append(text)
    if scores.few:
        listed = ", ".join(f"{name} ({count})" for name, count in scores.few.items())
        if len(scores.few) > MAX_LISTED:
            listed = f"{len(scores.few)} of {len(scores.classes)} classes have fewer than {FEW}"
        texts.append(f"Few test images: {listed}. Look at the intervals, not only at the values.")
    return texts


def chance_caveat(scores: Scores, what: str = "The accuracy") -> str:
    """Return the warning about a model that a constant answer may equal; empty if there is none."""
    counts = {name: of_class.support for name, of_class in scores.per_class.items()}
    most_frequent = max(counts, key=lambda name: counts[name])
    baseline = counts[most_frequent] / scores.images
    interval = scores.intervals.get("accuracy")
    if not interval or not interval.low <= baseline < 1:
        return ""
    relation = "worse" if interval.high < baseline else "not clearly better"
    return (
        f"{what} is {relation} than classifying every image as {most_frequent}, which "
        f"is correct for {format_value(baseline)}."
    )


def source_caveats(examples: Sequence[Example]) -> list[str]:
    """Return a warning if an image's source predicts its class."""
    known = [example for example in examples if example.source]
    if not known:
        return []
    pairs = Counter((example.source, example.label) for example in known)
    best: dict[str, int] = {}
    for (source, _), count in pairs.items():
        best[source] = max(best.get(source, 0), count)
    by_source = sum(best.values()) / len(known)
    most_frequent = max(Counter(example.label for example in known).values()) / len(known)
    if by_source >= max(SHARE, most_frequent + MARGIN):
        share = format_value(by_source, digits=0)
        text = f"The source of an image predicts its class for {share} of the training images"
        return [f"{text}: {CONSEQUENCE}"]
    if revealed := _revealed(pairs):
        text = f"The source of an image reveals {', '.join(revealed)}"
        return [f"{text}, because hardly any other images come from that source: {CONSEQUENCE}"]
    return []


def _revealed(pairs: Mapping[tuple[str, str], int]) -> list[str]:
    """Return the classes whose images come from sources that have hardly any other class."""
    of_source, of_class, own = Counter[str](), Counter[str](), Counter[str]()
    for (source, label), count in pairs.items():
        of_source[source] += count
        of_class[label] += count
    for (source, label), count in pairs.items():
        own[label] += count if count >= SHARE * of_source[source] else 0
    rare = {k: n for k, n in of_class.items() if n < (SHARE - MARGIN) * of_class.total()}
    return [label for label, count in rare.items() if own[label] >= SHARE * count]


def source_table(run: RunRecord) -> list[tuple[str, dict[str, int]]]:
    """Return each source's number of images per class; unknown sources last."""
    pairs = Counter(
        (example.source, example.label) for images in run.manifest.values() for example in images
    )
    sources = sorted({source for source, _ in pairs}, key=lambda name: (not name, name))
    return [(name, {label: pairs[name, label] for label in run.classes}) for name in sources]
