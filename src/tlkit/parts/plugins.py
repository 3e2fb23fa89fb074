"""A study's own parts: Python files next to the experiment's file, imported by content.

The parts of a file are registered only while an experiment that lists the file is being read. An
experiment therefore means the same whatever was read before it, and an edited file gives new
classes; objects made from the old ones keep them. Other people's code
prints to standard error and cannot end the process; see `guarded`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from attrs import field, frozen

from tlkit.parts.kinds import registries
from tlkit.parts.registry import PLUGIN
from tlkit.system.errors import ConfigError, PartError, Problem, TlkitError
from tlkit.system.notebook import either
from tlkit.system.stdio import prints_on_stderr
from tlkit.system.untrusted import read_bytes


@frozen(kw_only=True)
class Plugins:
    """The study's own parts, besides tlkit's and those of installed packages.

    Attributes:
        modules: Python files in this file's folder or below; each registers parts. They are
            executed when the experiment is read, never when a run folder is.
        sha256: Required SHA-256 of each of these files, in order; unset: any content.
    """

    modules: tuple[Path, ...] = ()
    sha256: tuple[str, ...] = ()


@frozen
class PluginFile:
    """A plugin file, read once: the content that is executed is the content that was hashed.

    Attributes:
        path: The file's path.
        content: Its bytes.
        sha256: Their hash.
    """

    path: Path
    content: bytes = field(repr=False)
    sha256: str

    @classmethod
    def read(cls, path: Path) -> PluginFile:
        """Read a file."""
        content = read_bytes(path, follow=True)
        return cls(path, content, hashlib.sha256(content).hexdigest())


def read_plugins(plugins: Plugins, base: Path, source: str = "") -> tuple[PluginFile, ...]:
    """Read the files that an experiment lists, without executing them."""
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
            what = f"{path}: SHA-256 must be {wanted[0]}, got {file.sha256}; the file has changed"
            problems.append(Problem(f"plugins.sha256[{number}]", what))
    if problems:
        raise ConfigError(problems, source)
    return tuple(files)


def given_plugins(
    modules: Sequence[str],
    sha256: Sequence[str],
    given: Iterable[str | Path],
    source: str,
    *,
    all_needed: bool = True,
) -> tuple[PluginFile, ...]:
    """Return the plugin files that a run was made with, in its order.

    A run folder may come from anywhere, so it never decides what code is executed: only files that
    the user names are.
    """
    files: dict[str, PluginFile] = {}
    for path in given:
        try:
            file = PluginFile.read(Path(path))
        except OSError as error:
            raise PartError(f"{path}: cannot be read: {error.strerror}") from None
        if file.sha256 not in sha256:
            made_with = ", ".join(map(" with hash ".join, zip(modules, sha256, strict=True)))
            raise PartError(
                f"{path}: hashes to {file.sha256}, but {source} was made with "
                f"{made_with or 'no plugin file'}; pass the original file"
            )
        files[file.sha256] = file
    for name, wanted in zip(modules, sha256, strict=True):
        if all_needed and wanted not in files:
            raise PartError(plugin_message(source, name, wanted))
    return tuple(files[wanted] for wanted in sha256 if wanted in files)


def require_given(files: Iterable[PluginFile], given: Iterable[str | Path], source: str) -> None:
    """Check that the user has named the plugin files that an experiment lists."""
    try:
        hashes = {PluginFile.read(Path(path)).sha256 for path in given}
    except OSError as error:
        raise PartError(f"{error.filename}: cannot be read: {error.strerror}") from None
    for file in files:
        if file.sha256 not in hashes:
            raise PartError(plugin_message(source, file.path.name, file.sha256))


def plugin_message(source: str, name: str, sha256: str) -> str:
    """Return the message that a run's plugin file must be named by the user."""
    return (
        f"{source}: was made with {name}, which is executed only if you name it: "
        f"{either('--plugin FILE, from Python ', '')}plugins=[FILE]; its SHA-256 is {sha256}"
    )


@contextmanager
def active(files: Sequence[PluginFile]) -> Iterator[None]:
    """Register the parts of plugin files while the body runs; import each content once."""
    with registries.lock:
        try:
            for file in files:
                _register(file)
            yield
        finally:
            for file in files:
                for _, registry in registries.items():
                    registry.suspend(_module_name(file))


def _module_name(file: PluginFile) -> str:
    return f"{PLUGIN}{file.sha256}"


def _register(file: PluginFile) -> None:
    name = _module_name(file)
    if name not in sys.modules:
        _import(file, name)
    for _, registry in registries.items():
        try:
            registry.restore(name)
        except PartError as error:
            raise PartError(f"{file.path}: {error}") from None


def _import(file: PluginFile, name: str) -> None:
    """Execute a file as a module, whose decorators register its parts."""
    spec = importlib.util.spec_from_file_location(name, file.path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # attrs and typing look up a class's module while it is made
    try:
        # The loader would read the file again, which may have changed, and leave `__pycache__`.
        code = compile(file.content, str(file.path), "exec", dont_inherit=True)
        with prints_on_stderr():
            exec(code, module.__dict__)  # noqa: S102  # the user named it
    except BaseException as error:
        del sys.modules[name]
        for _, registry in registries.items():
            registry.forget(name)
        if isinstance(error, KeyboardInterrupt | GeneratorExit):
            raise
        raise PartError(f"{_place(file, error)}: {_reason(file, error)}") from error


def _reason(file: PluginFile, error: BaseException) -> str:
    """Return the message of an error at import, with the way out where it is known."""
    if isinstance(error, TlkitError):
        return str(error)
    message = error.msg if isinstance(error, SyntaxError) else error
    hint = ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        neighbor = file.path.parent / error.name.partition(".")[0]
        if neighbor.is_dir() or neighbor.with_suffix(".py").is_file():
            hint = "; a plugin file stands alone and cannot import files next to it"
    return f"{type(error).__name__}: {message}{hint}"


def _place(file: PluginFile, error: BaseException) -> str:
    """Return the file and its last line in an error's traceback."""
    if isinstance(error, SyntaxError) and error.filename == str(file.path):
        return f"{file.path}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file.path)]
    return f"{file.path}:{lines[-1]}" if lines else str(file.path)


def foreign_place(error: BaseException) -> str:
    """Return the last traceback line in a part that is not tlkit's; empty if there is none."""
    packages = {
        part.__module__.partition(".")[0]
        for _, registry in registries.items()
        for _, part in registry.registered()
    } - {"tlkit"}
    places = [
        _frame_place(frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        for package in [str(frame.f_globals.get("__name__")).partition(".")[0]]
        if package in packages or package.startswith(PLUGIN)
    ]
    return places[-1] if places else ""


def _frame_place(frame: FrameType, line: int) -> str:
    """Return a frame's file and line; of code that TensorFlow has rewritten, the file it is of."""
    if "__autograph_generated_file" in frame.f_code.co_filename:
        return str(frame.f_globals.get("__file__"))
    return f"{frame.f_code.co_filename}:{line}"


@contextmanager
def guarded() -> Iterator[None]:
    """Run code of which parts may be part. Also a decorator."""
    try:
        with prints_on_stderr():
            yield
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        end = next(filter(_ends_process, _chain(error)), None)
        if end is None or not (place := foreign_place(end)):
            raise
        what = f"{type(end).__name__}({end})"
        raise PartError(f"{place}: a part must not end the process, got {what}") from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it took the place of: TensorFlow replaces some."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _ends_process(error: BaseException) -> bool:
    """Tell whether an error would end a command, perhaps as if all were well, as `typer.Exit`."""
    if not isinstance(error, Exception):
        return not isinstance(error, KeyboardInterrupt | GeneratorExit)
    names = {(x.__module__.partition(".")[0], x.__name__) for x in type(error).__mro__}
    ends = {(package, name) for package in ("click", "typer") for name in ("Exit", "Abort")}
    return bool(names & ends)


def part_name(part: object) -> str:
    """Return a part's kind and registered name for messages, or those of its class.

    >>> from tlkit.parts.losses import Focal
    >>> part_name(Focal())
    "loss 'focal'"
    """
    for _, registry in registries.items():
        if isinstance(part, registry.base):
            try:
                return f"{registry.kind} {registry.name_of(type(part))!r}"
            except PartError:
                return f"{registry.kind} {type(part).__name__}"
    return type(part).__name__
