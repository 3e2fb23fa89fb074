"""Folders from strangers and from bad disks: noticed with the file's name, in little time."""

from __future__ import annotations

import itertools
import json
import random
import resource
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.battery.counts import FOLDERS, READ
from tests.battery.strange import ATTACKS, SECRET, Ended, command, mutate, seal_run

OLD = Path(__file__).parent.parent / "data" / "old_run"
FILES = (
    "experiment.json",
    "plan.json",
    "metrics.json",
    "environment.json",
    "history.csv",
    "manifest.csv",
    "predictions.csv",
)
NEEDED_BY_ALL = (*FILES, "seal.json", "seal-machine.json")
VERBS = ("report", "compare", "verify")
REFUSED = {5, 7}


@pytest.fixture(scope="module", autouse=True)
def imports(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import what the commands need; that takes time, on a busy machine much."""
    folder = copy_of(OLD, tmp_path_factory.mktemp("first"), sealed=True)
    for verb in ("compare", "verify", "report", "resume"):
        other = [OLD] if verb == "compare" else []
        assert command(verb, *other, folder, limit_s=300).code == 0


def copy_of(source: Path, top: Path, sealed: bool) -> Path:
    folder = Path(shutil.copytree(source, top / "run"))
    if sealed:
        seal_run(folder)
    return folder


def run(verb: str, folder: Path) -> Ended:
    """Run a command on a run's folder, on two for a comparison."""
    return command(verb, *([OLD] if verb == "compare" else []), folder)


def contents(top: Path, but: Path) -> dict[str, bytes]:
    """Return what is in a folder outside the run's."""
    return {
        str(path): path.read_bytes()
        for path in top.rglob("*")
        if path.is_file() and not path.is_symlink() and not path.is_relative_to(but)
    }


def check_refused(verb: str, folder: Path, name: str, attack: str) -> None:
    """Attack a file; the command must refuse the folder, name the file and touch nothing."""
    ATTACKS[attack](folder / name)
    outside = contents(folder.parent, folder)
    ended = run(verb, folder)
    assert ended.code in REFUSED, (verb, name, attack, ended)
    assert name in ended.err or attack == "missing", (verb, name, attack, ended)
    assert SECRET not in ended.out + ended.err
    assert contents(folder.parent, folder) == outside
    assert not (folder / "report.html").exists()


PRODUCT = [
    (name, attack, verb, sealed)
    for name, attack, verb, sealed in itertools.product(
        NEEDED_BY_ALL, ATTACKS, VERBS, (True, False)
    )
    if sealed or name in FILES
    if not (name.startswith("seal") and attack in {"missing", "twice", "nan", "link", "secret"})
]
# Without a seal these are what they say: a changed number, one row more, a file that is optional.
UNNOTICED = {"flip", "cut", "missing", "nan", "twice"}


@pytest.mark.parametrize(
    ("name", "attack"),
    [(name, attack) for place, name in enumerate(FILES) for attack in list(ATTACKS)[place::7]],
)
def test_a_strange_file_is_refused_by_its_name(name: str, attack: str, tmp_path: Path) -> None:
    verb = VERBS[len(name + attack) % 3]
    check_refused(verb, copy_of(OLD, tmp_path, sealed=True), name, attack)


@pytest.mark.slow
def test_every_file_is_refused_by_every_command_whatever_was_done_to_it(tmp_path: Path) -> None:
    tried = 0
    for number, (name, attack, verb, sealed) in enumerate(PRODUCT):
        if not sealed and attack in UNNOTICED:
            continue
        top = tmp_path / str(number)
        check_refused(verb, copy_of(OLD, top, sealed), name, attack)
        shutil.rmtree(top)
        tried += 1
    assert tried == READ


def test_a_report_that_is_written_again_is_sealed_again(tmp_path: Path) -> None:
    folder = copy_of(OLD, tmp_path, sealed=True)
    assert [command(verb, folder).code for verb in ("report", "verify")] == [0, 0]


def test_a_run_that_was_killed_between_its_seal_and_its_end_can_be_tidied(tmp_path: Path) -> None:
    folder = copy_of(OLD, tmp_path, sealed=True)
    (folder / "unfinished.json").write_text("{}", encoding="utf-8")
    ended = command("resume", folder, limit_s=60)
    assert (ended.code, (folder / "unfinished.json").exists()) == (0, False), ended
    assert command("verify", folder).code == 0


def test_without_a_seal_one_line_says_so(tmp_path: Path) -> None:
    ended = command("verify", copy_of(OLD, tmp_path, sealed=False))
    assert (ended.code, ended.err.count("note: ")) == (0, 1)
    assert "has no seal" in ended.err


def test_a_link_named_like_an_experiment_is_not_shown(tmp_path: Path) -> None:
    folder = copy_of(OLD, tmp_path, sealed=False)
    (tmp_path / "key").write_text(SECRET, encoding="utf-8")
    (folder / "x.toml").symlink_to(tmp_path / "key")
    ended = command("report", folder)
    assert ended.code == 7
    assert "x.toml: cannot be read: is a link" in ended.err


@pytest.fixture(scope="module")
def strange_sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A sweep's folder whose experiment, in the folder too, lists a plugin file."""
    folder = tmp_path_factory.mktemp("stranger") / "s"
    (folder / "runs").mkdir(parents=True)
    marker = folder.parent / "PWNED"
    code = f"import pathlib; pathlib.Path({str(marker)!r}).write_text('x')"
    (folder / "evil.py").write_text(code, encoding="utf-8")
    text = '[plugins]\nmodules = ["evil.py"]\n[data]\nname = "shapes"\n'
    plan: dict[str, Any] = {"file": "e.toml", "overrides": [], "seeds": None, "runs": [],
                            "texts": {"e.toml": text}}  # fmt: skip
    (folder / "sweep.json").write_text(json.dumps(plan), encoding="utf-8")
    yield folder
    assert not marker.exists()


@pytest.mark.parametrize("option", ["--resume", "--join", "--status"])
def test_a_sweeps_folder_runs_no_code(option: str, strange_sweep: Path) -> None:
    ended = command("sweep", option, strange_sweep)
    assert ended.code == 6
    assert "evil.py, which is executed only if you name it: --plugin FILE" in ended.err


@pytest.mark.parametrize("option", ["--resume", "--join", "--status"])
def test_a_sweeps_folder_has_no_other_file_read(
    option: str, strange_sweep: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(strange_sweep, tmp_path / "s"))
    (tmp_path / "secret.toml").write_text(f"{SECRET} = [", encoding="utf-8")
    plan = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    others = {"e.toml": '[sweep]\nfiles = ["../secret.toml"]'}
    for change, code in (
        ({"file": "../secret.toml", "texts": None}, 7),
        ({"file": "../secret.toml"}, 3),
        ({"texts": others}, 3),
    ):
        (folder / "sweep.json").write_text(json.dumps(plan | change), encoding="utf-8")
        ended = command("sweep", option, folder)
        assert (ended.code, SECRET in ended.err) == (code, False), ended


def test_a_sweeps_overrides_run_no_code(strange_sweep: Path) -> None:
    plan = json.loads((strange_sweep / "sweep.json").read_text(encoding="utf-8"))
    plan["texts"] = {"e.toml": '[data]\nname = "shapes"\n'}
    plan["overrides"] = ['plugins.modules=[["evil.py"]]']
    (strange_sweep / "sweep.json").write_text(json.dumps(plan), encoding="utf-8")
    assert command("sweep", "--resume", strange_sweep).code == 6


@pytest.mark.slow
def test_a_thousand_strange_folders(tmp_path: Path) -> None:
    chance = random.Random(0)
    codes: Counter[int] = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(FOLDERS):
        folder = copy_of(OLD, tmp_path / str(number), sealed=chance.random() < 0.2)
        names = [path.name for path in folder.iterdir()]
        done = [
            f"{name}: {mutate(folder / name, chance)}"
            for name in chance.sample(names, chance.randint(1, 3))
        ]
        verb = chance.choice(("report", "compare", "verify", "resume"))
        ended = run(verb, folder)
        assert ended.code in {0, 3, 5, 7}, (number, verb, done, ended)
        codes[ended.code] += 1
        shutil.rmtree(folder.parent)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 1 << 20, grown  # in KiB
    print(dict(codes), f"{grown >> 10} MiB")
