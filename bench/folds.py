"""Compare the methods of `bench/defaults.py` on all images of a set, several times in folds.

    python bench/folds.py draw my/insects folds
    python bench/defaults.py folds.jsonl folds/* --size 64 --tune-epochs 4 --seeds 0
    python bench/folds.py pool folds.jsonl

`draw` pools train/CLASS and val/CLASS and makes each fold a set of its own, of links: the fold is
its `test`, a quarter of the rest its `val`. Folds are stratified, and copies of a picture are in
one. `pool` counts over all folds of a draw, in which each image is tested once, and compares with
`default` image by image. Images of several draws are the same ones, so intervals are of one draw's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tlkit.data.folds import contents_of, groups_of, stratified_folds
from tlkit.metrics.intervals import wilson
from tlkit.parts.datasets import Folder
from tlkit.reports.compare import mcnemar

QUARTERS = 4


def draw(folder: Path, out: Path, draws: int, folds: int) -> None:
    """Link the images of each fold of each draw to `out/DRAW-FOLD/SPLIT/CLASS`."""
    data = Folder(path=folder).load()
    pool = data.train + data.val
    labels = np.array(data.labels(pool))
    groups = np.array(groups_of(pool, contents_of(pool, data.read)))
    for seed in range(draws):
        held_out = stratified_folds(list(labels), list(groups), folds, seed)
        for number, test in enumerate(held_out, 1):
            rest = np.setdiff1d(np.arange(len(pool)), sorted(test))
            quarters = stratified_folds(list(labels[rest]), list(groups[rest]), QUARTERS, seed)
            val = set(rest[sorted(quarters[0])])
            for n, example in enumerate(pool):
                split = "test" if n in test else "val" if n in val else "train"
                source = (folder / example.path).absolute()
                name = "-".join(example.path.split("/"))  # train and val may have the same names
                link = out / f"{seed}-{number}" / split / example.label / name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(source)


def pool(rows: Iterable[dict[str, Any]]) -> str:
    """Return two Markdown tables: each method over all folds, and `default` next to the others."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    wrong: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    seconds: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        method, number = row["method"], row["set"].split("-")[0]
        counts[method][number] += row["count"]
        wrong[method][number] |= {*row["wrong"]}
        seconds[method].append(row["processor_s"])
    lines = ["| method | right | accuracy | 95 % | single draws | processor s |", "|---" * 6 + "|"]
    for method, images in counts.items():
        shares = [1 - len(wrong[method][number]) / count for number, count in images.items()]
        share = statistics.fmean(shares)
        ends = wilson(share, statistics.fmean(images.values()))
        right = sum(images.values()) - sum(map(len, wrong[method].values()))
        cells = [method, f"{right} of {sum(images.values())}", f"{share:.1%}"]
        cells += ["{:.1%} to {:.1%}".format(*ends), ", ".join(f"{s:.1%}" for s in shares)]
        lines.append(f"| {' | '.join([*cells, f'{statistics.fmean(seconds[method]):.0f}'])} |")
    lines += ["", "| default and | only default, only the other is right | p |", "|---" * 3 + "|"]
    for method, number in itertools.product(sorted({*counts} - {"default"}), counts["default"]):
        own, other = wrong["default"][number], wrong[method][number]
        only, only_other = len(other - own), len(own - other)
        p = mcnemar(only, only_other)
        lines.append(f"| {method}, draw {number} | {only}, {only_other} | {p:.2g} |")
    return "\n".join(lines)


def main() -> None:
    """Draw folds, or print what the methods reached over them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw")
    drawing.add_argument("data", type=Path, help="a folder with train/CLASS and val/CLASS")
    drawing.add_argument("out", type=Path, help="a new folder")
    drawing.add_argument("--draws", type=int, default=3)
    drawing.add_argument("--folds", type=int, default=5)
    pooling = commands.add_parser("pool")
    pooling.add_argument("results", type=Path, help="the file that bench/defaults.py wrote")
    options = parser.parse_args()
    if options.command == "draw":
        draw(options.data, options.out, options.draws, options.folds)
    else:
        print(pool(json.loads(line) for line in options.results.read_text().splitlines()))


if __name__ == "__main__":
    main()
