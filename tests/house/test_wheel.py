"""The wheel has all of tlkit and nothing else, and works where there is no clone."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCE = ROOT / "src" / "tlkit"
pytestmark = pytest.mark.slow


def run(*command: str | Path, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built with the hatchling that is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    run(sys.executable, *build, ROOT, folder=folder)
    (found,) = folder.glob("tlkit-*.whl")
    return found


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a fresh environment with the wheel, which borrows all other packages."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    own = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    paths = sysconfig.get_paths()
    lines = dict.fromkeys([paths["purelib"], paths["platlib"], *borrowed()])
    # A .pth file within a borrowed folder is not read, such as that of an editable install.
    (own / "site-packages" / "borrowed.pth").write_text("\n".join(lines))
    python = str(folder / "bin" / "python")
    install = ("-m", "pip", "--python", python, "install", "--no-deps", "--force-reinstall")
    run(sys.executable, *install, wheel, folder=folder)
    return folder / "bin"


def borrowed() -> list[str]:
    """Return the folders of packages that this environment borrows itself."""
    return [path for path in sys.path if path.endswith("site-packages")]


def test_it_holds_every_module_its_types_mark_and_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    code = {f"tlkit/{path.relative_to(SOURCE).as_posix()}" for path in SOURCE.rglob("*.py")}
    inside = {name for name in names if ".dist-info/" not in name}
    assert code | {"tlkit/py.typed", "tlkit/__init__.pyi"} <= inside
    assert all(name.startswith("tlkit/") for name in inside)
    assert [name for name in names if name.endswith("licenses/LICENSE")]


def test_a_stranger_initialises_and_runs_outside_the_clone(scripts: Path, tmp_path: Path) -> None:
    where = run(scripts / "python", "-c", "import tlkit; print(tlkit.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(scripts.parent)
    told = run(scripts / "tlkit", "init", folder=tmp_path)
    assert told.splitlines()[-1] == "next: tlkit check experiment.toml"
    run(scripts / "tlkit", "check", "experiment.toml", folder=tmp_path)
    told = run(
        scripts / "tlkit", "run", "experiment.toml", "--set", "fit.epochs=1", folder=tmp_path
    )
    assert "runs/experiment-1" in told
    assert (tmp_path / "runs" / "experiment-1" / "metrics.json").is_file()
