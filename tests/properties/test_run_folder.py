"""The run folder under every misfortune, with a trainer that is fast and does real arithmetic.

All of run, resume, keeper, checkpoints and files is the real one; only a stage's epochs are a few
lines of NumPy on the variables of a model with a dozen of them, so thousands of crashes take
seconds. `test_resume.py` does the same with Keras.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from attrs import asdict, evolve, frozen
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from safetensors.numpy import load_file
from tests.fakes import FakeBackbone

import tlkit
from tlkit.parts.freezes import HeadThen
from tlkit.parts.heads import Pooled
from tlkit.parts.kinds import registries
from tlkit.parts.optimizers import SGD
from tlkit.parts.schedules import Plateau
from tlkit.parts.shapes import Shapes
from tlkit.runfolder.folder import RunFolder
from tlkit.system.files import write_text
from tlkit.system.lock import is_locked, locked
from tlkit.system.signals import Interrupted, stop_if_asked
from tlkit.train.checkpoint import Checkpoint
from tlkit.weights.tensors import numbered_weights

NAME = "one_convolution"
# About what each epoch's loss is: the sixth is the best, and early stopping ends the second stage.
LOSSES = (0.9, 0.8, 0.85, 0.7, 0.6, 0.5, 0.55, 0.52, 0.4)
BYTES = ("history.csv", "metrics.json", "predictions.csv", "weights.safetensors")
PAGES = ("report.html", "MODEL_CARD.md")
FINISHED = {
    *BYTES,
    *PAGES,
    "environment.json",
    "experiment.json",
    "looks.csv",
    "manifest.csv",
    "plan.json",
    "timing.csv",
    "seal.json",
    "seal-machine.json",
}
UNFINISHED = FINISHED | {"checkpoints", "unfinished.json", ".lock"}


@frozen(kw_only=True)
class HeldConvolution(FakeBackbone):
    """A frozen convolution and a trained one of four pixels a side."""

    image_size: int = 4

    def layers(self) -> tlkit.LayerTable:
        rows = [
            tlkit.Layer("held", "Conv2D", "block1", (4, 4, 2), params=8),
            tlkit.Layer("conv", "Conv2D", "block2", (4, 4, 1), params=3),
        ]
        return tlkit.LayerTable(tuple(rows))

    def build(self) -> Any:
        inputs = keras.layers.Input((4, 4, 3))
        outputs = keras.layers.Conv2D(2, 1, name="held")(inputs)
        return keras.Model(inputs, keras.layers.Conv2D(1, 1, name="conv")(outputs))


class NumpyStage:
    """In place of a stage: momentum on random gradients, which depend on the epoch alone."""

    interrupt_at: tuple[int, int] | None = None  # epoch and step
    fresh = False  # does not take over the optimizer's state: for a test of the tests

    def __init__(
        self, run: Any, number: int, callback: tlkit.Callback, only: str | None = None
    ) -> None:
        self.run, self.number, self.callback = run, number, callback
        model, plan = run.model, run.plan
        self.planned = plan.stages[number - 1]
        self.experiment = run.experiment.phases[self.planned.phase - 1]
        self.counts = {split: len(examples) for split, examples in run.splits.items()}
        self.all = list(numbered_weights(model, plan.layers).values())
        rates = self.planned.stage.lr_multipliers
        self.trained = [
            (rates[int(name[:3]) - 1], variable)
            for name, variable in numbered_weights(model, plan.layers).items()
            if rates[int(name[:3]) - 1]
        ]
        self.slots = [keras.Variable(np.zeros(v.shape, np.float32)) for _, v in self.trained]
        self.step = SimpleNamespace(
            state={f"{number:03d}": slot for number, slot in enumerate(self.slots)}
        )

    def fit_statistics(self) -> None:
        """There are none."""

    def epoch(self, done: Sequence[tlkit.Epoch]) -> tlkit.Epoch:
        number = self.planned.first_epoch + len(done)
        base, epochs = self.experiment.optimizer.learning_rate, self.planned.stage.epochs
        rate = self.experiment.schedule.learning_rate(
            base, epochs, [asdict(epoch) for epoch in done]
        )
        random = np.random.default_rng(number)
        for step in range(2):
            for (multiplier, variable), slot in zip(self.trained, self.slots, strict=True):
                gradient = random.normal(size=slot.shape).astype(np.float32)
                slot.assign(np.float32(0.9) * slot.numpy() + gradient)
                variable.assign(variable.numpy() - np.float32(rate * multiplier) * slot.numpy())
            if (number, step) == self.interrupt_at:
                os.kill(os.getpid(), signal.SIGTERM)
            stop_if_asked()
        total = sum(variable.numpy().sum() for variable in self.all)
        loss = LOSSES[number - 1] + 1e-3 * float(abs(np.sin(total)))
        self.on_val = self.probabilities("val")
        return tlkit.Epoch(
            epoch=number, stage=self.number, learning_rate=rate, loss=loss, loss_unweighted=loss,
            accuracy=0.5, val_loss=loss, val_accuracy=1 - loss,
        )  # fmt: skip

    def on_test(self) -> Any:
        return self.probabilities("test")

    def probabilities(self, split: str) -> Any:
        total = sum(variable.numpy().sum() for variable in self.all)
        scores = np.exp(np.sin(total + np.arange(3 * self.counts[split], dtype=np.float32)))
        rows = scores.reshape(-1, 3).astype(np.float32)
        return rows / rows.sum(axis=1, keepdims=True)


def write_pages(folder: RunFolder, *_: object) -> None:
    """In place of a report with pictures."""
    for name in PAGES:
        write_text(folder.path / name, "a page")


class World:
    """Runs of one experiment, each in a new folder, and what an undisturbed one leaves."""

    def __init__(self, patch: pytest.MonkeyPatch, disk: Any, top: Path) -> None:
        self.disk, self.top, self.count = disk, top, 0
        patch.setattr("tlkit.train.fit.StageTrainer", NumpyStage)
        patch.setattr("tlkit.runner.pages.write_pages", write_pages)
        patch.setattr(
            "tlkit.runner.pages.report", lambda folder, **_: write_pages(RunFolder(folder))
        )
        registries.backbones.register(NAME)(HeldConvolution)
        self.experiment = tlkit.Experiment(
            data=Shapes(train=3, val=3, test=3, image_px=16),
            backbone=HeldConvolution(),
            head=Pooled(),
            freeze=HeadThen(head_epochs=4, train=("conv",)),
            optimizer=SGD(learning_rate=0.5, momentum=0.9),
            schedule=Plateau(patience=1, factor=0.7),
            fit=tlkit.Fit(epochs=9, early_stop_patience=2, checkpoint_every_s=0),
        )
        prepare_run = importlib.import_module("tlkit.runner.prepare").prepare_run
        ready = prepare_run(self.experiment, None, (), tlkit.Callback())
        first = [variable.numpy() for variable in ready.model.weights]

        def made(experiment: Any, out: Path | None, *_: object) -> Any:
            if out is not None and out.exists():
                return prepare_run(experiment, out, (), tlkit.Callback())
            for variable, value in zip(ready.model.weights, first, strict=True):
                variable.assign(value)
            return evolve(ready, experiment=experiment)

        for module in ("tlkit.runner.run", "tlkit.runner.resume"):
            patch.setattr(f"{module}.prepare_run", made)
        self.oracle = Oracle(ready.model, ready.plan)
        self.straight = self.top / "straight"
        self.disk.begin()
        tlkit.run(self.experiment, self.straight, callback=self.oracle)
        self.operations = list(self.disk.done)
        self.files = contents(self.straight)

    def close(self) -> None:
        registries.backbones.unregister(NAME)

    def new_folder(self) -> Path:
        self.count += 1
        return self.top / f"run{self.count}"

    def go(
        self,
        folder: Path,
        fail_at: int | None = None,
        how: str = "before",
        every_s: float = 0,
        **options: Any,
    ) -> str:
        """Begin a run or go on with it, and return how that ended."""
        self.disk.begin(fail_at, how)
        try:
            if folder.exists():
                tlkit.resume(folder, **options)
            else:
                fit = evolve(self.experiment.fit, checkpoint_every_s=every_s)
                tlkit.run(evolve(self.experiment, fit=fit), folder)
        except self.disk.Crash:
            return "crash"
        except Interrupted:
            return "interrupted"
        except tlkit.ResourceError as error:
            wanted = os.strerror(self.disk.ERRORS.get(how, 0))
            return how if wanted in str(error) else str(error)
        finally:
            self.disk.begin()
        return "finished"


class Oracle(tlkit.Callback):
    """Writes down the weights and the row of every epoch."""

    def __init__(self, model: Any, plan: tlkit.Plan) -> None:
        self.variables = numbered_weights(model, plan.layers)
        self.history: list[tlkit.Epoch] = []
        self.weights: dict[int, dict[str, bytes]] = {}

    def on_epoch_end(self, epoch: tlkit.Epoch) -> None:
        self.history.append(epoch)
        values = {name: v.numpy().tobytes() for name, v in self.variables.items()}
        self.weights[epoch.epoch] = values


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in BYTES}


def whole(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the lock, which says who looked last."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, disk: Any, tmp_path: Path) -> Iterator[World]:
    found = World(monkeypatch, disk, tmp_path)
    yield found
    found.close()


def test_the_straight_run_has_what_the_laws_are_about(world: World) -> None:
    history = world.oracle.history
    assert len({epoch.stage for epoch in history}) == 2
    assert len({epoch.learning_rate for epoch in history}) > 1  # the plateau
    assert min(history, key=lambda epoch: epoch.val_loss) is history[5]
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert {path.name for path in world.straight.iterdir()} == FINISHED


def recovered(world: World, folder: Path) -> None:
    """Go on once more, undisturbed, and see that all is as in the straight run."""
    assert world.go(folder) == "finished"
    assert contents(folder) == world.files
    assert {path.name for path in folder.iterdir()} == FINISHED
    shutil.rmtree(folder)


def crash_at(world: World, number: int, how: str) -> None:
    folder = world.new_folder()
    assert world.go(folder, number, how) == "crash"
    recovered(world, folder)


def test_a_crash_at_an_operation_on_the_disk_changes_no_byte(world: World) -> None:
    hows = itertools.cycle(["before", "after", "torn"])
    for number in range(1, len(world.operations) + 1, 14):
        crash_at(world, number, next(hows))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["before", "after", "torn"])
def test_a_crash_at_any_operation_on_the_disk_changes_no_byte(world: World, how: str) -> None:
    for number in range(1, len(world.operations) + 1):
        crash_at(world, number, how)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["before", "torn"])
def test_crash_after_crash_changes_no_byte(world: World, how: str) -> None:
    """Each process gets a few operations further than the last."""
    for step in (17, 31, 53):
        folder = world.new_folder()
        ends = [world.go(folder, step + attempt, how) for attempt in range(60)]
        assert ends.count("crash") > 1
        assert contents(folder) == world.files


@pytest.mark.parametrize("how", ["full", "broken", "read-only"])
def test_a_disk_that_fails_is_said_to_fail_and_changes_no_byte(world: World, how: str) -> None:
    first = world.operations.index(("rename", "straight")) + 1
    for number in range(first, len(world.operations), 61):
        folder = world.new_folder()
        assert world.go(folder, number, how) in {how, "finished"}
        recovered(world, folder)


def test_a_disk_that_is_full_from_the_start_leaves_nothing(world: World) -> None:
    folder = world.new_folder()
    assert world.go(folder, 4, "full") == "full"
    assert not folder.exists()
    assert [path.name for path in world.top.iterdir()] == ["straight"]


@pytest.mark.parametrize("every_s", [0, 1e9], ids=["every epoch", "rarely"])
def test_an_interruption_commits_the_last_finished_epoch(
    world: World, every_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, epoch in enumerate(world.oracle.history):
        folder = world.new_folder()
        monkeypatch.setattr(NumpyStage, "interrupt_at", (epoch.epoch, place % 2))
        assert world.go(folder, every_s=every_s) == "interrupted"
        monkeypatch.setattr(NumpyStage, "interrupt_at", None)
        found = sorted((folder / "checkpoints").glob("epoch-*"))
        newest = [Checkpoint.read(path).history for path in found[-1:]]
        assert newest == ([tuple(world.oracle.history[:place])] if place else [])
        recovered(world, folder)


def test_without_an_interruption_the_checkpoints_are_those_of_the_interval(world: World) -> None:
    """Rarely: only ends of stages are written; the best epoch, of neither, is in them."""
    folder = world.new_folder()
    world.go(folder, every_s=1e9)
    commits = [name for what, name in world.operations if (what, name[:6]) == ("rename", "epoch-")]
    assert len(commits) == len(world.oracle.history)
    assert contents(folder) == world.files


class RunFolders(RuleBasedStateMachine):
    """One run folder, and everything that can happen to it."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world, self.folder = world, world.new_folder()
        self.reached, self.finished = 0, False

    def teardown(self) -> None:
        for path in self.world.top.iterdir():
            if path != self.world.straight:
                shutil.rmtree(path)

    @initialize(every_s=st.sampled_from([0, 1e9]))
    def interval(self, every_s: float) -> None:
        self.every_s = every_s

    def go(self, **how: Any) -> None:
        end = self.world.go(self.folder, every_s=self.every_s, **how)
        self.finished = self.finished or end == "finished"

    @rule(number=st.integers(1, 200), how=st.sampled_from(["before", "after", "torn"]))
    def crash(self, number: int, how: str) -> None:
        self.go(fail_at=number, how=how)

    @rule(number=st.integers(1, 200))
    def fill_disk(self, number: int) -> None:
        self.go(fail_at=number, how="full")

    @rule(epoch=st.integers(1, 9), step=st.integers(0, 1))
    def interrupt(self, epoch: int, step: int) -> None:
        NumpyStage.interrupt_at = (epoch, step)
        try:
            self.go()
        finally:
            NumpyStage.interrupt_at = None

    @rule()
    def finish(self) -> None:
        self.go()
        assert self.finished

    @precondition(lambda self: len(self.good()) > 1)
    @rule(data=st.data())
    def corrupt_newest(self, data: st.DataObject) -> None:
        newest = self.good()[-1].path
        path = data.draw(st.sampled_from(sorted(newest.iterdir())))
        content = path.read_bytes()
        spoilt = [None, b"", content[:-1], content[:-1] + bytes([content[-1] ^ 1])]
        change = data.draw(st.sampled_from(spoilt))
        path.unlink()  # the checkpoint before may have the same file under another name
        if change is not None:
            path.write_bytes(change)
        self.reached = len(self.good()[-1].history)

    @precondition(lambda self: self.folder.exists())
    @rule()
    def second_process(self) -> None:
        before = whole(self.folder)
        if not self.finished:
            with locked(self.folder), pytest.raises(tlkit.RunFolderError, match="is writing to it"):
                tlkit.resume(self.folder)
        with pytest.raises(tlkit.RunFolderError, match="the run folder exists"):
            tlkit.run(self.world.experiment, self.folder)
        assert whole(self.folder) == before

    @property
    def judged(self) -> bool:
        """Whether the results are there: what may still be missing is the report, and tidying."""
        return (self.folder / "metrics.json").exists()

    @precondition(lambda self: self.folder.exists() and not self.judged)
    @rule()
    def edit(self) -> None:
        path = self.folder / "experiment.json"
        before = path.read_bytes()
        table = json.loads(before)
        table["optimizer"]["learning_rate"] = 0.25
        path.write_text(json.dumps(table), encoding="utf-8")
        with pytest.raises(tlkit.RunFolderError, match=r"optimizer\.learning_rate: was 0\.5, is"):
            tlkit.resume(self.folder)
        path.write_bytes(before)

    @rule()
    def remove_what_crashes_left(self) -> None:
        top = self.world.top
        for path in (*top.glob(".*-*"), *top.glob("run*/checkpoints/.*")):
            shutil.rmtree(path)

    @precondition(lambda self: self.folder.exists() and not self.judged)
    @rule()
    def predict(self) -> None:
        with pytest.raises(tlkit.RunFolderError, match="the run is not finished"):
            tlkit.load(self.folder)

    def good(self) -> list[Checkpoint]:
        """The checkpoints that are as they were written."""
        found = []
        for path in sorted((self.folder / "checkpoints").glob("epoch-*")):
            with contextlib.suppress(ValueError):
                found.append(Checkpoint.read(path))
        return found

    @invariant()
    def nothing_is_half_there(self) -> None:
        if self.folder.exists():
            names = {path.name for path in self.folder.iterdir() if path.name[0] != "."}
            assert names <= UNFINISHED
            assert not is_locked(self.folder)

    @invariant()
    def checkpoints_are_what_the_straight_run_had(self) -> None:
        oracle = self.world.oracle
        for found in self.good():
            assert found.history == tuple(oracle.history[: len(found.history)])
            weights = load_file(found.path / "weights.safetensors")
            expected = oracle.weights[found.history[-1].epoch]
            assert weights
            assert all(array.tobytes() == expected[name] for name, array in weights.items())
        if not self.judged:
            reached = max((len(found.history) for found in self.good()), default=0)
            assert reached >= self.reached  # committed epochs never decrease
            self.reached = reached

    @invariant()
    def what_is_finished_is_right_and_stays(self) -> None:
        if self.finished:
            assert contents(self.folder) == self.world.files
            assert {path.name for path in self.folder.iterdir()} == FINISHED


def survive(world: World, examples: int, steps: int) -> None:
    def machine() -> RunFolders:
        return RunFolders(world)

    machines: Any = machine  # Hypothesis takes a factory too, and says that it wants a class
    run_state_machine_as_test(
        machines, settings=settings(max_examples=examples, stateful_step_count=steps)
    )


def test_whatever_happens_to_a_run_folder_it_ends_with_the_same_bytes(world: World) -> None:
    survive(world, 12, 12)


@pytest.mark.slow
def test_whatever_happens_to_a_run_folder_for_long(world: World) -> None:
    survive(world, 300, 30)
