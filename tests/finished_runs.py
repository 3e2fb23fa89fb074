"""RunRecord runs made up in memory, for tests of what is shown of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import evolve

from tlkit.config.experiment import Experiment, ModelCard, PublishedResult
from tlkit.config.structure import structure
from tlkit.data.splits import Example, Splits
from tlkit.metrics.scores import EpochScores
from tlkit.metrics.scoring import score, score_confusion
from tlkit.runfolder.inputs import EnvironmentRecord, ExperimentRecord, PlanRecord
from tlkit.runfolder.record import RunRecord
from tlkit.runfolder.results import MetricsRecord
from tlkit.runfolder.tables import Prediction
from tlkit.train.callback import Epoch
from tlkit.train.plan import make_plan

HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "gnp\u202egpj.exe\x1b[31m\nsecond line",
    "x" * 255,
)


def made_up(
    classes: Sequence[str] = ("normal", "pneumonia", "covid-19"),
    counts: Sequence[int] = (100, 100, 31),
    *,
    skill: float = 1.6,
    epochs: int = 5,
    patients: bool = False,
    source: str = "",
    reference: Sequence[dict[str, Any]] = (),
    card: ModelCard | None = None,
    name: str = "study",
    names: str = "{split}/{number}.png",
    seed: int = 0,
) -> RunRecord:
    """Return a finished run with predictions that are better than chance by `skill`."""
    random = np.random.default_rng(seed)
    splits = {
        split: [
            Example(
                path=names.format(split=split, number=f"{k}-{number}"),
                label=label,
                patient=f"{split}-{k}-{number // 2}" if patients else "",
                source=source.format(label=label),
                sha256="ab" * 32,
            )
            for k, (label, count) in enumerate(zip(classes, counts, strict=True))
            for number in range(count)
        ]
        for split in ("train", "val", "test")
    }
    known = Splits(
        classes=tuple(classes),
        **{split: tuple(some) for split, some in splits.items()},  # type: ignore[arg-type]
        read=lambda path: b"",
    )
    experiment = structure(
        Experiment,
        {
            "data": {"name": "shapes"},
            "backbone": {"weights": "none", "image_size": 32},
            "head": {"name": "pooled"},
            "fit": {"epochs": epochs},
        },
    )
    experiment = evolve(
        experiment,
        reference=tuple(structure(PublishedResult, one) for one in reference),
        card=card or ModelCard(),
    )
    plan = PlanRecord.of(make_plan(experiment, known))
    labels = np.array(known.labels(known.test))
    scores = random.normal(size=(len(labels), len(classes)))
    scores[np.arange(len(labels)), labels] += skill
    shares = np.exp(scores)
    shares = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
    found = score(labels, shares, classes, [one.patient for one in known.test]).as_json()
    predictions = tuple(
        Prediction(
            one.path, one.label, classes[row.index(max(row))], dict(zip(classes, row, strict=True))
        )
        for one, row in zip(known.test, shares.tolist(), strict=True)
    )
    metrics = {
        "stand_in": None,
        "evaluated_on": "test",
        "classes": list(classes),
        "weights": {"source": "bsds500", "sha256": "cd" * 32},
        "keep": "last",
        "epoch": epochs,
        "val": found,
        "test": found,
        "best": {"epoch": max(1, epochs - 1), "val": found, "test": found},
    }
    return RunRecord(
        name=name,
        toml='[data]\nname = "shapes"\n',
        experiment=ExperimentRecord.of(experiment),
        plan=plan,
        metrics=MetricsRecord.from_json(metrics),
        environment=EnvironmentRecord(
            python="3.11", packages={"tlkit": "0.1.0"}, overrides=("a.b=1",)
        ),
        history=tuple(
            Epoch(
                epoch=number,
                stage=1,
                learning_rate=1e-3 / number,
                loss=2 / number,
                loss_unweighted=1.5 / number,
                accuracy=1 - 0.5 / number,
                val_loss=1.2 / number,
                val_accuracy=0.9 - 0.5 / number,
            )
            for number in range(1, epochs + 1)
        ),
        manifest={split: tuple(some) for split, some in splits.items()},
        predictions={"test": predictions, "val": predictions},
    )


def write_pretended(folder: Path, table: Mapping[str, Any]) -> None:
    """Write what a sweep reads of a run's folder: its metrics, and tables without images."""
    shares = [f"p_{name}" for name in table["classes"]]
    predictions = ",".join(["path", "label", "predicted", "split", *shares])
    (folder / "predictions.csv").write_text(f"{predictions}\n")
    (folder / "manifest.csv").write_text("path,sha256,split,label,patient,source,view\n")
    (folder / "metrics.json").write_text(json.dumps(table))


def metrics_table(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> dict[str, Any]:
    """Return the content of `metrics.json` of a run without a test split."""
    epoch = EpochScores(1, {"val": score_confusion(confusion, classes)})
    return MetricsRecord(
        evaluated_on="val", classes=tuple(classes), keep="last", kept=epoch, other=epoch
    ).as_json()
