"""Prepare a run: check everything that training needs, down to the last image, and load it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve

from tlkit.config.experiment import Experiment
from tlkit.config.toml import as_experiment
from tlkit.data.pixel_store import PixelStore
from tlkit.data.sources import VAL_NAMES
from tlkit.data.splits import SPLITS, Splits
from tlkit.parts.datasets import load_splits
from tlkit.parts.kinds import Backbone
from tlkit.parts.optimizers import PROBES, check_rate, with_rates
from tlkit.parts.plugins import guarded
from tlkit.runfolder.folder import METRICS, RUNS, RunFolder, folder_exists, is_own_name
from tlkit.runfolder.learned_from import LearnedFrom
from tlkit.runfolder.record import read_record
from tlkit.runfolder.results import MetricsRecord
from tlkit.runfolder.tables import Learned
from tlkit.runner.trackers import require_trackers
from tlkit.system.cache import FeatureCache, default_folder
from tlkit.system.errors import ConfigError, PartError, Problem, RunFolderError, WeightsError
from tlkit.system.files import exists, is_dir
from tlkit.system.keras import check_settings
from tlkit.system.notebook import argument
from tlkit.train.callback import Callback
from tlkit.train.plan import Plan, make_plan
from tlkit.weights.earlier_run import EarlierRun
from tlkit.weights.files import require_file
from tlkit.weights.sources import assign_head

if TYPE_CHECKING:
    from tlkit.train.stage import PreparedRun


@guarded()
def check(
    experiment: Experiment | str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    callback: Callback | None = None,
) -> Plan:
    """Return what a run would do, without doing it.

    Args:
        experiment: An experiment, the path of its TOML file, or a dict with the same keys.
        overrides: ``a.b=value`` expressions for an experiment given as a path or a dict.
        callback: Receives the progress of reading the images, if splits are to be drawn.

    Raises:
        ConfigError: If the experiment is wrong; lists every problem.
        PartError: If a part needs a package that is not installed.
        DataError: If the data are missing or wrong.
    """
    experiment = as_experiment(experiment, overrides)
    callback = callback or Callback()
    plan = make_plan(experiment, load_splits(experiment.data, callback.on_image_checked))
    check_start(experiment, plan)
    return plan


def check_start(experiment: Experiment, plan: Plan) -> None:
    """Check the files that a run starts from, as far as they are named by a path."""
    if experiment.origin and is_own_name(name := experiment.origin.path.name):
        message = f"{name} is the name of another file of a run folder; rename the experiment"
        raise ConfigError([Problem("", message)], str(experiment.origin.path))
    for first in _started_from(experiment.backbone):
        if (run := EarlierRun.at(first)) and first == experiment.backbone.sources[0]:
            run.check_backbone(plan.layers)
        require_file(first)
    if head := experiment.fit.head_weights:
        _run_of_head(head).check_head(plan.layers, plan.classes)


def _started_from(backbone: Backbone) -> Iterator[Path]:
    """Yield the files and runs that weights come from, of each member of a joined backbone."""
    for member in getattr(backbone, "members", (backbone,)):
        if isinstance(first := member.sources[0], Path):
            yield first


def _run_of_head(path: Path) -> EarlierRun:
    run = EarlierRun.at(path)
    if run is None:
        raise WeightsError(f"fit.head_weights: there is no finished run {path}")
    return run


@guarded()
def prepare_run(
    experiment: Experiment | str | Path | Mapping[str, Any],
    out: Path | None,
    overrides: Sequence[str],
    callback: Callback,
) -> PreparedRun:
    """Check and load everything that a run needs; its results will go to the new folder `out`."""
    experiment = as_experiment(experiment, overrides)
    require_trackers(experiment.track)
    splits = load_splits(experiment.data, callback.on_image_checked)

    from tlkit.data.checks import check_images, first_look  # from here on heavy
    from tlkit.data.images import Reader
    from tlkit.data.pictures import DecodedImageIndex

    data, size = experiment.data, experiment.backbone.image_size
    store = PixelStore(default_folder(), (row.path for _, row in splits.rows()), size)
    reader = Reader(splits.read, size, data.resize, data.mask_center, store=store)
    with first_look(splits, DecodedImageIndex(default_folder()), reader) as looks:
        plan = make_plan(experiment, splits)
        check_start(experiment, plan)
        _check_folder_and_devices(out, experiment, splits, plan)
        callback.on_plan(plan, splits)
        checked = check_images(
            splits,
            looks,
            skip_bad=data.on_bad_image == "skip",
            allow_leakage=data.allow_leakage,
            on_image=callback.on_image_checked,
        )

    from tlkit.train.assemble import model_of
    from tlkit.train.features import check_preprocessing
    from tlkit.train.stage import PreparedRun

    splits = checked.splits
    plan = make_plan(experiment, splits) if splits.skipped else evolve(plan, data=splits.facts())
    callback.on_images_checked(plan, splits)
    model, weights = model_of(experiment, len(plan.classes))
    check_preprocessing(experiment.backbone)
    if plan.frozen_dtype == "int8":
        _check_int8(experiment, plan, model)
    for number, phase in enumerate(experiment.phases, start=1):
        _check_own_parts(phase, plan, number)
    check_settings()  # parts have been at work
    if path := experiment.fit.head_weights:
        head = _run_of_head(path)
        arrays, sha256 = head.arrays("head")
        assign_head(model, head.folder, plan.layers, arrays)
        weights = {**weights, "head_run": head.name, "head_sha256": sha256}
    callback.on_weights_loaded(weights)
    return PreparedRun(
        experiment=experiment,
        plan=plan,
        splits=splits,
        hashes=checked.hashes,
        looks=checked.looks,
        pixels=store,
        model=model,
        weights=weights,
        learned_before=tuple(_learned_before(experiment)),
        cache=FeatureCache(default_folder()) if plan.cache else None,
    )


def _check_folder_and_devices(
    out: Path | None, experiment: Experiment, splits: Splits, plan: Plan
) -> None:
    """Check where the results will go, and whether there are as many devices as planned."""
    if out is not None and exists(out):
        raise RunFolderError(folder_exists(out))
    _refuse_among_images(out, experiment, splits)
    devices = max(planned.devices for planned in plan.stages)
    if devices > 1:
        from tlkit.train.mirrored import require_devices

        require_devices(devices)


def _check_own_parts(experiment: Experiment, plan: Plan, phase: int) -> None:
    """Check what a phase's loss and optimizer build, if they are not tlkit's own."""
    from tlkit.train.step import require_loss

    loss, optimizer = experiment.loss, experiment.optimizer
    if not type(loss).__module__.startswith("tlkit."):
        require_loss(loss.build(plan.counts["train"]), len(plan.classes))
    if not type(optimizer).__module__.startswith("tlkit."):
        stages = (planned.stage for planned in plan.stages if planned.phase == phase)
        rates = {rate for stage in stages for rate in stage.lr_multipliers if rate}
        check_rate(with_rates(optimizer, PROBES if rates - {1} else (1.0,)), optimizer)


def _check_int8(experiment: Experiment, plan: Plan, model: Any) -> None:
    """Refuse frozen layers that cannot be computed in int8."""
    from tlkit.train.assemble import split_at
    from tlkit.train.int8 import check_int8

    prefix, _ = split_at(model, plan.layers, max(planned.cut for planned in plan.stages))
    try:
        if prefix is not None:
            check_int8(prefix, experiment.backbone)
    except PartError as error:
        file = str(experiment.origin.path) if experiment.origin else ""
        raise ConfigError([Problem("fit.frozen_dtype", str(error))], file) from error


def _learned_before(experiment: Experiment) -> Iterator[Learned]:
    """Yield the images that the earlier runs have learned from, through their whole lineage."""
    head, seen = experiment.fit.head_weights, set[Path]()
    for path in (*([head] if head else []), *_started_from(experiment.backbone)):
        run = EarlierRun.at(path)
        if run is None or run.folder.resolve() in seen:
            continue
        trained = path == head or run.trained
        if trained:
            seen.add(run.folder.resolve())
        folder = RunFolder(run.folder)
        refit = read_record(folder, METRICS, MetricsRecord.from_json).refit_images is not None
        yield from LearnedFrom(folder, refit).as_earlier(run.name, trained)


def _refuse_among_images(out: Path | None, experiment: Experiment, splits: Splits) -> None:
    """Refuse a run folder whose pictures the next run would take for images."""
    top = getattr(experiment.data, "path", None)
    if not isinstance(top, Path) or not is_dir(top):
        return
    out = out or Path(RUNS)
    tops = {top / split for split in (*SPLITS, *VAL_NAMES)}
    if splits.held_out and not is_dir(top / "train"):  # every folder in it is a class
        tops = {top}
    for folder in sorted(tops):
        if out.absolute().is_relative_to(folder.absolute()):
            message = f"{out}: is inside the image folder {folder}; choose another folder"
            raise ConfigError([Problem(argument("--out"), message)])
