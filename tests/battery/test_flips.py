"""Two thousand bit flips: each is noticed, or changes nothing that is printed or written."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.battery.counts import CACHES, FINISHED, SWEEPS, UNFINISHED
from tests.battery.strange import Ended, command

import tlkit
from tlkit.data.pictures import DecodedImageIndex, picture_of
from tlkit.model.graph import cached_table
from tlkit.model.layers import Layer, LayerTable
from tlkit.system.cache import FeatureCache

pytestmark = pytest.mark.slow

# What a prediction reads; the rest it never opens.
PREDICT = ("metrics.json", "experiment.json", "plan.json", "calibration.json",
           "weights.safetensors", "seal.json", "seal-machine.json")  # fmt: skip
WRITTEN = ("report.html", "MODEL_CARD.md")


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


def test_flips_in_unfinished_runs(top: Path, begun: Path) -> None:
    chance, counts, folder = random.Random(3), Counter[str](), top / "again"
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
