"""A sweep from end to end: its folder, tables and page, failures, and going on with it."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
import signal
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.fakes import small, unseal

import tlkit
from tlkit.sweeps import worker
from tlkit.sweeps.results import Sweep
from tlkit.sweeps.summary import LOSSES, read_outcome
from tlkit.sweeps.text import sweep_text
from tlkit.system.lock import locked

QUICK = f"""
{small(train=12, val=6)}
[fit]
epochs = 1
batch_size = 4
xla = false
"""
DIVERGING = '{name = "sgd", learning_rate = 1e38}'
ASKED = ['optimizer=[{name="adam"}, ' + DIVERGING + "]", "data.folds=3", "fit.epochs=[2]"]


class Listener(tlkit.SweepCallback):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_plan(self, trials: tlkit.Trials, folder: Path) -> None:
        self.heard.append(f"{len(trials.trials)} runs")

    def on_run_end(self, number: int, count: int, outcome: Any, seconds: float) -> None:
        kept = "" if seconds else " before"
        self.heard.append(f"{number} of {count} {outcome.status}{kept}")


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture(scope="module")
def listener() -> Listener:
    return Listener()


@pytest.fixture(scope="module")
def done(top: Path, listener: Listener) -> Sweep:
    """Two optimizers, of which one diverges, with three folds."""
    file = top / "<b>.toml"
    reference = '\n[[reference]]\nsource = "<i>paper</i>\\u202E"\naccuracy = 0.5\n'
    reference += "recall = {circle = 0.25}\n"
    file.write_text(QUICK + reference)
    return tlkit.sweep(file, top / "out", overrides=ASKED, in_process=True, callback=listener)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def test_a_failing_run_does_not_end_the_sweep(done: Sweep, listener: Listener) -> None:
    assert listener.heard == ["6 runs", "1 of 6 done", "2 of 6 done", "3 of 6 done",
                              "4 of 6 failed", "5 of 6 failed", "6 of 6 failed"]  # fmt: skip
    assert {outcome.exit_code for outcome in done.failed} == {9}
    found = rows(done.folder / "sweep.csv")
    assert [row["status"] for row in found] == ["done"] * 3 + ["failed"] * 3
    assert "loss" in found[3]["error"]
    assert [row["optimizer"] for row in found] == ["adam"] * 3 + ["sgd (learning_rate 1e+38)"] * 3
    assert [row["fold"] for row in found] == ["1", "2", "3"] * 2


def test_folds_are_pooled_and_every_image_counts_once(done: Sweep) -> None:
    good, bad = done.summaries
    assert (good.images, good.runs, good.folds, bad.runs) == (18, 3, 3, 0)
    metrics = [
        json.loads((done.folder / "runs" / f"00{n}-_b_" / "metrics.json").read_text())
        for n in (1, 2, 3)
    ]
    hits = sum(m["test"]["confusion"][k][k] for m in metrics for k in range(3))
    assert good.figures["accuracy"].mean == hits / 18
    answers = [answer for outcome in done.outcomes for answer in outcome.answers]
    for name, title in LOSSES.items():
        mean = sum(getattr(answer, name) for answer in answers) / len(answers)
        assert mean == pytest.approx(good.figures[title].mean, rel=1e-6)
    assert good.interval == "Wilson over 18 images"
    assert done.nested is None


def test_the_summary_is_a_table_too(done: Sweep) -> None:
    (row,) = [r for r in rows(done.folder / "summary.csv") if r["figure"] == "accuracy"]
    accuracy = done.summaries[0].figures["accuracy"]
    assert accuracy.low is not None
    assert accuracy.mean is not None
    assert float(row["mean"]) == pytest.approx(accuracy.mean, rel=1e-5)
    assert float(row["low"]) == pytest.approx(accuracy.low, rel=1e-5)
    assert row["sd"] == ""


def test_published_figures_are_a_table_too(done: Sweep) -> None:
    found = rows(done.folder / "published.csv")
    assert [row["figure"] for row in found] == [
        f"<b>, optimizer {name}{what}"
        for what in (", accuracy", ", circle recall")
        for name in ("adam", "sgd (learning_rate 1e+38)")
    ]
    assert [row["published"] for row in found] == ["0.5", "0.5", "0.25", "0.25"]
    assert found[0]["ours"] == rows(done.folder / "summary.csv")[0]["mean"]
    assert found[1]["ours"] == ""


def test_the_text_has_published_figures_and_what_failed(done: Sweep) -> None:
    text = sweep_text(done)
    assert "[1] <i>paper</i>" in text
    assert "<b>, optimizer adam, circle recall" in text
    assert "failed: 3 of 6" in text
    assert text.endswith(f"next: tlkit sweep --resume {done.folder}")
    assert "the 3 folds of each seed are pooled" in text


class Page(HTMLParser):
    """Collects tags and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [v for k, v in attrs if k in {"src", "href"} and v and ":" in v]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_what_others_wrote_is_text_in_it(done: Sweep) -> None:
    page = Page()
    page.feed((done.folder / "sweep.html").read_text(encoding="utf-8"))
    assert not {"script", "b", "i", "img", "link"} & set(page.tags)
    assert page.outside == []
    assert r"<i>paper</i>\u202e" in page.text
    assert "3 of 6 runs failed" in page.text
    assert page.tags.count("circle") == 3


def test_finished_runs_are_kept_when_it_goes_on(
    done: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = shutil.copytree(done.folder.parent, tmp_path / "copy") / "out"
    before = {p: p.stat().st_mtime_ns for p in begun.glob("runs/00[123]-*/*")}
    shutil.rmtree(begun / "runs" / "002-_b_")
    listener, jobs = Listener(), []
    work = worker.work

    def counted(job: Any) -> Any:
        jobs.append(Path(job["out"]).name)
        return work(job)

    monkeypatch.setattr(worker, "work", counted)
    again = tlkit.resume_sweep(begun, in_process=True, callback=listener)
    assert jobs == ["002-_b_", "004-_b_", "005-_b_", "006-_b_"]
    assert listener.heard[1:4] == ["1 of 6 done before", "2 of 6 done before", "3 of 6 done"]
    assert rows(begun / "sweep.csv") == rows(done.folder / "sweep.csv")
    assert again.summaries[0].figures == done.summaries[0].figures
    kept = {p: t for p, t in before.items() if p.parent.name != "002-_b_"}
    assert kept == {p: p.stat().st_mtime_ns for p in kept}


class Stop(tlkit.Callback):
    """Stops a run in its second epoch, and writes down which epochs it has seen."""

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self.epochs: list[int] = []

    def on_epoch_begin(self, epoch: int, epochs: int, images: int) -> None:
        self.epochs.append(epoch)

    def on_batch_end(self, *_: Any) -> None:
        if self.epochs[-1] == self.at:
            raise tlkit.Interrupted(signal.SIGTERM)


def stopped(done: Sweep, copy: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Copy a sweep and stop its second run in its second epoch.

    Returns:
        The run's job, and what was in its folder when it was finished.
    """
    begun = shutil.copytree(done.folder.parent, copy) / "out"
    run = begun / "runs" / "002-_b_"
    before = results(run)
    shutil.rmtree(run)
    trial = done.trials.trials[1]
    job = {"file": str(begun.parent / "<b>.toml"), "overrides": list(trial.overrides),
           "out": str(run), "sha256": trial.sha256}  # fmt: skip
    with pytest.raises(tlkit.Interrupted):
        worker.work(job, Stop(2))
    assert read_outcome(trial, run).status == "waiting"
    return job, before


def results(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.glob("[hmpw]*.*")}


@pytest.mark.parametrize(
    ("file", "old", "new", "epochs"),
    [
        ("environment.json", "", "", [2]),
        ("environment.json", '"keras": "', '"keras": "0.', [1, 2]),
        ("plan.json", '"winograd"', '"an older key"', [1, 2]),  # versions of tlkit plan otherwise
    ],
    ids=["same", "other Keras", "other tlkit"],
)
def test_a_run_that_was_stopped_goes_on_and_begins_anew_with_other_versions(
    file: str, old: str, new: str, epochs: list[int], done: Sweep, tmp_path: Path
) -> None:
    job, before = stopped(done, tmp_path / "copy")
    run = Path(job["out"])
    said = (run / file).read_text()
    assert old in said
    (run / file).write_text(said.replace(old, new, 1))
    second = Stop()
    assert worker.work(job, second) == {}
    assert second.epochs == epochs
    assert results(run) == before


def test_a_run_that_was_stopped_does_not_go_on_with_other_images(
    done: Sweep, tmp_path: Path
) -> None:
    job, before = stopped(done, tmp_path / "copy")
    run = Path(job["out"])
    manifest = run / "manifest.csv"
    was = manifest.read_text()
    manifest.write_text(was.replace(",train,", ",train ,", 1))
    found = worker.work(job)
    assert found["exit_code"] == 7
    assert "is not the run that was begun" in found["error"]
    assert (run / "checkpoints").is_dir()
    manifest.write_text(was)
    assert worker.work(job) == {}
    assert results(run) == before


def test_a_run_that_another_process_writes_to_is_left_alone(done: Sweep, tmp_path: Path) -> None:
    trial = done.trials.trials[1]
    job = {"file": str(done.trials.file), "overrides": list(trial.overrides),
           "out": str(tmp_path / "run"), "sha256": trial.sha256}  # fmt: skip
    with pytest.raises(tlkit.Interrupted):
        worker.work(job, Stop(2))
    with locked(tmp_path / "run"):
        found = worker.work(job)
    assert (found["exit_code"], found["error"].endswith(" is writing to it")) == (7, True)
    assert (tmp_path / "run" / "checkpoints").is_dir()


def rewrite_plan(sweep: Path, change: Callable[[Any], object]) -> None:
    plan = json.loads((sweep / "sweep.json").read_text())
    change(plan)
    (sweep / "sweep.json").write_text(json.dumps(plan))
    unseal(sweep)


def test_a_sweep_goes_on_with_its_own_text_whatever_became_of_the_file(
    two_seeds: Path, tmp_path: Path
) -> None:
    begun = copied(two_seeds, tmp_path)
    (begun.parent / "e.toml").unlink()
    shutil.rmtree(begun / "runs" / "002-e")
    before = (two_seeds / "s" / "summary.csv").read_bytes()
    assert not tlkit.resume_sweep(begun, in_process=True).failed
    assert (begun / "summary.csv").read_bytes() == before
    with pytest.raises(tlkit.ConfigError, match="has its own text of it; leave it out"):
        tlkit.resume_sweep(begun, file=begun.parent / "e.toml", in_process=True)


def test_a_changed_experiment_cannot_go_on(two_seeds: Path, tmp_path: Path) -> None:
    begun = copied(two_seeds, tmp_path)
    changed = {"../e.toml": FOLDER.replace("batch_size = 4", "batch_size = 5")}
    rewrite_plan(begun, lambda plan: plan.update(texts=changed))
    with pytest.raises(
        tlkit.RunFolderError, match="2 of its experiments have changed, such as 001"
    ):
        tlkit.resume_sweep(begun, in_process=True)


def test_a_file_outside_is_read_only_if_it_is_named(two_seeds: Path, tmp_path: Path) -> None:
    """Sweeps of tlkit 0.1 only say where their file is."""
    begun = copied(two_seeds, tmp_path)
    rewrite_plan(begun, lambda plan: plan.pop("texts"))
    for again in (tlkit.resume_sweep, tlkit.join_sweep, tlkit.sweep_status):
        with pytest.raises(
            tlkit.RunFolderError, match=r"read only if you name it: tlkit sweep .*e"
        ):
            again(begun)
    named = begun.parent / "e.toml"
    assert [run.status for run in tlkit.sweep_status(begun, file=named).runs] == ["done"] * 2
    assert "texts" not in json.loads((begun / "sweep.json").read_text())
    assert not tlkit.resume_sweep(begun, file=named, in_process=True).failed
    assert not tlkit.resume_sweep(begun, in_process=True).failed
    assert tlkit.verify(begun).problems == ()


def test_who_made_the_runs_is_sealed_apart(two_seeds: Path, tmp_path: Path) -> None:
    begun = copied(two_seeds, tmp_path)
    assert not {"workers.csv"} & json.loads((begun / "seal.json").read_text())["files"].keys()
    lease = begun / "leases" / "001-e.0.json"
    lease.write_text(lease.read_text().replace('"seconds": ', '"seconds": 1'))
    assert any("001-e.0.json: has changed" in line for line in tlkit.verify(begun).problems)
    with pytest.raises(tlkit.RunFolderError, match=r"001-e\.0\.json: has changed"):
        tlkit.resume_sweep(begun, in_process=True)
    lease.unlink()
    assert not tlkit.resume_sweep(begun, in_process=True).failed


def test_an_experiment_that_changes_meanwhile_ends_its_run(done: Sweep, tmp_path: Path) -> None:
    file = tmp_path / "quick.toml"
    file.write_text(QUICK)
    job = {"file": str(file), "overrides": [], "out": str(tmp_path / "out"), "sha256": "another"}
    found = worker.work(job)
    assert (found["exit_code"], "has changed since" in found["error"]) == (3, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a sweep, it has no sweep.json"),
        ("{", "cannot be read"),
        ("[]", "is not as tlkit writes it"),
        ('{"runs": []}', "is not as tlkit writes it"),
    ],
)
def test_another_folder_cannot_go_on(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(tlkit.RunFolderError, match=message):
        tlkit.resume_sweep(tmp_path)
    with pytest.raises(tlkit.RunFolderError, match="there is no such folder"):
        tlkit.resume_sweep(tmp_path / "none")


def test_a_folder_that_exists_is_refused(tmp_path: Path) -> None:
    (tmp_path / "quick.toml").write_text(QUICK)
    with pytest.raises(
        tlkit.RunFolderError, match=r"continue it with tlkit sweep --resume .*, or choose"
    ):
        tlkit.sweep(tmp_path / "quick.toml", tmp_path)


def test_sweeps_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "work", lambda job: {"error": "nothing is run", "exit_code": 8})
    Path("quick.toml").write_text(QUICK)
    names = [tlkit.sweep("quick.toml", in_process=True).folder for _ in range(2)]
    assert names == [Path("sweeps/quick-1"), Path("sweeps/quick-2")]


def test_a_bug_leaves_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(worker, "run", broken)
    (tmp_path / "quick.toml").write_text(QUICK)
    found = tlkit.sweep(tmp_path / "quick.toml", tmp_path / "out", in_process=True)
    assert found.failed[0].error == "ZeroDivisionError: by zero"
    assert "ZeroDivisionError" in (tmp_path / "out" / "001-quick.traceback.txt").read_text()


FOLDER = """
data = {name = "folder", path = "data"}
backbone = {weights = "none", image_size = 32}
head.name = "pooled"
fit = {epochs = 1, batch_size = 4, xla = false}
"""


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two seeds on image files."""
    top = tmp_path_factory.mktemp("seeds")
    random = np.random.default_rng(0)
    for split, label in itertools.product(("train", "val"), "ab"):
        (top / "data" / split / label).mkdir(parents=True)
        for number in range(2):
            pixels = random.integers(0, 256, (32, 32), np.uint8)
            Image.fromarray(pixels).save(top / "data" / split / label / f"{number}.png")
    (top / "e.toml").write_text(FOLDER)
    assert not tlkit.sweep(top / "e.toml", top / "s", seeds="0-1", in_process=True).failed
    return top


def copied(top: Path, place: Path) -> Path:
    return Path(shutil.copytree(top, place / "copy")) / "s"


def test_a_run_with_other_images_does_not_join_the_others(two_seeds: Path, tmp_path: Path) -> None:
    begun = copied(two_seeds, tmp_path)
    shutil.rmtree(begun / "runs" / "002-e")
    val = begun.parent / "data" / "val"
    for old, new in (("a", "x"), ("b", "a"), ("x", "b")):
        (val / old).rename(val / new)
    again = tlkit.resume_sweep(begun, in_process=True)
    (failed,) = again.failed
    assert (failed.trial.name, failed.exit_code) == ("002-e", 7)
    assert "other images than the runs before it, such as 'val/a/0.png'" in failed.error
    assert again.summaries[0].runs == 1
    jobs = tlkit.resume_sweep(begun, in_process=True)  # it is not made again either
    assert [outcome.error for outcome in jobs.failed] == [failed.error]


def test_more_images_are_other_images(two_seeds: Path, tmp_path: Path) -> None:
    begun = copied(two_seeds, tmp_path)
    shutil.rmtree(begun / "runs" / "002-e")
    val = begun.parent / "data" / "val" / "a"
    shutil.copy(val.with_name("b") / "0.png", val / "3.png")
    (failed,) = tlkit.resume_sweep(begun, in_process=True).failed
    assert "more, fewer or other images than 001-e" in failed.error


def test_a_run_that_was_copied_or_swapped_is_noticed(two_seeds: Path, tmp_path: Path) -> None:
    begun = copied(two_seeds, tmp_path)
    runs = begun / "runs"
    assert tlkit.verify(begun).problems == ()
    shutil.rmtree(runs / "002-e")
    shutil.copytree(runs / "001-e", runs / "002-e")
    (failed,) = tlkit.resume_sweep(begun, in_process=True).failed
    assert "holds another run than 002-e, such as one copied or renamed" in failed.error
    assert any("002-e: holds another run" in line for line in tlkit.verify(begun).problems)
    shutil.rmtree(runs / "002-e")
    (runs / "002-e").symlink_to("001-e")
    (failed,) = tlkit.resume_sweep(begun, in_process=True).failed
    assert "002-e: must be a folder and no link to one" in failed.error


def test_a_damaged_run_of_a_sweep_is_noticed(two_seeds: Path, tmp_path: Path) -> None:
    begun = copied(two_seeds, tmp_path)
    path = begun / "runs" / "001-e" / "predictions.csv"
    path.write_text(path.read_text().replace("0.", "0,", 1))
    (failed,) = tlkit.resume_sweep(begun, in_process=True).failed
    assert "001-e/predictions.csv: has changed since it was written" in failed.error


def test_the_plan_of_a_sweep_is_sealed(two_seeds: Path, tmp_path: Path) -> None:
    begun = copied(two_seeds, tmp_path)
    plan = begun / "sweep.json"
    plan.write_text(plan.read_text().replace('"seeds": "0-1"', '"seeds": "0-2"'))
    with pytest.raises(
        tlkit.RunFolderError, match=r"sweep\.json: has changed since it was written"
    ):
        tlkit.resume_sweep(begun, in_process=True)
