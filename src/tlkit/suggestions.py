"""What to say after a name that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to `name`, or nothing.

    >>> nearest("vgg61", ["vgg16", "resnet50"])
    "; did you mean 'vgg16'?"
    >>> nearest("zzz", ["vgg16"])
    ''
    """
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return what to say after an unknown name: the nearest known one and the whole list.

    >>> suggest("vgg61", ["vgg16", "resnet50"])
    "; did you mean 'vgg16'? known: vgg16, resnet50"
    >>> suggest("zzz", [])
    '; known: none'
    """
    names = list(known)
    return f"{nearest(name, names) or ';'} known: {', '.join(names) or 'none'}"
