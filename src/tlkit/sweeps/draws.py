"""Drawing combinations of a sweep's values, at random or by Optuna.

What is drawn depends on the results of earlier runs alone, not on when or where they came, so that
any number of processes, stopped and resumed at will, try the same combinations.
"""

from __future__ import annotations

import importlib
import json
import math
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from tlkit.config.sweep import MOST_RUNS, Range, SearchTable, grid
from tlkit.system.errors import PartError

Settings = dict[str, Any]
TPE_BATCH = 10


def draw(
    search: SearchTable,
    swept: Mapping[str, Any],
    count: int,
    known: Sequence[Mapping[str, Any]] = (),
) -> list[Settings]:
    """Draw up to `count` combinations at random that differ from each other and from known ones."""
    rng = random.Random(f"{search.seed} {len(known)}")  # noqa: S311  # no secret
    choices = [swept[key] if isinstance(swept[key], list) else [swept[key]] for key in swept]
    is_finite = not any(isinstance(value, Range) for value in swept.values())
    seen = {_text(settings) for settings in known}
    if is_finite and math.prod(map(len, choices)) <= MOST_RUNS:
        left = [settings for settings in grid(swept) if _text(settings) not in seen]
        return [left.pop(int(rng.random() * len(left))) for _ in range(min(count, len(left)))]
    drawn: list[Settings] = []
    for _ in range(100 * count):  # a range of whole numbers may have too few
        settings = {
            key: value.at(rng.random()) if isinstance(value, Range)
            else options[int(rng.random() * len(options))]
            for (key, value), options in zip(swept.items(), choices, strict=True)
        }  # fmt: skip
        if len(drawn) < count and (text := _text(settings)) not in seen:
            seen.add(text)
            drawn.append(settings)
    return drawn


def first_batches(search: SearchTable, swept: Mapping[str, Any]) -> list[list[Settings]]:
    """Return the combinations that are drawn before anything is known, by batches."""
    if search.sampler == "tpe":
        return [draw(search, swept, min(search.draws, search.batch or TPE_BATCH))]
    drawn = draw(search, swept, search.draws)
    size = search.batch or len(drawn)
    return [drawn[start : start + size] for start in range(0, len(drawn), size)]


@frozen
class Tried:
    """A combination that has been tried.

    Attributes:
        settings: Its values.
        value: Its accuracy on val; None if a run failed.
        epochs: After how many epochs it was dropped; None if its runs went to their end.
    """

    settings: Mapping[str, Any]
    value: float | None
    epochs: int | None = None


def next_batch(
    search: SearchTable, swept: Mapping[str, Any], tried: Sequence[Tried]
) -> list[Settings]:
    """Ask Optuna for the next combinations, given all results so far.

    Raises:
        PartError: If Optuna is not installed.
    """
    optuna = load_optuna()
    kinds = {key: _distribution(optuna, value) for key, value in swept.items()}
    sampler = optuna.samplers.TPESampler(
        seed=search.seed + len(tried), n_startup_trials=0, constant_liar=True
    )
    study = optuna.create_study(sampler=sampler, direction="maximize")
    for one in tried:
        if one.value is None:
            continue
        pruned = one.epochs is not None
        study.add_trial(
            optuna.trial.create_trial(
                params={key: _asked(swept[key], one.settings[key]) for key in swept},
                distributions=kinds,
                value=None if pruned else one.value,
                intermediate_values={one.epochs: one.value} if pruned else {},
                state=getattr(optuna.trial.TrialState, "PRUNED" if pruned else "COMPLETE"),
            )
        )
    known = [one.settings for one in tried]
    count = min(search.batch or TPE_BATCH, search.draws - len(known))
    drawn: list[Settings] = []
    for _ in range(count):
        params = study.ask(kinds).params
        settings = {key: _answered(swept[key], params[key]) for key in swept}
        if _text(settings) in map(_text, [*known, *drawn]):
            drawn += draw(search, swept, 1, [*known, *drawn])
        else:
            drawn.append(settings)
    return drawn


def load_optuna() -> Any:
    """Return Optuna, silenced.

    Raises:
        PartError: If it is not installed.
    """
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        way_out = "pip install 'tlkit[search]', or use sampler = \"random\""
        raise PartError(f"optuna: cannot be imported: {error}; {way_out}") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def _distribution(optuna: Any, value: Any) -> Any:
    """Return Optuna's description of a key's values; lists are chosen from by number."""
    kinds = optuna.distributions
    if isinstance(value, Range):
        kind = kinds.IntDistribution if value.is_whole else kinds.FloatDistribution
        return kind(value.low, value.high, log=value.log)
    return kinds.CategoricalDistribution(list(range(len(value) if isinstance(value, list) else 1)))


def _asked(value: Any, setting: Any) -> Any:
    if isinstance(value, Range):
        return setting
    return value.index(setting) if isinstance(value, list) else 0


def _answered(value: Any, param: Any) -> Any:
    if isinstance(value, Range):
        rounded = param if value.is_whole else float(f"{param:.4g}")
        return min(value.high, max(value.low, rounded))
    return value[param] if isinstance(value, list) else value


def _text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, default=str)
