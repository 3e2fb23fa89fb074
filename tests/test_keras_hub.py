"""KerasHub's presets: the same network, pixels and weights as KerasHub's own, and no download."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import h5py
import keras
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import tlkit
from tlkit.cli import app
from tlkit.config.structure import structure, unstructure
from tlkit.model.graph import copy_onto
from tlkit.parts.backbones.keras_hub import NETWORKS, KerasHub, find_preset
from tlkit.parts.backbones.keras_hub_blocks import STEPS
from tlkit.parts.backbones.keras_hub_presets import PRESETS
from tlkit.parts.kinds import registries
from tlkit.train.assemble import seeded

WritePreset = Callable[..., Path]
needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("keras_hub") is None, reason="needs keras-hub: tlkit[hub]"
)

# The smallest network of each class.
PLAIN: Mapping[str, Mapping[str, Any]] = {
    "CSPNetBackbone": {
        "stem_filters": 8,
        "stem_kernel_size": 3,
        "stem_strides": 1,
        "stackwise_depth": [1, 2],
        "stackwise_strides": [2, 2],
        "stackwise_num_filters": [8, 16],
        "bottle_ratio": [0.5, 1.0],
        "block_ratio": [1.0, 0.5],
        "expand_ratio": [2.0, 1.0],
        "down_growth": True,
        "block_type": "dark_block",
        "stage_type": "csp",
    },
    "DenseNetBackbone": {
        "stackwise_num_repeats": [1, 2],
        "compression_ratio": 0.5,
        "growth_rate": 4,
    },
    "EfficientNetBackbone": {
        "stackwise_width_coefficients": [1.0, 1.0],
        "stackwise_depth_coefficients": [1.0, 1.0],
        "stackwise_kernel_sizes": [3, 3],
        "stackwise_num_repeats": [1, 1],
        "stackwise_input_filters": [8, 8],
        "stackwise_output_filters": [8, 8],
        "stackwise_expansion_ratios": [1, 2],
        "stackwise_squeeze_and_excite_ratios": [0.25, 0.25],
        "stackwise_strides": [1, 2],
        "stackwise_block_types": ["v1", "v1"],
    },
    "ResNetBackbone": {
        "input_conv_filters": [8],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 8],
        "stackwise_num_blocks": [1, 1],
        "stackwise_num_strides": [1, 2],
        "block_type": "bottleneck_block",
        "use_pre_activation": True,
    },
    "VGGBackbone": {"stackwise_num_repeats": [1, 2], "stackwise_num_filters": [4, 8]},
    "XceptionBackbone": {
        "stackwise_conv_filters": [[4, 4], [8, 8], [8]],
        "stackwise_pooling": [False, True, False],
    },
}
TRANSFORMER = {
    "patch_size": 8, "num_layers": 3, "hidden_dim": 8, "num_heads": 2, "image_shape": [32, 32, 3],
}  # fmt: skip
TRANSFORMERS: Mapping[str, Mapping[str, Any]] = {
    "ViTBackbone": {**TRANSFORMER, "mlp_dim": 16},
    "DINOV2Backbone": {
        **TRANSFORMER, "intermediate_dim": 16, "position_embedding_shape": [64, 64, 3],
    },
    "DINOV3Backbone": {**TRANSFORMER, "intermediate_dim": 16},
    "SigLIPVisionEncoder": {**TRANSFORMER, "intermediate_dim": 16},
    "SwinTransformerBackbone": {
        "patch_size": 4, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2], "window_size": 4,
        "image_shape": [32, 32, 3],
    },
}  # fmt: skip
SMALL = {**PLAIN, **TRANSFORMERS}
SLOW = "SwinTransformerBackbone"  # seconds to build


def of_each(kinds: Iterable[str]) -> pytest.MarkDecorator:
    rows = [pytest.param(kind, marks=[pytest.mark.slow] * (kind == SLOW)) for kind in kinds]
    return pytest.mark.parametrize("kind", rows)


every_network, every_transformer = of_each(NETWORKS), of_each(TRANSFORMERS)


def pixels(side: int = 32) -> Any:
    return np.random.default_rng(0).uniform(0, 255, (2, side, side, 3)).astype(np.float32)


def with_json(folder: Path, name: str, kind: str, config: Mapping[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"class_name": kind, "config": config}))
    return folder


@pytest.fixture
def stated(tmp_path: Path) -> Path:
    """A preset's folder as far as its tables go, made without KerasHub."""
    with_json(tmp_path / "stated", "config.json", "VGGBackbone", SMALL["VGGBackbone"])
    return with_json(
        tmp_path / "stated", "image_converter.json", "VGGImageConverter", {"scale": 0.5}
    )


@pytest.mark.parametrize(
    ("stated_size", "expected"),
    [
        ({"image_size": [64, 64]}, 64),
        ({"image_size": 96}, 96),
        ({"image_size": [64, 48]}, 224),  # not a square
        ({"image_size": None}, 224),
        ({"image_size": []}, 224),
        ({"image_size": [True, True]}, 224),
        ({}, 224),
    ],
)
def test_the_usual_size_is_the_presets_own(stated_size: Any, expected: int, stated: Path) -> None:
    with_json(stated, "image_converter.json", "VGGImageConverter", {"scale": 0.5, **stated_size})
    assert KerasHub(preset=stated).image_size == expected
    assert KerasHub(preset=stated, image_size=32).image_size == 32
    (stated / "image_converter.json").write_text("{")
    assert KerasHub(preset=stated).image_size == 224
    (stated / "image_converter.json").unlink()
    assert KerasHub(preset=stated).image_size == 224


@needs_hub
@every_network
def test_it_is_kerashubs_own_network_with_its_weights_to_the_byte(
    kind: str, tmp_path: Path, write_preset: WritePreset
) -> None:
    import keras_hub

    folder = write_preset(tmp_path / "preset", kind, **SMALL[kind])
    part = KerasHub(preset=folder, image_size=32)
    with seeded(1):
        model = part.build()
    x = pixels() / 255
    before = model(x, training=False).numpy()
    record = part.load_weights(model)
    assert (record["source"], record["file"]) == ("preset", "model.weights.h5")
    found = model(x, training=False).numpy()
    theirs = keras_hub.models.Backbone.from_preset(str(folder))
    if isinstance(theirs.input, dict):
        x = dict.fromkeys(theirs.input, x)
    np.testing.assert_array_equal(found, theirs(x, training=False).numpy())
    assert not np.array_equal(found, before)


@needs_hub
@every_network
def test_two_builds_are_one_table_of_plain_layers_in_blocks(
    kind: str, tmp_path: Path, write_preset: WritePreset
) -> None:
    folder = write_preset(tmp_path / "preset", kind, **SMALL[kind])
    part = KerasHub(preset=folder, image_size=32)
    tables = [tlkit.layer_table(part.build()).grouped(NETWORKS[kind].block) for _ in range(2)]
    assert tables[0] == tables[1] == part.layers()
    assert 2 <= len(tables[0].blocks) < 10
    assert all(NETWORKS[kind].block and layer.block for _, layer in tables[0])
    assert any(layer.is_cut_point for _, layer in tables[0])
    composite = [layer for layer in part.build().layers if len(layer._flatten_layers()) > 1]
    assert bool(composite) == (kind in STEPS)


@needs_hub
@every_transformer
def test_a_transformer_can_be_cut_after_every_block(
    kind: str, tmp_path: Path, write_preset: WritePreset
) -> None:
    folder = write_preset(tmp_path / "preset", kind, **SMALL[kind])
    table = KerasHub(preset=folder, image_size=32).layers()
    assert all(layer.is_cut_point for _, layer in table)
    blocks = [block for block in table.blocks if block != "embedding"]
    for name in ("flatten_dense", "pooled", "linear", "cosine", "probe"):
        head = registries.heads.get(name)()
        own = {layer.name for _, layer in head.layers((17, 8), 3)}
        assert own.isdisjoint({layer.name for _, layer in table}), name
    assert len(blocks) == 3
    if kind != "SwinTransformerBackbone":
        assert blocks == ["block_1", "block_2", "block_3"]
        first = min(table.named("block_3"))
        assert table.select("blocks:3-") == {*range(first, len(table) + 1)}


@needs_hub
@every_transformer
def test_a_weights_file_of_the_flat_transformer_is_read_too(
    kind: str, tmp_path: Path, write_preset: WritePreset
) -> None:
    folder = write_preset(tmp_path / "preset", kind, **SMALL[kind])
    part = KerasHub(preset=folder, image_size=32)
    one, other = part.build(), part.build()
    part.load_weights(one)
    one.save_weights(tmp_path / "flat.weights.h5")
    flat = attrs.evolve(part, weights=tmp_path / "flat.weights.h5")
    assert flat.load_weights(other)["source"] == "path"
    for mine, theirs in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


@needs_hub
@every_transformer
def test_the_shapes_in_the_table_are_those_of_the_features(
    kind: str, tmp_path: Path, write_preset: WritePreset
) -> None:
    """The feature cache lays out its files by them, also within `joined`."""
    folder = write_preset(tmp_path / "preset", kind, **SMALL[kind])
    part = KerasHub(preset=folder, image_size=32)
    model = part.build()
    image = keras.Input((32, 32, 3))
    copy = keras.Model(image, copy_onto(model, image, "a_"))
    for network, prefix in ((model, ""), (copy, "a_")):
        outputs = [network.get_layer(prefix + layer.name).output for _, layer in part.layers()]
        features = keras.Model(network.input, outputs)(pixels())
        assert [(2, *layer.output_shape) for _, layer in part.layers()] == [
            tuple(feature.shape) for feature in features
        ]
        assert [output.shape[1:] for output in outputs] == [x.shape[1:] for x in features]


@needs_hub
def test_siglips_image_encoder_is_taken_out_of_the_whole(tmp_path: Path) -> None:
    import keras_hub

    settings = {**SMALL["SigLIPVisionEncoder"], "image_shape": (32, 32, 3)}
    text = keras_hub.models.SigLIPTextEncoder(
        vocabulary_size=9, embedding_dim=8, hidden_dim=8, num_layers=1, num_heads=2,
        intermediate_dim=16, max_sequence_length=4,
    )  # fmt: skip
    image = keras_hub.models.SigLIPVisionEncoder(**settings)
    whole = keras_hub.models.SigLIPBackbone(vision_encoder=image, text_encoder=text)
    whole.save_to_preset(str(tmp_path / "preset"))
    part = KerasHub(preset=tmp_path / "preset", image_size=32, preprocess="unit")
    model = part.build()
    part.load_weights(model)
    x = pixels() / 255
    expected = image({"images": x}, training=False).numpy()
    np.testing.assert_array_equal(model(x, training=False).numpy(), expected)


@needs_hub
@pytest.mark.slow
def test_a_run_trains_the_last_blocks_of_a_transformer(
    tmp_path: Path, write_preset: WritePreset, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SMALL["ViTBackbone"], "num_layers": 11}
    folder = write_preset(tmp_path / "preset", "ViTBackbone", **settings)
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    table: dict[str, Any] = {
        "data": {"name": "shapes", "train": 6, "val": 3, "test": 3, "image_px": 32},
        "backbone": {"name": "keras_hub", "preset": str(folder), "image_size": 32},
        "head": {"name": "probe", "depths": 1},
        "freeze": {"name": "layer_range", "train": "blocks:10-"},
        "fit": {"epochs": 2, "batch_size": 3, "xla": False},
    }
    tlkit.run(structure(tlkit.Experiment, table), tmp_path / "run")
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["layers"][plan["stages"][0]["cut"] - 1]["name"] == "block_9"
    kept = [np.load(path, mmap_mode="r").shape for path in tmp_path.glob("cache/**/*.npy")]
    assert sorted(kept) == [(3, 17, 8), (3, 17, 8), (6, 17, 8)]  # of one split each
    first = tlkit.load(tmp_path / "run")
    table["fit"]["cache"] = False
    tlkit.run(structure(tlkit.Experiment, table), tmp_path / "again")
    again = tlkit.load(tmp_path / "again").model.weights
    for mine, theirs in zip(first.model.weights, again, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    first.predict_proba([image(tmp_path)])


@needs_hub
def test_dinov2_fits_its_positions_to_the_image_size(
    tmp_path: Path, write_preset: WritePreset
) -> None:
    import keras_hub

    folder = write_preset(tmp_path / "preset", "DINOV2Backbone", **SMALL["DINOV2Backbone"])
    part = KerasHub(preset=folder, image_size=48)
    model = part.build()
    part.load_weights(model)
    theirs = keras_hub.models.Backbone.from_preset(str(folder), image_shape=(48, 48, 3))
    x = pixels(48) / 255
    expected = theirs({"images": x}, training=False).numpy()
    np.testing.assert_array_equal(model(x, training=False).numpy(), expected)


def test_dinos_dropped_paths_are_refused(stated: Path) -> None:
    with_json(stated, "config.json", "DINOV2Backbone", {"drop_path_rate": 0.1})
    with pytest.raises(tlkit.PartError, match=r"drop_path_rate must be 0, got 0\.1: .*to 0 there$"):
        KerasHub(preset=stated).layers()


@needs_hub
def test_a_weights_file_without_layer_names_is_read_by_their_places(
    tmp_path: Path, write_preset: WritePreset
) -> None:
    """Keras noted the names beside the arrays only later."""
    folder = write_preset(tmp_path / "preset", "ResNetBackbone", **SMALL["ResNetBackbone"])
    part = KerasHub(preset=folder, image_size=32)
    named, placed = part.build(), part.build()
    part.load_weights(named)
    with h5py.File(folder / "model.weights.h5", "a") as file:
        file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
    assert part.load_weights(placed)["source"] == "preset"
    for one, other in zip(named.weights, placed.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@needs_hub
@pytest.mark.parametrize(
    "scaling",
    [
        {"scale": 1 / 255},
        {"scale": [0.1, 0.2, 0.3], "offset": [-1.0, 0.5, 2.0]},
        {"offset": -1.0},
        {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "variance": [0.05, 0.06, 0.07]},
    ],
    ids=["scale", "a channel each", "offset", "as first presets say it"],
)
def test_native_input_is_what_kerashubs_converter_gives(
    scaling: dict[str, Any], stated: Path
) -> None:
    import keras_hub

    with_json(stated, "image_converter.json", "VGGImageConverter", {**scaling, "height": 8})
    part = KerasHub(preset=stated, image_size=32)
    expected = keras_hub.layers.ImageConverter(**scaling)(pixels())
    np.testing.assert_array_equal(
        np.asarray(part.preprocess_images(pixels())), np.asarray(expected)
    )


@needs_hub
def test_the_presets_are_kerashubs_own_with_their_addresses() -> None:
    import keras_hub
    from keras_hub.src.utils.preset_utils import BUILTIN_PRESETS

    own = {name: f"kaggle://{address}" for name, address in PRESETS.items()}
    assert own == {name: BUILTIN_PRESETS[name]["kaggle_handle"] for name in PRESETS}
    for kind in NETWORKS.keys() - {"DINOV2Backbone", "DINOV3Backbone", "SigLIPVisionEncoder"}:
        classifier = getattr(keras_hub.models, kind.replace("Backbone", "ImageClassifier"))
        assert classifier.backbone_cls is getattr(keras_hub.models, kind)
        if kind != "EfficientNetBackbone":  # some of whose presets have composite layers
            assert classifier.backbone_cls.presets.keys() <= PRESETS.keys()


@needs_hub
def test_a_network_with_composite_layers_is_refused(stated: Path) -> None:
    fused = {**SMALL["EfficientNetBackbone"], "stackwise_block_types": ["fused", "unfused"]}
    with_json(stated, "config.json", "EfficientNetBackbone", fused)
    with pytest.raises(tlkit.PartError, match=r"block1a_ is a composite layer, .* another preset$"):
        KerasHub(preset=stated).build()


@needs_hub
def test_settings_that_make_no_network_are_refused(stated: Path) -> None:
    with_json(stated, "config.json", "VGGBackbone", {"depth": 3})
    with pytest.raises(tlkit.WeightsError, match=r"config\.json: makes no VGGBackbone: "):
        KerasHub(preset=stated).build()


@needs_hub
def test_a_run_trains_on_it_and_is_loaded_again(tmp_path: Path, write_preset: WritePreset) -> None:
    folder = write_preset(tmp_path / "preset", "ResNetBackbone", **SMALL["ResNetBackbone"])
    table = {
        "data": {"name": "shapes", "train": 6, "val": 3, "test": 3, "image_px": 32},
        "backbone": {"name": "keras_hub", "preset": str(folder), "image_size": 32},
        "head": {"name": "linear"},
        "freeze": {"name": "layer_names", "train": ["stack1", "head"]},
        "fit": {"epochs": 1, "batch_size": 3, "xla": False},
    }
    tlkit.run(structure(tlkit.Experiment, table), tmp_path / "run")
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["weights"]["source"] == "preset"
    with h5py.File(folder / "model.weights.h5") as file:
        first = file["layers/conv2d/vars/0"][()]
    expected = tlkit.load(tmp_path / "run").predict_proba([image(tmp_path)])
    shutil.rmtree(folder)  # what a run needs of its preset, it has recorded
    classifier = tlkit.load(tmp_path / "run")
    np.testing.assert_array_equal(classifier.predict_proba([image(tmp_path)]), expected)
    np.testing.assert_array_equal(classifier.model.get_layer("conv1_conv").kernel.numpy(), first)


@needs_hub
def test_packed_weights_hold_the_presets_files(tmp_path: Path, write_preset: WritePreset) -> None:
    folder = write_preset(tmp_path / "preset", "ViTBackbone", **SMALL["ViTBackbone"])
    command = ["weights", "pack", "keras_hub", "--out", str(tmp_path / "packed")]
    keys = [f'preset="{folder}"', "image_size=32"]
    done = CliRunner().invoke(app, [*command, *(word for key in keys for word in ("--set", key))])
    assert "keras_hub, preset, SHA-256" in done.stdout, done.exception
    before = KerasHub(preset=folder, image_size=32)
    shutil.rmtree(folder)
    table = {"name": "keras_hub", "preset": str(folder), "image_size": 32}
    part = tlkit.load_experiment(
        {"data": {"name": "shapes"}, "backbone": {**table, "weights": str(tmp_path / "packed")}}
    ).backbone
    assert part.layers() == before.layers()
    model = part.build()
    assert part.load_weights(model)["packed_from"].startswith("keras_hub preset ")
    np.testing.assert_array_equal(
        part.preprocess_native(pixels()), before.preprocess_native(pixels())
    )
    (tmp_path / "packed" / "weights.json").write_text("{")
    with pytest.raises(tlkit.WeightsError, match=r"weights\.json: is not as tlkit writes it"):
        KerasHub(preset=folder, weights=tmp_path / "packed").layers()


def image(folder: Path) -> Path:
    Image.fromarray(pixels()[0].astype(np.uint8)).save(folder / "image.png")
    return folder / "image.png"


def test_the_place_of_a_named_preset_is_where_kagglehub_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = pytest.importorskip("kagglehub.cache", reason="comes with keras-cv")
    handle = pytest.importorskip("kagglehub.handle")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    for name, address in PRESETS.items():
        place = Path(cache.get_cached_path(handle.parse_model_handle(address)))
        with_json_below(place, name)
        assert find_preset(name) == place


def with_json_below(folder: Path, kind: str) -> None:
    folder.mkdir(parents=True)
    with_json(folder, "config.json", kind, {})


def test_a_named_preset_that_is_not_there_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    file = tmp_path / "exp.toml"
    file.write_text(
        '[data]\nname = "shapes"\n[backbone]\nname = "keras_hub"\npreset = "resnet_50_imagenet"\n'
    )
    for command in (
        ["check", str(file)],
        ["layers", "keras_hub", "--set", 'preset="resnet_50_imagenet"'],
    ):
        done = CliRunner().invoke(app, command)
        assert isinstance(done.exception, tlkit.WeightsError)
        assert done.exception.exit_code == 5
        assert "kagglehub.model_download('keras/resnetv1/keras/resnet_50_imagenet/3')" in str(
            done.exception
        )
        assert str(tmp_path / "models" / PRESETS["resnet_50_imagenet"]) in str(done.exception)


def test_a_folder_that_is_none_says_so_and_what_was_perhaps_meant(tmp_path: Path) -> None:
    with pytest.raises(
        tlkit.WeightsError, match=r"no preset in .*; did you mean 'resnet_50_imagenet'\?$"
    ):
        KerasHub(preset=tmp_path / "resnet_50_imagnet").layers()


def test_the_name_of_a_preset_and_a_folder_of_that_name_are_told_apart(tmp_path: Path) -> None:
    read: Any = structure(KerasHub, {"preset": "resnet_50_imagenet"}, base=tmp_path)
    assert read.preset == "resnet_50_imagenet"
    folder = attrs.evolve(read, preset=tmp_path / "resnet_50_imagenet")
    table = unstructure(folder, base=tmp_path)
    assert table["preset"] == "./resnet_50_imagenet"
    assert structure(KerasHub, table, base=tmp_path) == folder


def test_without_kerashub_the_extra_is_named(stated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(tlkit.PartError, match=r"^keras_hub: .*pip install 'tlkit\[hub\]'$"):
        KerasHub(preset=stated).build()


@pytest.mark.parametrize("kind", ["MobileNetBackbone", "DeiTBackbone", "Functional", None])
def test_another_network_is_refused_with_those_that_fit(kind: Any, stated: Path) -> None:
    with_json(stated, "config.json", kind, {})
    with pytest.raises(tlkit.PartError, match=r"must be one of CSPNetBackbone, .*, got ") as caught:
        KerasHub(preset=stated).layers()
    assert str(caught.value).count(str(kind)) == 1


@pytest.mark.parametrize(
    ("kind", "config", "what"),
    [
        ("VGGImageConverter", {"scale": 1.0, "norm": "minmax"}, "norm"),
        ("ViTImageConverter", {"scale": 1.0}, "ViTImageConverter"),
        ("SegFormerImageConverter", {}, "SegFormerImageConverter"),
    ],
)
def test_a_converter_that_does_more_is_refused_when_the_plan_is_made(
    kind: str, config: dict[str, Any], what: str, stated: Path
) -> None:
    with_json(stated, "image_converter.json", kind, config)
    message = rf'does more than scale and shift: {what}; set preprocess = "unit"$'
    with pytest.raises(tlkit.PartError, match=message):
        KerasHub(preset=stated).layers()


def test_without_a_converter_native_is_an_error_and_unit_is_none(stated: Path) -> None:
    (stated / "image_converter.json").unlink()
    with pytest.raises(
        tlkit.WeightsError, match=r'converter\.json: is missing, .* preprocess = "unit"'
    ):
        KerasHub(preset=stated).layers()
    np.testing.assert_allclose(
        KerasHub(preset=stated, preprocess="unit").preprocess_images(pixels()), pixels() / 255
    )


@pytest.mark.parametrize(
    "value", [[1.0, 2.0], "fast", [1, 2, None], True, [1, 2, float("nan")]], ids=str
)
def test_a_scale_that_is_no_number_a_channel_is_refused(value: Any, stated: Path) -> None:
    with_json(stated, "image_converter.json", "ImageConverter", {"scale": value})
    with pytest.raises(
        tlkit.WeightsError,
        match=r"json: (scale must be a number or one per|is not a KerasHub file)",
    ):
        KerasHub(preset=stated).layers()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"config": {}}', '{"class_name": "x", "config": 3}', "[" * 9999]
)
def test_a_broken_file_is_named(text: str, stated: Path) -> None:
    (stated / "config.json").write_text(text)
    with pytest.raises(tlkit.WeightsError, match=r"config\.json: is not a KerasHub file"):
        KerasHub(preset=stated).layers()


@pytest.mark.parametrize("text", ["", "[", "3", '["a"]'])
def test_a_record_that_tlkit_did_not_write_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(tlkit.WeightsError, match="recorded: is not as tlkit writes it"):
        KerasHub(preset=tmp_path, recorded=text).layers()


@needs_hub
def test_a_preset_without_weights_falls_through_to_the_next_source(stated: Path) -> None:
    part = KerasHub(preset=stated, image_size=32, weights=("preset", "none"))
    record = part.load_weights(part.build())
    assert record == {
        "source": "none",
        "passed_over": "preset: the preset has no model.weights.h5",
    }
    assert isinstance(part.build(), keras.Model)
