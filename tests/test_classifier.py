"""A finished run as a classifier: the same answers as the run gave, and strict about its folder."""

from __future__ import annotations

import csv
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from attrs import evolve, frozen
from tests.fakes import rewrite, unseal

import tlkit
from tlkit.data.decoding import decoded
from tlkit.data.images import Reader
from tlkit.data.pictures import DecodedImageIndex
from tlkit.data.sources import Rejected
from tlkit.parts.backbones.vgg import VGG16
from tlkit.parts.datasets import Folder
from tlkit.parts.heads import Pooled
from tlkit.parts.shapes import Shapes
from tlkit.system.cache import default_folder
from tlkit.train.features import Extractor

pytestmark = pytest.mark.usefixtures("slim_vgg")

DATA = Shapes(train=6, val=3, test=4, image_px=40)


@frozen
class RunRecord:
    """A run, what it is as a classifier, and its pictures as files."""

    run: tlkit.Run
    classifier: tlkit.Classifier
    images: Path

    @property
    def test_files(self) -> list[Path]:
        return [self.images / example.path for example in DATA.load().test]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    top = tmp_path_factory.mktemp("classifier")
    experiment = tlkit.Experiment(
        data=DATA,
        backbone=VGG16(weights="none", image_size=32),
        head=Pooled(units=(4,)),
        optimizer=tlkit.registries.optimizers.get("adam")(learning_rate=0.01),
        fit=tlkit.Fit(epochs=1, xla=False),
    )
    run = tlkit.run(experiment, top / "run")
    splits = DATA.load()
    for _, examples in splits.items():
        for example in examples:
            path = top / "images" / example.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(splits.read(example.path))
    return RunRecord(run, tlkit.load(run.folder), top / "images")


def predictions(finished: RunRecord, split: str) -> npt.NDArray[np.float32]:
    """Return the probabilities that the run wrote down."""
    with (finished.run.folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    return np.array(
        [[row[f"p_{name}"] for name in finished.classifier.classes] for row in rows], np.float32
    )


def test_it_is_the_model_that_was_trained(finished: RunRecord) -> None:
    trained, loaded = finished.run.model, finished.classifier.model
    assert [v.numpy().tobytes() for v in loaded.weights] == [
        v.numpy().tobytes() for v in trained.weights
    ]
    assert finished.classifier.classes == ("circle", "square", "triangle")
    assert finished.classifier.experiment == finished.run.experiment
    assert finished.classifier.stand_in == ""


def test_probabilities_of_files_are_those_of_the_run_to_the_digit(finished: RunRecord) -> None:
    found = finished.classifier.predict_proba(finished.test_files)
    np.testing.assert_array_equal(found, predictions(finished, "test"))
    assert found.dtype == np.float32


def test_pixels_give_what_their_files_give(finished: RunRecord) -> None:
    reader = Reader(lambda path: Path(path).read_bytes(), size=32)
    pixels = np.stack([reader(str(path)) for path in finished.test_files])
    np.testing.assert_array_equal(
        finished.classifier.predict_proba(pixels),
        finished.classifier.predict_proba(finished.test_files),
    )


def test_the_predicted_class_is_the_most_probable(finished: RunRecord) -> None:
    classes = finished.classifier.classes
    found = finished.classifier.predict([str(path) for path in finished.test_files])
    best = finished.classifier.predict_proba(finished.test_files).argmax(axis=1)
    assert found == [classes[number] for number in best]


def test_an_images_answer_does_not_depend_on_the_others(finished: RunRecord) -> None:
    together = finished.classifier.predict_proba(finished.test_files)
    one_by_one = [finished.classifier.predict_proba([path])[0] for path in finished.test_files]
    np.testing.assert_array_equal(together, one_by_one)


def test_more_than_one_batch_of_pixels_keeps_its_order(finished: RunRecord) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (33, 32, 32, 3), dtype=np.uint8)
    found = finished.classifier.predict_proba(pixels)
    assert found.shape == (33, 3)
    np.testing.assert_array_equal(found[32], finished.classifier.predict_proba(pixels[32:])[0])


@pytest.mark.parametrize("images", [[], np.empty((0, 32, 32, 3), np.uint8)], ids=["files", "array"])
def test_no_images_have_no_answers(finished: RunRecord, images: Any) -> None:
    assert finished.classifier.predict_proba(images).shape == (0, 3)
    assert finished.classifier.predict(images) == []


@pytest.mark.parametrize("path", ["a.jpg", Path("a.jpg")])
def test_one_path_is_not_a_list(finished: RunRecord, path: str | Path) -> None:
    classifier: Any = finished.classifier
    for method in (classifier.predict, classifier.predict_proba, classifier.features):
        with pytest.raises(tlkit.DataError, match=r"must be a list of paths.*\['a\.jpg'\]$"):
            method(path)
    with pytest.raises(tlkit.DataError, match=r"must be a list of paths.*\['a\.jpg'\]$"):
        next(classifier.iter_predict(path))


def test_one_image_is_told_how_to_become_several(finished: RunRecord) -> None:
    with pytest.raises(tlkit.DataError, match=r"got \(32, 32, 3\) uint8; for one image, images\[N"):
        finished.classifier.predict(np.zeros((32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((32, 32, 3), np.uint8),
        ((1, 16, 32, 3), np.uint8),
        ((1, 32, 32, 1), np.uint8),
        ((1, 3, 32, 32), np.uint8),
        ((1, 32, 32, 3), np.float32),
        ((1, 32, 32, 3), np.int64),
    ],
    ids=str,
)
def test_pixels_of_another_shape_or_type_are_refused(
    finished: RunRecord, shape: tuple[int, ...], dtype: type
) -> None:
    """A picture from 0 to 1 would be all black as bytes: nothing is converted in silence."""
    with pytest.raises(tlkit.DataError, match=r"^images: must be \(count, 32, 32, 3\) uint8"):
        finished.classifier.predict_proba(np.zeros(shape, dtype))


def test_a_file_that_is_no_image_is_named(finished: RunRecord, tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("a note", encoding="utf-8")
    with pytest.raises(tlkit.DataError, match=r"/note\.png: is not an image"):
        finished.classifier.predict([finished.test_files[0], tmp_path / "note.png"])


def test_answers_come_in_order_with_a_reason_for_what_has_none(
    finished: RunRecord, tmp_path: Path
) -> None:
    text, absent, pipe = tmp_path / "text.png", tmp_path / "absent.png", tmp_path / "pipe.png"
    text.write_text("text", encoding="utf-8")
    os.mkfifo(pipe)
    before = Rejected("*.gif", "no file matches")
    sound = [str(path) for path in finished.test_files[:9]]
    files: list[str | Rejected] = [str(text)]
    files += [*sound[:5], before, str(absent), tmp_path.name, *sound[5:], str(pipe)]
    found = list(finished.classifier.iter_predict(files))
    assert [answer.path for answer in found] == [getattr(file, "path", file) for file in files]
    reasons = [answer.reason for answer in found if isinstance(answer, Rejected)]
    assert reasons[0].startswith("is not an image")
    assert reasons[1:4] == ["no file matches", *["No such file or directory"] * 2]
    assert reasons[4] == "is not a regular file"
    rows = [answer for answer in found if not isinstance(answer, Rejected)]
    np.testing.assert_array_equal(
        [row.probabilities for row in rows], finished.classifier.predict_proba(sound)
    )
    assert [row.predicted for row in rows] == finished.classifier.predict(sound)
    assert all(row.features is None for row in rows)


def test_answers_are_not_computed_ahead_of_need(finished: RunRecord) -> None:
    """A million images take no more memory than a few batches."""
    taken = []

    def endless() -> Iterator[str]:
        for path in itertools.cycle(map(str, finished.test_files)):
            taken.append(path)
            yield path

    answers = finished.classifier.iter_predict(endless())
    for _ in range(3):
        next(answers)
    assert len(taken) <= 6 * finished.classifier.extractor.batch


def test_features_are_the_backbone_s_averaged_over_the_picture(finished: RunRecord) -> None:
    classifier, files = finished.classifier, finished.test_files
    found = classifier.features(files)
    assert found.shape == (len(files), 16)
    assert found.dtype == np.float32
    scores = classifier.model.get_layer("scores")
    dense = classifier.model.get_layer("dense_1")
    hidden = np.maximum(found @ dense.kernel.numpy() + dense.bias.numpy(), 0)
    again = hidden @ scores.kernel.numpy() + scores.bias.numpy()
    powers = np.exp(again - again.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        powers / powers.sum(axis=1, keepdims=True), classifier.predict_proba(files), atol=1e-5
    )


@pytest.mark.parametrize(
    ("layer", "width"), [("block1_conv1", 16), ("1", 16), ("dense_1", 4), ("scores", 3)]
)
def test_features_can_be_those_of_any_layer(layer: str, width: int, finished: RunRecord) -> None:
    answers = list(finished.classifier.iter_predict(map(str, finished.test_files), True, layer))
    rows = [answer.features for answer in answers if not isinstance(answer, Rejected)]
    whole = finished.classifier.features(finished.test_files, layer)
    assert whole.shape == (len(finished.test_files), width)
    np.testing.assert_array_equal(rows, whole)
    np.testing.assert_array_equal(
        [answer.probabilities for answer in answers if not isinstance(answer, Rejected)],
        finished.classifier.predict_proba(finished.test_files),
    )


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("blok1", r"layer: no layer or block matches 'blok1'"),
        ("1-2", "must be one layer, got '1-2', which selects 2"),
    ],
)
def test_features_of_no_layer_or_several_are_refused(
    layer: str, message: str, finished: RunRecord
) -> None:
    with pytest.raises(tlkit.ConfigError, match=message):
        finished.classifier.features([], layer)


@pytest.mark.parametrize("layer", ["blok1_conv1", "99", "0", "block1"])
def test_features_explanations_and_freezing_refuse_a_layer_alike(
    layer: str, finished: RunRecord
) -> None:
    classifier = finished.classifier
    with pytest.raises(tlkit.ConfigError, match="layer: ") as features:
        classifier.features([], layer)
    with pytest.raises(tlkit.ConfigError, match=r"^explain: layer: ") as explainer:
        classifier.explainer(layer)
    assert features.value.problems == explainer.value.problems
    if layer != "block1":  # several layers are fine to freeze
        with pytest.raises(ValueError, match="layer") as freezing:
            tlkit.freeze(classifier.model, train=layer)
        assert str(freezing.value) == features.value.problems[0].message


@pytest.mark.parametrize(("split", "expected"), [(None, "test"), ("test", "test"), ("val", "val")])
def test_a_folder_of_splits_is_scored_as_the_run_was(
    finished: RunRecord, split: str | None, expected: str
) -> None:
    assert (
        finished.classifier.evaluate(finished.images, split).scores == finished.run.scores[expected]
    )


def test_patients_are_found_in_file_names_as_in_the_run(finished: RunRecord) -> None:
    data = Folder(path=finished.images, patient="^([0-9])")
    experiment = evolve(finished.classifier.experiment, data=data)
    classifier = evolve(finished.classifier, experiment=experiment)
    for images in (finished.images, finished.images / "val"):
        found = classifier.evaluate(images, "val" if images is finished.images else None).examples
        assert all(example.patient == Path(example.path).name[0] for example in found)
    assert {e.patient for e in finished.classifier.evaluate(finished.images, "val").examples} == {
        ""
    }


def test_evaluate_decodes_each_image_once(
    finished: RunRecord, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path))
    contents: list[bytes] = []

    def counted(content: bytes) -> Any:
        contents.append(content)
        return decoded(content)

    for module in ("images", "pictures"):
        monkeypatch.setattr(f"tlkit.data.{module}.decoded", counted)
    for known in (False, True):  # by the index of decoded images
        evaluation = finished.classifier.evaluate(finished.images, "val")
        assert len(contents) == len({*contents}) == len(evaluation.examples)
        what = f"chosen or calibrated on {len(contents)} of the {len(contents)} images"
        assert any(what in caveat for caveat in evaluation.caveats), evaluation.caveats
        assert bool(DecodedImageIndex(default_folder()).read()), known
        contents.clear()


@pytest.mark.parametrize("cut", [0, 5])
def test_an_interrupted_evaluation_goes_on_where_it_stopped(
    cut: int, finished: RunRecord, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keep, settings = tmp_path / "kept", finished.classifier.experiment
    extractor = Extractor(
        finished.classifier.model, settings.backbone, settings.augmentation, batch=2
    )
    classifier = evolve(finished.classifier, extractor=extractor)
    whole = classifier.evaluate(finished.images, "val")
    asked: list[int] = []
    stream = Extractor.stream

    def interrupted(self: Any, reader: Any, paths: Any, *rest: Any) -> Any:
        asked.append(len(paths))
        for number, outputs in enumerate(stream(self, reader, paths, *rest)):
            if len(asked) == 1 and number == 1:
                raise KeyboardInterrupt
            yield outputs

    monkeypatch.setattr(Extractor, "stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        classifier.evaluate(finished.images, "val", keep=keep)
    keep.write_bytes(keep.read_bytes()[: -cut or None])  # a line may be half written
    with pytest.raises(tlkit.RunFolderError, match="kept: is of another run or other images"):
        classifier.evaluate(finished.images, "test", keep=keep)
    found = classifier.evaluate(finished.images, "val", keep=keep)
    assert asked == [3, 1 + (cut > 0)]
    assert found.probabilities.tobytes() == whole.probabilities.tobytes()
    assert (found.scores, found.caveats) == (whole.scores, whole.caveats)
    assert not keep.exists()


def test_a_damaged_file_of_outputs_is_named(finished: RunRecord, tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    finished.classifier._kept(keep, DATA.load().val)
    keep.write_bytes(keep.read_bytes() + b"no line of outputs\n")
    with pytest.raises(tlkit.RunFolderError, match="kept: is damaged; delete it to begin again"):
        finished.classifier._kept(keep, DATA.load().val)


def test_a_folder_of_classes_is_scored(finished: RunRecord) -> None:
    found = finished.classifier.evaluate(finished.images / "test")
    assert found.scores == finished.run.scores["test"]


@pytest.mark.parametrize(("split", "expected"), [(None, "test"), ("val", "val")])
def test_a_manifest_is_scored(finished: RunRecord, split: str | None, expected: str) -> None:
    path = finished.images / "manifest.csv"
    lines = [
        f"{example.path},{example.label},{name}"
        for name, examples in DATA.load().items()
        for example in examples
    ]
    path.write_text("\n".join(["path,label,split", *lines]), encoding="utf-8")
    assert finished.classifier.evaluate(path, split).scores == finished.run.scores[expected]


def test_data_of_other_classes_are_refused_with_both_lists(
    finished: RunRecord, tmp_path: Path
) -> None:
    for name in (*finished.classifier.classes, "other"):
        (tmp_path / name).mkdir()
    known = ", ".join(finished.classifier.classes)
    message = rf"^{tmp_path}: has folders of other classes .*: other; the run knows {known}$"
    with pytest.raises(tlkit.DataError, match=message):
        finished.classifier.evaluate(tmp_path)


def test_a_folder_without_images_of_the_classes_is_refused(
    finished: RunRecord, tmp_path: Path
) -> None:
    with pytest.raises(tlkit.DataError, match=r"has no images of the classes circle, square"):
        finished.classifier.evaluate(tmp_path)


@pytest.fixture(scope="module")
def with_root(finished: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose manifest has its images in another folder, of which one is broken; trained."""
    top = tmp_path_factory.mktemp("root")
    (top / "tables").mkdir()
    shutil.copytree(finished.images, top / "images")
    rows = ["path,label,split"]
    for split, example in DATA.load().rows():
        rows.append(f"{example.path},{example.label},{split}")
    (top / "images" / rows[1].split(",")[0]).write_bytes(b"broken")
    (top / "tables" / "study.csv").write_text("\n".join(rows), encoding="utf-8")
    (top / "study.toml").write_text(
        """
        data = { name = "manifest", path = "tables/study.csv", root = "images" }
        backbone = { weights = "none", image_size = 32 }
        head = { name = "pooled", units = [4] }
        fit = { epochs = 1, xla = false }
        """,
        encoding="utf-8",
    )
    tlkit.run(top / "study.toml", top / "run", overrides=["data.on_bad_image='skip'"])
    return top


def test_a_run_evaluates_its_own_manifest_from_its_own_root(with_root: Path) -> None:
    table = with_root / "tables" / "study.csv"
    classifier = tlkit.load(with_root / "run")
    assert classifier.evaluate(table, "val").scores.images == 3
    assert classifier.evaluate(table, "val", with_root / "images").scores.images == 3
    with pytest.raises(tlkit.DataError, match="path: there is no file"):
        classifier.evaluate(table, "val", with_root / "tables")
    shutil.copy(table, with_root / "tables" / "other.csv")
    with pytest.raises(tlkit.DataError, match="path: there is no file"):
        classifier.evaluate(with_root / "tables" / "other.csv", "val")


def test_what_the_run_skipped_is_skipped_again_and_said(
    with_root: Path, finished: RunRecord
) -> None:
    table = with_root / "tables" / "study.csv"
    found = tlkit.load(with_root / "run").evaluate(table, "train")
    assert found.scores.images == len(DATA.load().train) - 1
    (note,) = found.notes
    assert re.match(r"1 image is skipped, such as train/.*\.png: is not an image; ", note)
    with pytest.raises(tlkit.DataError, match="is not an image"):  # its run skipped none
        finished.classifier.evaluate(table, "train", with_root / "images")


@pytest.fixture
def copy(finished: RunRecord, tmp_path: Path) -> Path:
    """A copy of the run's folder, to be spoilt."""
    return Path(shutil.copytree(finished.run.folder, tmp_path / "copy"))


def test_a_run_can_be_moved(finished: RunRecord, copy: Path) -> None:
    found = tlkit.load(str(copy)).predict_proba(finished.test_files)
    np.testing.assert_array_equal(found, predictions(finished, "test"))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (shutil.rmtree, tlkit.RunFolderError, r"/copy: there is no such run folder$"),
        (
            lambda folder: [path.unlink() for path in folder.iterdir()],
            tlkit.RunFolderError,
            r"/copy: this is not a run folder, it has no metrics\.json$",
        ),
        (
            lambda folder: (folder / "metrics.json").unlink(),
            tlkit.RunFolderError,
            r"/copy: the run is not finished, it has no metrics\.json; tlkit resume ",
        ),
        (
            lambda folder: (folder / "plan.json").write_text("[", encoding="utf-8"),
            tlkit.RunFolderError,
            r"/plan\.json: cannot be read: ",
        ),
        (
            lambda folder: (folder / "plan.json").write_text("[]", encoding="utf-8"),
            tlkit.RunFolderError,
            r"/plan\.json: expected a table, got \[\]$",
        ),
        (
            lambda folder: (folder / "weights.safetensors").unlink(),
            tlkit.WeightsError,
            r"/weights\.safetensors: there is no such file$",
        ),
        (
            rewrite("plan.json", lambda table: table["classes"].append("fourth")),
            tlkit.WeightsError,
            r"021\.scores/kernel is float32 \(4, 3\), expected float32 \(4, 4\)$",
        ),
        (
            rewrite("experiment.json", lambda table: table["head"].update(name="os.system")),
            tlkit.ConfigError,
            r"/experiment\.json: head\.name: no head named 'os\.system'",
        ),
        (
            rewrite("experiment.json", lambda table: table["head"].update(code="import os")),
            tlkit.ConfigError,
            r"/experiment\.json: head\.code: unknown key",
        ),
        (
            lambda folder: (folder / "experiment.json").write_text("[1]", encoding="utf-8"),
            tlkit.ConfigError,
            r"/experiment\.json: expected a table",
        ),
    ],
    ids=[
        "no folder", "empty folder", "unfinished", "broken plan", "no plan", "no weights",
        "other classes", "unknown part", "unknown key", "no table",
    ],
)  # fmt: skip
def test_a_folder_that_is_not_a_sound_run_is_refused(
    spoil: Callable[[Path], object], error: type[Exception], message: str, copy: Path
) -> None:
    unseal(copy)
    spoil(copy)
    with pytest.raises(error, match=message):
        tlkit.load(copy)


def test_old_names_work_and_name_the_new_ones(finished: RunRecord) -> None:
    classifier, files = finished.classifier, finished.test_files[:1]
    with pytest.warns(FutureWarning, match=r"probabilities: is now called predict_proba"):
        old = classifier.probabilities(files)
    np.testing.assert_array_equal(old, classifier.predict_proba(files))
    with pytest.warns(FutureWarning, match=r"answers: is now called iter_predict"):
        assert len(list(classifier.answers(map(str, files)))) == 1
    with pytest.warns(FutureWarning, match=r"evaluation: is now called evaluate"):
        evaluation = classifier.evaluation(finished.images)
    with pytest.warns(FutureWarning, match=r"evaluate\(\.\.\.\)\.scores\.accuracy"):
        assert evaluation.accuracy == evaluation.scores.accuracy
    assert not hasattr(evaluation, "accurate")


@pytest.mark.parametrize(("limit", "threads"), [(10**9, 1), (0, 8)])
def test_small_files_are_decoded_by_one_thread(
    limit: int,
    threads: int,
    finished: RunRecord,
    decoding_threads: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tlkit.data.file_work.SMALL_FILE_BYTES", limit)
    files = [str(path) for path in finished.test_files]
    finished.classifier.predict_proba(files)
    answers = list(finished.classifier.iter_predict(iter(files)))
    assert [answer.path for answer in answers] == files
    finished.classifier.evaluate(finished.images / "test")
    assert decoding_threads == [threads] * 3
