"""Going on with a run that was stopped: the same experiment, data and machine, or a refusal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve

from tlkit.config.experiment import Experiment
from tlkit.parts.kinds import Backbone, Dataset
from tlkit.runner.run import Run, execute, prepare_run
from tlkit.system.errors import DataError, RunFolderError, TlkitError
from tlkit.system.lock import locked
from tlkit.system.renames import renamed_keywords
from tlkit.train.callback import Callback

if TYPE_CHECKING:
    from tlkit.runfolder.folder import RunFolder
    from tlkit.runfolder.record import EnvironmentRecord
    from tlkit.train.stage import PreparedRun

SHOWN = 10  # how many images that differ a message lists
ELSEWHERE = (
    "was begun with other versions or on another machine; bring these back, or say --anyway: the "
    "last bits of the results may differ then"
)


@renamed_keywords(watcher="callback")
def resume(
    run: str | Path,
    *,
    plugins: Sequence[str | Path] = (),
    backbone: Backbone | None = None,
    data: str | Path | Dataset | None = None,
    anyway: bool = False,
    callback: Callback | None = None,
) -> Run | None:
    """Go on with a run after its last finished epoch; it ends with the bytes it would have had.

    Args:
        run: The run folder. It is looked for data and weights where the experiment had them, seen
            from the run folder, and then where they were.
        plugins: The files with the study's own parts, if it was made with such; they must be the
            same to the byte.
        backbone: What was the backbone, if that was a `FromModel`.
        data: Where the data are now, if they have moved: a path, or a `FromImages`. They must be
            the same images.
        anyway: Go on although versions, processor or threads are not what they were. The results
            may then differ in their last bits; `environment.json` says that it was so.
        callback: Told how it goes; unset: nobody.

    Returns:
        The run; None if it was finished already, then nothing is done.

    Raises:
        RunFolderError: If it is not the folder of a run, another process writes to it, or
            experiment, data or environment have changed, with every change.
        Interrupted: If the process was asked to stop once more.
        TlkitError: Of the kind that says what else is wrong.
    """
    from tlkit.runfolder.folder import UNFINISHED, RunFolder
    from tlkit.runfolder.resume_state import OtherInputs, read_unfinished, refusal
    from tlkit.runner.run import disk_and_memory_errors

    folder, callback = RunFolder(Path(run)), callback or Callback()
    if folder.is_finished and not (folder.path / UNFINISHED).exists():
        return None
    folder.read_json(UNFINISHED)  # before a lock is put into what is no run folder
    with locked(folder.path):
        folder.remove_partial()
        if folder.is_finished:  # and stopped before its pages were written, or while it was tidied
            with disk_and_memory_errors(folder.path):
                _finish(folder, plugins, backbone, data, callback)
            return None
        experiment = _placed(read_unfinished(folder, plugins, backbone), data, folder)
        ready = prepare_run(_pinned(experiment, folder), None, (), callback)
        ready = evolve(ready, experiment=experiment)
        others = list(_changed_inputs(folder, ready))
        if changed := [*_changed_plan(folder, ready), *others]:
            kind = OtherInputs if others else RunFolderError
            raise refusal(folder.path, changed, kind=kind)
        if changed := list(_changed_around(folder, ready)):
            if not anyway:
                raise refusal(folder.path, changed, ELSEWHERE)
            with disk_and_memory_errors(folder.path):
                _note_changes(folder, changed)
        return execute(ready, folder, callback)


def _finish(
    folder: RunFolder,
    plugins: Sequence[str | Path],
    backbone: Backbone | None,
    data: str | Path | Dataset | None,
    callback: Callback,
) -> None:
    """Do what is left to do once a run's results are written."""
    from tlkit.reports.card import CARD
    from tlkit.runfolder.folder import EXPERIMENT
    from tlkit.runfolder.record import ExperimentRecord, read_record
    from tlkit.runfolder.resume_state import read_unfinished
    from tlkit.runner.pages import report

    if not (folder.path / CARD).is_file():
        callback.on_note("the results are there; the report is written now")
        with suppress(TlkitError):  # a report says itself why it has no pictures
            data = _placed(read_unfinished(folder, plugins, backbone), data, folder).data
        report(folder.path, data=data, plugins=plugins, backbone=backbone)
    record = read_record(folder, EXPERIMENT, ExperimentRecord.from_json)
    folder.tidy(record.fit.keep_checkpoints)


def _placed(
    experiment: Experiment, data: str | Path | Dataset | None, folder: RunFolder
) -> Experiment:
    """Return the experiment with its data where they are now."""
    if isinstance(data, Dataset):
        return evolve(experiment, data=data)
    if data is not None:
        if not hasattr(experiment.data, "path"):
            raise RunFolderError(f"{folder.path}: its data have no path, so they cannot have moved")
        changed: Any = {"path": Path(data)}
        return evolve(experiment, data=evolve(experiment.data, **changed))
    absent = experiment.data.absent()
    if absent is not None and experiment.data.stand_in is None:
        raise DataError(f"{absent}: the run's data are not there; say where with --data PATH")
    return experiment


def _pinned(experiment: Experiment, folder: RunFolder) -> Experiment:
    """Return the experiment with the one source of weights that was used, of several."""
    sources = experiment.backbone.weights
    if not isinstance(sources, tuple):
        return experiment
    used = _environment(folder).weights.get("source")
    chosen = tuple(s for s in sources if (s if isinstance(s, str) else "path") == used)
    return evolve(experiment, backbone=evolve(experiment.backbone, weights=chosen or sources))


def _changed_plan(folder: RunFolder, ready: PreparedRun) -> Iterator[str]:
    """Yield what it would do otherwise."""
    from tlkit.runfolder.folder import PLAN
    from tlkit.runfolder.resume_state import differences

    yield from differences(folder.read_json(PLAN), ready.plan.as_json(), "plan")


def _changed_inputs(folder: RunFolder, ready: PreparedRun) -> Iterator[str]:
    """Yield which weights and images it would begin with in place of its own."""
    from tlkit.runfolder.folder import MANIFEST
    from tlkit.runfolder.resume_state import differences
    from tlkit.runfolder.tables import manifest_text

    was = _environment(folder).weights
    now = dict(ready.weights)
    for key in ("source", "file", "sha256"):
        yield from differences(was.get(key), now.get(key), f"weights.{key}")
    before, images = folder.read_text(MANIFEST), manifest_text(ready.splits, ready.hashes)
    if before != images:
        yield from _changed_images(before.splitlines(), images.splitlines())


def _changed_images(was: Sequence[str], now: Sequence[str]) -> Iterator[str]:
    """Yield the first rows that two tables of images differ in; there is one."""
    gone, new = sorted(set(was) - set(now)), sorted(set(now) - set(was))
    lines = [f"images: was {row}" for row in gone] + [f"images: is {row}" for row in new]
    lines.sort(key=lambda line: line.split(" ", 2)[2])
    yield from lines[:SHOWN] or ["images: are in another order"]
    if len(lines) > SHOWN:
        yield f"images: … and {len(lines) - SHOWN} more rows"


def _changed_around(folder: RunFolder, ready: PreparedRun) -> Iterator[str]:
    """Yield what may change the last bits of the results."""
    from tlkit.runfolder.record import AFFECTS_RESULTS, EnvironmentRecord
    from tlkit.runfolder.resume_state import differences

    was = _environment(folder).as_json()
    now = EnvironmentRecord.current(ready.experiment, ready.weights).as_json()
    for key in AFFECTS_RESULTS:
        yield from differences(was[key], now[key], key)


def _environment(folder: RunFolder) -> EnvironmentRecord:
    from tlkit.runfolder.folder import ENVIRONMENT
    from tlkit.runfolder.record import EnvironmentRecord, read_record

    return read_record(folder, ENVIRONMENT, EnvironmentRecord.from_json)


def _note_changes(folder: RunFolder, changed: Sequence[str]) -> None:
    """Add to the environment what had changed when the run was resumed."""
    from tlkit.runfolder.folder import ENVIRONMENT

    known = _environment(folder)
    record = evolve(known, changed=(*known.changed, *changed))
    folder.write_json(ENVIRONMENT, record.as_json())
