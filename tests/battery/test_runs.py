"""What changes while a run goes on, and a run folder from a stranger."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.battery.hostile import WEIGHTS

import tlkit
from tlkit.data.checks import check_images, first_look
from tlkit.data.pictures import DecodedImageIndex
from tlkit.model.graph import layer_table
from tlkit.parts.datasets import Folder, load_splits
from tlkit.train.assemble import assemble
from tlkit.weights.tensors import read_weights

pytestmark = pytest.mark.usefixtures("slim_vgg")

STUDY = """
data = {name = "folder", path = "data"}
backbone = {weights = "none", image_size = 32}
head.name = "pooled"
augmentation = {name = "affine"}
fit = {epochs = 3, batch_size = 4, cache = false, xla = false}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of two classes in which every epoch reads all images."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in "ab":
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for number in range(2):
                pixels = random.integers(0, 256, (40, 40), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path


class Meddler(tlkit.Callback):
    """Writes a file after the first epoch."""

    def __init__(self, path: Path, content: bytes | None) -> None:
        self.path, self.content = path, content
        self.heard: list[int] = []

    def on_epoch_end(self, epoch: tlkit.Epoch) -> None:
        self.heard.append(epoch.epoch)
        if self.content is None:
            self.path.unlink(missing_ok=True)
        else:
            self.path.write_bytes(self.content)


def test_a_file_that_changes_meanwhile_has_no_effect(study: Path) -> None:
    file = study / "study.toml"
    done = tlkit.run(file, study / "run", callback=Meddler(file, b"seed = "))
    assert len(done.history) == 3
    assert (study / "run" / "study.toml").read_text() == STUDY


@pytest.mark.parametrize("deleted", [True, False])
def test_an_image_that_changes_before_it_is_read_again_ends_the_run(
    study: Path, deleted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.data.pixel_store.MAX_BYTES", 0)  # as if there were too many images
    image = study / "data" / "train" / "a" / "0.png"
    other = (study / "data" / "train" / "b" / "0.png").read_bytes()
    meddler = Meddler(image, None if deleted else other)
    message = "No such file" if deleted else "has changed since the run started"
    with pytest.raises(tlkit.DataError, match=rf"^train/a/0\.png: {message}"):
        tlkit.run(study / "study.toml", study / "run", callback=meddler)
    assert meddler.heard == [1]
    assert len((study / "run" / "history.csv").read_text().splitlines()) == 2
    assert not (study / "run" / "metrics.json").exists()


def test_an_image_that_changes_later_has_no_effect(study: Path) -> None:
    expected = tlkit.run(study / "study.toml", study / "first")
    meddler = Meddler(study / "data" / "train" / "a" / "0.png", None)
    assert (
        tlkit.run(study / "study.toml", study / "run", callback=meddler).history == expected.history
    )


def test_hostile_weights_in_a_run_folder_are_refused(study: Path) -> None:
    experiment = tlkit.Experiment(
        data=Folder(path=study / "data"),
        backbone=tlkit.registries.backbones.get("vgg16")(weights="none", image_size=32),
        head=tlkit.registries.heads.get("pooled")(),
    )
    model, _ = assemble(experiment.backbone, experiment.head, 2, seed=0)
    before = [weight.numpy().tobytes() for weight in model.weights]
    path = study / "weights.safetensors"
    for name, make in WEIGHTS.items():
        if name.endswith(".safetensors"):
            path.write_bytes(make(study))
            with pytest.raises(tlkit.WeightsError, match=r"weights\.safetensors: "):
                read_weights(path, model, layer_table(model))
    assert [weight.numpy().tobytes() for weight in model.weights] == before
    assert not (study / "marker").exists()


@pytest.mark.slow
def test_many_images_take_little_memory(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number, label in enumerate("ab"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for image in range(5_000):
                seed = (split == "val", number, image)
                pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
                Image.fromarray(pixels).save(folder / f"{image}.png")
    dataset = Folder(path=tmp_path / "data")
    heard: list[int] = []
    splits = load_splits(dataset)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    index = DecodedImageIndex(tmp_path)
    for _ in range(2):
        looks = first_look(splits, index)
        check_images(splits, looks, on_image=lambda done, count: heard.append(done))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert heard == [*range(1, 20_001)] * 2
    assert grown < 100_000  # kB; 5 kB an image
