"""How many more runs per hour two processes make than one, and what a run costs besides training.

Each run is bound by one core (``--threads 1``) and trains a small network on drawn shapes. A first
sweep that is not counted fills the feature cache and the disk's. A run's overhead is the time
between the ends of two runs of one process minus the seconds of its epochs: everything else, from
reading the experiment to the report. Needs a machine with two idle cores; takes 4 minutes there.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILE = """
data = { name = "shapes", train = 60, val = 20, test = 0, image_px = 64 }
backbone = { name = "mobilenet", weights = "none", image_size = 64 }
head = { name = "pooled" }
freeze = { name = "all_layers" }
fit = { epochs = 4, batch_size = 8 }
"""
SAME = ("sweep.csv", "summary.csv", "sweep.html")


def seconds(folder: Path, out: str, workers: int, runs: int) -> float:
    """Return how long a sweep takes with this many workers."""
    command = [sys.executable, "-m", "tlkit", "sweep", "study.toml", "--threads", "1"]
    command += ["--seeds", f"0-{runs - 1}", "--workers", str(workers), "--out", out]
    environment = {**os.environ, "TLKIT_CACHE": str(folder / "cache")}
    started = time.monotonic()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.monotonic() - started


def overheads(sweep: Path) -> list[float]:
    """Return each run's overhead but the first one's, of a sweep with one worker."""
    runs = sorted((sweep / "runs").iterdir())
    ends = [(sweep / "leases" / f"{run.name}.0.json").stat().st_mtime for run in runs]
    trained = [
        sum(float(line.split(",")[1]) for line in (run / "timing.csv").read_text().split()[1:])
        for run in runs
    ]
    pairs = itertools.pairwise(ends)
    return [after - before - own for (before, after), own in zip(pairs, trained[1:], strict=True)]


def same_files(first: Path, second: Path) -> list[bool]:
    """Return of each table, page and weights file whether both sweeps have the same bytes."""
    files = [*map(Path, SAME), *(p.relative_to(first) for p in first.glob("runs/*/weights.*"))]
    return [(first / file).read_bytes() == (second / file).read_bytes() for file in files]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=8, help="of each sweep")
    parser.add_argument("--pairs", type=int, default=2, help="of sweeps, one after the other")
    options = parser.parse_args()
    kept: list[bool] = []
    costs: list[float] = []
    took: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "study.toml").write_text(FILE)
        seconds(folder, "first", 2, 2)
        for pair in range(options.pairs):
            for workers, sweeps in took.items():
                out = f"{pair}-{workers}"
                sweeps.append(seconds(folder, out, workers, options.runs))
                print(f"{options.runs} runs, {workers} workers: {sweeps[-1]:.1f} s", flush=True)
            costs += overheads(folder / f"{pair}-1")
            kept += same_files(folder / f"{pair}-1", folder / f"{pair}-2")
    print(f"{sum(took[1]) / sum(took[2]):.2f} times the runs per hour with two workers; overhead "
          f"per run after start: median {statistics.median(costs):.2f} s, most {max(costs):.2f} s; "
          f"{sum(kept)} of {len(kept)} files are the same")  # fmt: skip


if __name__ == "__main__":
    main()
