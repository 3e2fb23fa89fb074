"""The command line: what it prints where, and the exit code of every mistake."""

from __future__ import annotations

import csv
import errno
import io
import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from tests.fakes import small
from typer.testing import CliRunner

import tlkit
from tlkit import cli
from tlkit.cli.run import kept_text
from tlkit.metrics.scores import EpochScores
from tlkit.metrics.scoring import score_confusion
from tlkit.parts.backbones.vgg import VGG16, VGG16_BLOCKS
from tlkit.parts.shapes import Shapes

pytestmark = pytest.mark.usefixtures("slim_vgg")

QUICK = f"""
{small()}
[fit]
epochs = 2
batch_size = 4
xla = false

[[reference]]
source = "somebody"
accuracy = 0.5
"""


class Done:
    """A finished command: its exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def tlkit_command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quick.toml").write_text(QUICK)
    return CommandLine(monkeypatch, capfd)


class CommandLine:
    """Runs `tlkit` in this process, through the same `main` as the installed command."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capfd = monkeypatch, capfd

    def __call__(self, *arguments: str) -> Done:
        self.monkeypatch.setattr("sys.argv", ["tlkit", *arguments])
        self.capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Done(int(ended.value.code or 0), *self.capfd.readouterr())


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 40), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished quick run for the commands that need one."""
    top = tmp_path_factory.mktemp("finished")
    (top / "quick.toml").write_text(QUICK)
    return tlkit.run(top / "quick.toml", top / "run").folder


def test_run_prints_results_on_stdout_and_messages_on_stderr(tlkit_command: CommandLine) -> None:
    done = tlkit_command("run", "quick.toml")
    assert done.code == 0
    assert "test: accuracy" in done.out
    assert "truth \\ predicted" in done.out
    assert "[1] somebody" in done.out
    assert "\nweights from epoch 2, the last" in done.out
    assert done.out.rstrip().endswith("next: your own pictures: tlkit init --from FOLDER")
    assert [line.split("  ")[0] for line in done.err.splitlines() if line[:5] == "epoch"] == [
        "epoch 1/2",
        "epoch 2/2",
    ]
    assert "weights: none" in done.err


def test_run_prints_json_alone_on_stdout(tlkit_command: CommandLine) -> None:
    done = tlkit_command("run", "quick.toml", "--json", "--out", "there")
    found = json.loads(done.out)
    assert found["run"] == "there"
    written = json.loads(Path("there/metrics.json").read_text())
    assert found == {"run": "there"} | {
        key: written[key] for key in ("evaluated_on", "epoch", "val", "test")
    }


def test_a_run_that_keeps_the_best_epoch_prints_its_scores(tlkit_command: CommandLine) -> None:
    """With steps that are too small to change anything the first epoch stays the best."""
    done = tlkit_command(
        "run", "quick.toml", "--json", "--out", "there",
        "--set", 'fit={epochs=3, batch_size=4, keep="best", early_stop_patience=1}',
        "--set", 'optimizer={name="adam", learning_rate=1e-30}',
    )  # fmt: skip
    assert json.loads(done.out)["epoch"] == 1
    assert json.loads(Path("there/metrics.json").read_text())["last"]["epoch"] == 2
    assert "note: stage 1 ends early: val_loss has not improved for 1 epoch\n" in done.err


@pytest.mark.parametrize(
    ("keep", "last", "text"),
    [
        ("last", 3, "weights from epoch 3, the last and the best by val_accuracy"),
        ("best", 3, "weights from epoch 3, the last and the best by val_accuracy"),
        (
            "last",
            5,
            (
                "weights from epoch 5, the last; epoch 3, the best by val_accuracy, "
                "has accuracy 75.0 % on test"
            ),
        ),
        (
            "best",
            5,
            (
                "weights from epoch 3, the best by val_accuracy; epoch 5, the last, "
                "has accuracy 50.0 % on test"
            ),
        ),
    ],
)
def test_which_epoch_was_kept_is_said_with_the_other_s_accuracy(
    keep: Literal["last", "best"], last: int, text: str
) -> None:
    experiment = tlkit.Experiment(data=Shapes(), fit=tlkit.Fit(keep=keep, monitor="val_accuracy"))
    run = tlkit.Run(
        folder=Path(),
        experiment=experiment,
        plan=tlkit.check(experiment),
        history=(),
        last=scored(last, [[1, 1], [1, 1]]),
        best=scored(3, [[2, 0], [1, 1]]),
        model=None,
    )
    assert kept_text(run) == text


def scored(epoch: int, confusion: list[list[int]]) -> EpochScores:
    """Scores on test; those on val are none of the text's."""
    scores = {"val": [[1, 0], [0, 1]], "test": confusion}
    return EpochScores(
        epoch, {split: score_confusion(found, "ab") for split, found in scores.items()}
    )


def test_lr_find_prints_its_curve_as_json(tlkit_command: CommandLine) -> None:
    done = tlkit_command(
        "lr-find", "quick.toml", "--json", "--steps", "10", "--lowest", "1e-5", "--highest", "1e-3"
    )
    assert done.code == 0
    found = json.loads(done.out)
    assert found.keys() == {"rates", "losses", "folder", "suggestion"}
    assert found["folder"] == "runs/quick-lr-find-1"
    assert found["rates"] == pytest.approx(np.geomspace(1e-5, 1e-3, 10))
    assert len(found["losses"]) == 10
    assert found["suggestion"] in [None, *found["rates"]]
    assert sorted(path.name for path in Path(found["folder"]).iterdir()) == [
        "lr-find.csv",
        "lr-find.svg",
    ]


@pytest.mark.parametrize(
    ("losses", "printed"),
    [
        (
            [3.0, 3.0, 3.0, 3.0, 1.0, 1.0, 1.0, 1.0, 9.0],
            [
                "suggestion: learning_rate = 0.003",
                "curve: there/lr-find.svg",
                "next: tlkit run quick.toml --set optimizer.learning_rate=0.003",
            ],
        ),
        (
            [1.0] * 9,
            ["no suggestion: the loss falls at none of these rates", "curve: there/lr-find.svg"],
        ),
    ],
    ids=["suggestion", "none"],
)
def test_lr_find_prints_its_suggestion_and_how_to_use_it(
    losses: list[float],
    printed: list[str],
    tlkit_command: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates = tuple(0.003 * 2.0**step for step in range(-3, 6))
    curve = tlkit.RateCurve(rates, tuple(losses), Path("there"))
    monkeypatch.setattr(tlkit, "lr_find", lambda *_, **__: curve)
    assert tlkit_command("lr-find", "quick.toml").out.splitlines() == printed
    found = tlkit_command("lr-find", "quick.toml", "--set", "seed=3").out.splitlines()
    assert found == [line.replace("--set opt", "--set seed=3 --set opt") for line in printed]


def test_runs_are_numbered(tlkit_command: CommandLine) -> None:
    Path("runs/quick-1").mkdir(parents=True)
    assert "run folder: runs/quick-2" in tlkit_command("run", "quick.toml").out


def test_check_writes_nothing(tlkit_command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VGG16, "blocks", VGG16_BLOCKS)
    done = tlkit_command("check", "quick.toml")
    assert "1,539 trainable of 14,716,227 parameters" in done.out
    assert [path.name for path in Path().iterdir()] == ["quick.toml"]
    assert (
        json.loads(tlkit_command("check", "quick.toml", "--json").out)["stages"][0]["cut"] == 19
    )  # pooling too


# Each mistake: what is typed, the exit code, and the one line that says what is wrong.
MISTAKES = {
    "misspelt key": (
        ["check", "quick.toml", "--set", "fit.epohcs=3"],
        3,
        "quick.toml: fit.epohcs: unknown key; did you mean 'epochs'? known: ",
    ),
    "wrong type": (
        ["check", "quick.toml", "--set", 'fit.batch_size="8"'],
        3,
        "quick.toml: fit.batch_size: expected an integer, got '8'",
    ),
    "unknown part": (
        ["check", "quick.toml", "--set", 'backbone.name="vvg16"'],
        3,
        "quick.toml: backbone.name: no backbone named 'vvg16'; did you mean 'vgg16'? known: ",
    ),
    "range past the end": (
        ["check", "quick.toml", "--set", 'freeze={name="layer_range", train="19-25"}'],
        3,
        "quick.toml: freeze.train: layers 19-25 reach past the last one, 20 (scores)",
    ),
    "weight for no class": (
        ["check", "quick.toml", "--set", 'class_weights={name="fixed", weights={cicrle=1}}'],
        3,
        "class_weights.weights: no class named 'cicrle'; did you mean 'circle'? known: ",
    ),
    "no such file": (["check", "none.toml"], 3, "none.toml: cannot be read: No such file"),
    "missing data": (
        ["check", "quick.toml", "--set", 'data={name="manifest", path="no.csv"}'],
        4,
        "no.csv: the manifest is not there; set data.path",
    ),
    "empty class folder": (
        ["run", "quick.toml", "--set", 'data={name="folder", path="empty"}'],
        4,
        "empty/val/b: class 'b' has no images in val",
    ),
    "truncated JPEG": (
        ["run", "quick.toml", "--set", 'data={name="folder", path="broken"}'],
        4,
        "broken/val/b/1.jpg: cannot be decoded: ",
    ),
    "missing weights": (
        ["run", "quick.toml", "--set", 'backbone.weights="no.h5"'],
        5,
        "backbone.weights: there is no file no.h5",
    ),
    "unknown backbone": (
        ["layers", "vvg16"],
        6,
        "no backbone named 'vvg16'; did you mean 'vgg16'? known: ",
    ),
    "existing run folder": (
        ["run", "quick.toml", "--out", "empty"],
        7,
        "empty: the run folder exists; choose another with --out, nothing is overwritten",
    ),
    "existing lr-find folder": (
        ["lr-find", "quick.toml", "--out", "empty"],
        7,
        "empty: the run folder exists; choose another with --out, nothing is overwritten",
    ),
    "senseless rates": (
        ["lr-find", "quick.toml", "--lowest", "1", "--highest", "0.1"],
        3,
        "lr-find: needs 0 < lowest < highest and at least 10 steps, got 1.0, 0.1, 100",
    ),
    "no run folder": (["predict", "empty", "x.png"], 7, "empty: this is not a run folder"),
    "diverging": (
        ["run", "quick.toml", "--set", 'optimizer={name="sgd", learning_rate=1e38}'],
        9,
        "epoch 1: the ",
    ),
    "no arguments": (["run"], 2, "Missing argument"),
    "unknown command": (["rnu"], 2, "No such command"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gives_one_clear_message_and_its_exit_code(
    mistake: str, tlkit_command: CommandLine
) -> None:
    for top in ("empty", "broken"):
        for name in ("train/a", "train/b", "val/a"):
            picture(Path(top, name, "1.jpg"))
    Path("empty/val/b").mkdir()
    whole = picture(Path("broken/val/b/1.jpg"))
    whole.write_bytes(whole.read_bytes()[:300])
    before = sorted(str(path) for path in Path().rglob("*"))

    arguments, code, message = MISTAKES[mistake]
    done = tlkit_command(*arguments)

    assert done.code == code
    assert message in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    if mistake != "diverging":  # found while training, when the folder is there
        assert sorted(str(path) for path in Path().rglob("*")) == before


def test_all_problems_are_shown_at_once_and_sorted(tlkit_command: CommandLine) -> None:
    done = tlkit_command("check", "quick.toml", "--set", "fit.x=1", "--set", "data.y=2")
    assert [line.split(": ")[1] for line in done.err.splitlines()] == ["data.y", "fit.x"]


def test_debug_shows_the_traceback(tlkit_command: CommandLine) -> None:
    done = tlkit_command("--debug", "check", "none.toml")
    assert "Traceback" in done.err
    assert done.code == 3


def test_ctrl_c_ends_with_130(tlkit_command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tlkit, "run", stop)
    done = tlkit_command("run", "quick.toml")
    assert (done.code, done.err) == (130, "interrupted before the run started\n")
    monkeypatch.setattr(tlkit, "lr_find", stop)
    assert tlkit_command("lr-find", "quick.toml").code == 130


@pytest.mark.parametrize("name", ["mobilenet_v2", "keras_cv_resnet"])
def test_layers_are_numbered_without_naming_weights(tlkit_command: CommandLine, name: str) -> None:
    assert "parameters" in tlkit_command("layers", name, "--image-size", "32").out


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "x/y"), "x/y: Permission denied\n"),
    ],
)
def test_a_disk_that_fails_is_no_bug(
    error: OSError, message: str, tlkit_command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(tlkit, "check", fail)
    done = tlkit_command("check", "quick.toml")
    assert (done.code, done.out, done.err) == (8, "", message)


def test_layers_prints_the_study_s_table(
    tlkit_command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VGG16, "blocks", VGG16_BLOCKS)
    done = tlkit_command("layers", "vgg16", "--head", "flatten_dense", "--classes", "3")
    rows = done.out.splitlines()
    assert len(rows) == 24
    assert rows[19].split()[:3] == ["19", "flatten", "Flatten"]
    assert rows[23] == "41,458,499 parameters"


def test_list_and_info_tell_the_same_parts(tlkit_command: CommandLine) -> None:
    parts = json.loads(tlkit_command("list", "--json").out)
    for part in parts:
        assert part["target"] in tlkit_command("info", part["name"]).out
    assert {part["kind"] for part in parts} == {kind for kind, _ in tlkit.registries.items()}
    assert "pooled" not in tlkit_command("list", "heads", "flat*").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["heads", "pool"], "heads: no part matches 'pool'; did you mean 'pooled'? known: cosine,"),
        (["backbones", "effnet*"], "backbones: no part matches 'effnet*'; known: convnext_base, "),
        (["--json", "heads", "x*"], "heads: no part matches 'x*'; known: cosine, flatten_dense, "),
    ],
)
def test_a_pattern_that_no_part_matches_is_told(
    tlkit_command: CommandLine, arguments: list[str], message: str
) -> None:
    done = tlkit_command("list", *arguments)
    assert (done.code, done.out) == (6, "")
    assert done.err.startswith(message)


def test_info_of_an_unknown_name_suggests_one(tlkit_command: CommandLine) -> None:
    done = tlkit_command("info", "afine")
    assert done.code == 6
    assert done.err == "no part named 'afine'; did you mean 'affine'? tlkit list shows all\n"


@pytest.mark.parametrize(("one", "all_of"), [("backbone", "backbones"), ("loss", "losses")])
def test_a_kind_may_be_named_in_the_singular(
    tlkit_command: CommandLine, one: str, all_of: str
) -> None:
    assert tlkit_command("list", one).out == tlkit_command("list", all_of).out


def test_predict_keeps_the_order_and_names_what_it_rejects(
    tlkit_command: CommandLine, finished: Path
) -> None:
    names = ["c.png", "a.png", "b.png"]
    for number, name in enumerate(names):
        picture(Path(name), number)
    Path("bad.png").write_text("no image")
    done = tlkit_command(
        "predict", str(finished), "c.png", "a.png", "bad.png", "b.png", "--format", "csv"
    )
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [row["path"] for row in rows] == names
    assert done.code == 4
    assert "bad.png: is not an image" in done.err
    for row in rows:
        assert sum(float(row[f"p_{name}"]) for name in CLASSES) == pytest.approx(1, abs=1e-5)


CLASSES = ("circle", "square", "triangle")


def test_predict_prints_json_and_a_table(tlkit_command: CommandLine, finished: Path) -> None:
    picture(Path("a.png"))
    found = json.loads(tlkit_command("predict", str(finished), "a.png", "--format", "json").out)
    assert found[0]["predicted"] in CLASSES
    done = tlkit_command("predict", str(finished), "a.png", "a.png")
    assert done.out.split()[:2] == ["path", "predicted"]
    assert found[0]["predicted"] in done.out
    assert f"2 images: 2 × {found[0]['predicted']}\n" in done.err


def test_evaluate_scores_a_folder(tlkit_command: CommandLine, finished: Path) -> None:
    for number, name in enumerate(CLASSES):
        picture(Path("data", name, "1.png"), number)
    done = tlkit_command("evaluate", str(finished), "--data", "data", "--json")
    assert json.loads(done.out)["images"] == 3
    assert "data: accuracy" in tlkit_command("evaluate", str(finished), "--data", "data").out


def test_the_cache_is_shown_and_cleared(
    tlkit_command: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "features"))
    tlkit_command("run", "quick.toml")
    assert tlkit_command("cache", "path").out == f"{tmp_path / 'features'}\n"
    assert json.loads(tlkit_command("cache", "info", "--json").out)["entries"] == 3
    assert tlkit_command("cache", "info").out.startswith(f"{tmp_path / 'features'}: 3 entries, ")
    assert tlkit_command("cache", "clear").out.startswith("freed 0.0")
    assert json.loads(tlkit_command("cache", "info", "--json").out)["entries"] == 0


def test_an_old_name_is_one_line_on_stderr(tlkit_command: CommandLine) -> None:
    done = tlkit_command("check", "quick.toml", "--set", "data.per_class=3")
    assert done.code == 0
    (line,) = [line for line in done.err.splitlines() if "per_class" in line]
    assert line == "note: --set data.per_class: is now called data.max_per_class"


def test_every_command_has_help() -> None:
    runner = CliRunner()
    for command in cli.app.registered_commands:
        name = command.name or command.callback.__name__  # type: ignore[union-attr]  # all have one
        assert runner.invoke(cli.app, [name, "--help"]).exit_code == 0


def test_a_preview_is_a_sheet_of_draws_and_overwrites_nothing(tlkit_command: CommandLine) -> None:
    arguments = ("info", "affine", "--preview", "sheets", "--image-px", "32")
    assert tlkit_command(*arguments).out == "sheets/affine.png\n"
    before = Path("sheets/affine.png").read_bytes()
    with Image.open("sheets/affine.png") as sheet:
        assert sheet.size == (6 * 36 - 4, 3 * 36 - 4)
    again = tlkit_command(*arguments)
    assert (again.code, "overwritten" in again.err) == (2, True)
    assert Path("sheets/affine.png").read_bytes() == before


def test_a_preview_shows_one_s_own_images_and_keys(tlkit_command: CommandLine) -> None:
    def sheet(*arguments: str) -> bytes:
        Path("none.png").unlink(missing_ok=True)
        Path("affine.png").unlink(missing_ok=True)
        path = tlkit_command("info", *arguments, "--preview", ".", "--image-px", "32").out.strip()
        return Path(path).read_bytes()

    picture(Path("a.png"))
    picture(Path("b.png"), 1)
    both = sheet("none", "--image", "a.png", "--image", "b.png")
    assert both != sheet("none", "--image", "b.png", "--image", "a.png")
    assert sheet("affine") != sheet("affine", "--set", "rotation_deg=45")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["vgg16", "--preview", "."], 2, "'vgg16' is not one"),
        (["afine", "--preview", "."], 6, "did you mean 'affine'?"),
        (["affine", "--preview", ".", "--set", "rotation=1"], 3, "rotation: unknown key"),
        (["affine", "--preview", ".", "--image", "none.png"], 4, "none.png: "),
        (["affine", "--preview", "quick.toml"], 2, "cannot be written"),
        (["affine", "--image", "a.png"], 2, "is missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_preview_that_cannot_be_says_why(
    arguments: list[str], code: int, message: str, tlkit_command: CommandLine
) -> None:
    done = tlkit_command("info", *arguments)
    assert (done.code, done.out) == (code, "")
    assert message in " ".join(done.err.replace("│", " ").split())
    assert [path.name for path in Path().iterdir()] == ["quick.toml"]
