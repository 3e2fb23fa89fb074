"""The house's two import rules: light to start, and one way only."""

from __future__ import annotations

import ast
import graphlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.pictures import two_classes

ROOT = Path(__file__).parent.parent.parent
SOURCE = ROOT / "src" / "tlkit"

# Imports go down this list only. Packages stand for all their modules, in which the order is free
# but for cycles, which Python itself refuses. The page that explains the house draws it.
PAGE = ROOT / "docs" / "explanation" / "architecture.md"
DRAWN = PAGE.read_text(encoding="utf-8").partition("## Imports go one way")[2]
ORDER = tuple(
    name
    for line in DRAWN.partition("```text\n")[2].partition("```")[0].splitlines()
    for name in line.split("  ")[-1].strip().split(" ▸ ")
)
HEAVY = (
    "tensorflow",
    "keras",
    "keras_cv",
    "keras_hub",
    "sklearn",
    "numpy",
    "PIL",
    "h5py",
    "requests",
    "pydicom",
    "jinja2",
)
KERAS = ("tensorflow", "keras", "keras_cv", "keras_hub", "h5py", "jinja2")
EXPERIMENT_3 = str(ROOT / "examples" / "covidx" / "exp3.toml")


def level(module: str) -> int:
    """Return the place in `ORDER` of `tlkit.a.b`."""
    return ORDER.index([*module.split("."), "__init__"][1])


def imported(path: Path) -> set[str]:
    """Return the tlkit modules that a file imports, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name.partition(".")[0] == "tlkit" and is_module(name)}


def is_module(name: str) -> bool:
    path = SOURCE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


MODULES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down_the_list_only(path: Path) -> None:
    module = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
    own = level(module)
    assert not [name for name in imported(path) if level(name) < own]


def test_every_module_has_its_place_in_the_list() -> None:
    top = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in MODULES}
    assert sorted(top) == sorted(ORDER)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """In functions and for types too; a package's `__init__` stands for nothing but itself."""
    waits_for = {
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts): {
            name for name in imported(path) if not SOURCE.parent.joinpath(*name.split(".")).is_dir()
        }
        for path in MODULES
        if path.name != "__init__.py"
    }
    graphlib.TopologicalSorter(waits_for).prepare()  # raises CycleError, which names the circle


def test_at_most_27_rooms_at_the_top() -> None:
    assert len(ORDER) <= 27


# Run with the heavy packages blocked, so that importing one is an error and not only slow.
BLOCKED = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None
from tlkit.cli import main
main()
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["resume", "--help"],
        ["list"],
        ["list", "backbones", "vgg*"],
        ["info", "vgg16"],
        ["schema"],
        ["layers", "vgg16", "--head", "flatten_dense", "--classes", "3"],
        ["check", EXPERIMENT_3],
        ["cache", "info"],
        ["sweep", EXPERIMENT_3, "--seeds", "0-2", "--dry-run"],
        ["data", "inspect", "--help"],
    ],
    ids=" ".join,
)
def test_light_commands_start_without_heavy_packages(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("note: ") for line in done.stderr.splitlines()), done.stderr
    assert done.stdout


@pytest.mark.parametrize("verb", ["inspect", "split", "verify"])
def test_data_commands_start_without_keras(verb: str, tmp_path: Path) -> None:
    two_classes(tmp_path)
    out = ["--out", str(tmp_path / "split.csv")] if verb == "split" else []
    blocked = BLOCKED.replace(repr(HEAVY), repr(KERAS))
    done = subprocess.run(
        [sys.executable, "-c", blocked, "data", verb, str(tmp_path), *out],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "import of" not in done.stderr
    assert done.returncode == (4 if verb == "verify" else 0)  # the images are in no split


def test_the_block_works() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, "evaluate", "nowhere", "--data", "nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "import of" in done.stderr
    assert "halted" in done.stderr


def test_every_module_that_the_page_and_its_picture_name_is_there() -> None:
    page = PAGE.read_text(encoding="utf-8")
    files = re.findall(r"`([\w/]+\.py)`", page)
    flow = (ROOT / "docs" / "img" / "flow.svg").read_text(encoding="utf-8")
    modules = ", ".join(re.findall(r'class="mid code"[^>]*>([^<]+)<', flow)).split(", ")
    assert len(files) > 15
    assert len(modules) > 5
    missing = [
        name
        for name in [*files, *modules]
        if not any((top / name).is_file() for top in (SOURCE, ROOT))
        and not is_module(f"tlkit.{name.replace('/', '.')}")
    ]
    assert missing == []


WALK = (
    PAGE.read_text(encoding="utf-8").partition("## A newcomer's walk\n\n")[2].partition("\n## ")[0]
)


@pytest.mark.parametrize("answer", WALK.strip().split("\n\n"), ids=lambda text: text[2:40])
def test_every_name_in_the_newcomers_walk_is_in_one_of_the_files_named_with_it(answer: str) -> None:
    files = [SOURCE / file for file in re.findall(r"`([\w/.]+\.(?:py|j2))`", answer)]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    names = {name.rpartition(".")[2] for name in re.findall(r"`([A-Za-z_.]+)`", answer)}
    names -= {"cli"}
    assert files
    assert names
    assert {name for name in names if not re.search(rf"(def|class) {name}\b", text)} == set()
