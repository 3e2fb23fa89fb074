"""A disk that is full or cannot be written to, and memory that is not enough, in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

from tlkit.errors import ResourceError
from tlkit.escapes import typed


@contextmanager
def named(folder: Path) -> Iterator[None]:
    """Turn a lack of disk or memory in the body into an error that says how to go on.

    Args:
        folder: The run folder; its checkpoints are good whatever happens.

    Raises:
        ResourceError: If there was one.
    """
    try:
        yield
    except ResourceError as error:
        raise ResourceError(f"{error}\n{_then(folder)}") from error
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise ResourceError(
            f"{folder}: the memory is not enough; give the run more, "
            f"or start another one with a smaller fit.batch_size\n{_then(folder)}"
        ) from error
    except OSError as error:
        what = f"{folder}: cannot be written to: {error.strerror or error}"
        if isinstance(error.filename, str) and not Path(error.filename).is_relative_to(folder):
            what = f"{error.filename}: {error.strerror}"  # a part's own file, it may be
        raise ResourceError(f"{what}\n{_then(folder)}") from error


def _then(folder: Path) -> str:
    return f"when that is mended: tlkit resume {typed(folder)}"
