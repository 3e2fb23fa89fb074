"""The backbone `joined`: several networks on one input, each as it is on its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from attrs import evolve

import tlkit
from tlkit.config.structure import structure, unstructure
from tlkit.parts.backbones.joined import Joined
from tlkit.parts.backbones.keras_hub import KerasHub
from tlkit.parts.backbones.vgg import VGG16
from tlkit.parts.freezes import LayerDecay, TrainAll
from tlkit.parts.heads import Pooled
from tlkit.parts.kinds import registries
from tlkit.parts.shapes import Shapes
from tlkit.train.assemble import assemble, seeded
from tlkit.train.plan import make_plan

pytestmark = pytest.mark.usefixtures("slim_vgg", "no_pages")

PIXELS = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)


def member(name: str, **keys: Any) -> Any:
    return registries.backbones.get(name)(**{"weights": "none", **keys})


def vgg_and_mobilenet(**keys: Any) -> Joined:
    joined: Any = Joined
    return joined(  # type: ignore[no-any-return]  # a part's constructor is Any here
        members=(member("vgg16"), member("mobilenet", preprocess="unit")), image_size=32, **keys
    )


def test_each_member_computes_what_it_does_alone(tmp_path: Path) -> None:
    joined = vgg_and_mobilenet()
    paths, pooled = [], []
    for name, alone in joined.named():
        with seeded(1):
            model = alone.build()
        paths.append(tmp_path / f"{name}.weights.h5")
        model.save_weights(paths[-1])
        features = model(np.asarray(alone.preprocess_images(PIXELS)), training=False)
        pooled.append(features.numpy().mean((1, 2)))
    joined = evolve(
        joined,
        members=tuple(
            evolve(m, weights=(path, "none")) for m, path in zip(joined.members, paths, strict=True)
        ),
    )
    model = joined.build()
    record = joined.load_weights(model)
    assert record["source"] == "vgg16 path, mobilenet path"
    assert record["vgg16.file"] == "vgg16.weights.h5"
    assert len(record["mobilenet.sha256"]) == 64
    found = model(np.asarray(joined.preprocess_images(PIXELS)), training=False).numpy()
    assert found.shape == (2, 1, 1, 16 + 1024)
    np.testing.assert_allclose(found[:, 0, 0], np.concatenate(pooled, 1), rtol=1e-4, atol=1e-5)
    used = joined.with_used_weights(record)
    assert [m.weights for m in used.members] == [(path,) for path in paths]


def test_random_weights_are_those_of_the_seed() -> None:
    head = tlkit.registries.heads.get("linear")()
    models = [assemble(vgg_and_mobilenet(), head, 2, seed=3)[0] for _ in range(2)]
    for one, other in zip(models[0].weights, models[1].weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.slow  # test_dead_settings.py has one with `make test`
def test_a_cached_table_is_of_the_members_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path))
    joined: Any = Joined
    pair = member("vgg16"), member("vgg19")
    for members in (pair, pair[::-1]):
        backbone = joined(members=members, image_size=32)
        built = tlkit.layer_table(backbone.build())
        assert [row.name for _, row in backbone.layers()] == [row.name for _, row in built]


def test_its_table_is_flat_and_each_member_is_a_network_of_its_own() -> None:
    joined = vgg_and_mobilenet()
    table = joined.layers()
    assert table.params == joined.params == member("vgg16").params + 3_228_864
    assert table.layers[-1].name == "joined"
    assert not any(row.is_cut_point for _, row in table if row.network)
    assert "vgg16.block5" in table.blocks
    assert len(table.named("vgg16.block5*")) == 4
    for network, (_, alone) in zip(table.networks(), joined.named(), strict=True):
        own = [(row.name, row.is_cut_point) for _, row in alone.layers()]
        first, *rows, _, last = network.values()
        assert [(row.name.partition(".")[2], row.is_cut_point) for row in rows] == own
        assert (first.kind, last.kind) == ("Preprocess", "Reshape")
    plain = VGG16().layers()
    assert plain.networks() == (dict(iter(plain)),)


def test_preprocessing_never_trains() -> None:
    table = vgg_and_mobilenet().layers()
    rows = [row for _, row in table if row.kind == "Preprocess"]
    assert {row.name for row in rows} == {"vgg16.preprocess", "mobilenet.preprocess"}
    assert sum(row.params + row.other_params for row in rows) == 0


def test_layer_decay_counts_the_steps_of_each_network() -> None:
    table = vgg_and_mobilenet().layers()
    head: Any = tlkit.registries.heads.get("linear")()
    whole = head.layers_on(table, 2)
    (stage,) = LayerDecay(factor=0.5).stages(whole, 1)
    rates = {row.name: rate for rate, (_, row) in zip(stage.lr_multipliers, whole, strict=True)}
    assert rates["vgg16.block5_conv1"] == 0.5
    assert rates["vgg16.block1_conv1"] == 0.5**5
    assert rates["mobilenet.conv_pw_13"] == 0.5
    assert rates["scores"] == 1


@pytest.mark.parametrize("keys", [{}, {"depths": 2, "pooling": "concat"}])
def test_the_head_probe_takes_the_depths_of_each_member(keys: dict[str, Any]) -> None:
    probe: Any = tlkit.registries.heads.get("probe")(**keys)
    joined = vgg_and_mobilenet()
    chosen = probe._chosen(joined.layers())
    names = [joined.layers()[number].name for number in chosen]
    expected = []
    for name, alone in joined.named():
        table = alone.layers()
        expected += [f"{name}.{table[number].name}" for number in probe._chosen(table)]
    assert names == expected
    model, _ = assemble(joined, probe, 2, seed=0)  # raises if the table is another than the model's
    assert model(PIXELS).shape == (2, 2)


def test_a_probe_on_named_layers_needs_the_end_of_each_member() -> None:
    names = ["vgg16.block4_pool", "vgg16.block5_pool", "mobilenet.conv_pw_13_relu"]
    probe: Any = tlkit.registries.heads.get("probe")
    model, _ = assemble(vgg_and_mobilenet(), probe(layer_names=tuple(names)), 2, seed=0)
    assert model(PIXELS).shape == (2, 2)
    with pytest.raises(tlkit.FieldError, match=r"list 'vgg16\.block5_pool' too"):
        probe(layer_names=("vgg16.block4_pool", names[2])).layers_on(
            vgg_and_mobilenet().layers(), 2
        )


def test_two_members_of_one_name_are_numbered() -> None:
    joined: Any = Joined
    two = joined(members=(member("vgg16"), member("vgg16", preprocess="unit")), image_size=32)
    assert [name for name, _ in two.named()] == ["vgg16", "vgg16_2"]
    assert len(two.layers().networks()) == 2


def test_it_is_read_from_toml_and_written_back(tmp_path: Path) -> None:
    table = {
        "name": "joined",
        "image_size": 64,
        "members": [
            {"name": "vgg16", "weights": ["imagenet", "w.h5"]},
            {"name": "efficientnet_lite0", "weights": "none"},
        ],
    }
    experiment = structure(
        tlkit.Experiment, {"data": {"name": "shapes"}, "backbone": table}, base=tmp_path
    )
    assert experiment.backbone.members[0].weights == ("imagenet", tmp_path / "w.h5")  # type: ignore[attr-defined]  # it is a Joined
    back = unstructure(experiment, base=tmp_path)["backbone"]
    assert [m["name"] for m in back["members"]] == ["vgg16", "efficientnet_lite0"]
    assert back["members"][0]["weights"] == ["imagenet", "w.h5"]
    assert not {"weights", "preprocess"} & back.keys()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"members": [{"name": "vgg16"}]}, r"backbone\.members: needs at least 2, got 1"),
        ({}, r"backbone\.members: missing; a list of tables"),
        ({"members": {"name": "vgg16"}}, r"backbone\.members: got .*; a list of tables"),
        ({"members": [{"name": "vgg61"}] * 2}, r"members\[0\]\.name: no backbone named 'vgg61'"),
        ({"members": [{"name": "vgg16", "weight": 1}] * 2}, r"members\[0\]\.weight: unknown key"),
        (
            {"members": [{"name": "vgg16", "image_size": 96}] * 2},
            r"members\[0\]\.image_size: 224 is common to all; set backbone\.image_size",
        ),
        ({"members": [{"name": "vgg16"}] * 2, "weights": "none"}, r"weights: unknown key"),
        ({"members": [{"name": "vgg16"}] * 2, "image_size": 31}, r"image_size: must be at least"),
        (
            {"members": [{"name": "joined", "members": [{"name": "vgg16"}] * 2}] * 2},
            r"members\[0\]: must not be joined itself",
        ),
    ],
)
def test_what_is_wrong_is_named(keys: dict[str, Any], message: str) -> None:
    table = {"data": {"name": "shapes"}, "backbone": {"name": "joined", **keys}}
    with pytest.raises(tlkit.ConfigError, match=message):
        structure(tlkit.Experiment, table)


def test_preprocessing_that_is_more_than_arithmetic_per_pixel_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(VGG16, "preprocess_native", lambda self, images: images**2)
    with pytest.raises(tlkit.PartError, match="preprocessing of vgg16 does more than scale"):
        vgg_and_mobilenet().build()


def test_the_preprocessing_layer_can_be_saved() -> None:
    model = vgg_and_mobilenet().build()
    layer = model.get_layer("vgg16.preprocess")
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    expected = keras.applications.vgg16.preprocess_input(PIXELS.copy())
    np.testing.assert_allclose(again(PIXELS), expected, rtol=1e-6, atol=1e-4)
    assert model.get_layer("mobilenet.preprocess").get_config()["order"] == [0, 1, 2]


@pytest.mark.slow
def test_a_run_can_be_loaded_and_predicts_the_same(tmp_path: Path) -> None:
    members = [{"name": "vgg16", "weights": "none"}, {"name": "mobilenet", "weights": "none"}]
    settings = {
        "data": {"name": "shapes"},
        "backbone": {"name": "joined", "members": members, "image_size": 32},
        "head": {"name": "linear"},
        "fit": {"epochs": 1, "xla": False},
    }
    run = tlkit.run(settings, tmp_path / "run")
    weights = json.loads((tmp_path / "run" / "environment.json").read_text())["weights"]
    assert weights["source"] == "vgg16 none, mobilenet none"
    loaded = tlkit.load(run.folder)
    assert [name for name, _ in loaded.experiment.backbone.named()] == ["vgg16", "mobilenet"]  # type: ignore[attr-defined]  # it is a Joined


@pytest.mark.parametrize(
    ("weights", "held"),
    [(("none", "none"), 54), (("imagenet", "none"), 27), (("imagenet",) * 2, 0)],
)
def test_batch_norm_that_stands_still_is_noted_of_members_with_random_weights(
    weights: tuple[str, str], held: int
) -> None:
    joined: Any = Joined
    members = tuple(member("mobilenet", weights=source) for source in weights)
    experiment = tlkit.Experiment(
        data=Shapes(train=6, val=3, test=0),
        backbone=joined(members=members, image_size=32),
        head=Pooled(),
        freeze=TrainAll(),
    )
    notes = make_plan(experiment, experiment.data.load()).notes
    assert [note.split(", ")[1].split(" of")[0] for note in notes] == ([f"and {held}"] * (held > 0))


def test_a_preset_has_a_size_of_its_own_to_begin_with(tmp_path: Path) -> None:
    for name, size in (("one", 64), ("other", 96)):
        (tmp_path / name).mkdir()
        sizes = {"class_name": "ImageConverter", "config": {"image_size": size}}
        (tmp_path / name / "image_converter.json").write_text(json.dumps(sizes))
        (tmp_path / name / "config.json").write_text("{}")
    hubs = [KerasHub(preset=tmp_path / name) for name in ("one", "other")]
    assert [hub.image_size for hub in hubs] == [64, 96]
    joined: Any = Joined
    both = joined(members=tuple(hubs), image_size=64)
    assert [part.image_size for _, part in both.named()] == [64, 64]
    with pytest.raises(tlkit.FieldError, match=r"members\[1\]\.image_size: 64 is common to all"):
        joined(members=(hubs[0], evolve(hubs[1], image_size=128)), image_size=64)
