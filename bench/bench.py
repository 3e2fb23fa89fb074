"""How long tlkit takes for experiment 3's recipe, as ratios to a hand-written Keras script.

Each run has a process of its own, one after another. The hand-written script's epochs all cost the
same, so `--measured` of them stand for all; the table says so.
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

EPOCHS = 12
HERE = Path(__file__).parent
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
name = "covidx"
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
# What is measured: the row's name, what is set, and whether the feature cache is emptied before.
RUNS = {
    "no augmentation": (["augmentation.name='none'"], True),
    "views = 3": (["augmentation.views=3"], True),
    "the same, another head, warm": (["augmentation.views=3", "head.units=[512, 512]"], False),
    "the same, another rate, warm": (
        ["augmentation.views=3", "optimizer.learning_rate=1e-5"],
        False,
    ),
    "online (views unset)": ([], True),
}


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float, str]:
    """Run a command; return its seconds, its peak memory in GB and what it printed."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(command, stdout=out, stderr=messages, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        out.seek(0)
        messages.seek(0)
        if status:
            raise SystemExit(f"{' '.join(command)} failed:\n{messages.read()}")
        return time.perf_counter() - began, usage.ru_maxrss / 1e6, out.read()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a folder with train/CLASS and val/CLASS")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--measured", type=int, default=2, help="hand-written epochs measured")
    parser.add_argument("--quick", action="store_true", help="without the online run")
    arguments = parser.parse_args()
    data = arguments.data.resolve()
    measured = min(arguments.measured, arguments.epochs)
    command = [sys.executable, str(HERE / "handwritten.py"), str(data), "--augment"]
    _, memory, out = timed([*command, "--epochs", str(measured)], dict(os.environ))
    found = json.loads(out.splitlines()[-1])
    epoch_s = sum(found["epoch_s"]) / measured
    yardstick = found["start_s"] + arguments.epochs * epoch_s
    print(f"{'run':32} {'seconds':>8} {'ratio':>6} {'peak GB':>8}")
    note = f"{arguments.epochs} × the mean of {measured} epochs, {epoch_s:.1f} s"
    print(f"{'hand-written Keras':32} {yardstick:8.1f} {1:6.2f} {memory:8.2f}  {note}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        recipe = top / "recipe.toml"
        recipe.write_text(RECIPE.format(data=data.as_posix(), epochs=arguments.epochs))
        environment = {**os.environ, "TLKIT_CACHE": str(top / "cache")}
        tlkit = [sys.executable, "-m", "tlkit"]
        for number, (name, (settings, cold)) in enumerate(RUNS.items()):
            if arguments.quick and name.startswith("online"):
                continue
            if cold:
                timed([*tlkit, "cache", "clear"], environment)
            overrides = [word for setting in settings for word in ("--set", setting)]
            out_folder = str(top / f"run{number}")
            run = [*tlkit, "run", str(recipe), "--json", "--out", out_folder, *overrides]
            seconds, memory, out = timed(run, environment)
            accuracy = json.loads(out)["val"]["accuracy"]
            ratio = seconds / yardstick
            note = f"val accuracy {accuracy:.3f}"
            print(f"{name:32} {seconds:8.1f} {ratio:6.2f} {memory:8.2f}  {note}", flush=True)


if __name__ == "__main__":
    main()
