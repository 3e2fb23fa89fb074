"""Temperature and threshold: learnt from the validation split, laws of what they do."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import log_loss

import tlkit
from tlkit.config.experiment import Calibration
from tlkit.config.structure import structure
from tlkit.metrics.calibration import (
    ROUNDING,
    Calibrator,
    best_temperature,
    fit_calibrator,
    threshold,
)
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.record import read_record
from tlkit.runfolder.results import CalibrationRecord
from tlkit.system.errors import FieldError
from tlkit.train.plan import make_plan

pytestmark = pytest.mark.usefixtures("slim_vgg")

CLASSES = ("a", "b", "c")


def softmax(scores: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    found: npt.NDArray[np.float32] = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return found


SHARES = arrays(
    np.float64, st.tuples(st.integers(1, 9), st.just(3)), elements=st.floats(-9, 9)
).map(softmax)


@pytest.mark.parametrize("sharpened", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_how_sharp_the_probabilities_were_made(sharpened: float) -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=(20_000, 3)) * 2
    labels = np.array([random.choice(3, p=p / p.sum()) for p in softmax(scores).astype(float)])
    raw = softmax(sharpened * scores)
    assert best_temperature(labels, raw) == pytest.approx(sharpened, rel=0.03)


def test_no_other_temperature_has_less_log_loss() -> None:
    random = np.random.default_rng(1)
    raw, labels = softmax(random.normal(size=(40, 3)) * 5), random.integers(0, 3, 40)
    best = best_temperature(labels, raw)
    losses = [
        log_loss(labels, Calibrator(temperature=t).probabilities(raw), labels=[0, 1, 2])
        for t in (best, 0.98 * best, 1.02 * best, 1.0)
    ]
    assert losses[0] == min(losses)


def test_nothing_is_learnt_where_all_are_right() -> None:
    """The least loss would be that of a temperature of 0, which makes every answer certain."""
    raw = np.array([[0.6, 0.2, 0.2], [0.1, 0.8, 0.1]], np.float32)
    assert best_temperature(np.array([0, 1]), raw) == 1


def test_a_certain_error_costs_no_infinite_loss() -> None:
    raw = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    found = best_temperature(np.array([1, 0, 1]), raw)
    assert 1 < found <= 20
    assert np.isfinite(Calibrator(temperature=found).probabilities(raw)).all()


@given(SHARES, st.floats(0.05, 20))
def test_a_temperature_keeps_the_order_and_the_sum(raw: Any, temperature: float) -> None:
    found = Calibrator(temperature=temperature).probabilities(raw)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    top = found[np.arange(len(raw)), raw.argmax(axis=1)]
    np.testing.assert_array_equal(top, found.max(axis=1))


@given(SHARES)
def test_a_temperature_of_1_changes_no_bit(raw: Any) -> None:
    assert Calibrator().probabilities(raw) is raw
    np.testing.assert_array_equal(Calibrator().predicted(raw), raw.argmax(axis=1))


PROBABILITIES = arrays(np.float32, st.integers(1, 40), elements=st.floats(0, 1, width=32))


@given(PROBABILITIES, st.floats(0.01, 1))
def test_the_threshold_is_the_highest_that_reaches_the_recall(own: Any, share: float) -> None:
    found = np.float32(threshold(own, share))
    assert (own >= found).mean() >= share - 1e-9
    higher = own > found
    assert higher.mean() < share


@given(SHARES, st.floats(0, 1))
def test_an_image_is_called_the_favoured_class_from_its_threshold_on(raw: Any, p: float) -> None:
    found = Calibrator(favored=1, threshold=p).predicted(raw)
    for row, number in zip(raw, found, strict=True):
        if row[1] >= np.float32(p - ROUNDING):
            assert number == 1
        else:
            assert number == (0 if row[0] >= row[2] else 2)


def test_the_threshold_is_one_of_calibrated_probabilities() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 200)
    raw = softmax(4 * (np.eye(3)[labels] + random.normal(size=(200, 3))))
    settings = Calibration(temperature=True, min_recall={"b": 0.9})
    found = fit_calibrator(settings, labels, raw, CLASSES)
    assert found.temperature > 1.1
    assert found.favored == 1
    calibrated = found.probabilities(raw)
    called = found.predicted(calibrated)[labels == 1] == 1
    assert 0.9 <= called.mean() < 0.9 + 1.5 / len(called)
    assert called.mean() > (calibrated.argmax(axis=1)[labels == 1] == 1).mean()


def test_nothing_is_learnt_unasked() -> None:
    raw = np.array([[0.6, 0.2, 0.2], [0.1, 0.8, 0.1]], np.float32)
    assert fit_calibrator(Calibration(), [1, 1], raw, CLASSES) == Calibrator()


@pytest.mark.parametrize(
    ("min_recall", "message"),
    [
        ({"a": 0.9, "b": 0.9}, r"min_recall: must name one class, got \['a', 'b'\]"),
        ({"a": 0.0}, r"min_recall\.a: must be above 0 and at most 1, got 0\.0"),
        ({"a": float("nan")}, r"min_recall\.a: must be above 0 and at most 1, got nan"),
        ({"a": 95.0}, r"min_recall\.a: must be above 0 and at most 1, got 95"),
    ],
)
def test_wrong_settings_are_refused(min_recall: dict[str, float], message: str) -> None:
    with pytest.raises(FieldError, match=message):
        Calibration(min_recall=min_recall)


def test_an_unknown_class_is_refused_before_anything_is_trained() -> None:
    table = {"data": {"name": "shapes"}, "calibration": {"min_recall": {"covid": 0.9}}}
    experiment = structure(tlkit.Experiment, table)
    with pytest.raises(tlkit.ConfigError, match=r"calibration\.min_recall\.covid: must be one "):
        make_plan(experiment, experiment.data.load())


# A quick run whose probabilities are far too sure of themselves.
TABLE: dict[str, Any] = {
    "data": {"name": "shapes", "train": 6, "val": 9, "test": 6, "image_px": 32},
    "backbone": {"weights": "none", "image_size": 32},
    "head": {"name": "pooled"},
    "optimizer": {"name": "sgd", "learning_rate": 3.0},
    "fit": {"epochs": 2, "xla": False},
}


def finished(folder: Path, **calibration: Any) -> tuple[tlkit.Run, list[dict[str, str]]]:
    """Return a run with such a calibration, and its predictions on the test split."""
    experiment = structure(tlkit.Experiment, TABLE | {"calibration": calibration})
    run = tlkit.run(experiment, folder)
    with (run.folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return run, [row for row in csv.DictReader(file) if row["split"] == "test"]


def test_a_run_keeps_and_applies_what_it_has_learnt(tmp_path: Path) -> None:
    plain, without = finished(tmp_path / "plain")
    run, rows = finished(tmp_path / "run", temperature=True, min_recall={"square": 1.0})
    assert not (plain.folder / "calibration.json").exists()
    table = json.loads((run.folder / "calibration.json").read_text(encoding="utf-8"))
    assert table["temperature"] > 1.2
    assert table["raw"]["val"]["log_loss"] == pytest.approx(plain.scores["val"].log_loss)
    assert run.scores["val"].log_loss < table["raw"]["val"]["log_loss"]
    assert run.scores["val"].per_class["square"].recall == 1
    for name in ("weights.safetensors", "history.csv"):
        assert (run.folder / name).read_bytes() == (plain.folder / name).read_bytes()

    classes = run.plan.classes
    found, raw = (
        np.array([[float(row[f"p_{name}"]) for name in classes] for row in some], np.float32)
        for some in (rows, without)
    )
    calibrator = Calibrator(
        temperature=table["temperature"], favored=1, threshold=table["threshold"]["p"]
    )
    assert table["threshold"]["class"] == classes[1]
    np.testing.assert_array_equal(found, calibrator.probabilities(raw))
    numbers = calibrator.predicted(found)
    assert [row["predicted"] for row in rows] == [classes[number] for number in numbers]

    splits = structure(tlkit.Experiment, TABLE).data.load()
    files = [tmp_path / f"{number}.png" for number in range(len(splits.test))]
    for path, example in zip(files, splits.test, strict=True):
        path.write_bytes(splits.read(example.path))
    classifier = tlkit.load(run.folder)
    np.testing.assert_array_equal(classifier.predict_proba(files), found)
    assert classifier.predict(files) == [row["predicted"] for row in rows]
    answers = list(classifier.iter_predict(map(str, files)))
    assert [answer.predicted for answer in answers] == classifier.predict(files)  # type: ignore[union-attr]  # none is rejected


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[]", "expected a table"),
        ("{}", "temperature: missing"),
        (
            '{"temperature": 2, "threshold": {"class": "d", "p": 0}, "raw": {}}',
            r"threshold\.class: ",
        ),
    ],
)
def test_a_calibration_that_tlkit_has_not_written_is_refused(
    text: str, key: str, tmp_path: Path
) -> None:
    (tmp_path / "calibration.json").write_text(text, encoding="utf-8")

    def calibrator(table: Any) -> Calibrator:
        return CalibrationRecord.from_json(table).calibrator(CLASSES)

    with pytest.raises(tlkit.RunFolderError, match=rf"calibration\.json: {key}"):
        read_record(RunFolder(tmp_path), "calibration.json", calibrator)
