"""Ensembles: what is averaged, of which images, and what an ensemble's folder then says."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from attrs import evolve, frozen
from tests.fakes import rewrite

import tlkit
from tlkit import cli
from tlkit.data.splits import Example
from tlkit.ensembles import loaded
from tlkit.evaluation import Evaluation, evaluation_of
from tlkit.metrics.scoring import score
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.tables import read_predictions

OLD = Path(__file__).parent / "data" / "old_run"  # twelve images of three classes
CLASSES = ("x", "y", "z")
Shares = npt.NDArray[np.float64]


def shares(seed: int) -> Shares:
    return np.random.default_rng(seed).dirichlet([1, 1, 1], size=12)


def edit(file: Path, change: Callable[[int, dict[str, str]], None]) -> None:
    """Change the rows of a CSV file."""
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
    for number, row in enumerate(rows):
        change(number, row)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    file.write_text(text.getvalue(), encoding="utf-8")


def run(folder: Path, seed: int = 0, fold: int | None = None, **keys: Any) -> Path:
    """Make a finished run with random probabilities; each fold has images of its own."""
    shutil.copytree(OLD, folder)
    rows = shares(seed)

    def predict(number: int, row: dict[str, str]) -> None:
        row |= {f"p_{k}": repr(p) for k, p in zip(CLASSES, rows[number].tolist(), strict=True)}
        row["predicted"] = CLASSES[rows[number].argmax()]

    def of_fold(number: int, row: dict[str, str]) -> None:
        row["sha256"] = f"{fold or 0}{row['sha256'][1:]}"

    def set_keys(table: dict[str, Any]) -> None:
        table["data"] |= {} if fold is None else {"fold": fold, "folds": 2}
        table["fit"] |= keys

    edit(folder / "predictions.csv", predict)
    edit(folder / "manifest.csv", of_fold)
    rewrite("experiment.json", set_keys)(folder)
    return folder


def sweep(folder: Path, runs: Iterable[dict[str, Any]]) -> Path:
    """Make what `ensemble` reads of a sweep."""
    planned = []
    for number, settings in enumerate(runs, start=1):
        planned.append({"run": f"00{number}-e", "sha256": "0"})
        run(folder / "runs" / f"00{number}-e", **settings)
    (folder / "sweep.json").write_text(json.dumps({"runs": planned}), encoding="utf-8")
    return folder


def folds(*seeds: int) -> list[dict[str, int]]:
    return [{"seed": seed, "fold": fold} for fold, seed in enumerate(seeds, start=1)]


def test_the_average_of_two_runs_is_judged_on_their_images(tmp_path: Path) -> None:
    runs = [run(tmp_path / "runs" / name, seed) for seed, name in enumerate("ab")]
    made = tlkit.ensemble(*runs, out=tmp_path / "out" / "both")
    mean = (shares(0) + shares(1)) / 2
    order = {f"val/{number:06d}.png": number for number in range(12)}
    written = read_predictions(RunFolder(made.folder), CLASSES)["val"]
    for prediction in written:
        expected = mean[order[prediction.path]]
        np.testing.assert_allclose([*prediction.probabilities.values()], expected, atol=1e-7)
    labels = [number // 4 for number in range(12)]
    assert made.scores is not None
    assert made.scores.accuracy == score(labels, mean, CLASSES).accuracy
    assert made.comparison is not None
    assert [len(made.comparison.runs), len(made.comparison.pairs)] == [3, 2]
    assert made.comparison.runs[1].scores.accuracy == score(labels, shares(0), CLASSES).accuracy
    assert "settings" not in str(made.comparison.differences)
    known = json.loads((made.folder / "ensemble.json").read_text(encoding="utf-8"))
    assert [one["folder"] for one in known["members"]] == ["../../runs/a", "../../runs/b"]
    assert known["val"]["accuracy"] == made.scores.accuracy
    page = (made.folder / "ensemble.html").read_text(encoding="utf-8")
    assert "the average of 2" in page
    assert "<h2>Training</h2>" not in page
    table = (made.folder / "scores.csv").read_text(encoding="utf-8")
    scores = list(csv.DictReader(io.StringIO(table)))
    assert [row["class"] for row in scores] == ["all", *CLASSES] * 3
    assert float(scores[0]["accuracy"]) == made.scores.accuracy
    assert tlkit.verify(made.folder).problems == ()
    assert "2 members, accuracy" in repr(made)


def test_sweeps_are_averaged_fold_by_fold(tmp_path: Path) -> None:
    """Whatever the order of their runs."""
    first = sweep(tmp_path / "s1", folds(1, 2))
    second = sweep(tmp_path / "s2", reversed(folds(3, 4)))
    made = tlkit.ensemble(first, second, out=tmp_path / "both")
    mean = np.concatenate([shares(1) + shares(3), shares(2) + shares(4)]) / 2
    labels = [number // 4 for number in range(12)] * 2
    assert made.scores is not None
    assert made.scores.images == 24
    assert made.scores.confusion == score(labels, mean, CLASSES).confusion
    assert made.members == (str(first), str(second))
    with pytest.raises(tlkit.RunFolderError, match="both: is an ensemble of sweeps, which has"):
        tlkit.load_ensemble(made.folder)


def test_each_variant_and_seed_of_a_sweep_is_a_member(tmp_path: Path) -> None:
    runs = [settings | {"epochs": epochs} for epochs in (2, 3) for settings in folds(1, 2)]
    folder = sweep(tmp_path / "s", runs)
    made = tlkit.ensemble(folder, out=tmp_path / "out")
    assert made.members == (f"{folder}, fit.epochs=2", f"{folder}, fit.epochs=3")
    table = json.loads((made.folder / "ensemble.json").read_text(encoding="utf-8"))
    assert [one["variant"] for one in table["members"]] == ["fit.epochs=2", "fit.epochs=3"]
    assert made.comparison is not None
    assert [pair.p for pair in made.comparison.pairs if pair] == [1, 1]


def test_runs_of_other_images_have_no_scores(tmp_path: Path) -> None:
    runs = [run(tmp_path / str(fold), fold=fold) for fold in (1, 2)]
    made = tlkit.ensemble(*runs, out=tmp_path / "out")
    assert made.scores is None
    assert "other folds" in made.note
    assert sorted(path.name for path in made.folder.iterdir()) == ["ensemble.json", "seal.json"]


def test_a_threshold_has_no_effect_and_a_note_says_so(tmp_path: Path) -> None:
    runs = [run(tmp_path / name) for name in "ab"]
    rewrite("experiment.json", lambda t: t["calibration"]["min_recall"].update(x=0.9))(runs[0])
    calibration = {"temperature": 1.0, "raw": {}}
    (runs[0] / "calibration.json").write_text(json.dumps(calibration), encoding="utf-8")
    assert "min_recall" in tlkit.ensemble(*runs, out=tmp_path / "out").note


def other_classes(top: Path) -> list[Path]:
    odd = run(top / "odd")
    for name in ("plan.json", "metrics.json"):
        text = (odd / name).read_text(encoding="utf-8").replace('"z"', '"w"')
        (odd / name).write_text(text, encoding="utf-8")
    edit(odd / "predictions.csv", lambda number, row: row.update(label="x", predicted="x"))
    text = (odd / "predictions.csv").read_text(encoding="utf-8").replace("p_z", "p_w")
    (odd / "predictions.csv").write_text(text, encoding="utf-8")
    return [run(top / "a"), odd]


def unfinished(top: Path) -> list[Path]:
    runs = [run(top / "a"), run(top / "b")]
    (runs[1] / "metrics.json").unlink()
    return runs


def one_image_differs(top: Path) -> list[Path]:
    sweeps = [sweep(top / name, folds(1, 2)) for name in "ab"]
    manifest = sweeps[1] / "runs" / "002-e" / "manifest.csv"
    edit(manifest, lambda number, row: row.update(sha256=row["sha256"][::-1]))
    return sweeps


REFUSED: dict[str, tuple[Callable[[Path], list[Path]], str]] = {
    "one": (lambda top: [run(top / "a")], "a: an ensemble needs two members or more, got 1"),
    "none": (lambda top: [], "^an ensemble needs two members or more, got 0"),
    "twice": (lambda top: [run(top / "a"), top / "b" / ".." / "a"], "a: is named twice"),
    "both kinds": (lambda top: [run(top / "a"), sweep(top / "s", folds(1, 2))],
                   "a: is not a sweep, but .*s is"),
    "no run": (lambda top: [run(top / "a"), top], "this is not a run folder"),
    "unfinished": (unfinished, "b: the run is not finished"),
    "other classes": (other_classes, "odd: has the classes x, y, w, but .*a has x, y, z"),
    "other images": (one_image_differs, "in fold 2, .*b was judged on other images than .*a"),
    "other folds": (lambda top: [sweep(top / "a", folds(1, 2)), sweep(top / "b", folds(1))],
                    "b has other folds than .*a; sweeps are averaged fold by fold"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_together_is_refused(case: str, tmp_path: Path) -> None:
    make, message = REFUSED[case]
    members = make(tmp_path)
    with pytest.raises(tlkit.RunFolderError, match=message):
        tlkit.ensemble(*members, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    runs = [run(tmp_path / name) for name in "ab"]
    with pytest.raises(tlkit.RunFolderError, match="b: the folder exists; choose another"):
        tlkit.ensemble(*runs, out=tmp_path / "b")


@frozen
class Stub:
    """A classifier of three images that it knows by name."""

    rows: Shares
    classes: tuple[str, ...] = CLASSES
    stand_in: str = ""
    skips: str = ""

    def predict_proba(self, images: list[str]) -> npt.NDArray[np.float32]:
        return self.rows[[int(image) for image in images]].astype(np.float32)

    def iter_predict(self, files: Iterable[str]) -> Iterator[Any]:
        for file in files:
            if file == "bad":
                yield tlkit.Rejected(file, "cannot be decoded")
            else:
                row = self.predict_proba([file])[0]
                yield tlkit.Prediction(file, self.classes[row.argmax()], row)

    def evaluate(self, data: str, split: str | None, root: None) -> Evaluation:
        numbers = [n for n in range(3) if str(n) != self.skips]
        examples = [Example(path=str(n), label=CLASSES[n]) for n in numbers]
        rows = self.predict_proba([str(n) for n in numbers])
        made = evaluation_of(split, examples, rows, rows.argmax(axis=1), CLASSES, ("a note",))
        return evolve(made, caveats=("trained on 1 of them", "trained on 1 of them"))


def stubs(**second: Any) -> tlkit.Ensemble:
    rows = np.array([[0.6, 0.4, 0.0], [0.2, 0.2, 0.6], [0.1, 0.0, 0.9]])
    other = np.array([[0.0, 0.8, 0.2], [0.1, 0.9, 0.0], [0.1, 0.0, 0.9]])
    members: Any = (Stub(rows), evolve(Stub(other), **second))
    return tlkit.Ensemble(members=members)


def test_it_predicts_the_mean() -> None:
    ensemble = stubs(stand_in="shapes")
    np.testing.assert_allclose(ensemble.predict_proba(["0"]), [[0.3, 0.6, 0.1]], atol=1e-7)
    assert ensemble.predict(["0", "1", "2"]) == ["y", "y", "z"]
    streamed = list(ensemble.iter_predict(["0", "bad", "2"]))
    assert [type(item).__name__ for item in streamed] == ["Prediction", "Rejected", "Prediction"]
    first = streamed[0]
    assert isinstance(first, tlkit.Prediction)
    assert (first.path, first.predicted) == ("0", "y")
    assert (ensemble.stand_in, repr(ensemble)) == ("shapes", "Ensemble(2 members; x, y, z)")


def test_it_has_no_features() -> None:
    with pytest.raises(tlkit.ConfigError, match="no features of its own"):
        stubs().iter_predict(["0"], features=True)


def test_it_is_evaluated_by_its_mean() -> None:
    evaluation = stubs().evaluate("data", "test")
    assert (evaluation.scores.images, evaluation.split) == (3, "test")
    assert evaluation.predicted.tolist() == [1, 1, 2]
    assert evaluation.notes == ("a note",)
    assert evaluation.caveats[0] == "trained on 1 of them"
    assert evaluation.caveats.count("trained on 1 of them") == 1


def test_members_that_skip_other_images_are_refused() -> None:
    with pytest.raises(tlkit.DataError, match="skip different images"):
        stubs(skips="1").evaluate("data")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ensemble of two runs, which are not built when it is loaded."""
    monkeypatch.setattr(loaded, "load", lambda path, plugins: Stub(shares(0)[:3]))
    runs = [run(tmp_path / name) for name in "ab"]
    return tlkit.ensemble(*runs, out=tmp_path / "out").folder


def test_it_is_loaded_from_where_it_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(tlkit.load_ensemble(folder).members) == 2
    monkeypatch.chdir(tmp_path / "a")
    assert len(tlkit.load_ensemble("../out").members) == 2


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "other weights": (lambda top: (top / "b" / "weights.safetensors").write_bytes(b"no"),
                      "b: has other weights than when .*out was made"),
    "gone": (lambda top: shutil.rmtree(top / "b"), "weights.safetensors: cannot be read"),
    "no JSON": (lambda top: (top / "out" / "ensemble.json").write_text("{"),
                "ensemble.json: cannot be read"),
    "other members": (lambda top: (top / "out" / "ensemble.json").write_text('{"of": "runs"}'),
                      "ensemble.json: has changed since it was written"),
    "nothing": (rewrite("out/ensemble.json", lambda table: table.clear()), "has changed since"),
    "no ensemble": (lambda top: (top / "out" / "ensemble.json").unlink(),
                    "out: is not an ensemble"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_what_has_changed_since_is_refused(case: str, folder: Path, tmp_path: Path) -> None:
    damage, message = DAMAGED[case]
    damage(tmp_path)
    with pytest.raises(tlkit.RunFolderError, match=message):
        tlkit.load_ensemble(folder)


NOT_OURS: list[Any] = [{}, [], {"of": "runs", "members": []},
                       {"of": "runs", "members": [{"folder": 1, "weights_sha256": 2}]}]  # fmt: skip


@pytest.mark.parametrize("table", NOT_OURS)
def test_a_table_that_is_not_tlkits_is_refused(table: Any, folder: Path) -> None:
    (folder / "seal.json").unlink()
    (folder / "ensemble.json").write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(tlkit.RunFolderError, match=r"ensemble\.json: is not as tlkit writes it"):
        tlkit.load_ensemble(folder)


def test_what_needs_a_run_says_that_it_is_none(folder: Path) -> None:
    with pytest.raises(tlkit.RunFolderError, match=r"is an ensemble, .*; name one of its members"):
        tlkit.load(folder)


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["tlkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        return capsys.readouterr().out

    runs = [run(tmp_path / name) for name in "ab"]
    monkeypatch.chdir(tmp_path)
    out = command("ensemble", *runs)
    assert out.startswith("val: accuracy ")
    assert "[2] against [1]" in out
    assert f"next: tlkit predict {Path('ensembles') / 'a-1'} IMAGE..." in out
    made = json.loads(command("ensemble", *runs, "--json"))
    assert made["members"] == [str(folder) for folder in runs]
    assert made["runs"][0]["val"]["images"] == 12
    sweeps = [sweep(tmp_path / name, folds(1, 2)) for name in ("s", "t")]
    assert "next:" not in command("ensemble", *sweeps)
