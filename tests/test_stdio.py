"""Standard streams that nobody reads any more, or that cannot be written to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "tlkit"]


def ended(*arguments: str, out: str = "pipe", err: str = "pipe") -> tuple[int, str, str]:
    """Run a command whose streams are read, `closed` by their reader or on a `full` disk."""
    with Path("/dev/full").open("wb") as full:
        process: subprocess.Popen[str] = subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=full if out == "full" else subprocess.PIPE,
            stderr=full if err == "full" else subprocess.PIPE,
            text=True,
        )
    streams = (out, process.stdout), (err, process.stderr)
    for kind, stream in streams:
        if stream is not None and kind == "closed":
            stream.close()
    said = [stream.read() if stream and not stream.closed else "" for _, stream in streams]
    for _, stream in streams:
        if stream is not None:
            stream.close()
    return process.wait(), said[0], said[1]


@pytest.mark.parametrize("arguments", [["layers", "vgg16"], ["--help"]], ids=" ".join)
def test_a_reader_that_has_enough_is_no_mistake(arguments: list[str]) -> None:
    assert ended(*arguments, out="closed") == (0, "", "")


def test_results_that_cannot_be_written_are_an_error() -> None:
    message = "standard output: cannot be written to: No space left on device\n"
    assert ended("list", out="full") == (8, "", message)


@pytest.mark.parametrize("err", ["closed", "full"])
def test_a_message_that_nobody_reads_changes_no_exit_code(err: str) -> None:
    assert ended("check", "none.toml", err=err) == (3, "", "")
    assert ended("check", "none.toml", out="closed", err=err) == (3, "", "")


def test_streams_that_are_not_there_are_no_mistake() -> None:
    for closed in ("stdout", "stderr"):
        code = f"import os, sys; os.close({1 if closed == 'stdout' else 2}); "
        code += "os.execv(sys.executable, [sys.executable, '-m', 'tlkit', 'list'])"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("datasets" if closed == "stderr" else "")
