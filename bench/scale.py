"""What 1,000 to 1,000,000 images cost: time, memory and files of check, run and predict.

    python bench/scale.py 1000 10000 100000 --json docs/img/scale.json

Draws tiny images in two classes; a small network with random weights classifies them. Each command
runs in a process of its own, with an empty cache. On a busy machine, processor seconds say more
than seconds.
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

import numpy as np
from PIL import Image

RECIPE = """
[data]
name = "folder"
path = "{data}"
[backbone]
name = "mobilenet_v2"
weights = "none"
image_size = 32
[head]
name = "linear"
[fit]
epochs = 2
batch_size = 256
"""
SIDE = 16
Cost = tuple[float, float, float]  # seconds, processor seconds, peak memory in GB


def draw(folder: Path, count: int) -> None:
    """Write images of noise, four of five for training."""
    random = np.random.default_rng(0)
    for number in range(count):
        target = folder / ("train" if number % 5 else "val") / ("one" if number % 2 else "two")
        target.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(target / f"{number}.png", compress_level=1)


def cost(folder: Path, *arguments: str) -> Cost:
    """Run a command of tlkit."""
    environment = {**os.environ, "TLKIT_CACHE": str(folder / "cache"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    began = time.perf_counter()
    with (folder / "said.txt").open("w") as said:
        command = [sys.executable, "-m", "tlkit", *arguments]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{(folder / 'said.txt').read_text()}")
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6


def measure(count: int, folder: Path) -> dict[str, Cost]:
    """Return the cost of each command on `count` images."""
    draw(folder / "images", count)
    (folder / "recipe.toml").write_text(RECIPE.format(data=(folder / "images").as_posix()))
    predict = ["predict", "run", "images", "--format", "csv", "--out", "rows.csv", "--resume"]
    return {
        "check": cost(folder, "check", "recipe.toml"),
        "run": cost(folder, "run", "recipe.toml", "--out", "run"),
        "predict": cost(folder, *predict),
    }


def size_mb(folder: Path) -> float:
    """Return the size of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    """Print a row per number of images and command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("counts", type=int, nargs="+")
    parser.add_argument("--json", type=Path, help="add the costs to this file's")
    arguments = parser.parse_args()
    costs = {}
    print("images    command  seconds  processor  peak GB")
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as name:
            costs[count] = measure(count, Path(name))
            for command, (seconds, cpu, memory) in costs[count].items():
                print(
                    f"{count:8}  {command:8} {seconds:7.1f} {cpu:10.1f} {memory:8.2f}", flush=True
                )
            print(f"{count:8}  files of the run: {size_mb(Path(name) / 'run'):.1f} MB", flush=True)
        if arguments.json:
            known = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
            rows = {name: [round(x, 2) for x in row] for name, row in costs[count].items()}
            text = json.dumps({**known, str(count): rows}, indent=1)
            arguments.json.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
