"""The recipes for one's own X-rays check as they stand, and their heads say how to run them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from PIL import Image

import tlkit
from tlkit.sweeps.trials import plan_trials

RECIPES = Path(__file__).parents[3] / "examples" / "xray"
FILES = sorted(RECIPES.glob("*.toml"))


@pytest.fixture(scope="module")
def xrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with a few different tiny pictures of two classes."""
    top = tmp_path_factory.mktemp("xrays")
    for split, count in (("train", 8), ("val", 4)):
        for grey, label in ((10, "ill"), (100, "well")):
            (top / split / label).mkdir(parents=True)
            for number in range(count):
                shade = grey + number + 20 * (split == "val")
                Image.new("L", (8, 8), shade).save(top / split / label / f"{number}.png")
    return top


def test_they_are_all_there() -> None:
    names = [path.stem for path in FILES]
    assert names == [
        "all_layers",
        "fine_tuned",
        "frozen",
        "kernel",
        "mobilenet",
        "probe",
        "tuned",
        "vgg16",
    ]


@pytest.mark.parametrize(
    "file",
    [  # its four networks are built for their layers
        pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem == "kernel" else ())
        for path in FILES
    ],
)
def test_the_commands_at_its_head_are_right(
    file: Path, xrays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(RECIPES.parents[1])
    commands = [
        shlex.split(line[line.index("tlkit ") :].replace("my/xrays", str(xrays)))
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.startswith("#") and f"/{file.name}" in line
    ]
    assert commands
    for _, verb, path, *options in commands:
        assert set(options[::2]) == {"--set"}
        changed = options[1::2]
        if verb == "run":
            assert tlkit.check(tlkit.load_experiment(path, changed)).evaluated_on == "val"
        else:
            trials = plan_trials(Path(path), changed).trials
            assert len({trial.sha256 for trial in trials}) == len(trials) > 1


def test_the_open_question_is_asked_in_every_combination(xrays: Path) -> None:
    trials = plan_trials(RECIPES / "all_layers.toml", [f"data.path={str(xrays)!r}"])
    assert len(trials.variants) == 2**5
    cuts = {(t.variant.settings["freeze.train"], t.plan.stages[0].cut) for t in trials.trials}
    assert cuts == {("19-22", 18), ("1-22", 0)}
