"""Two hundred kills at random moments: whoever goes on ends with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.battery.counts import KILLS, KILLS_OF_SWEEPS
from tests.battery.kills import BY_MACHINE, Fork, alive

import tlkit
from tlkit.runfolder.folder import UNFINISHED
from tlkit.sweeps.folder import SWEEP
from tlkit.system.lease import DONE, Leases

pytestmark = pytest.mark.slow

PARTS = '''
import tlkit
from tlkit import Layer


@tlkit.part("tiny")
class Tiny(tlkit.Backbone):
    """Two convolutions with BatchNorm.

    Attributes:
        image_size: Its input.
    """

    image_size: int = 16

    def layers(self):
        rows = []
        for block, (size, before, channels) in enumerate(((14, 3, 4), (12, 4, 6)), start=1):
            name = f"block{block}"
            shape = (size, size, channels)
            params = 9 * before * channels + channels
            rows += [
                Layer(f"{name}_conv", "Conv2D", name, shape, params=params),
                Layer(f"{name}_bn", "BatchNormalization", name, shape, params=2 * channels,
                      other_params=2 * channels, batch_norm=True),
                Layer(f"{name}_relu", "ReLU", name, shape),
            ]
        return tlkit.LayerTable(tuple(rows))

    def build(self):
        import keras

        x = inputs = keras.Input((16, 16, 3))
        for block, channels in ((1, 4), (2, 6)):
            x = keras.layers.Conv2D(channels, 3, name=f"block{block}_conv")(x)
            x = keras.layers.BatchNormalization(name=f"block{block}_bn")(x)
            x = keras.layers.ReLU(name=f"block{block}_relu")(x)
        return keras.Model(inputs, x)

    def preprocess_native(self, images):
        return images / 255

    def load_weights(self, model):
        return {"source": "none"}
'''
STUDY = """
plugins.modules = ["parts.py"]
data = {name = "shapes", train = 10, val = 6, test = 4, image_px = 16}
backbone = {name = "tiny"}
"""
RECIPES = {
    "probe": """
head.name = "probe"
optimizer = {name = "lbfgs", refit = true}
calibration.temperature = true
fit = {epochs = 8, keep = "best", early_stop_patience = 3, checkpoint_every_s = 0, xla = false}
""",
    "fine_tune": """
head.name = "probe"
fit = {batch_size = 8, keep = "best", checkpoint_every_s = 0, xla = false}

[[phase]]
epochs = 4
optimizer = {name = "lbfgs", refit = true}

[[phase]]
epochs = 5
freeze = {name = "layer_names", train = ["block2", "head"]}
optimizer = {name = "adamw", learning_rate = 1e-3, clip_norm = 1.0}
schedule = {name = "cosine", warmup_epochs = 1, per_step = true}
augmentation = {name = "natural", views = 2}
ema = 0.9
""",
    "study": """
head = {name = "pooled", units = [8], dropout = 0.5}
freeze = {name = "head_then", head_epochs = 3, train = ["block2"], batch_norm = "train"}
augmentation.name = "affine"
class_weights.name = "balanced"
optimizer.learning_rate = 0.01
calibration = {temperature = true, tta = "flip"}
fit = {epochs = 8, batch_size = 8, checkpoint_every_s = 0, xla = false}
""",
}


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files that do not differ from machine to machine, by their paths.

    A sweep keeps its lock, and what a killed process has not renamed: another one may be about to.
    """
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in BY_MACHINE and path.parent.name != "leases"
        if not ((folder / SWEEP).exists() and path.name.endswith((".lock", ".partial")))
    }


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("kills")
    (top / "parts.py").write_text(PARTS, encoding="utf-8")
    for name, tables in RECIPES.items():
        (top / f"{name}.toml").write_text(STUDY + tables, encoding="utf-8")
    return top


def run(log: Path, top: Path, recipe: str, folder: Path) -> Fork:
    """Begin a run, or go on with it, wherever it stands."""
    if folder.exists():
        return Fork.of(log, "resume", folder, "--plugin", top / "parts.py")
    return Fork.of(log, "run", top / f"{recipe}.toml", "--out", folder)


def is_finished(folder: Path) -> bool:
    return (folder / "metrics.json").exists() and not (folder / UNFINISHED).exists()


@pytest.mark.parametrize("recipe", RECIPES)
def test_runs_are_killed_at_random_moments(recipe: str, top: Path, tmp_path: Path) -> None:
    """Half of the kills come at any moment, the others soon after an epoch."""
    log, straight, forked = (tmp_path / name for name in ("log", "straight", "forked"))
    command = [sys.executable, "-m", "tlkit", "run", f"{recipe}.toml", "--out", str(straight)]
    subprocess.run(command, cwd=top, check=True, capture_output=True)
    expected, chance, counts = contents(straight), random.Random(recipe), Counter[str]()
    assert Fork.of(log, "--help").wait(120)  # everything is imported
    began = time.monotonic()
    first = run(log, top, recipe, forked)
    while "epoch" not in first.said():
        assert not first.wait(0.005), first.said()
    before_epochs_s = time.monotonic() - began
    assert first.wait(600)
    epochs_s = time.monotonic() - began - before_epochs_s
    assert is_finished(forked), first.said()
    assert contents(forked) == expected
    wanted = (KILLS - KILLS_OF_SWEEPS) // len(RECIPES) + 1
    while counts["killed"] < wanted:
        folder = tmp_path / str(counts["runs"])
        counts["runs"] += 1
        patience = 1.0  # grows: on a busy machine each kill may come before the next epoch ends
        while not is_finished(folder):
            process = run(log, top, recipe, folder)
            if chance.random() < 0.5 and counts["killed"] < wanted:
                process.wait(chance.uniform(0.3, 1) * (before_epochs_s + epochs_s))
            else:
                while "epoch" not in process.said() and not process.wait(0.005):
                    pass
                process.wait(chance.uniform(0, 0.7) * epochs_s * patience)
            patience *= 1.1
            if process.kill():
                counts["killed"] += 1
                counts["resumed"] += folder.exists()
            else:
                assert process.process.exitcode == 0, process.said()
        assert contents(folder) == expected
        counts["files"] += len(expected)
        print(counts, flush=True)


ASKED = ("--seeds", "0-1", "--set", "head.units=[[4],[8]]", "--set", "fit.epochs=4")


def go_on(top: Path, place: Path, chance: random.Random) -> list[Fork]:
    """Begin a sweep, or go on with it, by one process or two; each has one or two workers."""
    sweep, parts, begun = place / "s", ("--plugin", top / "parts.py"), []
    more = ("--threads", 1, "--workers", chance.randint(1, 2))
    if (sweep / SWEEP).exists():
        begun.append(Fork.of(place / "log", "sweep", "--resume", sweep, *parts, *more))
        if chance.random() < 0.5:
            begun.append(Fork.of(place / "log2", "sweep", "--join", sweep, *parts, *more))
    else:
        study = top / "study.toml"
        begun.append(Fork.of(place / "log", "sweep", study, "--out", sweep, *ASKED, *more))
    return begun


def test_sweeps_and_joins_are_killed_at_random_moments(top: Path, tmp_path: Path) -> None:
    """Whoever is there is killed: processes that lead, that have joined, and their workers."""
    straight = tmp_path / "straight"
    command = [sys.executable, "-m", "tlkit", "sweep", "study.toml", "--out", f"{straight}/s"]
    subprocess.run([*command, *ASKED, "--threads", "1"], cwd=top, check=True, capture_output=True)
    expected, chance, counts = contents(straight / "s"), random.Random(18), Counter[str]()
    while counts["killed"] < KILLS_OF_SWEEPS:
        place, patience_s = tmp_path / str(counts["sweeps"]), 4.0
        place.mkdir()
        counts["sweeps"] += 1
        codes: set[int] = set()
        while 0 not in codes:  # a killed worker's run has failed, and is made again
            begun = go_on(top, place, chance)
            counts["processes"] += len(begun)
            while any(process.process.is_alive() for process in begun):
                time.sleep(chance.uniform(0.05, 1) * patience_s)
                victims = alive(place, begun)
                if victims and chance.random() < 0.7:
                    os.kill(chance.choice(victims), signal.SIGKILL)
                    counts["killed"] += 1
                    patience_s += 0.5
            codes = {process.process.exitcode for process in begun}
            assert codes <= {0, 8, -signal.SIGKILL}, [process.said() for process in begun]
        assert contents(place / "s") == expected
        assert tlkit.verify(place / "s").problems == ()
        counts["files"] += len(expected)
        print(counts, flush=True)


def test_a_hundred_runs_by_eight_joined_processes_each_killed(top: Path, tmp_path: Path) -> None:
    """Each is killed at a random moment after a few runs, and another one joins in its place."""
    asked = ("--seeds", "0-99", "--set", "fit.epochs=2", "--set", "freeze.head_epochs=1")
    parts = ("--plugin", top / "parts.py", "--threads", 1)
    straight, stormy = tmp_path / "straight" / "s", tmp_path / "stormy" / "s"
    command = [sys.executable, "-m", "tlkit", "sweep", "study.toml", *asked, "--threads", "1"]
    for folder, budget in ((straight, "9h"), (stormy, "1s")):  # a second is for a run or none
        options = ["--out", str(folder), "--budget", budget]
        subprocess.run([*command, *options], cwd=top, check=True, capture_output=True)
    expected, chance, counts = contents(straight), random.Random(20), Counter[str]()
    slots: dict[int, tuple[Fork, int]] = {}
    while not (stormy / "seal-machine.json").exists():
        leases = Leases(stormy / "leases").newest().values()
        made = Counter(lease.owner.process for lease in leases if lease.status == DONE)
        for slot in range(8):
            process, runs = slots.get(slot, (None, 0))
            if process is None or not process.process.is_alive():
                assert process is None or process.process.exitcode in {0, -signal.SIGKILL}
                (stormy.parent / str(slot)).mkdir(exist_ok=True)
                log = stormy.parent / str(slot) / "log"
                process = Fork.of(log, "sweep", "--join", stormy, *parts)
                slots[slot] = process, chance.randint(0, 9)
                counts["processes"] += 1
            elif any(x.owner.process == process.process.pid for x in leases) and (
                made[process.process.pid] >= runs and chance.random() < 0.2
            ):
                counts["killed"] += process.kill()
        time.sleep(0.3)
    for process, _ in slots.values():
        assert process.wait(600)
    print(counts, flush=True)
    assert counts["killed"] >= 8
    assert contents(stormy) == expected
    assert tlkit.verify(stormy).problems == ()
