"""A study's own parts: Python files beside the experiment's file, imported by their content.

The parts of a file are registered only while an experiment that lists it is being read, so an
experiment means the same whatever was read before it, and an edited file simply gives other
classes. Objects that were made of the old ones keep them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import field, frozen

from tlkit.parts.kinds import registries
from tlkit.parts.registry import PLUGIN, Registry
from tlkit.system.errors import ConfigError, PartError, Problem, TlkitError

Registered = tuple[tuple[Registry[Any], str, type], ...]

_registered: dict[str, Registered] = {}  # by the hash of the file
_lock = threading.RLock()  # the registries are the process's: one experiment is read at a time


@frozen(kw_only=True)
class Plugins:
    """Where parts come from that are neither tlkit's nor an installed package's.

    Attributes:
        modules: Python files beside or below this file; each registers parts. They are run when
            the experiment is read, never when a run folder is.
        sha256: What these files must hash to, in their order; unset: whatever they are.
    """

    modules: tuple[Path, ...] = ()
    sha256: tuple[str, ...] = ()


@frozen
class PluginFile:
    """A plugin file as it was when it was read: what is run is what was hashed.

    Attributes:
        path: Where it is.
        content: What is in it.
        sha256: The hash of that.
    """

    path: Path
    content: bytes = field(repr=False)
    sha256: str

    @classmethod
    def read(cls, path: Path) -> PluginFile:
        """Read a file.

        Raises:
            OSError: If it cannot be read.
        """
        content = path.read_bytes()
        return cls(path, content, hashlib.sha256(content).hexdigest())


def read_plugins(plugins: Plugins, base: Path, source: str = "") -> tuple[PluginFile, ...]:
    """Read the files that an experiment lists, without running anything.

    Args:
        plugins: What it lists.
        base: The folder that they must not leave.
        source: Where it was read from, for messages.

    Raises:
        ConfigError: If a file is missing, lies elsewhere or is not what it should be.
    """
    problems: list[Problem] = []
    files: list[PluginFile] = []
    if plugins.sha256 and len(plugins.sha256) != len(plugins.modules):
        counts = f"{len(plugins.modules)} modules, got {len(plugins.sha256)}"
        problems.append(Problem("plugins.sha256", f"needs one hash for each of {counts}"))
    for number, path in enumerate(plugins.modules):
        where = f"plugins.modules[{number}]"
        try:
            if not path.resolve().is_relative_to(base.resolve()):
                what = f"must stay in the experiment's folder, got {str(path)!r}; copy it there"
                problems.append(Problem(where, what))
                continue
            file = PluginFile.read(path)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = getattr(error, "strerror", error)
            problems.append(Problem(where, f"{str(path)!r} cannot be read: {reason}"))
            continue
        files.append(file)
        if (wanted := plugins.sha256[number : number + 1]) and wanted[0] != file.sha256:
            what = f"{path} must hash to {wanted[0]}, got {file.sha256}; it was changed"
            problems.append(Problem(f"plugins.sha256[{number}]", what))
    if problems:
        raise ConfigError(problems, source)
    return tuple(files)


def given_plugins(
    modules: Sequence[str], sha256: Sequence[str], given: Iterable[str | Path], source: str
) -> tuple[PluginFile, ...]:
    """Return those of the given files that a run was made with, in its order.

    A run folder may come from anywhere, so it never says what is run: only files that the user
    names are.

    Args:
        modules: The files that the run was made with.
        sha256: What these hash to.
        given: The files that the user names.
        source: The run folder, for messages.

    Raises:
        PartError: If one is missing, or one is given that the run was not made with.
    """
    found: dict[str, PluginFile] = {}
    for path in given:
        try:
            file = PluginFile.read(Path(path))
        except OSError as error:
            raise PartError(f"{path}: cannot be read: {error.strerror}") from None
        if file.sha256 not in sha256:
            made_with = ", ".join(map(" with hash ".join, zip(modules, sha256, strict=True)))
            raise PartError(
                f"{path}: hashes to {file.sha256}, but {source} was made with "
                f"{made_with or 'no plugin file'}; give the file as it was"
            )
        found[file.sha256] = file
    for name, wanted in zip(modules, sha256, strict=True):
        if wanted not in found:
            raise PartError(
                f"{source}: was made with {name}, which is not run unless you name it: "
                f"--plugin FILE, from Python plugins=[FILE]; its SHA-256 is {wanted}"
            )
    return tuple(found[wanted] for wanted in sha256)


@contextmanager
def active(files: Sequence[PluginFile]) -> Iterator[None]:
    """Register the parts of plugin files while the body runs; each file is imported once.

    Raises:
        PartError: If a file cannot be imported, or a name is taken.
    """
    with _lock:
        modules = [f"{PLUGIN}{file.sha256}" for file in files]
        try:
            for file in files:
                if file.sha256 not in _registered:
                    _registered[file.sha256] = _import(file)
                for registry, name, part in _registered[file.sha256]:
                    try:
                        registry.register(name)(part)
                    except PartError as error:
                        raise PartError(f"{file.path}: {error}") from None
            yield
        finally:
            for registry, name, _ in _parts_of(modules):
                registry.unregister(name)


def _import(file: PluginFile) -> Registered:
    """Run a file as a module of its own and return what it registered."""
    name = f"{PLUGIN}{file.sha256}"
    spec = importlib.util.spec_from_file_location(name, file.path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # attrs and typing look a class's module up while it is made
    try:
        # The loader would read the file again, which may have changed, and leave `__pycache__`.
        code = compile(file.content, str(file.path), "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102  # the user named it
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception | SystemExit):
            raise
        raise PartError(f"{_place(file, error)}: {_said(file, error)}") from error
    return _parts_of([name])


def _said(file: PluginFile, error: BaseException) -> str:
    """Return what an error at a file's import says, and the way out where it is known."""
    if isinstance(error, TlkitError):
        return str(error)
    said = error.msg if isinstance(error, SyntaxError) else error
    beside = ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        neighbour = file.path.parent / error.name.partition(".")[0]
        if neighbour.is_dir() or neighbour.with_suffix(".py").is_file():
            beside = "; a plugin file stands alone and cannot import what lies beside it"
    return f"{type(error).__name__}: {said}{beside}"


def _parts_of(modules: Sequence[str]) -> Registered:
    """Return what is registered of some modules."""
    return tuple(
        (registry, name, part)
        for _, registry in registries.items()
        for name, part in registry.registered()
        if part.__module__ in modules
    )


def _place(file: PluginFile, error: BaseException) -> str:
    """Return the file and the last of its lines that an error passed through."""
    if isinstance(error, SyntaxError) and error.filename == str(file.path):
        return f"{file.path}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file.path)]
    return f"{file.path}:{lines[-1]}" if lines else str(file.path)


def foreign_place(error: BaseException) -> str:
    """Return the last line of somebody else's part that an error passed through, if it did any."""
    packages = {
        part.__module__.partition(".")[0]
        for _, registry in registries.items()
        for _, part in registry.registered()
    } - {"tlkit"}
    places = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        for package in [str(frame.f_globals.get("__name__")).partition(".")[0]]
        if package in packages or package.startswith(PLUGIN)
    ]
    return places[-1] if places else ""
