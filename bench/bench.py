"""How long tlkit takes for the study's recipes, as ratios to a hand-written Keras script.

Each run has a process of its own, one after another. The hand-written script's epochs all cost the
same, so `--measured` of them stand for all; the table says so. The bare cost of a run is its number
of forward passes and of steps, times what one of each takes alone (`bench/bare.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BATCH = 8
RECIPE = """
seed = 10
[data]
name = "folder"
path = "{data}"
classes = ["normal", "pneumonia", "covid-19"]
[backbone]
weights = "bsds500"
[freeze]
name = "layer_range"
train = "19-22"
[class_weights]
name = "balanced"
[augmentation]
name = "affine"
rotation_deg = 10
shift_frac = 0.1
zoom_frac = 0
flip = false
brightness_frac = 0
[optimizer]
learning_rate = 2e-5
[schedule]
name = "plateau"
factor = 0.7
patience = 5
[fit]
epochs = {epochs}
batch_size = 8
"""
VIEWS = "augmentation.views=3"
# What a study tries next: seven more runs on the same features.
NEXT = (
    "head.units=[512, 512]",
    "optimizer.learning_rate=1e-5",
    "class_weights.name='none'",
    "head.units=[256, 256]",
    "optimizer.learning_rate=5e-5",
    "optimizer={name='adamw', learning_rate=2e-5}",
    "schedule={name='cosine'}",
)


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float, Any]:
    """Run a command; return its seconds, its peak memory in GB and the JSON it printed last."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(command, stdout=out, stderr=messages, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        out.seek(0)
        messages.seek(0)
        if status:
            raise SystemExit(f"{' '.join(command)} failed:\n{messages.read()}")
        printed = out.read().strip()
    found = json.loads(printed if "--json" in command else printed.splitlines()[-1])
    return time.perf_counter() - began, usage.ru_maxrss / 1e6, found


class Bench:
    """The measured runs; each prints its row.

    Args:
        data: A folder with train/CLASS and val/CLASS.
        epochs: How many epochs a run has.
        folder: Where features and run folders go.
    """

    def __init__(self, data: Path, epochs: int, folder: Path) -> None:
        self.epochs, self.folder = epochs, folder
        self.train, self.val = (
            sum(path.is_file() for path in (data / split).rglob("*")) for split in ("train", "val")
        )
        self.data = data
        self.environment = {**os.environ, "TLKIT_CACHE": str(folder / "cache")}
        self.recipe = folder / "recipe.toml"
        self.recipe.write_text(RECIPE.format(data=data.as_posix(), epochs=epochs))
        self.bare = self.measured_bare()
        self.yardstick = self.memory = 0.0
        self.runs = 0
        print(f"{self.train} training and {self.val} validation images, {epochs} epochs")
        print(f"{'run':34} {'seconds':>8} {'ratio':>6} {'of bare':>8} {'peak GB':>8}")

    def measured_bare(self) -> dict[str, float]:
        """Return the seconds of a forward pass and of a step of the head, printed too."""
        _, _, found = timed([sys.executable, str(HERE / "bare.py")], self.environment)
        passes, step = 1000 * found["forward_s"], 1000 * found["step_s"]
        print(f"bare: {passes:.1f} ms a forward pass, {step:.1f} ms a step of the head", flush=True)
        return dict(found)

    def by_hand(self, measured: int, *options: str) -> None:
        """Measure some epochs of the hand-written script; all of them are the new yardstick."""
        command = [sys.executable, str(HERE / "handwritten.py"), str(self.data), "--augment"]
        command += ["--epochs", str(measured), *options]
        _, self.memory, found = timed(command, self.environment)
        epoch_s = sum(found["epoch_s"]) / measured
        self.yardstick = found["start_s"] + self.epochs * epoch_s
        note = f"{self.epochs} × the mean of {measured} epochs, {epoch_s:.1f} s"
        self.row("hand-written Keras", self.yardstick, None, self.memory, note)

    def tlkit(self, name: str, *settings: str, views: int | None, cold: bool = True) -> float:
        """Measure a run and return its seconds; `views` is how many passes training images need."""
        program = [sys.executable, "-m", "tlkit"]
        if cold:
            subprocess.run(
                [*program, "cache", "clear"], env=self.environment, check=True, capture_output=True
            )
        self.runs += 1
        out = str(self.folder / f"run{self.runs}")
        command = [*program, "run", str(self.recipe), "--json", "--out", out]
        command += [word for setting in settings for word in ("--set", setting)]
        seconds, memory, found = timed(command, self.environment)
        bare = None
        if views is not None:
            passes = views * self.train + self.val if cold else 0
            steps = self.epochs * -(-self.train // BATCH)
            bare = passes * self.bare["forward_s"] + steps * self.bare["step_s"]
        note = f"val accuracy {found['val']['accuracy']:.3f}"
        self.row(name, seconds, bare, memory, note)
        return seconds

    def row(
        self, name: str, seconds: float, bare: float | None, memory: float | None, note: str = ""
    ) -> None:
        """Print a row."""
        ratio = f"{seconds / self.yardstick:6.2f}"
        of_bare = f"{seconds / bare:8.2f}" if bare else " " * 8
        peak = f"{memory:8.2f}" if memory else " " * 8
        print(f"{name:34} {seconds:8.1f} {ratio} {of_bare} {peak}  {note}".rstrip(), flush=True)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a folder with train/CLASS and val/CLASS")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--measured", type=int, default=2, help="hand-written epochs measured")
    parser.add_argument("--quick", action="store_true", help="2 epochs, and only the cached runs")
    arguments = parser.parse_args()
    epochs = 2 if arguments.quick else arguments.epochs
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments.data.resolve(), epochs, Path(folder))
        bench.by_hand(1 if arguments.quick else min(arguments.measured, epochs))
        bench.tlkit("no augmentation", "augmentation={name='none'}", views=1)
        views = min(3, epochs)
        took = [bench.tlkit("views = 3", VIEWS, views=views)]
        for setting in NEXT[: 1 if arguments.quick else None]:
            same_head = not setting.startswith("head")  # the bare step is the recipe's head's
            took.append(
                bench.tlkit(setting, VIEWS, setting, views=0 if same_head else None, cold=False)
            )
        eight = sum(took)
        share = eight / (len(took) * bench.yardstick)
        runs = f"all {len(took)} runs, the first one cold"
        print(f"{runs}: {eight:.1f} s, {share:.3f} of as many by hand")
        if arguments.quick:
            return
        bench.bare = bench.measured_bare()  # a shared machine is not the same an hour long
        bench.tlkit("online (views unset)", views=epochs)
        bench.epochs = 1
        print("experiment 4's recipe, all layers trained, 1 epoch:")
        bench.by_hand(1, "--train-all")
        whole = ("freeze={name='all_layers'}", "fit.epochs=1")
        bench.tlkit("tlkit", *whole, views=None)


if __name__ == "__main__":
    main()
