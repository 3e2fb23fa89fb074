"""Old names keep working for one release; each use gives one line with the new name."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, ParamSpec, TypeVar

from tlkit.system.errors import RenamedWarning

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)


def warn_renamed(old: str, new: str) -> None:
    """Warn the first caller outside tlkit that `old` has a new name."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "tlkit":
        level, frame = level + 1, frame.f_back
    warnings.warn(f"{old}: is now called {new}", RenamedWarning, stacklevel=level)


def renamed_keywords(**new_names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that accepts old keyword names: `@renamed_keywords(old="new")`."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old, new in new_names.items():
                if old in kwargs:
                    if new in kwargs:
                        name = function.__name__
                        raise TypeError(f"{name}(): {old} is now called {new}; give one of them")
                    warn_renamed(f"{function.__name__}({old}=…)", new)
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def renamed_methods(**new_names: str) -> Callable[[C], C]:
    """Return a class decorator for a base class whose methods were renamed.

    Subclasses may still define, call and extend methods under the old names.
    """

    def decorate(cls: C) -> C:
        base: Any = cls

        def init_subclass(subclass: type, /, **options: Any) -> None:
            super(base, subclass).__init_subclass__(**options)
            adopt_old_methods(subclass, new_names)

        for old, new in new_names.items():
            setattr(cls, old, renamed_method(old, new))
        base.__init_subclass__ = classmethod(init_subclass)
        return cls

    return decorate


def adopt_old_methods(cls: type, new_names: Mapping[str, str]) -> None:
    """Give methods that a class defines under old names their new names too."""
    for old, new in new_names.items():
        method = cls.__dict__.get(old)
        if isinstance(method, FunctionType) and new not in cls.__dict__:
            setattr(cls, new, method)
            warn_renamed(f"{cls.__qualname__}.{old}", new)


def renamed_method(old: str, new: str) -> Any:
    """Return a method called `old` that warns and calls `new`, for a base class.

    It skips subclasses whose `new` is their own `old` (see `adopt_old_methods`), so that
    `super().old()` in such a method reaches the base class.
    """

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        warn_renamed(f"{type(self).__qualname__}.{old}", new)
        for cls in type(self).__mro__:
            names = cls.__dict__
            if new in names and names.get(old) is not names[new]:
                return names[new].__get__(self, type(self))(*args, **kwargs)
        raise AttributeError(new)

    call.__name__, call.__doc__ = old, f"Old name of `{new}`."
    return call
