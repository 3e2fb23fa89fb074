"""Exported models: the run's answers, from programs that know nothing of tlkit."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from attrs import evolve
from PIL import Image
from tests.odd_images import all_odd_images
from tests.pictures import noise, png, write
from tests.test_dicom import dicom
from tests.test_keras_hub import TRANSFORMERS, WritePreset, needs_hub
from typer.testing import CliRunner

import tlkit
from tlkit.classifier import load
from tlkit.cli import app
from tlkit.data.images import to_pixels
from tlkit.exporter.export import _facts, with_preprocessing
from tlkit.exporter.formats import FORMATS, Format
from tlkit.metrics.calibration import Calibrator
from tlkit.parts.heads import Cosine, Pooled
from tlkit.parts.shapes import Shapes
from tlkit.train.assemble import assemble
from tlkit.train.features import Extractor

DATA = Shapes(train=6, val=3, test=4, image_px=40)
# Like the model files themselves: nothing of tlkit may be needed to read them.
WITHOUT_TLKIT = "import sys; sys.modules['tlkit'] = None; import runpy; sys.argv = sys.argv[1:]; "
WITHOUT_TLKIT += "runpy.run_path(sys.argv[0], run_name='__main__')"


def a_run(out: Path, **settings: Any) -> tlkit.Run:
    """Return a run of an epoch; the backbone's own preprocessing swaps colours and takes a mean."""
    table: dict[str, Any] = {
        "data": DATA,
        "backbone": {"name": "vgg16", "weights": "none", "image_size": 32},
        "head": {"name": "pooled", "units": [4]},
        "fit": {"epochs": 1, "xla": False},
    }
    return tlkit.run(table | settings, out)


def untrained(backbone: dict[str, Any], preprocess: str = "native") -> tlkit.Classifier:
    experiment = tlkit.load_experiment(
        {"data": DATA, "backbone": {**backbone, "preprocess": preprocess}, "head": Pooled()}
    )
    model, _ = assemble(experiment.backbone, experiment.head, 3, seed=0)
    return tlkit.Classifier(
        model=model,
        classes=("circle", "square", "triangle"),
        experiment=experiment,
        extractor=Extractor(model, experiment.backbone, experiment.augmentation, 8),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {
        "backbone": {"name": "vgg16", "weights": "bsds500", "image_size": 32},
        "head": {"name": "linear"},
        "optimizer": {"name": "adam", "learning_rate": 0.01},
        "fit": {"epochs": 3, "xla": False},
    }
    return a_run(tmp_path_factory.mktemp("export") / "small", **settings).folder


def test_the_temperature_is_inside_and_the_threshold_beside(run: Path, tmp_path: Path) -> None:
    calibrator = Calibrator(temperature=2.5, favored=1, threshold=0.25)
    classifier = evolve(load(run), calibrator=calibrator)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    found = with_preprocessing(classifier)(pixels.astype(np.float32)).numpy()
    np.testing.assert_allclose(found, classifier.predict_proba(pixels), atol=1e-6)
    assert np.abs(found - load(run).predict_proba(pixels)).max() > 1e-3
    facts = _facts(classifier, run, "keras", None)
    assert facts["threshold"] == {"class": "square", "p": 0.25}
    assert _facts(load(run), run, "keras", None)["threshold"] is None


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return pictures that are not square, so that bringing them to size matters."""

    folder = tmp_path_factory.mktemp("pictures")
    draws = np.random.default_rng(1)
    paths = []
    for number, shape in enumerate([(48, 64, 3), (64, 33), (50, 50, 3)]):
        coarse = Image.fromarray(draws.integers(0, 256, (6, 6, *shape[2:]), np.uint8))
        path = folder / f"{number}.png"
        coarse.resize((shape[1], shape[0])).save(path)
        paths.append(path)
    return paths


@pytest.mark.parametrize(
    "to", ["keras", *(pytest.param(to, marks=pytest.mark.slow) for to in ("onnx", "savedmodel"))]
)
def test_a_program_without_tlkit_gives_the_runs_probabilities(
    to: Any, run: Path, images: list[Path], tmp_path: Path
) -> None:
    done = tlkit.export(run, tmp_path / "out", to=to)
    script = str(done.folder / "predict.py")
    answer = subprocess.run(
        [sys.executable, "-c", WITHOUT_TLKIT, script, *images],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    rows = [line.split() for line in answer.stdout.splitlines()]
    expected = load(run).predict_proba(images)
    assert [row[0] for row in rows] == [str(path) for path in images]
    assert [row[1] for row in rows] == load(run).predict(images)
    found = np.array([[float(p) for p in row[2:]] for row in rows])
    np.testing.assert_allclose(found, expected, rtol=0, atol=FORMATS[to].tolerance + 5e-7)
    assert done.difference is not None
    assert done.difference <= FORMATS[to].tolerance
    # The pictures are told apart: else the comparison could not fail.
    assert np.ptp(expected, axis=0).max() > 100 * FORMATS[to].tolerance


@pytest.mark.slow
def test_the_example_answers_over_http(run: Path, images: list[Path], tmp_path: Path) -> None:
    folder = tlkit.export(run, tmp_path / "out", to="keras").folder
    script = Path(__file__).parent.parent / "examples" / "serve.py"
    command = [sys.executable, str(script), str(folder), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:")
            for path, row in zip(images, load(run).predict_proba(images), strict=True):
                answer = requests.post(address, path.read_bytes(), timeout=60).json()
                assert answer["class"] == load(run).predict([path])[0]
                np.testing.assert_allclose(list(answer["p"].values()), row, rtol=0, atol=1e-5)
            refused = requests.post(address, b"no image", timeout=60)
            assert refused.status_code == 400
            assert "error" in refused.json()
            assert requests.post(address, b"", timeout=60).status_code == 413
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return class folders with odd files that are read, and a folder of refused ones."""
    top = tmp_path_factory.mktemp("odd")
    classes = ("circle", "square", "triangle")
    for name in (*classes, "refused"):
        (top / name).mkdir()
    number = 0
    for number, file in enumerate(all_odd_images()):
        folder = "refused" if file.pixels is None else classes[number % 3]
        (top / folder / f"{number:03}.png").write_bytes(file.content)
    assert number > 200
    return top


# How to bring a file to size, and how to decide: by the highest probability, or by a threshold.
VARIANTS = [
    (resize, mask, (None, 0, 2)[(first + number) % 3])
    for first in range(3)
    for number, (resize, mask) in enumerate([("stretch", 0.0), ("pad", 0.6), ("crop", 0.0)])
]


def variant(
    run: Path, resize: Any, mask_center: float, favored: int | None, images: Sequence[Path]
) -> tlkit.Classifier:
    """Return a run's classifier with other rules; the threshold is one image's own probability."""
    classifier = load(run)
    data = evolve(classifier.experiment.data, resize=resize, mask_center=mask_center)
    settings = evolve(classifier.experiment, data=data)
    classifier = evolve(classifier, experiment=settings, calibrator=Calibrator(temperature=1.7))
    if favored is None:
        return classifier
    row = np.sort(classifier.predict_proba(list(images))[:, favored])
    rule = Calibrator(temperature=1.7, favored=favored, threshold=float(row[len(row) // 2]))
    return evolve(classifier, calibrator=rule)


@pytest.mark.slow
@pytest.mark.parametrize("to", FORMATS)
def test_predict_evaluate_and_the_script_agree_on_every_file(
    to: Any, run: Path, odd: Path, tmp_path: Path
) -> None:
    refused = sorted((odd / "refused").iterdir())
    paths = sorted(path for path in odd.rglob("*.png") if path not in refused)
    labeled = tmp_path / "labeled"
    shutil.copytree(odd, labeled, ignore=shutil.ignore_patterns("refused"))
    hot = evolve(load(run), calibrator=Calibrator(temperature=1.7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlkit.exporter.export.load", lambda *_, **__: hot)
        done = tlkit.export(run, tmp_path / "out", to=to)
    script = runpy.run_path(str(done.folder / "predict.py"))
    assert script["FACTS"] == _facts(hot, run, to, done.difference)
    if to == "onnx":
        ends = (*script["session"].get_inputs(), *script["session"].get_outputs())
        assert [(end.name, end.shape[0]) for end in ends] == [
            ("pixels", "batch"),
            ("probabilities", "batch"),
        ]
    calls = set()
    for resize, mask, favored in VARIANTS[:4]:  # each way to resize and each rule
        classifier = variant(run, resize, mask, favored, paths)
        script["FACTS"].update(_facts(classifier, run, to, None))
        answers = [script["classify"](str(path)) for path in paths]
        names, rows = [name for name, _ in answers], np.array([row for _, row in answers])
        assert names == classifier.predict(paths)
        expected = classifier.predict_proba(paths)
        np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-5)
        for path, answer in zip(refused, classifier.iter_predict(map(str, refused)), strict=True):
            assert isinstance(answer, tlkit.Rejected)
            with pytest.raises(script["ImageError"], match=re.escape(answer.reason)):
                script["classify"](path)
        evaluated = classifier.evaluate(labeled)
        order = [paths.index(odd / example.path) for example in evaluated.examples]
        assert sorted(order) == list(range(len(paths)))
        assert [classifier.classes[k] for k in evaluated.predicted] == [names[n] for n in order]
        np.testing.assert_allclose(rows[order], evaluated.probabilities, rtol=0, atol=1e-5)
        calls.add(tuple(names))
    assert len(calls) == 4, "the rules make no difference, so the comparison could not fail"


@pytest.mark.parametrize(("resize", "mask", "favored"), VARIANTS)
def test_the_script_reads_and_decides_as_the_run_does(
    resize: Any, mask: float, favored: int | None, odd: Path, tmp_path: Path
) -> None:
    threshold = None if favored is None else {"class": "abc"[favored], "p": 0.2}
    facts = {"image_size": 32, "resize": resize, "mask_center": mask, "classes": list("abc")}
    (tmp_path / "model.json").write_text(json.dumps({**facts, "threshold": threshold}))
    stub = "def probabilities(pixels):\n    SEEN.append(pixels)\n    return ROW\n"
    script = tmp_path / "predict.py"
    script.write_text(evolve(FORMATS["keras"], script=stub).predict_py())
    row = np.array([[0.2 - 5e-7, 0.6, 0.2]], np.float32)
    seen: list[Any] = []
    classify = runpy.run_path(str(script), {"SEEN": seen, "ROW": row})["classify"]
    for path in sorted(odd.rglob("*.png")):
        if path.parent.name == "refused":
            with pytest.raises(ValueError, match=r"^(is|has|cannot|declares|holds) "):
                classify(path)
            continue
        name, _ = classify(path)
        expected = to_pixels(path.read_bytes(), 32, resize, mask)
        np.testing.assert_array_equal(seen[-1][0], expected)
        assert name == ("b" if favored is None else "abc"[favored])


def test_the_script_refuses_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"image_size": 8, "resize": "pad", "mask_center": 0, "classes": ["a"]}
    (tmp_path / "model.json").write_text(json.dumps({**facts, "threshold": None}))
    script = tmp_path / "predict.py"
    stub = "def probabilities(pixels):\n    return np.ones((1, 1))\n"
    script.write_text(evolve(FORMATS["onnx"], script=stub).predict_py())
    assert "tlkit[" not in script.read_text()
    files = {"x.dcm": dicom(np.eye(8, dtype=np.uint8)), "y.png": b"no", "z.png": png(noise(1))}
    write(tmp_path, files)
    without_pydicom = "import sys; sys.modules['pydicom'] = None; "
    answer = subprocess.run(
        [sys.executable, "-c", without_pydicom + WITHOUT_TLKIT, script, *files, "absent.png"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert answer.returncode == 1
    assert answer.stdout == "z.png a 1.000000\n"
    wrong = answer.stderr.splitlines()
    assert wrong[0] == "x.dcm: is a DICOM file; to read it: pip install pydicom"
    assert wrong[1].startswith("y.png: is not an image; ")
    assert wrong[2:] == ["absent.png: No such file or directory"]


def test_the_facts_say_what_one_must_know(run: Path, tmp_path: Path) -> None:
    done = tlkit.export(run, tmp_path / "out", to="keras")
    facts = json.loads((done.folder / "model.json").read_text(encoding="utf-8"))
    assert facts["classes"] == ["circle", "square", "triangle"]
    assert facts["input"] == "(batch, 32, 32, 3) float32, RGB, from 0 to 255"
    assert facts["run"] == "small"
    assert sorted(path.name for path in done.folder.iterdir()) == [
        "model.json", "model.keras", "predict.py", "seal.json",
    ]  # fmt: skip


@pytest.mark.parametrize("preprocess", ["native", "unit"])
@pytest.mark.parametrize("name", ["vgg16", "mobilenet_v3_small"])
def test_the_preprocessing_is_inside(name: str, preprocess: str) -> None:
    classifier = untrained({"name": name, "weights": "none", "image_size": 32}, preprocess)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    found = with_preprocessing(classifier)(pixels.astype(np.float32), training=False)
    np.testing.assert_allclose(found, classifier.predict_proba(pixels), rtol=0, atol=1e-6)


def test_a_layer_that_is_not_keras_own_cannot_become_a_keras_file(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run", head=Cosine()).folder
    with pytest.raises(tlkit.PartError, match=r"scores \(CosineScores\); export to savedmodel"):
        tlkit.export(folder, tmp_path / "out", to="keras")
    assert not (tmp_path / "out").exists()
    assert tlkit.export(folder, tmp_path / "out").difference is not None


def network(*layers: Any) -> Any:
    import keras

    return tlkit.FromModel(model=keras.Sequential([keras.Input((32, 32, 3)), *layers]))


def test_gelu_and_convolutions_in_groups_become_onnx(tmp_path: Path) -> None:
    import keras

    conv = keras.layers.Conv2D
    given = network(
        conv(8, 3, activation="gelu", name="first"),
        conv(8, 3, groups=8, padding="same", name="depthwise"),
        keras.layers.Activation("gelu", name="gelu"),
        conv(16, 3, groups=4, strides=2, name="grouped"),
        conv(16, 3, groups=8, dilation_rate=2, use_bias=False, name="dilated"),
    )
    folder = a_run(tmp_path / "run", backbone=given, head=Pooled()).folder
    classifier = load(folder, backbone=given)
    before = [vars(layer).keys() for layer in classifier.model.layers]
    FORMATS["onnx"].write(classifier.model, tmp_path / "model.onnx")
    assert [vars(layer).keys() for layer in classifier.model.layers] == before
    assert classifier.model.get_layer("gelu").activation is keras.activations.gelu
    done = tlkit.export(folder, tmp_path / "out", to="onnx", backbone=given)
    assert done.difference is not None
    assert done.difference < 1e-5


@needs_hub
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow] * (kind != "ViTBackbone"))
        for kind in TRANSFORMERS
    ],
)
def test_transformers_become_onnx(kind: str, tmp_path: Path, write_preset: WritePreset) -> None:
    import keras
    import onnxruntime

    preset = write_preset(tmp_path / "preset", kind, **TRANSFORMERS[kind])
    table = {"name": "keras_hub", "preset": str(preset), "weights": "none", "image_size": 32}
    classifier = untrained(table)
    for variable in classifier.model.trainable_weights:  # 0 and 1 at first, which hides mistakes
        variable.assign_add(keras.random.normal(variable.shape, stddev=0.1, seed=1))
    FORMATS["onnx"].write(with_preprocessing(classifier), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    ends = (*session.get_inputs(), *session.get_outputs())
    assert [(end.name, end.shape[0]) for end in ends] == [
        ("pixels", "batch"),
        ("probabilities", "batch"),
    ]
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    (found,) = session.run(None, {"pixels": images.astype(np.float32)})
    np.testing.assert_allclose(found, classifier.predict_proba(images), rtol=0, atol=1e-5)
    assert np.ptp(found, axis=0).max() > 1e-3


def test_tensors_that_are_no_variables_become_constants_in_onnx(tmp_path: Path) -> None:
    import keras
    import onnxruntime
    import tensorflow as tf

    class Shifted(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
        """Holds a tensor and GELU as KerasHub's layers do."""

        def __init__(self) -> None:
            super().__init__()
            self.offset = tf.linspace(-1.0, 1.0, 3)
            self.act_layer = keras.activations.gelu

        def call(self, x: Any) -> Any:
            return self.act_layer(x + self.offset)

    image, layer = keras.Input((4, 4, 3)), Shifted()
    model = keras.Model(image, layer(image))
    FORMATS["onnx"].write(model, tmp_path / "model.onnx")
    assert layer.act_layer is keras.activations.gelu
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    pixels = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    (found,) = session.run(None, {"pixels": pixels})
    np.testing.assert_allclose(found, model(pixels), rtol=0, atol=1e-6)


def test_what_onnx_has_no_operator_for_is_told(tmp_path: Path) -> None:
    import keras

    @keras.saving.register_keras_serializable("tests")
    def inverse(x: Any) -> Any:
        return keras.ops.erfinv(0.5 * keras.ops.tanh(x))  # short of 1, where erfinv is infinite

    erfinv = keras.layers.Activation(inverse, name="erfinv")
    given = network(keras.layers.Conv2D(4, 3, name="first"), erfinv)
    folder = a_run(tmp_path / "run", backbone=given, head=Pooled()).folder
    with pytest.raises(tlkit.PartError, match=r"^model\.onnx: tf2onnx has no operator for a lay"):
        tlkit.export(folder, tmp_path / "out", to="onnx", backbone=given)
    assert not (tmp_path / "out").exists()


def test_preprocessing_by_tensorflow_functions_is_refused(tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    pixels = keras.Input((32, 32, 3))
    model = keras.Model(pixels, keras.layers.Conv2D(4, 3, name="block1_conv")(pixels))
    given = tlkit.FromModel(model=model, preprocess=tf.image.per_image_standardization)
    folder = a_run(tmp_path / "run", backbone=given, head=Pooled()).folder
    with pytest.raises(tlkit.PartError, match=r"cannot be put into a model: .*keras\.ops"):
        tlkit.export(folder, tmp_path / "out", backbone=given)


def test_a_model_that_answers_otherwise_is_not_handed_out(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    def flipped(classifier: tlkit.Classifier) -> Any:
        model = with_preprocessing(classifier)
        return keras.Model(model.input, keras.ops.flip(model.output, axis=1))

    monkeypatch.setattr("tlkit.exporter.export.with_preprocessing", flipped)
    with pytest.raises(tlkit.WeightsError, match="the exported model is off by"):
        tlkit.export(run, tmp_path / "out", to="keras")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rule", "instead", "message"),
    [
        (
            "_turned(_plain(image, content) if deep is None else deep, image)",
            "_plain(image, content)",
            r"reads turned\.jpg differently",
        ),
        ("Image.alpha_composite(black, strip)", "strip", r"reads transparent\.png differently"),
        ("favored, others.argmax(axis=1))", "highest, highest)", r"decides differently"),
    ],
)
def test_a_script_that_forgets_a_rule_is_not_handed_out(
    rule: str, instead: str, message: str, run: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def forgetful(form: Any) -> str:
        text = predict_py(form)
        assert rule in text
        return text.replace(rule, instead)

    predict_py = Format.predict_py
    classifier = evolve(load(run), calibrator=Calibrator(favored=2, threshold=0.01))
    monkeypatch.setattr(Format, "predict_py", forgetful)
    monkeypatch.setattr("tlkit.exporter.export.load", lambda *_, made=classifier, **__: made)
    with pytest.raises(tlkit.WeightsError, match=message):
        tlkit.export(run, tmp_path / "out", to="keras")
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.exporter.formats.installed", lambda name: name != "tf2onnx")
    with pytest.raises(tlkit.PartError, match=r"needs tf2onnx; pip install 'tlkit\[onnx\]'"):
        tlkit.export(run, tmp_path / "out", to="onnx")


def test_half_precision_is_not_for_onnx() -> None:
    model = untrained({"name": "vgg16", "weights": "none", "image_size": 32}).model
    with pytest.raises(tlkit.PartError, match="holds float32 only"):
        FORMATS["onnx"].check(model, "bfloat16")
    FORMATS["savedmodel"].check(model, "bfloat16")


def test_nothing_is_overwritten(run: Path, tmp_path: Path) -> None:
    with pytest.raises(tlkit.RunFolderError, match="exists; choose another with --out"):
        tlkit.export(run, tmp_path)


def test_the_command_says_what_it_made_and_what_comes_next(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["export", str(run), "--to", "keras"])
    assert said.exit_code == 0, said.output
    assert said.stdout.startswith("exports/small-keras/model.keras: (batch, 32, 32, 3) float32")
    assert said.stdout.splitlines()[-1] == "next: python exports/small-keras/predict.py IMAGE..."
    told = CliRunner().invoke(app, ["export", str(run), "--to", "keras", "--out", "b", "--json"])
    assert json.loads(told.stdout)["classes"] == ["circle", "square", "triangle"]


SMALL = ("mobilenet_v3_small", "efficientnet_b0", "resnet50", "densenet121", "convnext_tiny")


@pytest.mark.slow
@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("name", SMALL)
def test_other_backbones_are_exported_too(name: str, to: Any, tmp_path: Path) -> None:
    backbone = {"name": name, "weights": "none", "image_size": 32}
    folder = a_run(tmp_path / "run", backbone=backbone).folder
    done = tlkit.export(folder, tmp_path / "out", to=to)
    assert done.difference is not None
    subprocess.run(
        [sys.executable, "-c", WITHOUT_TLKIT,
         done.folder / "predict.py"],
        check=True,
    )  # fmt: skip
