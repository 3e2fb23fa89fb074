"""The example of a plugin package does what its README says, from its sources and as a wheel."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "plugin"
PARTS = {"backbones": "tiny_cnn", "freezes": "every_other", "class_weights": "square_root"}


@frozen
class Environment:
    """A Python in which the example is installed, or seems so.

    Attributes:
        python: The interpreter.
        variables: Its environment variables.
        folder: A folder of its own.
    """

    python: Path
    variables: dict[str, str]
    folder: Path

    def run(self, *arguments: str | Path) -> str:
        """Return what a Python module prints; what it says on standard error is shown if it fails.

        It is started in the environment's folder, not in the clone.
        """
        done = subprocess.run(
            [self.python, "-m", *arguments],
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout


def from_sources(folder: Path) -> Environment:
    """The example's sources on the path, with the metadata that installing would have written."""
    info = folder / "path" / "tlkit_example-0.1.0.dist-info"
    info.mkdir(parents=True)
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(metadata)
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    path = [EXAMPLE / "src", folder / "path", os.environ.get("PYTHONPATH", "")]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return Environment(Path(sys.executable), variables, folder)


def from_wheels(folder: Path) -> Environment:
    """tlkit and the example as wheels, in a new environment.

    TensorFlow and the others are not installed again, which would take minutes and gigabytes: a
    `.pth` file lends them from the environment that runs the tests. It comes after the new one's
    own packages on the path, so tlkit is the wheel's, even if it is editable there.
    """
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    for source in (ROOT, EXAMPLE):
        build = [*pip, "wheel", "--no-deps", *isolation, "--wheel-dir", folder / "dist", source]
        subprocess.run(build, check=True)
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    wheels = sorted((folder / "dist").glob("*.whl"))
    install: list[str | Path] = [
        *pip,
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        *wheels,
    ]
    subprocess.run(install, check=True)
    own = next((folder / "venv" / "lib").glob("python*/site-packages"))
    lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    lines = [f"import site; site.addsitedir({path!r})" for path in sorted(lent)]
    (own / "lent.pth").write_text("\n".join(lines))
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    where = [str(python), "-c", "import tlkit; print(tlkit.__file__)"]
    used = subprocess.run(where, env=variables, capture_output=True, text=True, check=True).stdout
    assert Path(used).is_relative_to(own)
    return Environment(python, variables, folder)


@pytest.fixture(
    scope="module", params=[from_sources, pytest.param(from_wheels, marks=pytest.mark.slow)]
)
def environment(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    made: Environment = request.param(tmp_path_factory.mktemp("plugin"))
    return made


def test_its_parts_are_listed_before_the_package_is_imported(environment: Environment) -> None:
    found = json.loads(environment.run("tlkit", "list", "--json"))
    foreign = {part["kind"]: part for part in found if part["source"] != "tlkit"}
    assert {kind: part["name"] for kind, part in foreign.items()} == PARTS
    assert {part["source"] for part in foreign.values()} == {"tlkit-example 0.1.0"}
    assert {part["summary"] for part in foreign.values()} == {""}  # its docstring is not read yet


def test_its_keys_are_in_the_schema(environment: Environment) -> None:
    schema = json.loads(environment.run("tlkit", "schema"))
    example = tomllib.loads((EXAMPLE / "example.toml").read_text())
    assert list(Draft202012Validator(schema).iter_errors(example)) == []
    kinds = schema["$defs"]
    for kind, name in PARTS.items():
        (choice,) = (choice for choice in kinds[kind]["oneOf"] if choice["title"] == name)
        own = {key for key, said in choice["properties"].items() if said.get("description")}
        assert own == choice["properties"].keys()


def test_its_experiment_checks_and_runs(environment: Environment) -> None:
    plan = environment.run("tlkit", "check", EXAMPLE / "example.toml")
    rates = [line.split()[-1] for line in plan.splitlines() if " conv" in line]
    assert rates == ["1", "frozen"]
    out = environment.folder / "run"
    done = environment.run("tlkit", "run", EXAMPLE / "example.toml", "--out", out)
    assert "test: accuracy" in done
    assert json.loads((out / "environment.json").read_text())["parts"] == [
        {"kind": kind, "name": name, "distribution": "tlkit-example", "version": "0.1.0"}
        for kind, name in PARTS.items()
    ]


@pytest.mark.slow
def test_its_own_tests_pass(environment: Environment) -> None:
    """With the README's command; tlkit's own pytest settings are not the package's."""
    settings: list[str | Path] = [
        "-c",
        os.devnull,
        "--rootdir",
        EXAMPLE,
        "-p",
        "no:cacheprovider",
        "-q",
    ]
    assert "3 passed" in environment.run("pytest", *settings, EXAMPLE / "tests")
