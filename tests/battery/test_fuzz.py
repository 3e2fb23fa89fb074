"""5,000 damaged files: each is read or refused in one line, in little time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.battery.counts import FUZZED

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("count", [200, pytest.param(FUZZED, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused(count: int) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.battery.fuzz", str(count)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["wrong"] == []
    assert sum(result["counts"].values()) == count
    assert result["grown_mb"] < 1024
