"""`resume`: continue a run with the same experiment, data and machine, or refuse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve

from tlkit.config.experiment import Experiment
from tlkit.parts.kinds import Backbone, Dataset
from tlkit.runfolder.folder import (
    ENVIRONMENT,
    EXPERIMENT,
    MANIFEST,
    METRICS,
    PLAN,
    RESULTS,
    UNFINISHED,
    RunFolder,
)
from tlkit.runfolder.inputs import AFFECTS_RESULTS, EnvironmentRecord, ExperimentRecord
from tlkit.runfolder.record import read_record
from tlkit.runfolder.resume_state import OtherInputs, differences, read_unfinished, refusal
from tlkit.runfolder.tables import manifest_text
from tlkit.runner.finished import Run
from tlkit.runner.prepare import prepare_run
from tlkit.runner.run import disk_and_memory_errors, execute
from tlkit.system.errors import DataError, RunFolderError, TlkitError
from tlkit.system.lock import locked
from tlkit.system.notebook import either
from tlkit.system.renames import renamed_keywords
from tlkit.system.seal import problems
from tlkit.system.untrusted import exists
from tlkit.train.callback import Callback

if TYPE_CHECKING:
    from tlkit.train.stage import PreparedRun

SHOWN = 10  # changed images listed in a message
OTHER_MACHINE = (
    "was started with other versions or on another machine; restore them, or use {}: "
    "the last bits of the results may then differ"
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
    """Continue a run after its last saved epoch; the result is the same, byte for byte.

    Args:
        run: The run folder. Data and weights are looked for where the experiment had them, first
            relative to the run folder and then where they were.
        plugins: Plugin files that the run was made with, unchanged.
        backbone: The backbone, if that was a `FromModel`.
        data: The new place of the data, if they have moved: a path, or a `FromImages`. They must be
            the same images.
        anyway: Continue although versions, processor or threads have changed. The last bits of the
            results may then differ; `environment.json` records it.
        callback: Receives progress; `tlkit.Terminal()` shows it. Unset: shown in a notebook only.

    Returns:
        The run; None if it was already finished.

    Raises:
        RunFolderError: If it is not a run folder, another process is writing to it, or experiment,
            data or environment have changed; lists every change.
        Interrupted: If a stop was requested again.
        TlkitError: If something else is wrong; each kind of problem has its own subclass.
    """
    from tlkit.reports.progress import default_callback  # needs rich

    folder, callback = RunFolder(Path(run)), callback or default_callback()
    if folder.is_finished and not exists(folder.path / UNFINISHED):
        return None
    folder.read_json(UNFINISHED)  # do not lock a folder that is not a run's
    with locked(folder.path):
        folder.remove_partial()
        if folder.is_finished:  # it was stopped while writing its pages or tidying up
            with disk_and_memory_errors(folder.path):
                _finish(folder, plugins, backbone, data, callback)
            return None
        experiment = _with_data(read_unfinished(folder, plugins, backbone), data, folder)
        prepared = prepare_run(_with_used_weights(experiment, folder), None, (), callback)
        prepared = evolve(prepared, experiment=experiment)
        inputs = list(_changed_inputs(folder, prepared))
        if changes := [*_changed_plan(folder, prepared), *inputs]:
            raise refusal(folder.path, changes, kind=OtherInputs if inputs else RunFolderError)
        changes = list(_changed_environment(folder, prepared))
        if changes and not anyway:
            raise refusal(
                folder.path, changes, OTHER_MACHINE.format(either("--anyway", "anyway=True"))
            )
        # Last, since what somebody has edited is better told by its keys.
        if damaged := problems(folder.path, but=(*RESULTS, METRICS)):
            raise RunFolderError("\n".join(damaged))
        if changes:
            with disk_and_memory_errors(folder.path):
                _record_changes(folder, changes)
        return execute(prepared, folder, callback)


def _finish(
    folder: RunFolder,
    plugins: Sequence[str | Path],
    backbone: Backbone | None,
    data: str | Path | Dataset | None,
    callback: Callback,
) -> None:
    """Write the pages of a run whose results are written, and tidy its folder."""
    from tlkit.reports.card import CARD
    from tlkit.runner.pages import report

    if not exists(folder.path / CARD):
        callback.on_note("the results are complete; writing the report")
        with suppress(TlkitError):  # the report itself says why it has no images
            data = _with_data(read_unfinished(folder, plugins, backbone), data, folder).data
        report(folder.path, data=data, plugins=plugins, backbone=backbone)
    record = read_record(folder, EXPERIMENT, ExperimentRecord.from_json)
    folder.tidy(record.fit.keep_checkpoints)


def _with_data(
    experiment: Experiment, data: str | Path | Dataset | None, folder: RunFolder
) -> Experiment:
    """Return the experiment with its data at their present place."""
    if isinstance(data, Dataset):
        return evolve(experiment, data=data)
    if data is not None:
        if not hasattr(experiment.data, "path"):
            raise RunFolderError(f"{folder.path}: its data have no path and cannot have moved")
        moved: Any = {"path": Path(data)}
        return evolve(experiment, data=evolve(experiment.data, **moved))
    absent = experiment.data.absent()
    if absent is not None and experiment.data.stand_in is None:
        raise DataError(
            f"{absent}: the run's data are missing; say where they are with "
            f"{either('--data PATH', 'data=path')}"
        )
    return experiment


def _with_used_weights(experiment: Experiment, folder: RunFolder) -> Experiment:
    """Return the experiment with only the source of weights that the run has used."""
    used = experiment.backbone.with_used_weights(_environment(folder).weights)
    return evolve(experiment, backbone=used)


def _changed_plan(folder: RunFolder, prepared: PreparedRun) -> Iterator[str]:
    yield from differences(folder.read_json(PLAN), prepared.plan.as_json(), "plan")


def _changed_inputs(folder: RunFolder, prepared: PreparedRun) -> Iterator[str]:
    """Yield changes of the initial weights and of the images."""
    before = _environment(folder).weights
    for key in ("source", "file", "sha256", "head_sha256"):
        yield from differences(before.get(key), prepared.weights.get(key), f"weights.{key}")
    was, now = folder.read_text(MANIFEST), manifest_text(prepared.splits, prepared.hashes)
    if was != now:
        yield from _changed_images(was.splitlines(), now.splitlines())


def _changed_images(was: Sequence[str], now: Sequence[str]) -> Iterator[str]:
    """Yield the first differences between two manifests, of which there is at least one."""
    removed, added = sorted(set(was) - set(now)), sorted(set(now) - set(was))
    lines = [f"images: was {row}" for row in removed] + [f"images: is {row}" for row in added]
    lines.sort(key=lambda line: line.split(" ", 2)[2])
    yield from lines[:SHOWN] or ["images: are in another order"]
    if len(lines) > SHOWN:
        yield f"images: … and {len(lines) - SHOWN} more rows"


def _changed_environment(folder: RunFolder, prepared: PreparedRun) -> Iterator[str]:
    """Yield changes that may affect the last bits of the results."""
    was = _environment(folder).as_json()
    now = EnvironmentRecord.current(prepared.experiment, prepared.weights).as_json()
    for key in AFFECTS_RESULTS:
        yield from differences(was[key], now[key], key)


def _environment(folder: RunFolder) -> EnvironmentRecord:
    return read_record(folder, ENVIRONMENT, EnvironmentRecord.from_json)


def _record_changes(folder: RunFolder, changes: Sequence[str]) -> None:
    """Record in `environment.json` what had changed when the run was resumed."""
    known = _environment(folder)
    record = evolve(known, changed=(*known.changed, *changes))
    folder.write_json(ENVIRONMENT, record.as_json())
    folder.reseal(ENVIRONMENT)
