"""The application: options that commands share, and exit codes."""

from __future__ import annotations

import errno
import functools
import inspect
import logging
import os
import re
import shutil
import sys
import textwrap
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, cast

import typer

import tlkit
from tlkit.reports.console import style_of
from tlkit.system.errors import (
    NO_THREAD,
    PATH_ERRORS,
    SHORTAGES,
    ConflictWarning,
    PartError,
    RenamedWarning,
    ResourceError,
    TlkitError,
)
from tlkit.system.keras import own_process
from tlkit.system.stdio import quiet, tolerate_broken_pipes
from tlkit.system.text import printable, printable_lines

# System errors that are not bugs in tlkit.
DISK_ERRORS = SHORTAGES | {errno.EACCES, errno.EPERM, errno.EROFS} | PATH_ERRORS
OURS = ("tlkit", "typer", "click", "rich", "contextlib", "__main__", "runpy")  # in tracebacks
NO_MEMORY = "memory is too short; close other programs, or use a smaller model, image size or batch"

TRAIN, TUNE, USE = "Train", "Find better settings", "Use a run"
FIRST = ("init", "check", "run", "resume", "data")
DATA, LOOK_UP, MACHINE = "Look at data", "Look up", "This machine"


class Group(typer.core.TyperGroup):
    """A group of commands, in the order in which they are used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands' names."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters as help shows them."""
        return _shown(super().get_params(ctx))


class Command(typer.core.TyperCommand):
    """A command whose usage line has the usual form: `FILE`, `[FILE]`, `RUN...`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters as help shows them."""
        return _shown(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line."""
        arguments = [p for p in self.get_params(ctx) if isinstance(p, typer.core.TyperArgument)]
        names = [str(p.metavar) for p in arguments]
        pairs = zip(names, arguments, strict=True)
        return [
            "[OPTIONS]",
            *(n if p.required or n.startswith("[") else f"[{n}]" for n, p in pairs),
        ]


def _shown(params: list[Any]) -> list[Any]:
    """Return parameters with their values' names in capitals, and none for flags."""
    for parameter in params:
        if parameter.metavar is None and isinstance(parameter, typer.core.TyperArgument):
            parameter.metavar = f"{parameter.name}".upper()
        elif parameter.metavar is None and getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return params


app = typer.Typer(
    name="tlkit",
    cls=Group,
    help="Train, evaluate and ship image classifiers by transfer learning.\n\n"
    "Begin: tlkit init --from PHOTOS, a folder with a folder per class; without --from, on "
    "handwritten digits. Then: tlkit run experiment.toml.",
    epilog="tlkit VERB --help explains a verb with all its options.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Function = TypeVar("Function", bound=Callable[..., Any])
LEVELS = {"quiet": logging.WARNING, "verbose": logging.DEBUG}


def _obey(parameter: typer.CallbackParam, given: bool) -> bool:
    """Obey an option that every command has."""
    if given and parameter.name in LEVELS:
        logging.getLogger("tlkit").setLevel(LEVELS[parameter.name])
    if given and parameter.name == "no_color":
        os.environ["NO_COLOR"] = "1"  # Rich reads it too
    return given


def _flag(meaning: str, *names: str) -> Any:
    option: Any = typer.Option(*names, help=meaning, callback=_obey, rich_help_panel="Output")
    return Annotated[bool, option]


OUTPUT = {  # options of every command, before the verb or after it
    "quiet": _flag("Print results and errors only.", "--quiet", "-q"),
    "verbose": _flag("Say more: what is built, and how long it takes.", "--verbose", "-v"),
    "no_color": _flag("Print without colors; NO_COLOR=1 does so always.", "--no-color"),
    "debug": _flag("Show tracebacks.", "--debug"),
}


def with_output_options(function: Function) -> Function:
    """Return a function for Typer that also takes the options of every command."""

    @functools.wraps(function)
    def called(**arguments: Any) -> Any:
        return function(**{k: v for k, v in arguments.items() if k not in OUTPUT})

    known = inspect.signature(function, eval_str=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    more = [
        inspect.Parameter(name, keyword, default=False, annotation=option)
        for name, option in OUTPUT.items()
    ]
    everything = [p.replace(kind=keyword) for p in known.parameters.values()] + more
    wrapper: Any = called
    wrapper.__signature__ = known.replace(parameters=everything)
    wrapper.__annotations__ = {p.name: p.annotation for p in everything}
    return cast("Function", wrapper)


def command(
    panel: str | None, example: str, name: str | None = None, to: typer.Typer = app
) -> Callable[[Function], Function]:
    """Register a function as a command."""

    def register(function: Function) -> Function:
        verb = name or function.__name__
        group = "" if to is app else f"{to.info.name} "
        usage = f"tlkit {group}{verb} {example}".rstrip().replace("[", "\\[")
        text = inspect.getdoc(function) or ""
        paragraphs = [part.replace("\n", " ") for part in text.replace("[", "\\[").split("\n\n")]
        decorate = to.command(
            verb,
            cls=Command,
            rich_help_panel=panel,
            help="\n\n".join(paragraphs),  # else lines would end where the source's do
            short_help=f"{paragraphs[0]}\n[dim]{usage}[/dim]",
            epilog=f"Example: {usage}",
        )
        decorate(with_output_options(function))
        return function

    return register


def echo(text: object, err: bool = False) -> None:
    """Print lines, on a terminal in colors by what they say; NO_COLOR is honored."""
    lines = str(text).split("\n")
    if err and quiet():
        lines = [line for line in lines if not line.startswith("note: ")]
    if err and not lines:
        return
    styles = [style_of(line) for line in lines]
    lines = [_folded(line, err) for line in lines]
    if not os.environ.get("NO_COLOR"):
        lines = [_styled(line, style) for line, style in zip(lines, styles, strict=True)]
    typer.echo("\n".join(lines), err=err)


def _folded(line: str, err: bool) -> str:
    """Return a line, a sentence broken between words where there is a terminal."""
    start = re.match("! |- |note: |weights from ", line)
    return hanging(start[0], line[start.end() :], err) if start else line


def hanging(start: str, text: str, err: bool = False) -> str:
    """Return a text after `start`, on a terminal broken into lines below its own beginning."""
    stream = sys.stderr if err else sys.stdout
    if stream is None or not stream.isatty():
        return start + text
    width = max(shutil.get_terminal_size().columns, len(start) + 30)
    return textwrap.fill(
        text, width, initial_indent=start, subsequent_indent=" " * len(start),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _styled(line: str, style: str) -> str:
    """Return a line with escape codes; `typer.echo` removes them where there is no terminal."""
    if style == "bold":
        return typer.style(line, bold=True)
    return typer.style(line, fg=style) if style else line


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
BackboneOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the backbone, in TOML syntax: --set image_size=64; a word needs no "
        "quotes: --set preprocess=unit. Repeatable.",
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
@with_output_options
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print versions."),
    ] = False,
) -> None:
    """Read the options before the command."""


def main() -> NoReturn:
    """Run the command line and end the process with the documented exit code."""
    own_process()
    try:
        with _notes_on_stderr(), tolerate_broken_pipes():
            app()
    except TlkitError as error:
        _end(error, str(error), error.exit_code)
    except SystemExit as stop:
        if place := _part_that_ends(stop):
            _end(stop, f"{place}: a part must not end the process", PartError.exit_code)
        raise
    except Exception as error:
        from tlkit.parts.plugins import foreign_place

        if trouble := _trouble_of_the_machine(error):
            _end(error, trouble, ResourceError.exit_code)
        if "--debug" in sys.argv or not (place := foreign_place(error)):
            raise  # a bug in tlkit
        # TensorFlow repeats the whole traceback in the message; the cause is its last line.
        last = (str(error).strip().splitlines() or [""])[-1].strip()
        cause = last.removeprefix(f"{type(error).__name__}: ")
        line = f"{place}: {type(error).__name__}: {cause}; tlkit --debug shows more"
        _end(error, printable(line), PartError.exit_code)
    sys.exit(0)


def _trouble_of_the_machine(error: Exception) -> str:
    """Return the message of an error that is no bug, or an empty string."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return NO_MEMORY
    return f"{NO_THREAD}; close other programs" if NO_THREAD in str(error) else ""


def _part_that_ends(stop: SystemExit) -> str:
    """Return the place in a part that has ended the process; empty if it was the command itself."""
    for error in (stop, stop.__context__):
        frames = traceback.walk_tb(error.__traceback__ if error else None)
        if any(not str(f.f_globals.get("__name__")).startswith(OURS) for f, _ in frames):
            from tlkit.parts.plugins import foreign_place

            return foreign_place(error) if error else ""
    return ""


def _end(error: BaseException, message: str, code: int) -> NoReturn:
    if "--debug" in sys.argv:  # typer's parsed options are gone by now
        traceback.print_exception(error)
    text = printable_lines(message)
    typer.echo(text if os.environ.get("NO_COLOR") else typer.style(text, fg="red"), err=True)
    sys.exit(code)


class _Notes(logging.Handler):
    """Prints log messages as notes; control characters, as in file names, are made visible."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        echo(printable_lines(f"note: {record.getMessage()}"), err=True)


@contextmanager
def _notes_on_stderr() -> Iterator[None]:
    """Print log messages, old names and conflicts of names as lines that begin with `note:`."""
    handler = _Notes()
    logger, shown = logging.getLogger("tlkit"), set[str]()
    started = time.perf_counter()

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, (ConflictWarning, RenamedWarning)):
            show_others(message, category, *place, **more)
        elif str(message) not in shown:
            shown.add(str(message))
            echo(f"note: {printable(str(message))}", err=True)

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
            logger.debug("took %.1f s", time.perf_counter() - started)
            logger.removeHandler(handler)
