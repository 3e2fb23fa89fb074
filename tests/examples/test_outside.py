"""Programs as strangers write them, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tlkit.parts.shapes import Shapes

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def output(program: str, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / program, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "TLKIT_CACHE": str(cwd / "cache")},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_somebody_fine_tunes_on_a_folder_of_their_own(tmp_path: Path) -> None:
    splits = Shapes(train=12, val=6, test=6, image_px=32).load()
    for _, examples in splits.items():
        for example in examples:
            path = tmp_path / "photos" / example.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(splits.read(example.path))
    small = (
        "backbone.image_size=32",
        'backbone.weights="none"',
        "fit.epochs=1",
        "freeze.train=['head']",
    )
    said = output("own_folder.py", "photos", *small, cwd=tmp_path)
    assert re.fullmatch(r"\d+% of 6 images; see runs/experiment-1\n", said)


@pytest.mark.slow
def test_somebody_cross_validates_with_scikit_learn(tmp_path: Path) -> None:
    scores = [
        float(score) for score in re.findall(r"\d\.\d+", output("scikit_learn.py", cwd=tmp_path))
    ]
    assert len(scores) == 3
    assert min(scores) > 0.5  # ten digits: chance is 0.1


def test_the_programs_are_short() -> None:
    for program in ("own_folder.py", "scikit_learn.py", "plain_keras.py"):
        lines = (EXAMPLES / program).read_text(encoding="utf-8").splitlines()
        assert len([line for line in lines if line.strip()]) <= 22
