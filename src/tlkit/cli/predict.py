"""`tlkit predict` and `tlkit evaluate`."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

import tlkit
from tlkit.cli.app import USE, AsJson, PluginFiles, RunFolder, command, echo
from tlkit.cli.listing import MANY_CLASSES, Format, Listing
from tlkit.cli.resumable import named_by, resumable
from tlkit.data.root import ImageRoot
from tlkit.data.sources import STDIN, Rejected, image_files
from tlkit.data.walk import LeftOut, left_out_notes
from tlkit.metrics.intervals import format_interval, format_value
from tlkit.reports.console import caveats_text, scores_text, table
from tlkit.runfolder import folder as runfolder
from tlkit.system.errors import DataError, ResourceError
from tlkit.system.files import atomic_write, exists
from tlkit.system.notebook import choose_another
from tlkit.system.stdio import quiet, stdout_is_broken
from tlkit.system.text import json_text, printable, printable_lines

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tlkit.classifier import Prediction
    from tlkit.metrics.scores import Scores

    Loaded = tlkit.Classifier | tlkit.Ensemble
    AddRow = Callable[[npt.NDArray[np.float32]], None]

T = TypeVar("T")
LOOKS_DARK = "no value above 16 of 255, as 12-bit values in a 16-bit file"  # tlkit.data.pictures'

Images = Annotated[
    list[str],
    typer.Argument(
        help="Image files; folders, with all images below; quoted patterns such as "
        "'new/**/*.png'; CSV files with a column path; - to read paths from standard input, one "
        "per line.",
        metavar="IMAGES...",
    ),
]


Root = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The folder that the paths in a CSV file are relative to. Unset: the run's data.root "
        "for the run's own manifest, else the CSV file's folder.",
    ),
]


def load_run(run: Path, plugins: Sequence[Path] | None) -> tlkit.Classifier:
    """Load a finished run, with a note if it was trained on stand-in data."""
    classifier = tlkit.load(run, plugins=plugins or [])
    _note_stand_in(classifier.stand_in)
    return classifier


def load_run_or_ensemble(run: Path, plugins: Sequence[Path] | None) -> Loaded:
    """Load a finished run or an ensemble; see `load_run`."""
    if not exists(run / runfolder.ENSEMBLE):
        return load_run(run, plugins)
    ensemble = tlkit.load_ensemble(run, plugins=plugins or [])
    _note_stand_in(ensemble.stand_in)
    return ensemble


def _note_stand_in(stand_in: str) -> None:
    if stand_in:
        echo(f"note: trained on stand-in data ({stand_in}), not on the real images", err=True)


def named_images(
    arguments: Sequence[str], classifier: Loaded, root: Path | None
) -> Iterable[str | Rejected]:
    """Return the images that the arguments name; a list unless they come from standard input.

    Notes what was left out in folders.
    """
    from tlkit.classifier import own_root

    left_out: list[LeftOut] = []

    def root_of(manifest: Path) -> ImageRoot | None:
        return ImageRoot(root) if root else own_root(classifier.experiment, manifest)

    images = image_files(arguments, sys.stdin, left_out, root_of)
    if STDIN in arguments:
        return images
    listed = list(images)
    print_notes(left_out_notes(left_out))
    return listed


def print_notes(notes: Iterable[str]) -> None:
    """Print notes on standard error."""
    for note in notes:
        echo(f"note: {printable(note)}", err=True)


def collect_rejected(
    items: Iterable[T | Rejected], rejected: list[Rejected]
) -> Iterator[T | Rejected]:
    """Yield the same items, and add the rejected ones to a list."""
    for item in items:
        if isinstance(item, Rejected):
            rejected.append(item)
        yield item


def raise_rejected(rejected: Sequence[Rejected], done: int) -> None:
    """Raise `DataError` with every rejected entry and their number, if there are any."""
    if rejected:
        count = f"{len(rejected)} of {len(rejected) + done} left out"
        raise DataError("\n".join([*map(printable, rejected), count]))


def must_be_new(path: Path | None, option: str) -> None:
    """Raise `BadParameter` if a path exists."""
    if path is not None and exists(path):
        message = printable(f"{path}: exists; {choose_another(option)}")
        raise typer.BadParameter(message, param_hint=option)


@command(USE, "runs/photos-1 new/*.jpg --format csv")
def predict(
    run: RunFolder,
    images: Images,
    form: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.table,
    top: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="List only the K most probable classes.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A new file to write to. Unset: print.")
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npy",
            help="A new file for features: one row per printed image, the output of the backbone's "
            "last layer averaged over the image.",
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(metavar="LAYER", help="Take --features from this layer: a number or name."),
    ] = None,
    root: Root = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep the rows in FILE.unfinished if this is interrupted; the same command then "
            "goes on from there. For --out in the formats csv and jsonl.",
        ),
    ] = False,
    plugins: PluginFiles = None,
) -> None:
    """Classify images, in the given order, with a run or an ensemble.

    Images that cannot be read are listed at the end, and the exit code is then 4. All others have
    a row.
    """
    rows = _require_lines(form, out, features, images) if resume else None
    must_be_new(out, "--out")
    must_be_new(features, "--features")
    if features is None and layer is not None:
        raise typer.BadParameter("needs --features", param_hint="--layer")
    classifier = load_run_or_ensemble(run, plugins)
    print_notes(classifier.notes)
    files, rejected = named_images(images, classifier, root), list[Rejected]()
    if rows is not None:
        of = named_by(run, files := list(files), form, top)
        _go_on(classifier, files, Listing(form, classifier.classes, top), rows, of)
        _warn_of_chance(classifier)
        return
    dark: list[str] = []
    counts: Counter[str] = Counter()
    short: list[ResourceError] = []
    with ExitStack() as stack:
        predictions = _until_short(
            classifier.iter_predict(files, features is not None, layer), short
        )
        if form is Format.table or out is not None or not sys.stdout.isatty():
            from tlkit.reports.progress import with_bar

            total = len(files) if isinstance(files, list) else None
            predictions = with_bar(predictions, total)
        if features is not None:
            predictions = _save_features(predictions, stack.enter_context(_npy_rows(features)))
        listing = Listing(form, classifier.classes, top)
        predictions = _observe(predictions, dark, counts)
        lines = listing.lines(collect_rejected(predictions, rejected))
        if out is None:
            show = printable_lines if sys.stdout.isatty() else str
            for line in lines:
                typer.echo(show(line), color=True)  # keep escape codes in names
                if stdout_is_broken() and features is None:
                    break
        else:
            partial = stack.enter_context(atomic_write(out))
            file = stack.enter_context(partial.open("w", encoding="utf-8", newline="\n"))
            file.writelines(f"{line}\n" for line in lines)
    if form is Format.table and counts.total() > 1 and not quiet():
        named = (f"{count} × {name}" for name, count in counts.most_common(MANY_CLASSES))
        typer.echo(f"{counts.total()} images: {printable(', '.join(named))}", err=True)
    _note_dark(dark)
    _warn_of_chance(classifier)
    if short:  # after the answers so far
        raise short[0]
    raise_rejected(rejected, counts.total())


def _require_lines(
    form: Format, out: Path | None, features: Path | None, images: Sequence[str]
) -> Path:
    """Return the file that `--resume` writes to."""
    if out is None or features or STDIN in images or form not in {Format.csv, Format.jsonl}:
        message = "needs --out in the format csv or jsonl, and no --features and no standard input"
        raise typer.BadParameter(message, param_hint="--resume")
    return out


def _go_on(
    classifier: Loaded,
    files: Sequence[str | Rejected],
    listing: Listing,
    out: Path,
    of: str,
) -> None:
    """Write the rows that an interrupted command has not written, after its own."""
    from tlkit.reports.progress import with_bar

    with resumable(out, of) as rows:
        left = files[rows.images :]
        predictions = with_bar(rows.count(classifier.iter_predict(left)), len(left))
        predictions = _observe(predictions, rows.dark, Counter())
        lines = listing.lines(collect_rejected(predictions, rows.rejected))
        has_names = rows.begun and listing.form is Format.csv  # of columns
        for line in itertools.islice(lines, int(has_names), None):
            rows.write(line)
    _note_dark(rows.dark)
    raise_rejected(rows.rejected, len(files) - len(rows.rejected))


def _warn_of_chance(classifier: Loaded) -> None:
    """Say on standard error that a model has learned nothing that its own test could show."""
    from tlkit.reports.caveats import chance_caveat  # with all parts

    if isinstance(classifier, tlkit.Ensemble):
        models = {f"member {n}": model for n, model in enumerate(classifier.members, start=1)}
    else:
        models = {"this run": classifier}
    for name, model in models.items():
        if model.scores is None or model.stand_in:
            continue
        if text := chance_caveat(model.scores, f"The accuracy of {name}"):
            echo(caveats_text([text]), err=True)


def _note_dark(dark: Sequence[str]) -> None:
    if dark:
        print_notes([f"{len(dark)} nearly black, {LOOKS_DARK}, such as {dark[0]}"])


def _until_short(
    predictions: Iterable[Prediction | Rejected], short: list[ResourceError]
) -> Iterator[Prediction | Rejected]:
    """Yield the same predictions, up to a shortage of the machine, which goes into the list."""
    try:
        yield from predictions
    except ResourceError as error:
        short.append(error)


def _observe(
    predictions: Iterable[Prediction | Rejected], dark: list[str], counts: Counter[str]
) -> Iterator[Prediction | Rejected]:
    """Yield the same predictions; list the nearly black images, and count the classes."""
    for prediction in predictions:
        if not isinstance(prediction, Rejected):
            counts[prediction.predicted] += 1
            if prediction.dark:
                dark.append(prediction.path)
        yield prediction


def _save_features(
    predictions: Iterable[Prediction | Rejected], add_row: AddRow
) -> Iterator[Prediction | Rejected]:
    """Yield the same predictions, and save their features."""
    for prediction in predictions:
        if not isinstance(prediction, Rejected) and prediction.features is not None:
            add_row(prediction.features)
        yield prediction


@contextmanager
def _npy_rows(path: Path) -> Iterator[AddRow]:
    """Yield a function that adds a row to a `.npy` file, which appears when the body succeeds.

    Args:
        path: The file, `(rows, ...)` float32; `(0, 0)` without rows.
    """
    import numpy as np

    count, shape = 0, (0,)
    with atomic_write(path) as partial, partial.open("w+b") as file:

        def write_header(count: int) -> int:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, *shape)}
            np.lib.format.write_array_header_1_0(file, header)
            return file.tell()

        end = write_header(0)

        def add_row(row: npt.NDArray[np.float32]) -> None:
            nonlocal count, shape, end
            if not count:
                shape = row.shape
                file.seek(0)
                end = write_header(0)
            file.write(np.ascontiguousarray(row, np.float32).tobytes())
            count += 1

        yield add_row
        file.seek(0)
        assert write_header(count) == end  # NumPy leaves room for the first axis to grow


@command(USE, "runs/photos-1 --data other-photos")
def evaluate(
    run: RunFolder,
    data: Annotated[
        Path, typer.Option(help="A folder with one folder per class, or a CSV manifest.")
    ],
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option(help="The split to use. Unset: test if there is one, else val."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A new folder for metrics.json and predictions.csv."),
    ] = None,
    root: Root = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep what is done in DIR.unfinished if this is interrupted; the same command "
            "then goes on from there. Needs --out.",
        ),
    ] = False,
    plugins: PluginFiles = None,
    as_json: AsJson = False,
) -> None:
    """Score a finished run, or an ensemble, on labeled images.

    If a manifest has several sources, each is scored on its own too.
    """
    must_be_new(out, "--out")
    if resume and out is None:
        raise typer.BadParameter("needs --out", param_hint="--resume")
    loaded = load_run_or_ensemble(run, plugins)
    if not resume or out is None:
        evaluation = loaded.evaluate(data, split, root)
    elif isinstance(loaded, tlkit.Ensemble):
        raise typer.BadParameter("needs a run, got an ensemble", param_hint="--resume")
    else:
        keep = out.with_name(f"{out.name}.unfinished")
        evaluation = loaded.evaluate(data, split, root, keep)
    print_notes(evaluation.notes)
    if out is not None:
        evaluation.write(runfolder.RunFolder.claim(out, ""))
    if as_json:
        sources = {name: scores.as_json() for name, scores in evaluation.sources.items()}
        more = {"sources": sources, "caveats": list(evaluation.caveats)}
        typer.echo(json_text(evaluation.scores.as_json() | more))
        return
    echo(scores_text(printable(data), evaluation.scores))
    if evaluation.sources:
        typer.echo(f"\n{_sources_text(evaluation.sources)}")
    if evaluation.caveats:
        echo(f"\n{caveats_text(evaluation.caveats)}")
    if out is not None:
        typer.echo(f"\nmetrics and predictions: {out}")


def _sources_text(sources: Mapping[str, Scores]) -> str:
    """Return the accuracy on each source's images as text."""
    rows = []
    for name, scores in sources.items():
        accuracy = format_value(scores.accuracy), format_interval(scores.intervals["accuracy"])
        rows.append([name or "not given", str(scores.images), *accuracy])
    return table(["source", "images", "accuracy", "95 % interval"], rows)
