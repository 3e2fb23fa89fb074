"""The table `[sweep]`: the runs of a sweep, each a file with `--set` expressions."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from tlkit.config.structure import BARE, toml_value
from tlkit.system.errors import FieldError

RANGE = re.compile(r"(\d+)(?:\s*(?:-|–|\.\.)\s*(\d+))?")
MOST_RUNS = 10_000


@frozen
class Seeds:
    """Distinct seeds, written as ``0-4`` or ``0..4`` for 0, 1, 2, 3, 4; commas separate.

    >>> Seeds.parse("0..2, 7").values
    (0, 1, 2, 7)
    >>> str(Seeds((0, 1, 2, 7)))
    '0,1,2,7'
    """

    values: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Seeds:
        """Parse text such as ``0-4,7``."""
        seeds: list[int] = []
        for piece in text.split(","):
            match = RANGE.fullmatch(piece.strip())
            if not match:
                raise ValueError(f"expected seeds such as '0-4' or '0,3,7', got {text!r}")
            first, last = int(match[1]), int(match[2] or match[1])
            if not first <= last < 2**31 or last - first >= MOST_RUNS:
                raise ValueError(f"seeds rise and are below 2³¹, got {text!r}")
            seeds += range(first, last + 1)
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"each seed once, got {text!r}")
        return cls(tuple(seeds))

    def __str__(self) -> str:
        return ",".join(map(str, self.values))


def _check_seeds(instance: Any, attribute: Any, value: Any) -> None:
    if isinstance(value, tuple) and (
        not value or len(set(value)) < len(value) or not 0 <= min(value) <= max(value) < 2**31
    ):
        raise FieldError("seeds", f"must be different numbers from 0 to 2³¹ - 1, got {list(value)}")


@frozen(kw_only=True)
class SweepTable:
    """The table `[sweep]`, which only `tlkit sweep` reads.

    It also has a table `[sweep.set]`: keys as for `--set`, several values as a list.

    Attributes:
        seeds: The seeds to run every setting with: a list, or a range such as "0-4"; unset: the
            experiment's own.
        files: Experiment files; unset: the rest of this file is the experiment.
    """

    seeds: Seeds | tuple[int, ...] | None = field(default=None, validator=_check_seeds)
    files: tuple[Path, ...] = ()


def flat(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the keys of `[sweep.set]` as `--set` writes them, with their values.

    >>> list(flat({"optimizer.learning_rate": [1, 2], "fit": {"epochs": 3}}))
    [('optimizer.learning_rate', [1, 2]), ('fit.epochs', 3)]
    """
    for key, value in table.items():
        path = (*above, key if "." in key or BARE.fullmatch(key) else json.dumps(key))
        if isinstance(value, Mapping):
            yield from flat(value, path)
        else:
            yield ".".join(path), value


def grid(swept: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every combination of values; a list means several values.

    >>> grid({"a": [1, 2], "b": 3})
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    choices = [value if isinstance(value, list) else [value] for value in swept.values()]
    return [dict(zip(swept, values, strict=True)) for values in itertools.product(*choices)]


def expressions(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return settings as `--set` expressions."""
    return tuple(f"{key}={toml_value(value)}" for key, value in settings.items())
