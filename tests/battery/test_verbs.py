"""Every verb on every kind of file it reads, whatever was done to that file.

`report`, `compare` and `verify` are in `test_strange.py`.
"""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from PIL import Image
from tests.battery.conftest import STUDY
from tests.battery.counts import USED as USED_ATTACKS
from tests.battery.strange import ATTACKS, OF_TEXT, SECRET, Ended, command, seal_run

import tlkit

DOCUMENTED = {3, 4, 5, 6, 7, 8}
# Of what describes a run, the keys that differ are named.
DIFFERS = ("is not the run that was begun", "was started with other versions")
USED = ("metrics.json", "experiment.json", "plan.json", "calibration.json", "weights.safetensors",
        "seal.json", "seal-machine.json")  # fmt: skip
LEARNED = ("manifest.csv", "looks.csv")
AVERAGED = ("metrics.json", "experiment.json", "plan.json", "calibration.json", "manifest.csv",
            "predictions.csv", "weights.safetensors", "seal.json")  # fmt: skip
STARTED = ("metrics.json", "plan.json", "weights.safetensors", *LEARNED)
BEGUN = ("unfinished.json", "experiment.json", "plan.json", "manifest.csv", "environment.json",
         "looks.csv", "seal.json", "seal-machine.json")  # fmt: skip
CHECKPOINT = ("manifest.json", "state.json", "weights.safetensors", "optimizer.safetensors",
              "on_val.safetensors")  # fmt: skip
# A seal that is gone is that of an earlier tlkit: one line says so.
OPTIONAL = {(name, "missing") for name in ("seal.json", "seal-machine.json", "unfinished.json")}


@frozen
class Verb:
    """A command with the files of a folder that it reads.

    Attributes:
        name: For messages.
        folder: The folder's name below `top`.
        files: The files.
        arguments: The command's arguments, from `top` and the folder.
    """

    name: str
    folder: str
    files: Sequence[str]
    arguments: Callable[[Path, Path], Sequence[object]]


IMAGE = "images/val/dark/0.png"
OLD = Path(__file__).parent.parent / "data" / "old_run"
OF_SWEEP = ("sweep.json", "seal.json", "seal-machine.json", "leases/001-e.0.json")
OF_ITS_RUN = ("metrics.json", "experiment.json", "manifest.csv", "predictions.csv")


def going_on(option: str) -> Callable[[Path, Path], Sequence[object]]:
    return lambda top, sweep: ("sweep", option, sweep)


VERBS = [
    Verb("predict", "run", USED, lambda top, run: ("predict", run, top / IMAGE)),
    Verb("evaluate", "run", (*USED, *LEARNED),
         lambda top, run: ("evaluate", run, "--data", top / "images")),
    Verb("explain", "run", USED,
         lambda top, run: ("explain", run, top / IMAGE, "--out", run.parent / "out")),
    Verb("export", "run", USED,
         lambda top, run: ("export", run, "--to", "keras", "--out", run.parent / "out")),
    Verb("ensemble", "run", AVERAGED,
         lambda top, run: ("ensemble", run, top / "run", "--out", run.parent / "out")),
    Verb("predict by an ensemble", "average", ("ensemble.json", "seal.json"),
         lambda top, average: ("predict", average, top / IMAGE)),
    Verb("check from a run", "run", ("plan.json", "metrics.json"),
         lambda top, run: ("check", top / "e.toml", "--set", f"fit.head_weights='{run}'")),
    Verb("run from a run", "run", STARTED,
         lambda top, run: ("run", top / "e.toml", "--set", f"fit.head_weights='{run}'",
                           "--out", run.parent / "out")),
    Verb("resume", "begun", BEGUN, lambda top, run: ("resume", run)),
    *(Verb(f"sweep {option}", "s",
           (*OF_SWEEP, *(f"runs/001-e/{name}" for name in OF_ITS_RUN)), going_on(option))
      for option in ("--resume", "--join", "--status")),
]  # fmt: skip


def cases() -> list[tuple[Verb, str, str]]:
    """Return every verb with every file and attack that fits."""
    return [
        (verb, name, attack)
        for verb in VERBS
        for name, attack in itertools.product(verb.files, ATTACKS)
        if not (name.endswith(".safetensors") and attack in OF_TEXT)
        if not (Path(name).name.startswith("seal") and attack in {"link", "secret", *OF_TEXT})
    ]


def copy_of(verb: Verb, top: Path, place: Path) -> Path:
    """Copy a folder; a sweep's images and an ensemble's members are beside it."""
    if verb.folder == "s":
        shutil.copytree(top / "images", place / "images")
    if verb.folder == "average":
        for member in ("run", "again"):
            shutil.copytree(top / "run", place / member)
        return tlkit.ensemble(place / "run", place / "again", out=place / "average").folder
    return Path(shutil.copytree(top / verb.folder, place / verb.folder))


def check(verb: Verb, name: str, attack: str, top: Path, place: Path) -> Ended:
    """Attack a file of a copy of a folder; the verb refuses it by its name and touches nothing."""
    folder = copy_of(verb, top, place)
    ATTACKS[attack](folder / name)
    outside = {p: p.read_bytes() for p in place.glob("*") if p.is_file()}
    ended = command(*verb.arguments(top, folder), limit_s=30)
    where = (verb.name, name, attack, ended)
    assert SECRET not in ended.out + ended.err, where
    assert {p: p.read_bytes() for p in place.glob("*") if p.is_file()} == outside, where
    assert ended.code in DOCUMENTED | {0}, where
    if ended.code:
        named = Path(name).name in ended.err + ended.out
        named |= any(what in ended.err for what in DIFFERS)
        assert named or attack in {"missing", "folder"}, where
        assert not (place / "out").exists(), where
    return ended


def is_silent(verb: Verb, name: str, attack: str, ended: Ended) -> bool:
    """Tell whether a command went on although it should not have, and said nothing."""
    if ended.code or (Path(name).name, attack) in OPTIONAL or Path(name).name in ended.err:
        return False
    if name.startswith("leases") and attack == "missing":  # then nobody says who made the run
        return False
    if verb.name == "sweep --status":  # reads only who makes what, and whether a run has ended
        return name in {"sweep.json", "seal-machine.json", "leases/001-e.0.json"}
    return True


def test_the_page_tells_how_many_there_are() -> None:
    assert len(cases()) == USED_ATTACKS


def sample() -> list[tuple[Verb, str, str]]:
    """Return some cases in which no model is built."""
    verbs = ("predict", "evaluate", "explain", "export")
    return [c for c in cases() if c[0].name in verbs and c[1] in USED[:2]][::7]


@pytest.mark.parametrize(
    ("verb", "name", "attack"),
    [pytest.param(*case, id=f"{case[0].name} {case[1]} {case[2]}") for case in sample()],
)
def test_a_strange_file_is_refused(
    verb: Verb, name: str, attack: str, flipped: None, tmp_path: Path
) -> None:
    shutil.copytree(OLD, tmp_path / "run")
    seal_run(tmp_path / "run")
    (tmp_path / "e.toml").write_text(STUDY, encoding="utf-8")
    (tmp_path / IMAGE).parent.mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / IMAGE)
    ended = check(verb, name, attack, tmp_path, tmp_path / "place")
    assert ended.code, ended


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_file_a_verb_reads_is_refused_whatever_was_done_to_it(
    verb: Verb, top: Path, begun: Path, sweep: Path, tmp_path: Path
) -> None:
    counts = Counter[str]()
    sound = command(*verb.arguments(top, copy_of(verb, top, tmp_path / "x")), limit_s=300)
    assert sound.code == 0, sound
    for number, (_, name, attack) in enumerate(c for c in cases() if c[0] is verb):
        ended = check(verb, name, attack, top, tmp_path / str(number))
        assert not is_silent(verb, name, attack, ended), (verb.name, name, attack, ended)
        counts["refused" if ended.code else "no effect"] += 1
        shutil.rmtree(tmp_path / str(number))
    print(verb.name, dict(counts))


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_a_checkpoint(top: Path, begun: Path, tmp_path: Path) -> None:
    """Whatever was done to the newest one, the older one is used, and a line says so."""
    newest = sorted((begun / "checkpoints").iterdir())[-1].name
    tried = 0
    for name, attack in itertools.product(CHECKPOINT, ATTACKS):
        if name.endswith(".safetensors") and attack in OF_TEXT:
            continue
        place = tmp_path / str(tried)
        place.mkdir()
        folder = Path(shutil.copytree(begun, place / "begun"))
        ATTACKS[attack](folder / "checkpoints" / newest / name)
        ended = command("resume", folder, limit_s=60)
        assert ended.code == 0, (name, attack, ended)
        assert f"{newest}: " in ended.err, (name, attack, ended)
        for result in ("weights.safetensors", "predictions.csv", "history.csv"):
            assert (folder / result).read_bytes() == (top / "run" / result).read_bytes()
        shutil.rmtree(place)
        tried += 1
    print(tried)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["layers", "check", "run"])
def test_a_strange_cache_is_made_again(
    verb: str, top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a cache says is never more than a saving of time."""
    cache, sound = tmp_path / "cache", tmp_path / "sound"
    monkeypatch.setenv("TLKIT_CACHE", str(cache))
    arguments: dict[str, Sequence[Any]] = {
        "layers": ("layers", "mobilenet", "--image-size", 32),
        "check": (
            "check",
            top / "e.toml",
            "--set",
            'backbone={name="mobilenet", weights="none", image_size=32}',
        ),
        "run": ("run", top / "e.toml", "--out", tmp_path / "out"),
    }
    expected = command(*arguments[verb], limit_s=60)
    assert expected.code == 0, expected
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    shutil.copytree(cache, sound)
    files = [path.relative_to(sound) for path in sound.rglob("*") if path.is_file()]
    tried = 0
    for name, attack in itertools.product(files, ATTACKS):
        if attack in OF_TEXT and name.suffix != ".json":
            continue
        shutil.rmtree(cache)
        shutil.copytree(sound, cache)
        ATTACKS[attack](cache / name)
        ended = command(*arguments[verb], limit_s=60)
        assert (ended.code, SECRET in ended.out) == (0, False), (name, attack, ended)
        if verb != "run":
            assert ended.out == expected.out, (name, attack)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        tried += 1
    assert tried
    print(verb, tried)


@pytest.mark.slow
def test_a_strange_experiment_is_refused(top: Path, tmp_path: Path) -> None:
    """Files that people name themselves may be links."""
    tried = 0
    verbs: Sequence[Sequence[object]] = (("check",), ("run",), ("sweep",), ("sweep", "--dry-run"))
    for verb, attack in itertools.product(verbs, ATTACKS):
        if attack in {*OF_TEXT, "link", "flip", "secret", "empty", "cut"}:
            continue
        place = tmp_path / str(tried)
        place.mkdir()
        (place / "in").mkdir()
        shutil.copy(top / "e.toml", place / "in" / "e.toml")
        ATTACKS[attack](place / "in" / "e.toml")
        ended = command(verb[0], place / "in" / "e.toml", *verb[1:])
        assert ended.code == 3, (verb, attack, ended)
        assert "e.toml: " in ended.err, (verb, attack, ended)
        tried += 1
    print(tried)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["probe", "inspect"])
def test_strange_images_are_refused_or_left_out(verb: str, top: Path, tmp_path: Path) -> None:
    tried = 0
    for attack in set(ATTACKS) - {*OF_TEXT, "link", "missing"}:
        place = tmp_path / attack
        shutil.copytree(top / "images", place / "images")
        ATTACKS[attack](place / "images" / "train" / "dark" / "0.png")
        arguments: Sequence[object] = ("data", "inspect", place / "images")
        if verb == "probe":
            backbone = f"flipped={top}/run/weights.safetensors"
            arguments = ("probe", place / "images", "--out", place / "out", "--folds", 2,
                         "--backbone", backbone, "--not-joined")  # fmt: skip
        ended = command(*arguments, limit_s=60)
        assert ended.code in {0, 3, 4}, (attack, ended)
        assert "0.png" in ended.err + ended.out or ended.code == 0, (attack, ended)
        assert SECRET not in ended.out + ended.err
        tried += 1
    assert tried
