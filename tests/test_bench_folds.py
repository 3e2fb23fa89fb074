"""Folds of a set as sets of their own, and what is counted over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from bench import folds
from PIL import Image


def test_each_image_is_tested_once_per_draw(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 4)):
        for label in ("ants", "bees"):
            for n in range(count):
                file = tmp_path / "set" / split / label / f"{n}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 256, (40, 40, 3), np.uint8)).save(file)
    folds.draw(tmp_path / "set", tmp_path / "folds", draws=2, folds=5)
    for seed in range(2):
        tested: list[str] = []
        for number in range(1, 6):
            files = {
                split: sorted((tmp_path / "folds" / f"{seed}-{number}" / split).glob("*/*"))
                for split in ("train", "val", "test")
            }
            assert {split: len(of_split) for split, of_split in files.items()} == {
                "train": 24, "val": 8, "test": 8,
            }  # fmt: skip
            images = [file.resolve() for of_split in files.values() for file in of_split]
            assert len({*images}) == 40
            tested += [str(file.resolve()) for file in files["test"]]
        assert len({*tested}) == len(tested) == 40


def test_methods_are_counted_and_compared_by_draw() -> None:
    def row(method: str, name: str, wrong: list[str]) -> dict[str, object]:
        return {"method": method, "set": name, "count": 5, "wrong": wrong, "processor_s": 2}

    rows = [
        row("default", "0-1", ["ants/1"]), row("default", "0-2", []),
        row("keras", "0-1", ["ants/1", "ants/2"]), row("keras", "0-2", ["bees/1"]),
    ]  # fmt: skip
    table = folds.pool(rows)
    assert "| default | 9 of 10 | 90.0% | 59.6% to 98.2% | 90.0% | 2 |" in table
    assert "| keras, draw 0 | 2, 0 | 0.5 |" in table
