"""Two thousand bit flips: each is noticed, or changes nothing that is printed or written."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import field, frozen
from PIL import Image
from tests.battery.strange import Ended, command
from tests.fakes import FakeBackbone

import tlkit
from tlkit.data.images import DecodedImageIndex, picture_of
from tlkit.model.graph import cached_table
from tlkit.model.layers import Layer, LayerTable
from tlkit.parts.kinds import registries
from tlkit.system.cache import FeatureCache

pytestmark = pytest.mark.slow

STUDY = """
[data]
name = "folder"
path = "images"

[backbone]
name = "flipped"

[head]
name = "pooled"

[calibration]
temperature = true

[fit]
epochs = 4
batch_size = 4
keep = "best"
xla = false
checkpoint_every_s = 0
"""
# What a prediction reads; the rest it never opens.
PREDICT = ("metrics.json", "experiment.json", "plan.json", "calibration.json",
           "weights.safetensors", "seal.json", "seal-machine.json")  # fmt: skip
WRITTEN = ("report.html", "MODEL_CARD.md")
FINISHED, UNFINISHED, SWEEPS, CACHES = 1_200, 120, 400, 280


@frozen(kw_only=True)
class Flipped(FakeBackbone):
    """One small convolution."""

    image_size: int = field(default=8)

    def layers(self) -> LayerTable:
        return LayerTable((Layer("conv", "Conv2D", "conv", (6, 6, 2), params=56),))

    def build(self) -> Any:
        import keras

        inputs = keras.layers.Input((8, 8, 3))
        return keras.Model(inputs, keras.layers.Conv2D(2, 3, name="conv")(inputs))


@pytest.fixture(scope="module", autouse=True)
def backbone() -> Iterator[None]:
    """The study's backbone; and nothing is synced, for which real disks take their time."""
    registries.backbones.register("flipped")(Flipped)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlkit.system.files._sync", lambda path: None)
        yield
    registries.backbones.unregister("flipped")


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with its images, and a finished run."""
    top = tmp_path_factory.mktemp("flips")
    chance = np.random.default_rng(0)
    for split, label in ((s, x) for s in ("train", "val") for x in ("dark", "light")):
        (top / "images" / split / label).mkdir(parents=True)
        for number in range(4):
            pixels = chance.integers(0, 120 if label == "dark" else 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(top / "images" / split / label / f"{number}.png")
    (top / "e.toml").write_text(STUDY, encoding="utf-8")
    tlkit.run(top / "e.toml", top / "run")
    return top


def flip(path: Path, chance: random.Random) -> str:
    """Flip one bit of a file; return where."""
    content = bytearray(path.read_bytes())
    at, bit = chance.randrange(len(content)), chance.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"{path.name}: byte {at}, bit {bit}"


def some_file(folder: Path, chance: random.Random) -> Path:
    """Return one of a folder's files.

    Locks and the times of an unfinished run are not sealed.
    """
    files = (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    left_out = {".lock", *(["timing.csv"] if (folder / "unfinished.json").exists() else [])}
    return chance.choice(sorted(path for path in files if path.name not in left_out))


def judged(
    name: str, ended: Ended, sound: Ended, written: Any, expected: Any, where: object
) -> str:
    """Return `noticed` or `no effect`; raise for what is silent."""
    if ended.code in {5, 7} and name in ended.err + ended.out:
        return "noticed"
    assert ended == sound, (where, ended)
    assert written == expected, where
    return "no effect"


def test_flips_in_finished_runs(top: Path, tmp_path: Path) -> None:
    chance, counts = random.Random(1), Counter[str]()
    folder = Path(shutil.copytree(top / "run", tmp_path / "run"))
    image = top / "images" / "val" / "dark" / "0.png"
    verbs = {
        "report": ("report", folder),
        "compare": ("compare", top / "run", folder),
        "verify": ("verify", folder),
        "predict": ("predict", folder, image, "--format", "json"),
    }
    command(*verbs["report"])  # without the images, which are elsewhere
    written = {name: (folder / name).read_bytes() for name in WRITTEN}
    sound = {verb: command(*arguments) for verb, arguments in verbs.items()}
    assert {ended.code for ended in sound.values()} == {0}, sound
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for _ in range(FINISHED):
        path = some_file(folder, chance)
        where = flip(path, chance)
        assert command(*verbs["verify"]).code == 7, where
        counts["verify: noticed"] += 1
        for verb in ("report", "compare", "predict"):
            if verb == "predict" and path.name not in PREDICT and chance.random() > 0.02:
                continue
            ended = command(*verbs[verb])
            now = {name: (folder / name).read_bytes() for name in WRITTEN}
            if path.name in WRITTEN and verb != "report":
                now = written  # it is the flipped file itself
            counts[f"{verb}: {judged(path.name, ended, sound[verb], now, written, where)}"] += 1
        for name, content in before.items():
            (folder / name).write_bytes(content)
    print(dict(counts))


def test_flips_in_sweeps(top: Path, tmp_path: Path) -> None:
    chance, counts = random.Random(2), Counter[str]()
    sweep = tmp_path / "s"
    shutil.copytree(top / "images", tmp_path / "images")
    shutil.copy(top / "e.toml", tmp_path / "e.toml")
    tlkit.sweep(tmp_path / "e.toml", sweep, seeds="0-1", in_process=True)
    tables = ("sweep.csv", "summary.csv", "sweep.html", "accuracy.svg")
    sound = command("sweep", "--resume", sweep)
    assert sound.code == 0, sound
    expected = {name: (sweep / name).read_bytes() for name in tables}
    shutil.move(sweep, tmp_path / "sound")
    for _ in range(SWEEPS):
        shutil.copytree(tmp_path / "sound", sweep)
        path = some_file(sweep, chance)
        where = path.relative_to(sweep), flip(path, chance)
        assert command("verify", sweep).code == 7, where
        counts["verify: noticed"] += 1
        ended = command("sweep", "--resume", sweep)
        now = {name: (sweep / name).read_bytes() for name in tables}
        counts[f"resume: {judged(path.name, ended, sound, now, expected, where)}"] += 1
        shutil.rmtree(sweep)
    print(dict(counts))


class Stop(tlkit.Callback):
    """Stops a run in an epoch."""

    def on_epoch_begin(self, epoch: int, epochs: int, images: int) -> None:
        if epoch == 4:
            os.kill(os.getpid(), signal.SIGTERM)


def test_flips_in_unfinished_runs(top: Path, tmp_path: Path) -> None:
    chance, counts = random.Random(3), Counter[str]()
    begun, folder = top / "begun", top / "again"
    with pytest.raises(tlkit.Interrupted):
        tlkit.run(top / "e.toml", begun, callback=Stop())
    results = ("history.csv", "metrics.json", "predictions.csv", "weights.safetensors", "seal.json",
               "calibration.json", "looks.csv", "manifest.csv", "plan.json")  # fmt: skip
    expected = {name: (top / "run" / name).read_bytes() for name in results}
    for _ in range(UNFINISHED):
        shutil.copytree(begun, folder)
        path = some_file(folder, chance)
        where = path.relative_to(folder), flip(path, chance)
        ended = command("resume", folder)
        noticed = path.name in ended.err or path.parent.name in ended.err
        if ended.code == 0:
            now = {name: (folder / name).read_bytes() for name in results}
            assert now == expected, where
            counts[f"goes on, {'noticed' if noticed else 'no effect'}"] += 1
        else:
            assert ended.code in {3, 4, 5, 7}, (where, ended)
            assert noticed, (where, ended)
            counts["noticed"] += 1
        shutil.rmtree(folder)
    print(dict(counts))


def test_flips_in_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance, counts = random.Random(4), Counter[str]()
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    rows = np.arange(64, dtype=np.float32).reshape(8, 8)
    cache, index = FeatureCache(tmp_path / "cache"), DecodedImageIndex(tmp_path / "cache")
    table = LayerTable((Layer("conv", "Conv2D", "block1", (8, 8, 2), params=10),))
    other = LayerTable((Layer("other", "Conv2D", "block1", (8, 8, 2), params=10),))
    pictures = {"ab" * 32: picture_of(Image.fromarray(np.zeros((8, 8), np.uint8)))}

    def fill() -> None:
        cache.put("key", rows.shape, rows.dtype, iter([rows]), {"rows": ["x"]})
        index.add(pictures)
        cached_table("a", {}, lambda: table)

    fill()
    for _ in range(CACHES):
        path = some_file(tmp_path / "cache", chance)
        where = path.relative_to(tmp_path), flip(path, chance)
        about = dict(cache.about())
        assert about in ({"key": {"rows": ["x"]}}, {}), where
        found, known = cache.get("key"), index.read()
        assert found is None or found[:].tobytes() == rows.tobytes(), where
        assert known in (pictures, {}), where
        tables = cached_table("a", {}, lambda: other)
        assert tables in (table, other)
        damaged = found is None or not known or tables == other
        counts["noticed" if damaged else "no effect"] += 1
        shutil.rmtree(tmp_path / "cache")
        fill()
    print(dict(counts))
