"""A checkpoint: whole or not at all, checked to the byte; the last two are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from attrs import evolve

import tlkit
from tlkit.runfolder.folder import RunFolder
from tlkit.train.checkpoint import Checkpoint, Checkpoints, State
from tlkit.weights.tensors import snapshot


def epoch(number: int, val_loss: float = 0.5) -> tlkit.Epoch:
    values = dict.fromkeys(("learning_rate", "loss", "loss_unweighted", "accuracy"), 0.1)
    return tlkit.Epoch(
        epoch=number, stage=1, val_loss=val_loss, val_accuracy=0.1 + number, **values
    )


def tensors(value: float) -> Any:
    """What is called a weight, and holds its value everywhere."""
    return snapshot({"001.scores/kernel": keras.Variable(np.full((2, 3), value, np.float32))})


def state(number: int, best: int, **changed: Any) -> State:
    """The state after so many epochs, whose numbers are in all that it holds."""
    found = State(
        history=tuple(map(epoch, range(1, number + 1))),
        weights=tensors(number),
        optimizer=tensors(10 * number),
        on_val=np.full((2, 3), number, np.float32),
        best=best,
        best_weights=None,
        best_on_val=np.full((2, 3), best, np.float32),
        frozen_sha256="abc",
    )
    return evolve(found, **changed)


def value_in(checkpoint: Checkpoint | None, name: str) -> float:
    assert checkpoint is not None
    variables = {"001.scores/kernel": keras.Variable(np.zeros((2, 3), np.float32))}
    checkpoint.load(name, variables)
    return float(variables["001.scores/kernel"].numpy()[0, 0])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def unheard(problem: str) -> None:
    raise AssertionError(problem)


def test_what_was_committed_comes_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.newest(unheard) is None
    checkpoints.commit(state(3, best=3))
    found = Checkpoints(tmp_path / "checkpoints").newest(unheard)
    assert found == checkpoints.last
    assert found is not None
    assert found.history == tuple(map(epoch, (1, 2, 3)))
    assert (found.best, found.frozen_sha256) == (3, "abc")
    assert value_in(found, "weights.safetensors") == value_in(found, found.best_file) == 3
    assert value_in(found, "optimizer.safetensors") == 30
    assert [array.tolist() for array in found.on_val()] == [[[3] * 3] * 2] * 2


def test_the_last_two_are_kept_and_each_has_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for number in range(1, 6):
        checkpoints.commit(state(number, best=min(number, 2)))
    assert names(tmp_path) == ["epoch-0004", "epoch-0005"]
    for path in tmp_path.iterdir():
        found = Checkpoint.read(path)
        assert (found.best, value_in(found, found.best_file)) == (2, 2)
    copies = {(path / "best.safetensors").stat().st_ino for path in tmp_path.iterdir()}
    assert len(copies) == 2  # a bad bit in one file costs one checkpoint
    third = (tmp_path / "epoch-0004" / "best.safetensors").stat().st_ino
    checkpoints.commit(state(6, best=2))
    sixth = (tmp_path / "epoch-0006" / "best.safetensors").stat().st_ino
    assert sixth == third  # the second copy goes on as a link: it is not written at every epoch


def test_a_best_epoch_that_no_checkpoint_was_written_after_is_written_with_the_next(
    tmp_path: Path,
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.commit(state(1, best=1))
    checkpoints.commit(state(4, best=3, best_weights=tensors(3)))
    found = Checkpoints(tmp_path).newest(unheard)
    assert found is not None
    assert value_in(found, found.best_file) == 3
    assert found.on_val()[1][0, 0] == 3


def test_the_end_of_a_stage_needs_no_optimizer(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.commit(state(2, best=2, optimizer={}))
    assert names(tmp_path / "epoch-0002") == [
        "manifest.json", "on_val.safetensors", "state.json", "weights.safetensors",
    ]  # fmt: skip


def rewrite(path: Path, content: bytes) -> None:
    """Write a file that was there; not through its other name, if it has one."""
    path.unlink()
    path.write_bytes(content)


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    rewrite(path, path.read_bytes()[:-1])


def empty(path: Path) -> None:
    rewrite(path, b"")


def flip(path: Path) -> None:
    content = path.read_bytes()
    rewrite(path, content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])


def other_json(path: Path) -> None:
    rewrite(path, b'{"files": []}')


def listing_nothing(path: Path) -> None:
    rewrite(path, b'{"files": {}}')


def nested(path: Path) -> None:
    rewrite(path, b"[" * 100_000)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *((name, damage) for damage in (remove, cut, empty, flip) for name in (
            "weights.safetensors", "optimizer.safetensors", "best.safetensors",
            "on_val.safetensors", "state.json")),
        *(("manifest.json", damage) for damage in (
            remove, cut, empty, other_json, listing_nothing, nested)),
    ],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)  # fmt: skip
def test_a_damaged_one_is_passed_over_and_named(file: str, damage: Any, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.commit(state(1, best=1))
    checkpoints.commit(state(2, best=1))
    damage(tmp_path / "epoch-0002" / file)
    heard: list[str] = []
    again = Checkpoints(tmp_path)
    found = again.newest(heard.append)
    assert found is not None
    assert found.path.name == "epoch-0001"
    assert len(heard) == 1
    assert "epoch-0002: " in heard[0]
    assert heard[0].endswith("; continuing from epoch-0001")
    again.commit(state(3, best=1))
    assert {"epoch-0001", "epoch-0003"} == {n for n in names(tmp_path) if n[:5] == "epoch"}


def test_if_all_are_damaged_it_is_an_error_and_nothing_is_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for number in (1, 2):
        checkpoints.commit(state(number, best=number))
        cut(tmp_path / f"epoch-000{number}" / "state.json")
    with pytest.raises(
        tlkit.WeightsError,
        match=r"epoch-0002: state\.json has changed since it was written\n"
        r".*epoch-0001: .*\nno checkpoint",
    ) as caught:
        Checkpoints(tmp_path).newest(unheard)
    assert caught.value.exit_code == 5
    assert names(tmp_path) == ["epoch-0001", "epoch-0002"]


def test_what_an_older_crash_has_left_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.commit(state(1, best=1))
    (tmp_path / ".epoch-0009-abc").mkdir()
    (tmp_path / "epoch-0008.tmp").mkdir()
    (tmp_path / "epoch-0007").symlink_to(tmp_path / "epoch-0001")
    assert Checkpoints(tmp_path).newest(unheard) == checkpoints.last


def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.commit(state(1, best=1))
    path = tmp_path / "epoch-0001" / "manifest.json"
    files = json.loads(path.read_text(encoding="utf-8"))["files"]
    files["../../secret"] = files["state.json"]
    path.write_text(json.dumps({"files": files}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"^\.\./\.\./secret has changed since it was written$"):
        Checkpoint.read(tmp_path / "epoch-0001")


def test_a_full_disk_leaves_the_one_before_and_says_what_was_needed(
    tmp_path: Path, disk: Any
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.commit(state(1, best=1))
    disk.begin(fail_at=5, how="full")
    with pytest.raises(
        tlkit.ResourceError, match=r"a checkpoint of 0\.0 MB cannot be written: No space left on"
    ) as caught:
        checkpoints.commit(state(2, best=2))
    assert caught.value.exit_code == 8
    disk.begin()
    assert names(tmp_path) == ["epoch-0001"]
    assert Checkpoints(tmp_path).newest(unheard) == Checkpoint.read(tmp_path / "epoch-0001")


def test_one_bad_bit_costs_one_checkpoint(tmp_path: Path) -> None:
    """Also in the best weights, which both checkpoints have."""
    checkpoints = Checkpoints(tmp_path)
    for number in range(1, 6):
        checkpoints.commit(state(number, best=min(number, 2)))
    for path in sorted(tmp_path.glob("*/*")):
        sound = path.read_bytes()
        bad = bytearray(sound)
        bad[len(bad) // 2] ^= 1
        path.write_bytes(bad)
        found = Checkpoints(tmp_path).newest(lambda _: None)
        assert found is not None
        other = "epoch-0004" if path.parent.name == "epoch-0005" else "epoch-0005"
        assert found.path.name == other, path
        assert value_in(found, found.best_file) == 2
        path.write_bytes(sound)


def test_a_file_that_changes_after_it_was_checked_is_noticed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.commit(state(1, best=1))
    found = checkpoints.newest(unheard)
    assert found is not None
    for name in ("weights.safetensors", "on_val.safetensors"):
        content = bytearray((found.path / name).read_bytes())
        content[-1] ^= 1
        (found.path / name).write_bytes(content)
    with pytest.raises(tlkit.WeightsError, match=r"weights\.safetensors: has changed since"):
        value_in(found, "weights.safetensors")
    with pytest.raises(tlkit.WeightsError, match=r"on_val\.safetensors: has changed since"):
        found.on_val()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_nothing_is_written_where_checkpoints_lead_elsewhere(kind: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".x.partial").write_text("precious", encoding="utf-8")
    folder = tmp_path / "checkpoints"
    folder.symlink_to("elsewhere") if kind == "link" else folder.write_text("")
    with pytest.raises(tlkit.RunFolderError, match="must be a folder and no link to one"):
        Checkpoints(folder).newest(unheard)
    with pytest.raises(tlkit.RunFolderError, match="must be a folder and no link to one"):
        RunFolder(tmp_path).remove_partial()
    with pytest.raises(tlkit.RunFolderError, match="must be a folder and no link to one"):
        Checkpoints(folder).commit(state(1, best=1))
    assert names(tmp_path / "elsewhere") == [".x.partial"]
