"""Code in a process of its own, for tests of what a process with Keras and threads cannot do."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def command_of(head: str, code: str, *arguments: object) -> list[str]:
    """Return the command that runs code, after what several pieces of code begin with."""
    return [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)]


def output_of(head: str, code: str, *arguments: object) -> str:
    """Run code that writes nothing to standard error; return its output."""
    command = command_of(head, code, *arguments)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not ended.stderr
    return ended.stdout
