"""A setting that changes nothing is a bug: every key of every part is changed here once.

The study's published code declared a learning rate of 2e-5 and never used it. Each key must change
what its part does; the second half trains with one table changed and must end elsewhere.
"""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import fields
from PIL import Image

import tlkit
from tlkit.config.experiment import Experiment, Fit, PublishedResult
from tlkit.config.structure import is_key, keys, structure
from tlkit.data.checks import check_images
from tlkit.data.images import to_pixels
from tlkit.metrics.published import cited_figures, figures
from tlkit.metrics.scoring import score_confusion
from tlkit.model.layers import Layer, LayerTable
from tlkit.parts.backbones.applications import FAMILIES
from tlkit.parts.class_weights import Balanced
from tlkit.parts.datasets import load_splits
from tlkit.parts.kinds import registries
from tlkit.parts.optimizers import LBFGS
from tlkit.reports.console import references_text
from tlkit.train.plan import make_plan
from tlkit.train.sampling import epoch_order

pytestmark = pytest.mark.usefixtures("no_pages")

# Keys that cannot change anything, each with its reason.
EXCEPTIONS = {
    "experiment.schema": "there is one version so far",
    "experiment.plugins": "says where parts come from; tests/test_plugins.py changes its keys",
    "experiment.calibration": "changes answers only; see tests/test_calibration.py and test_tta.py",
    "experiment.track": "goes elsewhere and changes no result; see tests/test_trackers.py",
    "datasets.shapes.stand_in": "drawings are never missing",
    "datasets.manifest.follow_links": "matters for links, which tests/test_datasets.py has",
    "datasets.shapes.resize": "drawings are square",
    "datasets.digits.stand_in": "they come with scikit-learn",
    "datasets.digits.resize": "they are square",
    "augmentations.none.views": "nothing is drawn, so there is one view",
    "backbones.keras_cv_densenet.preprocess": "it was trained on pixels divided by 255 too",
    "backbones.keras_cv_resnet.preprocess": "it was trained on pixels divided by 255 too",
}

OTHER_PRESET: dict[str, Any] = {
    "class_name": "VGGBackbone",
    "config": {"stackwise_num_repeats": [2], "stackwise_num_filters": [4]},
}
# For each key another value than the default or the one in NEEDED. A star stands for any part.
CHANGED: dict[str, Any] = {
    "datasets.*.classes": ["square", "circle", "triangle"],
    "datasets.*.stand_in": "shapes",
    "datasets.*.resize": "crop",
    "datasets.*.mask_center": 0.5,
    "datasets.*.sampler": "balanced",
    "datasets.*.allow_double_balancing": True,
    "datasets.*.folds": 3,
    "datasets.*.fold": 2,
    "datasets.*.max_per_class": 1,
    "datasets.*.split_seed": 1,
    "datasets.*.on_bad_image": "skip",
    "datasets.*.allow_leakage": True,
    "datasets.manifest.root": "other",
    "datasets.folder.path": "other",
    "datasets.manifest.path": "other.csv",
    "datasets.folder.patient": "^([0-9]+)",
    "datasets.manifest.patient": "^([0-9]+)",
    "datasets.folder.val": 0.4,
    "datasets.folder.test": 0.4,
    "datasets.manifest.val": 0.4,
    "datasets.manifest.test": 0.4,
    "datasets.digits.classes": ["1", "0"],
    "datasets.digits.count": 120,
    "datasets.digits.image_px": 32,
    "datasets.shapes.train": 9,
    "datasets.shapes.val": 9,
    "datasets.shapes.test": 9,
    "datasets.shapes.image_px": 64,
    "datasets.shapes.draw_seed": 1,
    "backbones.*.weights": "bsds500",
    "backbones.keras_cv_densenet.compression": 0.4,
    "backbones.keras_cv_densenet.growth": 8,
    "backbones.keras_cv_densenet.repeats": [1, 2],
    "backbones.keras_cv_resnet.block_type": "block",
    "backbones.keras_cv_resnet.blocks": [1, 1, 1, 2],
    "backbones.keras_cv_densenet.weights": "keras_cv_densenet.weights.h5",
    "backbones.keras_cv_resnet.weights": "keras_cv_resnet.weights.h5",
    "backbones.vgg19.weights": "vgg19.weights.h5",
    "backbones.mobilenet_v2.weights": "mobilenet_v2.weights.h5",
    "backbones.efficientnet_lite0.weights": "efficientnet_lite0.weights.h5",
    "backbones.joined.members": [
        {"name": "vgg19", "weights": "none"},
        {"name": "vgg16", "weights": "none"},
    ],
    "augmentations.compose.operations": [{"name": "xray_safe"}],
    "backbones.keras_hub.preset": "other_preset",
    "backbones.keras_hub.recorded": json.dumps({"config.json": json.dumps(OTHER_PRESET)}),
    "backbones.keras_hub.weights": "keras_hub.weights.h5",
    "backbones.keras_hub.preprocess": "native",
    "backbones.*.preprocess": "unit",
    "backbones.*.image_size": 64,
    "heads.*.units": [3],
    "heads.*.pooling": "max",
    "heads.*.standardize": True,
    "heads.probe.standardize": False,
    "heads.probe.depths": 1,
    "heads.probe.layer_names": ["first"],
    "heads.kernel.standardize": False,
    "heads.kernel.depths": 1,
    "heads.kernel.layer_names": ["first"],
    "heads.kernel.landmarks": 3,
    "heads.kernel.bandwidth": 2,
    "heads.pooled.dropout": 0.5,
    "heads.pooled.batch_norm": True,
    "heads.cosine.scale": 20,
    "heads.cosine.learn_scale": False,
    "freezes.*.batch_norm": "train",
    "freezes.layer_range.train": "2-3",
    "freezes.layer_names.train": ["block1"],
    "freezes.head_then.head_epochs": 2,
    "freezes.head_then.train": ["block2"],
    "freezes.head_then.rate": 0.5,
    "freezes.gradual.every": 2,
    "freezes.gradual.blocks": 1,
    "freezes.layer_decay.factor": 0.9,
    "freezes.layer_decay.per": "layer",
    "freezes.layer_decay.steps": 1,
    "class_weights.fixed.weights": {"a": 1, "b": 3},
    "class_weights.power.alpha": 0.25,
    "class_weights.effective_number.beta": 0.9,
    "augmentations.*.views": 2,
    "augmentations.*.rotation_deg": 20,
    "augmentations.*.shift_frac": 0.2,
    "losses.cross_entropy.label_smoothing": 0.1,
    "losses.focal.gamma": 1,
    "losses.logit_adjusted.tau": 0.5,
    "augmentations.*.strength": 0.5,
    "augmentations.*.flip": False,
    "augmentations.*.zoom_frac": 0.2,
    "augmentations.*.crop_frac": 0.1,
    "augmentations.*.brightness_frac": 0.4,
    "augmentations.*.contrast_frac": 0.4,
    "augmentations.*.saturation_frac": 0.4,
    "augmentations.*.operations": 1,
    "augmentations.randaugment.rate": 0.1,
    "augmentations.randaugment.geometric": False,
    "augmentations.augmix.chains": 1,
    "augmentations.gridmask.ratio_frac": 0.4,
    "augmentations.gridmask.fill_value": 100,
    "optimizers.*.learning_rate": 0.5,
    "optimizers.*.clip_norm": 0.01,
    "optimizers.*.beta_1": 0.5,
    "optimizers.*.beta_2": 0.5,
    "optimizers.*.epsilon": 0.5,
    "optimizers.*.momentum": 0.5,
    "optimizers.adamw.weight_decay": 0.5,
    "optimizers.rmsprop.rho": 0.5,
    "optimizers.rmsprop.centered": True,
    "optimizers.sgd.nesterov": True,
    "optimizers.lbfgs.refit": True,
    "optimizers.lbfgs.strongest": 2,
    "optimizers.lbfgs.weakest": 0.1,
    "schedules.plateau.monitor": "val_loss",
    "schedules.plateau.factor": 0.5,
    "schedules.plateau.patience": 1,
    "schedules.plateau.min_delta": 0.5,
    "schedules.plateau.cooldown": 3,
    "schedules.plateau.min_rate": 0.9,
    "schedules.*.warmup_epochs": 1.5,
    "schedules.cosine.warmup_epochs": 3,
    "schedules.cosine.per_step": True,
    "schedules.one_cycle.warmup_frac": 0.5,
    "schedules.one_cycle.start_div": 2,
    "schedules.one_cycle.end_div": 2,
    "schedules.cosine.min_rate": 0.5,
}
# Keys a part cannot do without, or needs for its other keys to matter.
NEEDED: dict[str, dict[str, Any]] = {
    "datasets.folder": {"path": "images"},
    "datasets.manifest": {"path": "images.csv"},
    "datasets.shapes": {"train": 6, "val": 3, "test": 3, "image_px": 32},
    "datasets.digits": {"count": 100},
    "backbones.vgg16": {"weights": "none", "image_size": 32},
    "backbones.keras_cv_densenet": {"weights": "none", "image_size": 32, "repeats": [1, 1]},
    "backbones.keras_cv_resnet": {"weights": "none", "image_size": 32, "blocks": [1, 1, 1, 1]},
    "backbones.keras_hub": {
        "preset": "preset",
        "weights": "none",
        "image_size": 32,
        "preprocess": "unit",
    },
    "backbones.keras_cv_vgg16": {"weights": "none", "image_size": 32},
    "backbones.vgg19": {"weights": "none", "image_size": 32},
    "backbones.mobilenet_v2": {"weights": "none", "image_size": 32},
    "backbones.efficientnet_lite0": {"weights": "none", "image_size": 32},
    "backbones.joined": {
        "members": [{"name": "vgg16", "weights": "none"}, {"name": "vgg19", "weights": "none"}],
        "image_size": 32,
    },
    "augmentations.compose": {"operations": [{"name": "affine"}]},
    "freezes.layer_range": {"train": "1-2"},
    "freezes.layer_names": {"train": ["head"]},
    "freezes.head_then": {"train": ["block1"]},
    "class_weights.fixed": {"weights": {"a": 1, "b": 2}},
    "schedules.plateau": {"patience": 2},
}


# The models of `keras.applications` are one class, and so are EfficientNet-Lites; one of each
# stands for all of them.
ONE_CLASS = {"efficientnet_lite1", "efficientnet_lite2"} | {
    model.name for family in FAMILIES for model in family.models if model.name != "mobilenet_v2"
}
HUB = importlib.util.find_spec("keras_hub") is not None
CV = importlib.util.find_spec("keras_cv") is not None
# Parts of packages that are not installed.
ABSENT = {
    name
    for name in registries.backbones.names()
    if (name == "keras_hub" and not HUB) or (name.startswith("keras_cv") and not CV)
}


def all_keys() -> Iterator[str]:
    for kind, registry in registries.items():
        for name in sorted(set(registry.names()) - ONE_CLASS - ABSENT):
            for key in keys(registry.get(name)):
                if f"{kind}.{name}.{key.name}" not in EXCEPTIONS:
                    yield f"{kind}.{name}.{key.name}"


def changed_value(key: str) -> Any:
    kind, _, field = key.split(".")
    found = CHANGED.get(key, CHANGED.get(f"{kind}.*.{field}"))
    assert found is not None, f"add a changed value for the new key {key} to CHANGED"
    return found


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, write_preset: Callable[..., Path]) -> Path:
    """Two folders and manifests of wide pictures, so that `resize` matters; weights files."""
    top = tmp_path_factory.mktemp("images")
    if HUB:
        write_preset(top / "preset")
        write_preset(top / "other_preset", **OTHER_PRESET["config"])
    for name in [
        key.split(".")[1]
        for key in CHANGED
        if key.startswith("backbones.") and key.endswith(".weights") and "*" not in key
    ]:
        if name in ABSENT:
            continue
        settings = NEEDED[f"backbones.{name}"]
        backbone = structure(registries.backbones.get(name), settings, base=top)
        backbone.build().save_weights(top / f"{name}.weights.h5")
    random = np.random.default_rng(0)
    classes = ("triangle", "circle", "square")
    for folder in ("images", "other"):
        rows = ["path,label,split"]
        for split in ("train", "train", "train", "val"):  # with folds, three of a class are needed
            for label in classes:
                path = top / folder / split / label / f"{len(rows)}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 255, (20, 40), np.uint8)).save(path)
                rows.append(f"{path.relative_to(top)},{label},{split}")
        (top / f"{folder}.csv").write_text("\n".join(rows))
        (top / f"{folder}_unsplit.csv").write_text("\n".join(r.rpartition(",")[0] for r in rows))
    shutil.copytree(top / "images", top / "other" / "images")
    return top


def seen_datasets(part: Any) -> Any:
    splits = load_splits(part)
    content = splits.read(splits.train[0].path)
    pixels = to_pixels(content, 16, part.resize, part.mask_center).tobytes()
    labels = np.array(splits.labels(splits.train), np.int32)
    order = epoch_order(labels, part.sampler, 0, 1).tolist()
    return (
        splits,
        Image.open(io.BytesIO(content)).size,
        pixels,
        order,
        planned_weights(part, splits),
        checked(part),
    )


def checked(part: Any) -> Any:
    """Return what becomes of a broken image and of a picture in two splits."""
    files = {name: io.BytesIO() for name in "abcd"}
    for number, file in enumerate(files.values()):
        Image.new("L", (4, 4), number).save(file, "PNG")
    content = {name: file.getvalue() for name, file in files.items()}
    examples = [tlkit.Example(name, "xy"[number % 2]) for number, name in enumerate("abcde")]
    found = []
    for change in ({"e": b"text"}, {"e": content["a"]}):
        read = (content | change).__getitem__
        train, val = tuple(examples[:2]), tuple(examples[2:])
        splits = tlkit.Splits(classes=("x", "y"), train=train, val=val, read=read)
        try:
            found.append(
                check_images(
                    splits, skip_bad=part.on_bad_image == "skip", allow_leakage=part.allow_leakage
                ).splits.facts()
            )
        except tlkit.DataError as error:
            found.append({"refused": str(error)})
    return found


def planned_weights(part: Any, splits: Any) -> Any:
    """Return the balanced weights of a plan, if it may have them."""
    if part.sampler == "balanced" and not part.allow_double_balancing:
        with pytest.raises(tlkit.ConfigError, match=r"data\.sampler: 'balanced' and"):
            make_plan(Experiment(data=part, class_weights=Balanced()), splits)
        return "refused"
    return make_plan(Experiment(data=part, class_weights=Balanced()), splits).class_weights


def seen_backbones(part: Any) -> Any:
    with_weights = tlkit.build_model(part, "pooled", classes=2)
    pixels = np.full((1, 4, 4, 3), 100, np.float32)
    weights = [np.asarray(weight).tobytes() for weight in with_weights.weights]
    return part.layers(), weights, np.asarray(part.preprocess_images(pixels)).tobytes()


def seen_heads(part: Any) -> Any:
    import keras

    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.Cropping2D(1, name="first")(inputs)
    backbone = keras.Model(inputs, keras.layers.Cropping2D(1, name="second")(outputs))
    table = tlkit.layer_table(backbone)
    model = keras.Model(inputs, part.connect(backbone, table, 3))
    return part.layers_on(table, 3), [layer.get_config() for layer in model.layers[1:]]


def seen_freezes(part: Any) -> Any:
    names = [("a", "block1"), ("b", "block1"), ("c", "block2"), ("d", "head"), ("e", "head")]
    layers = [Layer(n, "Conv2D", b, (1,), params=1, batch_norm=n in "be") for n, b in names]
    return part.planned(LayerTable(tuple(layers)), 4)


def seen_augmentations(part: Any) -> Any:
    pixels = np.random.default_rng(0).uniform(0, 255, (8, 16, 16, 3)).astype(np.float32)
    keys = np.array([[1, number] for number in range(8)], np.int32)
    return np.asarray(part.augment(pixels, keys)).tobytes(), [part.view(e) for e in range(1, 5)]


def seen_losses(part: Any) -> Any:
    probabilities = np.array([[0.2, 0.8], [0.7, 0.3]], np.float32)
    return np.asarray(part.build({"a": 1, "b": 2})(np.array([0, 1]), probabilities)).tolist()


def seen_schedules(part: Any) -> Any:
    falling = [5, 4.9, 4.8, 4.7, 4.7, 4.7, 4.7, 4.0, 4.0, 4.0, 4.0, 4.0]
    history = [
        {"loss": loss, "loss_unweighted": 9 - loss, "val_loss": 1 / loss} for loss in falling
    ]
    steps = [part.step_rate(1.0, 12, done / 4 + 0.125) for done in range(48)]
    return [part.learning_rate(1.0, 12, history[:done]) for done in range(len(history) + 1)], steps


def seen_optimizers(part: Any) -> Any:
    """Return its settings, and what a few steps of the engine with it lead to."""
    if isinstance(part, LBFGS):
        return part.strengths(3), part.refit
    import keras

    from tlkit.train.step import TrainStep

    layers = [keras.layers.Input((1,)), keras.layers.Dense(2, "softmax", kernel_initializer="ones")]
    model: Any = keras.Sequential(layers)
    step = TrainStep(model, part.build([1.0, 1.0]), False, clip_norm=part.clip_norm)
    for x in (1, 3, 0.5):
        pixels = np.full((1, 1), x, np.float32)
        step.train(pixels, np.zeros(1, np.int32), np.ones(1, np.float32))
    config = part.build([1.0]).get_config() | {"name": ""}  # Keras numbers them
    return config, model.layers[0].kernel.numpy().tobytes()


SEEN: dict[str, Callable[[Any], Any]] = {
    "datasets": seen_datasets,
    "backbones": seen_backbones,
    "heads": seen_heads,
    "freezes": seen_freezes,
    "class_weights": lambda part: part.for_counts({"a": 1, "b": 2}),
    "augmentations": seen_augmentations,
    "losses": seen_losses,
    "optimizers": seen_optimizers,
    "schedules": seen_schedules,
}


SECONDS_TO_TRACE = (
    "augmentations.randaugment.",
    "augmentations.augmix.chains",
    "augmentations.augmix.operations",
    "augmentations.augmix.strength",
    "augmentations.augmix.views",
)


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(key, marks=[pytest.mark.slow] if key.startswith(SECONDS_TO_TRACE) else [])
        for key in all_keys()
    ],
)
def test_every_key_changes_what_its_part_does(key: str, images: Path) -> None:
    kind, name, field = key.split(".")
    settings = NEEDED.get(f"{kind}.{name}", {})
    changed = settings | {field: changed_value(key)}
    if field == "stand_in":  # matters only where the data are missing
        settings, changed = settings | {"path": "absent"}, changed | {"path": "absent"}
    if key == "heads.pooled.batch_norm":
        settings, changed = settings | {"units": [3]}, changed | {"units": [3]}
    if field == "allow_double_balancing":
        settings, changed = settings | {"sampler": "balanced"}, changed | {"sampler": "balanced"}
    if field in {"folds", "fold", "split_seed"}:
        more = {"train": 12} if name == "shapes" else {}
        settings = settings | more | {"folds": 2, "fold": 1}
        changed = settings | {field: changed_value(key)}
    if key in {"datasets.folder.val", "datasets.manifest.val"}:  # where there is none
        unsplit = {"path": "images/train" if name == "folder" else "images_unsplit.csv"}
        settings, changed = settings | unsplit, changed | unsplit
    if key == "optimizers.sgd.nesterov":
        settings, changed = settings | {"momentum": 0.5}, changed | {"momentum": 0.5}
    part = dict(registries.items())[kind].get(name)
    one, other = (structure(part, table, base=images) for table in (settings, changed))
    assert outcome(SEEN[kind], one) != outcome(SEEN[kind], other)


def outcome(seen: Callable[[Any], Any], part: Any) -> Any:
    """Return what a part does; a dataset that is not there does nothing but say so."""
    absent = getattr(part, "absent", lambda: None)()
    if absent is not None and part.stand_in is None:
        with pytest.raises(tlkit.DataError, match="not there"):
            part.load()
        return "absent"
    return seen(part)


def experiment(**changed: Any) -> Experiment:
    table = {
        "data": {"name": "shapes"} | NEEDED["datasets.shapes"],
        "backbone": NEEDED["backbones.vgg16"],
        "head": {"name": "pooled"},
    }
    return structure(Experiment, table | changed)


# The keys of `fit`: those that change what is planned, and those that change what a run ends with.
PLANNED: dict[str, Any] = {"epochs": 3, "batch_size": 4, "xla": True, "cache": False, "devices": 2}
ENDED_WITH: dict[str, Any] = {
    "keep": "best",
    "monitor": "val_accuracy",
    "refit": True,
    "early_stop_patience": 1,
    "ema": 0.5,
    "winograd": True,  # it rounds otherwise
    "frozen_dtype": "bfloat16",
    "feature_dtype": "float16",
    "mixed_precision": "bfloat16",
}


# Those that change what is on the disk meanwhile and afterwards.
ON_DISK: dict[str, Any] = {"keep_checkpoints": True, "checkpoint_every_s": 0}
ELSEWHERE = ["head_weights"]  # needs a finished run: tests/test_earlier_run.py


def test_the_keys_of_fit_are_all_there_are() -> None:
    tested = sorted([*PLANNED, *ENDED_WITH, *ON_DISK, *ELSEWHERE])
    assert tested == sorted(field.name for field in fields(Fit))


@pytest.mark.parametrize("key", PLANNED)
def test_some_keys_of_fit_change_the_plan(key: str) -> None:
    tables = {"freeze": {"name": "all_layers"}} if key == "devices" else {}
    plans = [
        make_plan(chosen, load_splits(chosen.data)).as_json()
        for chosen in (experiment(**tables), experiment(fit={key: PLANNED[key]}, **tables))
    ]
    assert plans[0] != plans[1]


def ended_with(folder: Path, **fit: Any) -> tuple[bytes, int]:
    """Return the weights and the best epoch of a run whose validation loss falls and then rises."""
    settings = {"epochs": 4, "batch_size": 2, "xla": False} | fit
    steep = {"name": "sgd", "learning_rate": 1.0}
    done = tlkit.run(experiment(fit=settings, optimizer=steep), folder)
    return (folder / "weights.safetensors").read_bytes(), done.best.epoch


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, int]:
    return ended_with(tmp_path_factory.mktemp("unchanged") / "run")


@pytest.mark.parametrize("key", ENDED_WITH)
def test_the_other_keys_of_fit_change_what_a_run_ends_with(
    key: str, unchanged: tuple[bytes, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.train.plan.has_bfloat16", lambda: True)
    weights, best = ended_with(tmp_path / "run", **{key: ENDED_WITH[key]})
    if key == "monitor":
        assert best != unchanged[1]
    else:
        assert weights != unchanged[0]


def test_the_keys_of_checkpoints_change_which_ones_there_are(tmp_path: Path) -> None:
    found: list[list[str]] = []
    settings: list[dict[str, Any]] = [{}, {"keep_checkpoints": True}, ON_DISK]
    for changed in settings:
        folder = tmp_path / str(len(found))
        ended_with(folder, **changed)
        found.append(sorted(path.name for path in folder.glob("checkpoints/*")))
    assert found == [[], ["epoch-0004"], ["epoch-0003", "epoch-0004"]]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("source", "another paper"),
        ("confusion", [[1, 0], [1, 1]]),
        ("accuracy", 0.5),
        ("precision", {"a": 0.5}),
        ("recall", {"b": 0.5}),
        ("same_test", False),
    ],
)
def test_every_key_of_a_reference_changes_what_is_printed(key: str, value: Any) -> None:
    def printed(**changed: Any) -> str:
        table = {"source": "paper", "confusion": [[3, 1], [0, 2]]} | changed
        reference = structure(PublishedResult, table)
        ours = figures(score_confusion([[1, 1], [1, 1]], "ab"))
        return references_text(ours, cited_figures([reference], "ab"))

    assert printed() != printed(**{key: value})
    assert len([field for field in fields(PublishedResult) if is_key(field)]) == 6


# One changed table for each field of the experiment: training must end elsewhere.
TABLES: dict[str, Any] = {
    "seed": 1,
    "data": {"name": "shapes", "draw_seed": 1} | NEEDED["datasets.shapes"],
    "backbone": NEEDED["backbones.vgg16"] | {"preprocess": "unit"},
    "head": {"name": "pooled", "dropout": 0.5},
    "freeze": {"name": "layer_range", "train": "17-"},
    "class_weights": {
        "name": "fixed",
        "weights": {"circle": 1, "square": 1, "triangle": 12},
    },
    "augmentation": {"name": "affine"},
    "loss": {"name": "focal"},
    "optimizer": {"name": "adam", "learning_rate": 2e-5},
    "schedule": {"name": "plateau", "patience": 1, "min_delta": 1e3},
    "fit": {"epochs": 3, "batch_size": 4, "xla": False},
    "phase": [{"epochs": 1}, {"epochs": 1}],  # tests/test_phase.py changes its keys
}


def test_the_changed_tables_are_all_there_are() -> None:
    names = {field.name for field in fields(Experiment) if is_key(field)}
    exceptions = {key.removeprefix("experiment.") for key in EXCEPTIONS}
    assert names - exceptions == {*TABLES, "reference", "card"}  # tests/test_card.py has the card's


def trained(folder: Path, **changed: Any) -> bytes:
    fit = {"batch_size": 2, "xla": False} | ({} if "phase" in changed else {"epochs": 3})
    tlkit.run(experiment(**({"fit": fit} | changed)), folder)
    return (folder / "weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    "table",
    [
        name if name in {"optimizer", "schedule"} else pytest.param(name, marks=pytest.mark.slow)
        for name in TABLES
    ],
)
def test_every_table_changes_what_training_ends_with(table: str, tmp_path: Path) -> None:
    one = trained(tmp_path / "one")
    other = trained(tmp_path / "other", **{table: TABLES[table]})
    assert one != other
