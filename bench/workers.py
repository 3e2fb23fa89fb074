"""How many more runs per hour two processes make than one, and whether they make the same ones.

Each run is bound by one core (``--threads 1``) and trains a small network on drawn shapes. A first
sweep that is not counted fills the feature cache and the disk's.
"""

from __future__ import annotations

import argparse
import os
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


def seconds(folder: Path, workers: int, runs: int) -> float:
    """Return how long a sweep takes with this many workers."""
    command = [sys.executable, "-m", "tlkit", "sweep", "study.toml", "--threads", "1"]
    command += ["--seeds", f"0-{runs - 1}", "--workers", str(workers), "--out", f"with-{workers}"]
    environment = {**os.environ, "TLKIT_CACHE": str(folder / "cache")}
    started = time.monotonic()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.monotonic() - started


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=8)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "study.toml").write_text(FILE)
        seconds(folder, 3, 1)
        alone, together = (seconds(folder, workers, runs) for workers in (1, 2))
        first, second = folder / "with-1", folder / "with-2"
        files = [*map(Path, SAME), *(p.relative_to(first) for p in first.glob("runs/*/weights.*"))]
        kept = [(first / file).read_bytes() == (second / file).read_bytes() for file in files]
    print(f"{runs} runs: {alone:.0f} s with one process, {together:.0f} s with two, "
          f"{alone / together:.2f} times the runs per hour; "
          f"{sum(kept)} of {len(kept)} files are the same")  # fmt: skip


if __name__ == "__main__":
    main()
