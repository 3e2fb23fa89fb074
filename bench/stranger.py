"""What a stranger meets: README's commands on a machine with an empty home, timed.

    python bench/stranger.py REPOSITORY FOLDER [--photos PHOTOS]

Clones the repository into a new folder, whose `home` is the only home there is, and does what
README.md says: install, a first result, a folder of classes without splits (made of the first five
classes of PHOTOS, which has `train/CLASS/...` and `val/CLASS/...`), the notebook, scikit-learn.
Prints a line per step, in wall and processor seconds; FOLDER/N-STEP.log has what each step said.

Nothing is inherited but the PATH and how pip and TLS reach the machine's package index.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLASSES, NEW = 5, 4  # classes of the stranger's photographs; images per class that are new
INHERITED = re.compile(r"PIP_|SSL_|REQUESTS_CA|https?_proxy|no_proxy", re.IGNORECASE)
PIP_CONFIG = ".config/pip/pip.conf"  # below a home: how this machine reaches its package index
INSTALL = ("python3 -m venv .venv", "pip install '.[lite]'", "tlkit doctor")
FIRST = ("tlkit init", "tlkit run experiment.toml")
OWN = (
    "tlkit init --from photos --out photos.toml",
    "tlkit check photos.toml",
    "tlkit run photos.toml",
    "tlkit predict runs/photos-1 new/*.jpg --format csv",
    "tlkit explain runs/photos-1 new/1.jpg",
    "tlkit data inspect photos",
)
NOTEBOOK = """
import nbformat, nbclient
notebook = nbformat.read("examples/notebook.ipynb", as_version=4)
nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": "lesson"}}).execute()
for cell in notebook.cells:
    for output in cell.get("outputs", ()):
        print(output.get("text") or output.get("data", {}).get("text/plain", output))
nbformat.write(notebook, "lesson/executed.ipynb")
"""
FEATURES = """
from pathlib import Path
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
import tlkit
paths = sorted(Path("photos").glob("*/*"))
labels = [path.parent.name for path in paths]
features = tlkit.TransferFeatures("efficientnet_lite0")
model = make_pipeline(features, StandardScaler(), LogisticRegression(max_iter=1000))
print(cross_val_score(model, paths, labels, cv=2))
"""


class Stranger:
    """Somebody with a shell in an empty home."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clone = folder, folder / "clone"
        self._number = itertools.count(1)
        home = folder / "home"
        home.mkdir(parents=True)
        config = Path.home() / PIP_CONFIG
        if config.exists():
            (home / PIP_CONFIG).parent.mkdir(parents=True)
            shutil.copy(config, home / PIP_CONFIG)
        kept = {name: value for name, value in os.environ.items() if INHERITED.match(name)}
        path = f"{Path(sys.executable).resolve().parent}:/usr/local/bin:/usr/bin:/bin"
        self.environment = {"HOME": str(home), "PATH": path, "LANG": "C.UTF-8", **kept}

    @contextmanager
    def step(self, name: str) -> Iterator[Path]:
        """Time a step, and yield the file that it writes to."""
        began, used = time.perf_counter(), _processor_seconds()
        yield self.folder / f"{next(self._number)}-{name}.log"
        wall, processor = time.perf_counter() - began, _processor_seconds() - used
        print(f"{name:<12} {wall:7.1f} s, processor {processor:7.1f} s", flush=True)

    def types(self, command: str, log: Path, where: Path | None = None) -> None:
        """Run a line as bash does, in the environment that was activated, and note what it says."""
        began = time.perf_counter()
        activated = f"test ! -e .venv || . .venv/bin/activate; {command}"
        done = subprocess.run(
            ["/bin/bash", "-c", activated], cwd=where or self.clone, env=self.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {command}\n{done.stdout}[{done.returncode}, {seconds:.1f} s]\n\n")
        if done.returncode:
            sys.exit(f"{command}: exit code {done.returncode}; see {log}")

    def does(self, name: str, commands: tuple[str, ...]) -> None:
        """Type the commands of a step, each of which must stand in README.md."""
        readme = (self.clone / "README.md").read_text(encoding="utf-8")
        with self.step(name) as log:
            for command in commands:
                assert command in readme, f"README.md does not say {command!r}"
                self.types(command, log)


def main() -> None:
    """Be a stranger."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("repository")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--branch")
    arguments = parser.parse_args()
    stranger = Stranger(arguments.folder.resolve())
    branch = f" --branch {arguments.branch}" if arguments.branch else ""
    with stranger.step("clone") as log:
        stranger.types(f"git clone{branch} {arguments.repository} clone", log, stranger.folder)
    stranger.does("install", INSTALL)
    stranger.does("first", FIRST)
    if arguments.photos:
        mix(arguments.photos, stranger.clone)
        stranger.does("own", OWN)
    with stranger.step("notebook") as log:
        (stranger.clone / "lesson").mkdir()
        (stranger.folder / "notebook.py").write_text(NOTEBOOK)
        stranger.types("pip install '.[lite,notebook]' nbclient", log)
        stranger.types("python ../notebook.py", log)
    with stranger.step("sklearn") as log:
        page = (stranger.clone / "docs/howto/scikit-learn.md").read_text(encoding="utf-8")
        example = page.split("```python\n")[1].partition("```")[0]
        (stranger.folder / "example.py").write_text(example)
        stranger.types("python ../example.py", log)
        if arguments.photos:
            (stranger.folder / "features.py").write_text(FEATURES)
            stranger.types("python ../features.py", log)


def mix(photos: Path, clone: Path) -> None:
    """Put the images of some classes into `photos/CLASS`, and a few into `new`."""
    (clone / "new").mkdir()
    numbers = itertools.count(1)
    for name in sorted(path.name for path in (photos / "train").iterdir())[:CLASSES]:
        (clone / "photos" / name).mkdir(parents=True)
        for number, path in enumerate(sorted(photos.glob(f"*/{name}/*"))):
            split = path.parent.parent.name
            target = clone / "photos" / name / f"{split}-{path.name}"
            shutil.copy(path, clone / f"new/{next(numbers)}.jpg" if number < NEW else target)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
