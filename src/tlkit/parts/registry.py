"""Registries: the names of parts, and how other packages add theirs.

There is one `Registry` per kind of part. Built-in parts register themselves when their module is
imported, which happens on the first lookup. Other packages declare parts as entry points: their
names are read from metadata, and a package is imported only when one of its parts is requested by
its exact name.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import linecache
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from attrs import define, field, frozen

from tlkit.system.errors import ConflictWarning, DuplicatePart, PartError, UnknownPart
from tlkit.system.stdio import prints_on_stderr
from tlkit.system.text import suggest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

T = TypeVar("T")
P = TypeVar("P", bound=type)

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
PLUGIN = "_tlkit_plugin_"  # prefix of a plugin file's module name; the file's hash follows
ABOVE_FROZEN = "decorate it with @tlkit.part, or put the register decorator above @frozen"


@functools.cache
def installed_entry_points() -> EntryPoints:
    """Return the entry points of every installed distribution; read once per process."""
    from importlib.metadata import entry_points  # a tenth of what `tlkit --help` would take

    return entry_points()  # type: ignore[return-value]  # typeshed has 3.11's deprecated class


@frozen
class PartInfo:
    """Facts about a part, collected without importing any package other than tlkit.

    Attributes:
        name: Its registered name.
        target: ``module:Class``.
        source: ``tlkit``, ``this process``, the distribution that declares it, or the hash of the
            plugin file.
        summary: First line of its docstring; empty for a part that is not imported yet.
        file: The source file and line; empty for a part that is not imported yet.
        conflicts: Other packages that claim the name.
    """

    name: str
    target: str
    source: str
    summary: str = ""
    file: str = ""
    conflicts: tuple[str, ...] = ()


@define(eq=False)
class Registry(Generic[T]):
    """The named parts of one kind.

    Attributes:
        kind: The kind's name in messages, singular: ``backbone``.
        base: The abstract class that every part of the kind extends.
        modules: The modules whose import registers the built-in parts.
        group: The entry-point group in which other packages declare parts.
    """

    kind: str
    base: type[T]
    modules: tuple[str, ...] = ()
    group: str | None = None
    _parts: dict[str, type[T]] = field(factory=dict, init=False, repr=False)
    _unregistered: dict[type[T], str] = field(factory=dict, init=False, repr=False)
    _loaded: bool = field(default=False, init=False, repr=False)

    def register(self, name: str) -> Callable[[P], P]:
        """Return a decorator that registers an attrs class under `name`.

        It must be the outermost decorator, since attrs makes a new class.

        Raises:
            DuplicatePart: If the name is taken.
            PartError: If the name has characters other than ``a-z 0-9 _ . -``, or the class is not
                an attrs class of this kind.
        """
        if not NAME.fullmatch(name):
            raise PartError(
                f"{self.kind} {name!r}: a name consists of a-z, 0-9, '_', '.' and '-' "
                "and begins with a letter or digit"
            )

        def decorate(part: P) -> P:
            if getattr(part, "__module__", None) not in self.modules:
                self._load_modules()
            self._check(name, part)
            known = self._parts.get(name)
            if known is not None and not _same(known, part):
                raise DuplicatePart(
                    f"{self.kind} {name!r}: the name is taken by {_target(known)}, "
                    f"got {_target(part)}; choose another name"
                )
            self._parts[name] = part
            return part

        return decorate

    def names(self) -> tuple[str, ...]:
        """Return every name, sorted. Imports nothing outside tlkit."""
        self._load_modules()
        return tuple(sorted({*self._parts, *(point.name for point in self.entry_points())}))

    def registered(self) -> tuple[tuple[str, type[T]], ...]:
        """Return the name and class of every part that is already imported."""
        self._load_modules()
        return tuple(self._parts.items())

    def get(self, name: str) -> type[T]:
        """Return the part called `name`; import the package that declares it if necessary.

        If a package claims the name of one of tlkit's parts, tlkit's is returned, with a warning.

        Raises:
            UnknownPart: If no part has that name; the message lists the nearest and all names.
            DuplicatePart: If two packages claim the name.
            PartError: If the package cannot be imported or does not provide a part of this kind.
        """
        self._load_modules()
        points = self.entry_points(name)
        if name in self._parts:
            part = self._parts[name]
            others = [point for point in points if not _declares(point, part)]
            if others and self.source_of(part) == "tlkit":
                warnings.warn(
                    f"{self.kind} {name!r}: tlkit's own is used; {_origin(others[0])} claims the "
                    "name too and cannot be used: its author has to rename it",
                    ConflictWarning,
                    stacklevel=2,
                )
            elif others:
                raise DuplicatePart(
                    f"{self.kind} {name!r}: is {_target(part)} already, and "
                    f"{_origin(others[0])} claims the name too; uninstall one of them"
                )
            return part
        if not points:
            raise UnknownPart(f"no {self.kind} named {name!r}{suggest(name, self.names())}")
        if len({point.value for point in points}) > 1:
            claims = " and ".join(sorted(_origin(point) for point in points))
            raise DuplicatePart(f"{self.kind} {name!r}: claimed by {claims}; uninstall one of them")
        return self._load(points[0])

    def find(self, name: str) -> PartInfo:
        """Return where the part called `name` comes from.

        A part of another package is described from its metadata; the package is not imported.

        Raises:
            UnknownPart: If no part has that name.
        """
        self._load_modules()
        points = self.entry_points(name)
        if name not in self._parts:
            if not points:
                self.get(name)  # raises
            first, *others = sorted(points, key=_distribution)
            rivals = tuple(_distribution(x) for x in others if x.value != first.value)
            return PartInfo(name, first.value, _distribution(first), conflicts=rivals)
        part = self._parts[name]
        summary = (inspect.getdoc(part) or "").partition("\n")[0]
        rivals = tuple(_distribution(point) for point in points if not _declares(point, part))
        return PartInfo(name, _target(part), self.source_of(part), summary, _file(part), rivals)

    def source_of(self, part: type) -> str:
        """Return where a registered class comes from; see `PartInfo.source`."""
        top = part.__module__.partition(".")[0]
        if top == "tlkit":
            return "tlkit"
        if top.startswith(PLUGIN):
            return f"plugin {top.removeprefix(PLUGIN)}"
        points = self.entry_points(self.name_of(part))
        own = [point for point in points if _declares(point, part)]
        return _distribution(own[0]) if own else "this process"

    def name_of(self, part: type) -> str:
        """Return the name under which a class is registered, or was before `unregister`.

        Raises:
            PartError: If it never was.
        """
        self._load_modules()
        if part in self._unregistered:
            return self._unregistered[part]
        for name, known in sorted(self._parts.items()):
            if known is part:
                return name
        raise PartError(f"{self.kind}: {part.__qualname__} is not registered; register it first")

    def unregister(self, name: str) -> None:
        """Free a name for another class; `name_of` still knows it."""
        self._unregistered[self._parts.pop(name)] = name

    def suspend(self, module: str) -> None:
        """Unregister the parts of a module; `restore` undoes this."""
        for name in [name for name, part in self._parts.items() if part.__module__ == module]:
            self.unregister(name)

    def restore(self, module: str) -> None:
        """Register the parts of a suspended module again.

        Raises:
            DuplicatePart: If a name is taken by now.
        """
        for part, name in self._unregistered.items():
            if part.__module__ == module:
                self.register(name)(part)

    def forget(self, module: str) -> None:
        """Drop every trace of a module's parts."""
        self.suspend(module)
        for part in [part for part in self._unregistered if part.__module__ == module]:
            del self._unregistered[part]

    def entry_points(self, name: str | None = None) -> tuple[EntryPoint, ...]:
        """Return what other packages declare, all or under one name. Imports nothing."""
        if self.group is None:
            return ()
        points = installed_entry_points().select(group=self.group)
        return tuple(point for point in points if name is None or point.name == name)

    def _load_modules(self) -> None:
        if not self.modules or self._loaded:
            return
        self._loaded = True  # before the import: the decorators in these modules come back here
        try:
            for module in self.modules:
                importlib.import_module(module)
        except BaseException:
            self._loaded = False
            raise

    def _load(self, point: EntryPoint) -> type[T]:
        try:
            with prints_on_stderr():
                part = point.load()
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # a package may do anything at import
            raise PartError(
                f"{self.kind} {point.name!r}: {_origin(point)} cannot be imported: "
                f"{type(error).__name__}: {error}; fix or uninstall that package"
            ) from error
        try:
            self._check(point.name, part, "decorate it with @attrs.frozen(kw_only=True)")
        except PartError as error:
            raise PartError(f"{error} (from {_origin(point)})") from None
        self._parts[point.name] = part
        return self._parts[point.name]

    def _check(self, name: str, part: object, way_out: str = ABOVE_FROZEN) -> None:
        if not (isinstance(part, type) and "__attrs_attrs__" in part.__dict__):  # not inherited
            got = _target(part) if isinstance(part, type) else repr(part)
            raise PartError(f"{self.kind} {name!r}: a part is an attrs class, got {got}; {way_out}")
        if not issubclass(part, self.base):
            raise PartError(
                f"{self.kind} {name!r}: must extend {self.base.__name__}, got {_target(part)}"
            )
        if missing := sorted(getattr(part, "__abstractmethods__", ())):
            raise PartError(
                f"{self.kind} {name!r}: {_target(part)} lacks what every {self.base.__name__} "
                f"must have: {', '.join(missing)}"
            )


def _target(part: type) -> str:
    module = part.__module__
    if module.startswith(PLUGIN):  # the file's name says more than its hash
        module = Path(getattr(sys.modules.get(module), "__file__", None) or "plugin").name
    return f"{module}:{part.__qualname__}"


def _same(part: type, other: type) -> bool:
    """Tell whether two classes are the same one, perhaps made twice by a reload."""
    return (part.__module__, part.__qualname__) == (other.__module__, other.__qualname__)


def _declares(point: EntryPoint, part: type) -> bool:
    """Tell whether an entry point refers to an imported class, whichever module it names."""
    target: object = sys.modules.get(point.module)
    for name in point.attr.split("."):
        target = getattr(target, name, None)
    return target is part


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"


def _origin(point: EntryPoint) -> str:
    return f"entry point {point.name!r} ({point.value}) of {_distribution(point)}"


def _file(part: type) -> str:
    """Return a class's file and line; `inspect` would parse the whole file every time."""
    try:
        file = inspect.getfile(part)
    except (OSError, TypeError):  # defined at a prompt
        return ""
    begins = re.compile(rf"\s*class {part.__name__}\b")
    lines = enumerate(linecache.getlines(file), start=1)
    line = next((f":{number}" for number, text in lines if begins.match(text)), "")
    return f"{Path(file).name}{line}"
