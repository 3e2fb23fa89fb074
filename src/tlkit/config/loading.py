"""An experiment file, or a dict like one, becoming an experiment."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

from tlkit.config.experiment import Experiment, Origin
from tlkit.config.structure import structure
from tlkit.config.tables import apply_overrides, read_table
from tlkit.errors import ConfigError, Problem
from tlkit.plugins import PluginFile, Plugins, active, read_plugins

log = logging.getLogger(__name__)


def load_experiment(
    path: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    in_sweep: bool = False,
) -> Experiment:
    """Read an experiment file, or a table with the same keys.

    The files it lists under `[plugins] modules` are imported, once the whole file is known to be
    TOML.

    Args:
        path: A TOML file, in which paths are relative to its folder; or a dict like one, in which
            they are relative to the working directory and a part may stand in place of its table.
        overrides: Expressions ``a.b=value`` in TOML syntax, applied to the table before it is
            checked. A table as value replaces the whole table.
        in_sweep: Say nothing of a table `[sweep]`, which is not the experiment's.

    Raises:
        ConfigError: If the file cannot be read or is wrong, with every problem there is.
        PartError: If a part's package or file is broken.
    """
    if isinstance(path, Mapping):
        return _from_table(path, overrides)
    path = Path(path)
    text, table = read_table(path, overrides)
    _take_out_sweep(path, table, in_sweep)
    listed, files = _own_files(path, table)
    with active(files):
        experiment = structure(Experiment, table, base=path.parent, source=str(path))
    used = evolve(listed, sha256=tuple(file.sha256 for file in files))
    return evolve(experiment, plugins=used, origin=Origin(path, text, tuple(overrides)))


def as_experiment(
    given: Experiment | str | Path | Mapping[str, Any], overrides: Sequence[str] = ()
) -> Experiment:
    """Return an experiment, whichever way it was given.

    Args:
        given: An experiment, the path of its TOML file, or a dict with the same keys.
        overrides: See `load_experiment`.

    Raises:
        ConfigError: See `load_experiment`, or if a finished experiment would be changed.
        PartError: See `load_experiment`.
    """
    if not isinstance(given, Experiment):
        return load_experiment(given, overrides)
    if overrides:
        problem = "change a file or a dict; make another Experiment with attrs.evolve"
        raise ConfigError([Problem("overrides", problem)])
    return given


def _take_out_sweep(path: Path, table: dict[str, Any], in_sweep: bool) -> None:
    """Take `[sweep]` out of a table: what is left is one run.

    Raises:
        ConfigError: If nothing is left, since the sweep lists other files.
    """
    sweep = table.pop("sweep", None)
    if isinstance(sweep, Mapping) and "files" in sweep:
        message = "lists experiments in other files; run them with tlkit sweep"
        raise ConfigError([Problem("sweep.files", message)], str(path))
    if sweep is not None and not in_sweep:
        log.info("%s: this is one run; [sweep] is for tlkit sweep", path)


def _from_table(given: Mapping[str, Any], overrides: Sequence[str]) -> Experiment:
    table = _copied(given)
    apply_overrides(table, overrides)
    listed, files = _own_files(Path(), table)
    with active(files):
        experiment = structure(Experiment, table)
    return evolve(experiment, plugins=evolve(listed, sha256=tuple(f.sha256 for f in files)))


def _copied(value: Any) -> Any:
    """Return tables as dicts of their own; anything else is left as it is."""
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return value


@contextmanager
def own_parts(path: str | Path) -> Iterator[None]:
    """Register the parts of an experiment's own files while the body runs.

    Raises:
        ConfigError: If the file is not TOML, or what it lists cannot be read.
        PartError: If a file is broken.
    """
    _, table = read_table(Path(path))
    with active(_own_files(Path(path), table)[1]):
        yield


def _own_files(path: Path, table: Mapping[str, Any]) -> tuple[Plugins, tuple[PluginFile, ...]]:
    """Return what an experiment lists under `plugins` and the files, nothing of them run."""
    only = {key: table[key] for key in table.keys() & {"plugins"}}
    listed = structure(_Listed, only, base=path.parent, source=str(path)).plugins
    return listed, read_plugins(listed, path.parent, str(path))


@frozen(kw_only=True)
class _Listed:
    """What of an experiment is read before the rest."""

    plugins: Plugins = field(factory=Plugins)
