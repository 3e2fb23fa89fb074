"""The application: options that commands share, and exit codes."""

from __future__ import annotations

import errno
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

import tlkit
from tlkit.system.errors import (
    ConflictWarning,
    PartError,
    RenamedWarning,
    ResourceError,
    TlkitError,
)
from tlkit.system.stdio import tolerate_broken_pipes
from tlkit.system.text import printable, printable_lines

# System errors that are not bugs in tlkit.
DISK_ERRORS = {errno.EACCES, errno.EDQUOT, errno.EIO, errno.ENOSPC, errno.EPERM, errno.EROFS}

app = typer.Typer(
    name="tlkit",
    help="Compose, run and export transfer-learning image classifiers built from registered parts.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ExperimentFile = Annotated[Path, typer.Argument(help="The experiment's TOML file.", metavar="FILE")]
RunFolder = Annotated[Path, typer.Argument(help="The folder of a finished run.", metavar="RUN")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key, in TOML syntax: --set fit.epochs=3; a word needs no quotes: "
        "--set backbone.name=resnet50. Repeatable.",
    ),
]
PluginFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="A file with parts that the run used, unchanged. Repeatable.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        packages = ", ".join(f"{name} {version(name)}" for name in ("keras", "tensorflow"))
        typer.echo(f"tlkit {tlkit.__version__} ({packages})")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print versions."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Read the options before the command."""


def main() -> NoReturn:
    """Run the command line and end the process with the documented exit code."""
    try:
        with _notes_on_stderr(), tolerate_broken_pipes():
            app()
    except TlkitError as error:
        _end(error, str(error), error.exit_code)
    except Exception as error:
        from tlkit.parts.plugins import foreign_place

        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            where = f"{error.filename}: " if error.filename else ""
            _end(error, f"{where}{error.strerror}", ResourceError.exit_code)
        if "--debug" in sys.argv or not (place := foreign_place(error)):
            raise  # a bug in tlkit
        # TensorFlow repeats the whole traceback in the message; the cause is its last line.
        last = (str(error).strip().splitlines() or [""])[-1].strip()
        cause = last.removeprefix(f"{type(error).__name__}: ")
        line = f"{place}: {type(error).__name__}: {cause}; tlkit --debug shows more"
        _end(error, printable(line), PartError.exit_code)
    sys.exit(0)


def _end(error: Exception, message: str, code: int) -> NoReturn:
    if "--debug" in sys.argv:  # typer's parsed options are gone by now
        traceback.print_exception(error)
    typer.echo(printable_lines(message), err=True)
    sys.exit(code)


@contextmanager
def _notes_on_stderr() -> Iterator[None]:
    """Print log messages, old names and conflicts of names as lines that begin with `note:`."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    logger, shown = logging.getLogger("tlkit"), set[str]()

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, (ConflictWarning, RenamedWarning)):
            show_others(message, category, *place, **more)
        elif str(message) not in shown:
            shown.add(str(message))
            typer.echo(f"note: {printable(str(message))}", err=True)

    with warnings.catch_warnings():
        # Pillow warns about large images without naming them; tlkit names and refuses them itself.
        warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
        for own in (ConflictWarning, RenamedWarning):
            warnings.filterwarnings("always", category=own)
        show_others, warnings.showwarning = warnings.showwarning, show
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
