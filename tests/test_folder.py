"""The run folder: made once, written whole, the same bytes wherever the run took place."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from tests.fakes import ON_FOLDER, RESULTS, contents, small

import tlkit
from tlkit.model.graph import layer_table
from tlkit.runfolder.folder import RunFolder
from tlkit.weights.tensors import numbered_weights, read_weights, write_weights

pytestmark = pytest.mark.usefixtures("slim_vgg")

DETERMINISTIC = (
    "MODEL_CARD.md",
    "report.html",  # on one machine: it tells which one that was
    "study.toml",
    *RESULTS,
)
STUDY = f"""
{ON_FOLDER}dropout = 0.5

[augmentation]
name = "affine"

[fit]
epochs = 2
xla = false
"""
DRAWN = f"""
{small()}
[fit]
epochs = 2
xla = false
"""


def small_model(units: int = 3) -> Any:
    return keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(units, name="hidden"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(2, name="scores"),
        ]
    )


def fill(folder: RunFolder) -> None:
    folder.write_json("first.json", "what a run begins with")


def test_a_folder_that_exists_is_never_taken(tmp_path: Path) -> None:
    with pytest.raises(tlkit.RunFolderError, match=r"the run folder exists; choose another") as e:
        RunFolder.create(tmp_path, "exp3", fill)
    assert e.value.exit_code == 7
    claimed = RunFolder.create(tmp_path / "new" / "run", "exp3", fill)
    assert [path.name for path in claimed.path.iterdir()] == ["first.json"]
    assert list((tmp_path / "new").iterdir()) == [claimed.path]


def test_an_empty_folder_is_claimed_in_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: RunFolder.claim(None, "exp").path.name, range(16)))
    assert sorted(claimed) == sorted(f"exp-{number}" for number in range(1, 17))
    with pytest.raises(tlkit.RunFolderError, match=r"exp-1: the run folder exists"):
        RunFolder.claim(Path("runs/exp-1"), "exp")
    (tmp_path / "file").touch()
    with pytest.raises(tlkit.ResourceError, match=r"file/run: cannot be made: "):
        RunFolder.claim(tmp_path / "file" / "run", "exp")


def test_a_folder_that_appears_meanwhile_is_not_taken_either(tmp_path: Path) -> None:
    def slow(folder: RunFolder) -> None:
        fill(folder)
        fill(RunFolder.create(tmp_path / "run", "other", fill))

    with pytest.raises(tlkit.RunFolderError, match=r"/run: the run folder exists"):
        RunFolder.create(tmp_path / "run", "exp3", slow)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_cannot_be_filled_is_not_there(tmp_path: Path) -> None:
    def broken(folder: RunFolder) -> None:
        fill(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(tlkit.ResourceError, match=r"run: cannot be made: No space left on device$"):
        RunFolder.create(tmp_path / "run", "exp3", broken)
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_the_first_free_number_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "exp3-2").mkdir(parents=True)
    claimed = [RunFolder.create(None, "exp3", fill).path for _ in range(3)]
    assert claimed == [Path("runs/exp3-1"), Path("runs/exp3-3"), Path("runs/exp3-4")]
    assert all((path / "first.json").is_file() for path in claimed)


def test_runs_that_start_together_get_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: RunFolder.create(None, "exp", fill).path.name, range(16)))
    assert sorted(claimed) == sorted(f"exp-{number}" for number in range(1, 17))


def test_a_place_where_no_folder_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(tlkit.ResourceError, match=r"/file/run: cannot be made: "):
        RunFolder.create(tmp_path / "file" / "run", "exp3", fill)


def test_arrays_are_named_by_number_layer_and_variable() -> None:
    """The same in a second model of one process, where Keras's own paths differ."""
    names = [list(numbered_weights(model, layer_table(model))) for model in (small_model(),) * 2]
    assert (
        names[0]
        == names[1]
        == [
            "001.hidden/kernel",
            "001.hidden/bias",
            "002.norm/gamma",
            "002.norm/beta",
            "002.norm/moving_mean",
            "002.norm/moving_variance",
            "003.scores/kernel",
            "003.scores/bias",
        ]
    )


def written(folder: Path) -> tuple[Any, Path]:
    """Return a model and the file that it was written to."""
    model = small_model()
    path = folder / "weights.safetensors"
    write_weights(path, model, layer_table(model))
    return model, path


def test_weights_come_back_to_the_bit_in_another_model(tmp_path: Path) -> None:
    model, path = written(tmp_path)
    other = small_model()
    read_weights(path, other, layer_table(other))
    assert [v.numpy().tobytes() for v in other.weights] == [
        v.numpy().tobytes() for v in model.weights
    ]


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def edit(path: Path) -> None:
        arrays = load_file(path)
        change(arrays)
        save_file(arrays, path)

    return edit


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, r"there is no such file$"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), r"cannot be read: "),
        (lambda path: path.write_bytes(b""), r"cannot be read: "),
        (
            edited(lambda arrays: arrays.pop("003.scores/bias")),
            r"does not fit the model: 003\.scores/bias$",
        ),
        (
            edited(lambda arrays: arrays.update({"004.more/bias": np.zeros(1)})),
            r"does not fit the model: 004\.more/bias$",
        ),
        (
            edited(lambda arrays: arrays.update({"003.scores/bias": np.zeros(3, np.float32)})),
            r"003\.scores/bias is float32 \(3,\), expected float32 \(2,\)$",
        ),
        (
            edited(lambda arrays: arrays.update({"003.scores/bias": np.zeros(2, np.float16)})),
            r"003\.scores/bias is float16 \(2,\), expected float32 \(2,\)$",
        ),
    ],
    ids=["no file", "truncated", "empty", "one missing", "one more", "shape", "dtype"],
)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_loaded(
    spoil: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    _, path = written(tmp_path)
    spoil(path)
    model = small_model()
    before = [v.numpy().tobytes() for v in model.weights]
    with pytest.raises(tlkit.WeightsError, match=message):
        read_weights(path, model, layer_table(model))
    assert [v.numpy().tobytes() for v in model.weights] == before


def test_a_broken_file_in_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{", encoding="utf-8")
    with pytest.raises(tlkit.RunFolderError, match=r"metrics\.json: cannot be read: "):
        RunFolder(tmp_path).read_json("metrics.json")


def test_a_figure_that_is_not_finite_leaves_the_run_unfinished(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not JSON compliant"):
        RunFolder(tmp_path).write_json("metrics.json", {"loss": float("nan")})
    assert not (tmp_path / "metrics.json").exists()


def study(folder: Path) -> Path:
    """Make a folder with an experiment and its images, and return the experiment."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        for label in ("one", "two"):
            (folder / "images" / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (32, 32), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"images/{split}/{label}/{number}.png")
    (folder / "study.toml").write_text(STUDY, encoding="utf-8")
    return folder / "study.toml"


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of one study, from two places and working directories."""
    folders = []
    for place in ("here", "some/where/else"):
        top = tmp_path_factory.mktemp("twin") / place
        top.mkdir(parents=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(top)
            path = study(top)
            relative = path.relative_to(top) if place == "here" else path
            folders.append((top / tlkit.run(relative).folder).resolve())
    return folders[0], folders[1]


def test_two_runs_leave_the_same_bytes(twins: tuple[Path, Path]) -> None:
    one, other = (contents(folder, DETERMINISTIC) for folder in twins)
    assert one == other


def test_deterministic_files_tell_nothing_of_the_place(twins: tuple[Path, Path]) -> None:
    private = (str(twins[0].parents[1]), str(Path.home()), rf"\b{platform.node()}\b")
    for name in DETERMINISTIC[:-1]:  # the last one is arrays
        text = (twins[0] / name).read_text(encoding="utf-8")
        assert not re.search("|".join(private), text), name


def test_a_run_leaves_its_files_and_no_others(twins: tuple[Path, Path]) -> None:
    expected = {*DETERMINISTIC, "environment.json", "seal-machine.json", "timing.csv"}
    assert {path.name for path in twins[0].iterdir()} == expected
    study_folder = twins[0].parents[1]
    assert {path.name for path in study_folder.iterdir()} == {"images", "runs", "study.toml"}


def test_the_experiment_is_kept_verbatim_and_with_every_default(twins: tuple[Path, Path]) -> None:
    toml = twins[0].parents[1] / "study.toml"
    assert (twins[0] / "study.toml").read_bytes() == toml.read_bytes()
    table = json.loads((twins[0] / "experiment.json").read_text(encoding="utf-8"))
    keys = {
        "name",
        "path",
        "resize",
        "sampler",
        "allow_double_balancing",
        "split_seed",
        "mask_center",
    }
    keys |= {"on_bad_image", "allow_leakage"}
    assert table["data"].keys() == keys
    assert Path(table["data"]["path"]) == Path("images")
    assert table["optimizer"]["learning_rate"] == 1e-3


def test_the_manifest_has_every_image_with_its_hash(twins: tuple[Path, Path]) -> None:
    lines = (twins[0] / "manifest.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "path,sha256,split,label,patient,source,view"
    assert len(lines) == 1 + 2 * (3 + 2 + 2)
    assert re.fullmatch(r"train/one/0\.png,[0-9a-f]{64},train,one,,,", lines[1])


def test_predictions_are_the_images_not_learnt_from(twins: tuple[Path, Path]) -> None:
    lines = (twins[0] / "predictions.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "path,label,predicted,split,p_one,p_two"
    rows = [line.split(",") for line in lines[1:]]
    assert [row[3] for row in rows] == ["val"] * 4 + ["test"] * 4
    for row in rows:
        shares = [float(share) for share in row[4:]]
        assert sum(shares) == pytest.approx(1, abs=1e-6)
        assert row[2] == ("one", "two")[int(shares[1] > shares[0])]


@pytest.mark.slow
def test_fresh_processes_leave_the_same_bytes(tmp_path: Path) -> None:
    """With other hash seeds, which change the order of sets, and other working directories."""
    folders = []
    for seed in ("0", "1"):
        top = tmp_path / seed
        top.mkdir()
        (top / "study.toml").write_text(DRAWN, encoding="utf-8")
        subprocess.run(
            [sys.executable, "-c", "import tlkit; tlkit.run('study.toml', 'out')"],
            cwd=top,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            timeout=120,
        )
        folders.append(contents(top / "out", DETERMINISTIC))
        shutil.rmtree(top)
    assert folders[0] == folders[1]
