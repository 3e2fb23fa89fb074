"""`MODEL_CARD.md`: a model's intended use, data, results and limitations."""

from __future__ import annotations

from tlkit.reports.caveats import caveats
from tlkit.reports.page import markdown, render
from tlkit.reports.tables import class_rows, method_text, overall_rows
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.record import RunRecord
from tlkit.system.files import write_text
from tlkit.weights.earlier_run import lineage

CARD = "MODEL_CARD.md"
MOST_CLASSES = 30  # that are listed; more would make the card unreadable
NOT_PROVIDED = "not provided"


def write_card(folder: RunFolder, run: RunRecord) -> None:
    """Write a run's model card."""
    write_text(folder.path / CARD, model_card(run))


def model_card(run: RunRecord) -> str:
    """Return a run's model card as Markdown; what the experiment leaves out is "not provided"."""
    train, scores = run.manifest["train"], run.scores
    more = max(0, len(run.classes) - MOST_CLASSES)
    worst = sorted(run.classes, key=lambda name: _recall(run, name)) if more else run.classes
    return render(
        "card.md.j2",
        name=run.name,
        stand_in=run.stand_in,
        card=run.card_texts,
        given=lambda text: markdown(text) if text else NOT_PROVIDED,
        parts=f"{run.experiment.backbone.name} + {run.experiment.head.name}",
        image_size=run.experiment.image_size,
        params=run.plan.params,
        classes=run.classes[:MOST_CLASSES],
        more=more,
        counts=run.plan.counts,
        patients=any(example.patient for example in train),
        sources=any(example.source for example in train),
        weights=weights_text(run),
        split=run.split,
        scores=scores,
        method=method_text(scores.resampling),
        overall=overall_rows(scores),
        per_class=[(name, class_rows(scores.per_class[name])) for name in worst[:MOST_CLASSES]],
        confusion=[] if more else list(zip(run.classes, scores.confusion, strict=True)),
        confused=_most_confused(run) if more else [],
        caveats=caveats(run),
        calibration=run.calibration_text,
    )


def _recall(run: RunRecord, name: str) -> float:
    recall = run.scores.per_class[name].recall
    return 2.0 if recall is None else recall


def _most_confused(run: RunRecord) -> list[tuple[str, str, int]]:
    """Return the pairs of true and predicted class that are confused most often."""
    pairs = [
        (truth, predicted, count)
        for truth, row in zip(run.classes, run.scores.confusion, strict=True)
        for predicted, count in zip(run.classes, row, strict=True)
        if truth != predicted and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:MOST_CLASSES]


def weights_text(run: RunRecord) -> str:
    """Return the source and hash of the weights that training started from, or their lineage."""
    weights = run.metrics.weights
    if "run" not in weights and "head_run" not in weights:
        return " ".join(weights[key] for key in ("source", "sha256") if key in weights)
    texts = [lineage(weights) if "run" not in weights else f"the backbone of {lineage(weights)}"]
    if "head_run" in weights:
        texts.append(f"the head of the run {weights['head_run']}")
    return " and ".join(texts)
