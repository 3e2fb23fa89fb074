"""Hostile files are refused in little memory and time, and nothing but the file is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tests.battery.hostile import IMAGES, READ, SECRET, STRANGE, WEIGHTS, saved

ROOT = Path(__file__).parent.parent.parent
SECONDS = 5  # for one file, on a busy machine

Result = tuple[str, str, list[str], float]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process made of all hostile files."""
    top = tmp_path_factory.mktemp("hostile")
    with h5py.File(top / "secret.h5", "w") as file:
        file["kernel"] = file["deep/kernel"] = np.full(4, SECRET, np.float32)
    (top / "secret.raw").write_bytes(np.full(4, SECRET, np.float32).tobytes())
    work: dict[str, list[tuple[str, str]]] = {"sound": [], "warm": [], "hostile": []}

    def add(which: str, kind: str, name: str, content: bytes) -> None:
        path = top / f"{which} {name}"
        path.write_bytes(content)
        work[which].append((kind, str(path)))

    for form in ("PNG", "JPEG", "TIFF", "BMP", "WEBP"):
        add("sound", "image", form, saved(form))
        add("warm", "image", f"cut {form}", saved(form)[:60])
    add("warm", "image", "text", b"text")
    for name, make in READ.items():
        add("sound", "weights", name, make(top))
    for name, make in WEIGHTS.items():
        if name in {"trailing.safetensors", "virtual.h5", "shape.h5", "bfloat16.safetensors"}:
            add("warm", "weights", name, make(top))
    for name, picture in {**IMAGES, **STRANGE}.items():
        add("hostile", "image", name.replace("/", " "), picture())
    for name, make in {**WEIGHTS, **READ}.items():
        add("hostile", "weights", name, make(top))
    before = sorted(path.name for path in top.iterdir())
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "battery" / "sandbox.py"],
        input=json.dumps(work),
        capture_output=True,
        text=True,
        cwd=top,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    names = [*IMAGES, *STRANGE, *WEIGHTS, *READ]
    found: dict[str, Any] = dict(zip(names, told["results"], strict=True))
    return found | {
        "grown_kb": told["grown_kb"],
        "new": {path.name for path in top.iterdir()} - {*before},
    }


@pytest.mark.parametrize("name", [*IMAGES, *WEIGHTS])
def test_a_hostile_file_is_refused_and_nothing_else_is_touched(
    name: str, outcomes: dict[str, Any]
) -> None:
    outcome, message, events, seconds = outcomes[name]
    assert (outcome, events) == ("refused", [])
    assert seconds < SECONDS
    assert len(message) < 1000
    assert str(SECRET) not in message


@pytest.mark.parametrize("name", READ)
def test_arrays_beside_code_and_links_are_read_and_nothing_else(
    name: str, outcomes: dict[str, Any]
) -> None:
    outcome, arrays, events, _ = outcomes[name]
    assert (outcome, events) == ("accepted", [])
    assert list(json.loads(arrays).values()) == [[1.0] * 4]


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_picture_is_what_was_asked_for(name: str, outcomes: dict[str, Any]) -> None:
    assert outcomes[name][:3] == ["accepted", "[8, 8]", []]


def test_all_of_them_take_little_memory_and_leave_nothing_behind(outcomes: dict[str, Any]) -> None:
    assert outcomes["grown_kb"] < 300_000
    assert outcomes["new"] == set()
