"""The tutorial, followed to the letter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent.parent / "docs" / "tutorial.md"


def commands() -> str:
    """Return all that the page says to paste, but for the installation."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition("## 2.")
    assert len(re.findall("^```sh", before, re.MULTILINE)) == 1
    return "".join(re.findall(r"^```sh\n(.*?)^```", rest, re.DOTALL | re.MULTILINE))


@pytest.mark.slow
def test_every_line_works_as_it_stands(tmp_path: Path) -> None:
    here = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{here}:{os.environ['PATH']}", "TLKIT_CACHE": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = tmp_path / "tutorial"
    assert (made / "exports" / "digits-1-keras" / "model.keras").is_file()
    accuracy = [
        json.loads((made / "runs" / name / "metrics.json").read_text())["test"]["accuracy"]
        for name in ("digits-1", "digits-2")
    ]
    assert accuracy[0] >= 0.95 > accuracy[1]
    assert (made / "runs" / "digits-1" / "report.html").is_file()
    assert "exit code 3" in done.stdout
    assert "unknown key; did you mean 'epochs'" in done.stderr
