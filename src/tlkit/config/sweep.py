"""The table `[sweep]`: the runs of a sweep, each a file with `--set` expressions."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen

from tlkit.config.structure import BARE, toml_value
from tlkit.parts.validators import at_least, unless_none
from tlkit.system.errors import ConfigError, FieldError, Problem
from tlkit.system.notebook import argument

RANGE = re.compile(r"(\d+)(?:\s*(?:-|–|\.\.)\s*(\d+))?")
MOST_RUNS = 10_000
NUMBER = r"\d+(?:\.\d+)?"
DURATION = re.compile(f"(?:(?P<h>{NUMBER})h)?(?:(?P<m>{NUMBER})m)?(?:(?P<s>{NUMBER})s)?")
SECONDS = {"h": 3600, "m": 60, "s": 1}
RANGE_KEYS = {"low", "high", "log"}


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


def parse_budget(text: str) -> float:
    """Return the seconds of a duration such as ``2h``, ``1h30m`` or ``90s``.

    Raises:
        ConfigError: If the text has another form, or is nothing.

    >>> parse_budget("1h30m"), parse_budget("90s"), parse_budget("0.5h")
    (5400.0, 90.0, 1800.0)
    """
    found = DURATION.fullmatch(text.strip())
    seconds = sum(float(found[unit] or 0) * SECONDS[unit] for unit in SECONDS) if found else 0.0
    if not seconds > 0:
        raise ConfigError(
            [Problem(argument("--budget"), f"expected such as 2h, 1h30m or 90s, got {text!r}")]
        )
    return seconds


def _check_seeds(instance: Any, attribute: Any, value: Any) -> None:
    if isinstance(value, tuple) and (
        not value or len(set(value)) < len(value) or not 0 <= min(value) <= max(value) < 2**31
    ):
        raise FieldError("seeds", f"must be different numbers from 0 to 2³¹ - 1, got {list(value)}")


@frozen(kw_only=True)
class SearchTable:
    """The table `[sweep.search]`: try a part of the combinations, and drop weak ones early.

    Attributes:
        draws: The number of combinations to draw from `[sweep.set]`, where a key may also have a
            range: `{ low = 1e-5, high = 1e-2, log = true }`.
        sampler: How they are drawn: `random`, or `tpe`, Optuna's, which learns from those before.
        batch: The number of combinations that are compared with each other and, with `tpe`, drawn
            at once; unset: all of them, with `tpe` 10.
        seed: The seed of the draws.
        min_epochs: After how many epochs combinations are compared and the weakest dropped for the
            first time; unset: all runs go to their end.
        factor: Each time, one in `factor` goes on, and the next comparison is after `factor` times
            as many epochs.
    """

    draws: int = field(validator=at_least(1))
    sampler: Literal["random", "tpe"] = "random"
    batch: int | None = field(default=None, validator=unless_none(at_least(2)))
    seed: int = field(default=0, validator=at_least(0))
    min_epochs: int | None = field(default=None, validator=unless_none(at_least(1)))
    factor: int = field(default=3, validator=at_least(2))


@frozen(kw_only=True)
class SweepTable:
    """The table `[sweep]`, which only `tlkit sweep` reads.

    It also has a table `[sweep.set]`: keys as for `--set`, several values as a list.

    Attributes:
        seeds: The seeds to run every setting with: a list, or a range such as "0-4"; unset: the
            experiment's own.
        files: Experiment files; unset: the rest of this file is the experiment.
        search: Try a part of the combinations only; unset: all of them.
    """

    seeds: Seeds | tuple[int, ...] | None = field(default=None, validator=_check_seeds)
    files: tuple[Path, ...] = ()
    search: SearchTable | None = None


@frozen
class Range:
    """The values between two numbers; whole ones if both ends are.

    Attributes:
        low: The least.
        high: The greatest.
        log: Whether all orders of magnitude are equally likely.
    """

    low: float
    high: float
    log: bool = False

    @classmethod
    def of(cls, value: Any) -> Range | None:
        """Return the range that a table describes; None if it describes none.

        Raises:
            ValueError: If its ends are not two numbers of which the second is greater.

        >>> Range.of({"low": 1, "high": 9}), Range.of({"name": "adam"})
        (Range(low=1, high=9, log=False), None)
        """
        if not isinstance(value, Mapping) or not {"low", "high"} <= value.keys() <= RANGE_KEYS:
            return None
        low, high, log = value["low"], value["high"], value.get("log", False)
        numbers = all(isinstance(end, int | float) and math.isfinite(end) for end in (low, high))
        if not numbers or bool in map(type, (low, high)) or not low < high:
            raise ValueError("needs two numbers, low below high")
        if log is not False and not (log is True and low > 0):
            raise ValueError("log is true or false, and needs numbers above 0")
        return cls(low, high, log)

    @property
    def is_whole(self) -> bool:
        """Whether its values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def at(self, share: float) -> float:
        """Return the value at a share of the way, with four digits."""
        low, high = (math.log(end) if self.log else end for end in (self.low, self.high))
        value = low + share * (high - low)
        value = min(self.high, max(self.low, math.exp(value) if self.log else value))
        return round(value) if self.is_whole else float(f"{value:.4g}")


def flat(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the keys of `[sweep.set]` as `--set` writes them, with their values.

    >>> list(flat({"optimizer.learning_rate": [1, 2], "fit": {"epochs": 3}}))
    [('optimizer.learning_rate', [1, 2]), ('fit.epochs', 3)]
    """
    for key, value in table.items():
        path = (*above, key if "." in key or BARE.fullmatch(key) else json.dumps(key))
        if isinstance(value, Mapping) and not {"low", "high"} <= value.keys() <= RANGE_KEYS:
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
