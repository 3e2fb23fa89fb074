"""The file of a part of one's own that `tlkit init --part` writes, from what its kind asks for."""

from __future__ import annotations

import inspect
from pathlib import Path

from tlkit.config.experiment import Experiment
from tlkit.config.starter import write_new
from tlkit.config.structure import keys
from tlkit.parts.kinds import registries
from tlkit.system.errors import ConfigError, Problem
from tlkit.system.text import suggest

FILE = '''"""A part of my own for tlkit.

Use it in an experiment next to this file:

    [plugins]
    modules = ["{file}"]

    [{table}]
    name = "{name}"
"""

import tlkit


@tlkit.part("{name}")
class {cls}(tlkit.{base}):
    """Say in a line what it does.

    Attributes:
        strength: Say what this key means, or leave it out.
    """

    strength: float = 1.0
{methods}'''
METHOD = '''
    def {name}({arguments}):
        """{summary}"""
        raise NotImplementedError
'''


def write_part(kind: str, out: Path) -> None:
    """Write a file with a part of a kind, whose methods are still to be written."""
    registry = dict(registries.items()).get(kind)
    if registry is None:
        known = [name for name, _ in registries.items()]
        raise ConfigError([Problem("", f"is not a kind of part{suggest(kind, known)}")], kind)
    if not out.stem.isidentifier() or out.suffix != ".py":
        raise ConfigError([Problem("", "must be a Python module, such as mine.py")], str(out))
    table = next(field.name for field in keys(Experiment)
                 if field.metadata.get("registry") is registry)  # fmt: skip
    base = registry.base
    own = [method for name, method in vars(base).items() if name in base.__abstractmethods__]
    text = FILE.format(
        file=out.name, table=table, name=out.stem, base=base.__name__,
        cls="".join(word.capitalize() for word in out.stem.split("_")) or "Mine",
        methods="".join(_method(method) for method in own),
    )  # fmt: skip
    write_new(out, text.encode())


def _method(function: object) -> str:
    """Return a method with the arguments and the meaning of the kind's, without a body."""
    assert inspect.isfunction(function)
    summary = inspect.cleandoc(function.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    arguments = ", ".join(inspect.signature(function).parameters)
    return METHOD.format(name=function.__name__, arguments=arguments, summary=summary)
