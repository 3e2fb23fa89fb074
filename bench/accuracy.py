"""Whether tlkit ends as accurate as the hand-written script: the same recipe, seed by seed.

Both read the same small images, made once, so that neither resizes. Accuracy swings from epoch to
epoch with this recipe; the mean over the second half of the epochs says more than the last one.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
import tempfile
from pathlib import Path

from bench import HERE, RECIPE, timed
from PIL import Image


def resized(data: Path, target: Path, size: int) -> None:
    """Write all images of a folder again, `size` pixels square, bilinear with antialiasing."""
    for path in sorted(path for path in data.rglob("*") if path.is_file()):
        place = (target / path.relative_to(data)).with_suffix(".png")
        place.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.resize((size, size), Image.Resampling.BILINEAR).save(place)


def by_hand(data: Path, size: int, epochs: int, seed: int) -> list[float]:
    """Return the hand-written script's validation accuracy after each epoch."""
    command = [sys.executable, str(HERE / "handwritten.py"), str(data), "--augment"]
    command += ["--size", str(size), "--epochs", str(epochs), "--seed", str(seed)]
    return list(timed(command, dict(os.environ))[2]["val_accuracy"])


def by_tlkit(recipe: Path, out: Path, size: int, seed: int) -> list[float]:
    """Return tlkit's validation accuracy after each epoch."""
    command = [sys.executable, "-m", "tlkit", "run", str(recipe), "--json", "--out", str(out)]
    command += ["--set", f"seed={seed}", "--set", f"backbone.image_size={size}"]
    timed(command, {**os.environ, "TLKIT_CACHE": str(out.parent / "cache")})
    with (out / "history.csv").open(encoding="utf-8", newline="") as file:
        return [float(row["val_accuracy"]) for row in csv.DictReader(file)]


def main() -> None:
    """Measure and print a row a seed, and the mean difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a folder with train/CLASS and val/CLASS")
    parser.add_argument("--size", type=int, default=96, help="pixels a side")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    arguments = parser.parse_args()
    size, epochs = arguments.size, arguments.epochs
    differences = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        resized(arguments.data, folder / "images", size)
        recipe = folder / "recipe.toml"
        recipe.write_text(RECIPE.format(data=(folder / "images").as_posix(), epochs=epochs))
        print(f"{'seed':>4} {'by hand: last':>14} {'second half':>12}", end=" ")
        print(f"{'tlkit: last':>12} {'second half':>12}", flush=True)
        for seed in arguments.seeds:
            hand = by_hand(folder / "images", size, epochs, seed)
            ours = by_tlkit(recipe, folder / f"run{seed}", size, seed)
            means = [statistics.fmean(found[epochs // 2 :]) for found in (hand, ours)]
            differences.append(means[1] - means[0])
            print(f"{seed:4} {hand[-1]:14.3f} {means[0]:12.3f}", end=" ")
            print(f"{ours[-1]:12.3f} {means[1]:12.3f}", flush=True)
    mean = statistics.fmean(differences)
    spread = statistics.stdev(differences) if len(differences) > 1 else float("nan")
    print(f"tlkit - by hand, second half: {mean:+.3f}, sd over seeds {spread:.3f}")


if __name__ == "__main__":
    main()
