"""The registry: how parts get their names, and how other packages add theirs.

One `Registry` a kind of part. Built-in parts register themselves with a decorator when their module
is imported, which happens on the first question. Parts of other packages are announced as entry
points; their names are read from metadata and a package is imported only when one of its parts is
asked for by its exact name.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import linecache
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from attrs import define, field, frozen

from tlkit.system.errors import DuplicatePart, PartError, UnknownPart
from tlkit.system.text import suggest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

T = TypeVar("T")
P = TypeVar("P", bound=type)

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
PLUGIN = "_tlkit_plugin_"  # what the module of a plugin file is called, before the file's hash


@functools.cache
def installed_entry_points() -> EntryPoints:
    """Return the entry points of every installed distribution, read once a process."""
    from importlib.metadata import entry_points  # a tenth of what `tlkit --help` would take

    return entry_points()  # type: ignore[return-value]  # typeshed has 3.11's deprecated class


@frozen
class PartInfo:
    """Where a part comes from, as told without importing any package that is not tlkit's.

    Attributes:
        name: Its registered name.
        target: ``module:Class``.
        source: ``tlkit``, ``this process``, the distribution that announces it, or the hash of the
            plugin file.
        summary: First line of its docstring; empty for a part that is not imported yet.
        file: The source file and line; empty for a part that is not imported yet.
    """

    name: str
    target: str
    source: str
    summary: str = ""
    file: str = ""


@define(eq=False)
class Registry(Generic[T]):
    """The named parts of one kind.

    Attributes:
        kind: The kind's name in messages, singular: ``backbone``.
        base: The abstract class that every part of the kind extends.
        homes: The modules whose import registers the built-in parts.
        group: The entry-point group in which other packages announce theirs.
    """

    kind: str
    base: type[T]
    homes: tuple[str, ...] = ()
    group: str | None = None
    _parts: dict[str, type[T]] = field(factory=dict, init=False, repr=False)
    _withdrawn: dict[type[T], str] = field(factory=dict, init=False, repr=False)
    _at_home: bool = field(default=False, init=False, repr=False)

    def register(self, name: str) -> Callable[[P], P]:
        """Return a decorator that registers an attrs class under `name`.

        It must be the outermost decorator, since attrs makes a new class.

        Raises:
            DuplicatePart: If the name is taken.
            PartError: If the name is not made of ``a-z 0-9 _ . -``, or the class is not an attrs
                class of this kind.
        """
        if not NAME.fullmatch(name):
            raise PartError(
                f"{self.kind} {name!r}: a name consists of a-z, 0-9, '_', '.' and '-' "
                "and begins with a letter or digit"
            )

        def decorate(part: P) -> P:
            if getattr(part, "__module__", None) not in self.homes:
                self._load_home()
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
        self._load_home()
        return tuple(sorted({*self._parts, *(point.name for point in self.announced())}))

    def registered(self) -> tuple[tuple[str, type[T]], ...]:
        """Return the pairs of name and class that are there without importing a package."""
        self._load_home()
        return tuple(self._parts.items())

    def get(self, name: str) -> type[T]:
        """Return the part called `name`, importing the package that announces it if need be.

        Raises:
            UnknownPart: If nothing has that name; the message has the nearest and all of them.
            DuplicatePart: If two packages, or a package and tlkit, claim the name.
            PartError: If the announcing package cannot be imported or gives no part of this kind.
        """
        self._load_home()
        points = self.announced(name)
        if name in self._parts:
            part = self._parts[name]
            others = [point for point in points if not _announces(point, part)]
            if others:
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
        """Tell where the part called `name` comes from.

        A part of another package is described from its metadata; it is not imported.

        Raises:
            UnknownPart: If nothing has that name.
        """
        self._load_home()
        points = self.announced(name)
        if name not in self._parts:
            if not points:
                self.get(name)  # says that there is none
            return PartInfo(name, points[0].value, _distribution(points[0]))
        part = self._parts[name]
        summary = (inspect.getdoc(part) or "").partition("\n")[0]
        return PartInfo(name, _target(part), self.source_of(part), summary, _file(part))

    def source_of(self, part: type) -> str:
        """Tell where a registered class comes from; see `Found.source`."""
        top = part.__module__.partition(".")[0]
        if top == "tlkit":
            return "tlkit"
        if top.startswith(PLUGIN):
            return f"plugin {top.removeprefix(PLUGIN)}"
        announced = self.announced(self.name_of(part))
        own = [point for point in announced if _announces(point, part)]
        return _distribution(own[0]) if own else "this process"

    def unregister(self, name: str) -> None:
        """Free a name, so that another class may take it; `name_of` still knows the one it had."""
        self._withdrawn[self._parts.pop(name)] = name

    def name_of(self, part: type) -> str:
        """Return the name under which a class is registered, or was until it was withdrawn.

        Raises:
            PartError: If it is not.
        """
        self._load_home()
        if part in self._withdrawn:
            return self._withdrawn[part]
        for name, known in sorted(self._parts.items()):
            if known is part:
                return name
        raise PartError(f"{self.kind}: {part.__qualname__} is not registered; register it first")

    def _load_home(self) -> None:
        if not self.homes or self._at_home:
            return
        self._at_home = True  # before the import: the module's own decorators come back here
        try:
            for home in self.homes:
                importlib.import_module(home)
        except BaseException:
            self._at_home = False
            raise

    def announced(self, name: str | None = None) -> tuple[EntryPoint, ...]:
        """Return what other packages announce, all or under one name. Imports nothing."""
        if self.group is None:
            return ()
        chosen = installed_entry_points().select(group=self.group)
        return tuple(point for point in chosen if name is None or point.name == name)

    def _load(self, point: EntryPoint) -> type[T]:
        try:
            part = point.load()
        except (Exception, SystemExit) as error:  # a plugin may do anything at import
            raise PartError(
                f"{self.kind} {point.name!r}: {_origin(point)} cannot be imported: "
                f"{type(error).__name__}: {error}; mend or uninstall that package"
            ) from error
        try:
            self._check(point.name, part)
        except PartError as error:
            raise PartError(f"{error} (from {_origin(point)})") from None
        self._parts[point.name] = part
        return self._parts[point.name]

    def _check(self, name: str, part: object) -> None:
        if not (isinstance(part, type) and "__attrs_attrs__" in part.__dict__):  # not inherited
            got = _target(part) if isinstance(part, type) else repr(part)
            raise PartError(
                f"{self.kind} {name!r}: a part is an attrs class, got {got}; "
                "put the register decorator above @frozen"
            )
        if not issubclass(part, self.base):
            raise PartError(
                f"{self.kind} {name!r}: must extend {self.base.__name__}, got {_target(part)}"
            )
        if lacking := sorted(getattr(part, "__abstractmethods__", ())):
            raise PartError(
                f"{self.kind} {name!r}: {_target(part)} lacks what every {self.base.__name__} "
                f"must have: {', '.join(lacking)}"
            )


def _target(part: type) -> str:
    module = part.__module__
    if module.startswith(PLUGIN):  # a hash, which tells nobody anything
        module = Path(getattr(sys.modules.get(module), "__file__", None) or "plugin").name
    return f"{module}:{part.__qualname__}"


def _same(one: type, other: type) -> bool:
    """Tell whether two classes are one and the same, perhaps made twice by a reload."""
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def _announces(point: EntryPoint, part: type) -> bool:
    """Tell whether an entry point means a class that is loaded, under whichever module's name."""
    found: object = sys.modules.get(point.module)
    for name in point.attr.split("."):
        found = getattr(found, name, None)
    return found is part


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"


def _origin(point: EntryPoint) -> str:
    return f"entry point {point.name!r} ({point.value}) of {_distribution(point)}"


def _file(part: type) -> str:
    """Return a class's file and line; not by `inspect`, which parses the whole file each time."""
    try:
        file = inspect.getfile(part)
    except (OSError, TypeError):  # defined at a prompt
        return ""
    begins = re.compile(rf"\s*class {part.__name__}\b")
    lines = enumerate(linecache.getlines(file), start=1)
    line = next((f":{number}" for number, text in lines if begins.match(text)), "")
    return f"{Path(file).name}{line}"
