"""Compose, run and export transfer-learning image classifiers built from registered parts.

`__init__.pyi` lists every public name. Each is loaded on first use, so `import tlkit` is quick and
starts nothing.
"""

from __future__ import annotations

from typing import Any

import lazy_loader

__version__ = "0.1.0"

_RENAMED = {  # works for one release
    "Card": "ModelCard",
    "Freeze": "FreezePolicy",
    "Reference": "PublishedResult",
    "SweepWatcher": "SweepCallback",
    "Watcher": "Callback",
}

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        from tlkit.system.renames import warn_renamed

        warn_renamed(f"tlkit.{name}", f"tlkit.{_RENAMED[name]}")
        return _load(_RENAMED[name])
    if name not in __all__:
        raise AttributeError(f"module 'tlkit' has no attribute {name!r}")
    return _load(name)
