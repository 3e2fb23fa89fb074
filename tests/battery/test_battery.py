"""Every case of the battery: made to happen here, or tested where its row says."""

from __future__ import annotations

import ast
import re
import shutil
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.battery.case import Case, Fault
from tests.battery.page import PAGE, page
from tests.battery.table import CASES, GROUPS

from tlkit import cli

TESTS = Path(__file__).parent.parent
STUDY = """
data = {name = "folder", path = "data"}
backbone = {weights = "none", image_size = 32}
head.name = "pooled"
fit = {epochs = 1, batch_size = 4}
"""


def test_every_case_is_there_once() -> None:
    counts = {letter: count for letter, (_, _, count) in GROUPS.items()}
    expected = [f"{letter}{n + 1:02d}" for letter, count in counts.items() for n in range(count)]
    assert [case.id for case in CASES] == expected
    assert len(expected) == 195


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_case_is_tested_or_says_why_not(case: Case) -> None:
    assert bool(case.faults or case.tests) == (case.status == "tested")
    assert case.what
    assert case.expected


def test_no_case_is_counted_twice() -> None:
    named = Counter(f"{case.what} {case.expected}" for case in CASES)
    assert named.most_common(1)[0][1] == 1


@cache
def functions(path: Path) -> frozenset[str]:
    """Return the names of a file's test functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("test", sorted({test for case in CASES for test in case.tests}))
def test_a_test_that_is_named_exists(test: str) -> None:
    file, name = test.split("::")
    assert name.startswith("test_")
    assert name in functions(TESTS / file)


def test_the_page_is_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.battery.page"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that runs: two classes, three training and two other images of each."""
    top = tmp_path_factory.mktemp("sound")
    random = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for label in "ab":
            folder = top / "data" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (40, 40), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    (top / "study.toml").write_text(STUDY)
    return top


def _enough(*_: object) -> None:
    """End a run that has found its data sound."""
    raise SystemExit(0)


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, id=f"{case.id} {fault.name}") for case in CASES for fault in case.faults],
)
def test_a_fault_ends_as_its_row_says(
    fault: Fault,
    sound: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(sound, folder)
    monkeypatch.chdir(folder)
    fault.make(folder)
    if fault.arguments[0] == "run" and not fault.code:  # training is tested elsewhere
        monkeypatch.setattr("tlkit.train.assemble.assemble", _enough)
    before = listing(folder)
    monkeypatch.setattr("sys.argv", ["tlkit", *fault.arguments])
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capfd.readouterr()
    messages = err if fault.code else out + err
    assert int(ended.value.code or 0) == fault.code, messages
    assert "Traceback" not in err
    plain = " ".join(messages.replace("│", " ").split()) if fault.code == 2 else messages
    assert re.search(fault.message, plain, re.MULTILINE), messages
    if fault.code:
        assert out == ""
        assert listing(folder) == before
