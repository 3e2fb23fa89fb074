"""What the source does not do: unpickle, evaluate, unpack, load models of others."""

from __future__ import annotations

import ast
import os
import stat
from pathlib import Path

import pytest

from tlkit.system.files import atomic_write

SOURCE = Path(__file__).parent.parent.parent / "src" / "tlkit"
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {"pickle", "joblib", "marshal", "shelve", "dill", "cloudpickle", "zipfile", "tarfile"}
CALLS = {"eval", "exec", "extractall", "load_model", "model_from_json", "deserialize",
         "unpack_archive", "os.system", "os.popen"}  # fmt: skip


def imported(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def called(tree: ast.Module) -> list[tuple[str, ast.Call]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            found += [(name, node), (ast.unparse(node.func), node)]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_dangerous_is_used(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    allowed = ALLOWED.get(path.relative_to(SOURCE), set())
    assert not imported(tree) & (MODULES - allowed)
    calls = called(tree)
    assert not {name for name, _ in calls} & (CALLS - allowed)
    for _, call in calls:
        words = {word.arg: word.value for word in call.keywords}
        assert not isinstance(words.get("shell"), ast.Constant), ast.unparse(call)
        pickles = words.get("allow_pickle")
        assert pickles is None or (isinstance(pickles, ast.Constant) and not pickles.value)


ALLOWED = {
    Path("parts/plugins.py"): {"exec"},  # a study's own parts, which its experiment file lists
    # Reads files whose hash is known, with an unpickler that makes nothing but plain values.
    Path("weights/torch_files.py"): {"pickle"},
}


def test_keras_loads_nothing() -> None:
    """Its loaders warn where they should fail; `load_weights` here is a backbone's own method."""
    for path in FILES:
        for name, call in called(ast.parse(path.read_text(encoding="utf-8"))):
            if name == "load_weights":
                assert "model.load_weights" not in ast.unparse(call), path


@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_a_file_that_is_being_written_is_the_users_alone(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with atomic_write(tmp_path / "a.txt") as partial:
            assert stat.S_IMODE(partial.stat().st_mode) == 0o600
            assert len(partial.name) > len(".a.txt-") + 5  # and a name that nobody guesses
    finally:
        os.umask(before)
