"""The commands on images: `predict` and `explain`, as a stranger types them."""

from __future__ import annotations

import csv
import errno
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from PIL import Image
from tests.fakes import unseal
from tests.pictures import picture

import tlkit
from tlkit import cli
from tlkit.config.structure import structure
from tlkit.metrics.scoring import score_confusion

pytestmark = pytest.mark.usefixtures("slim_vgg")

CLASSES = ("circle", "square", "triangle")
CAUTION = "! The accuracy of this run is not clearly better than classifying every image as"
CHANCE = f"{CAUTION} circle, which is correct for 33.3 %.\n"  # of the run below
TABLE = {
    "data": {"name": "shapes", "train": 6, "val": 3, "test": 3, "image_px": 32},
    "backbone": {"weights": "none", "image_size": 32},
    "head": {"name": "pooled"},
    "fit": {"epochs": 1, "xla": False},
}


class Done:
    """A finished command: its exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


class CommandLine:
    """Runs `tlkit` in this process, in a folder with some images."""

    def __init__(self, patch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.patch, self.capfd = patch, capfd

    def __call__(self, *arguments: object, stdin: str = "") -> Done:
        self.patch.setattr("sys.argv", ["tlkit", *map(str, arguments)])
        self.patch.setattr("sys.stdin", io.StringIO(stdin))
        self.capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Done(int(ended.value.code or 0), *self.capfd.readouterr())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run for all, on so few images that it is at chance."""
    experiment = structure(tlkit.Experiment, TABLE)
    return tlkit.run(experiment, tmp_path_factory.mktemp("finished") / "run").folder


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("c.png", "a.png", "in/b.png", "in/d.png")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (40, 40), np.uint8)
        Image.fromarray(pixels).save(path)
    (tmp_path / "bad.png").write_text("no image")
    return CommandLine(monkeypatch, capfd)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_rows_come_in_the_order_named_and_what_was_rejected_at_the_end(
    command: CommandLine, run: Path
) -> None:
    done = command("predict", run, "c.png", "bad.png", "in", "none*.png", "a.png",
                   "--format", "csv")  # fmt: skip
    assert [row["path"] for row in rows(done.out)] == ["c.png", "in/b.png", "in/d.png", "a.png"]
    for row in rows(done.out):
        assert sum(float(row[f"p_{name}"]) for name in CLASSES) == pytest.approx(1, abs=1e-5)
    assert done.code == 4
    lines = done.err.replace(CHANCE, "").splitlines()
    assert lines[0].startswith("bad.png: is not an image")
    assert lines[1:] == ["none*.png: no file matches this pattern", "2 of 6 left out"]


@pytest.mark.parametrize("learned", [True, False])
def test_a_run_at_chance_says_so_after_its_predictions(
    command: CommandLine, run: Path, monkeypatch: pytest.MonkeyPatch, learned: bool
) -> None:
    confusion = [[20, 0, 0], [0, 20, 0], [0, 0, 20]] if learned else [[7, 7, 6]] * 3
    classifier = evolve(tlkit.load(run), scores=score_confusion(confusion, CLASSES))
    monkeypatch.setattr(tlkit, "load", lambda *_, **__: classifier)
    for more in ([], ["--format", "csv", "--out", "rows.csv", "--resume"]):
        said = command("predict", run, "c.png", *more).err
        assert said.startswith(CAUTION) != learned, said


def test_the_answers_before_a_shortage_are_not_lost(
    command: CommandLine, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: str) -> bytes:
        if path.endswith("d.png"):
            raise OSError(errno.EMFILE, "Too many open files")
        return Path(path).read_bytes()

    monkeypatch.setattr("tlkit.classifier.read_file", read)
    done = command("predict", run, "c.png", "in", "a.png", "--format", "csv")
    assert [row["path"] for row in rows(done.out)] == ["c.png", "in/b.png"]
    assert done.code == 8
    assert done.err.startswith(
        f"{CHANCE}in/d.png: cannot be read now: Too many open files; free some"
    )
    done = command("predict", run, "c.png", "in", "--format", "csv", "--out", "x.csv")
    assert done.code == 8
    assert len(rows(Path("x.csv").read_text())) == 2


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("done_before", [0, 1, 2, 5])
def test_an_interrupted_predict_goes_on_where_it_stopped(
    form: str, done_before: int, command: CommandLine, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = ["c.png", "bad.png", "in", "a.png"]
    whole = command("predict", run, *images, "--format", form, "--out", "whole")
    asked: list[int] = []
    predict = tlkit.Classifier.iter_predict

    def interrupted(self: Any, files: Any, *rest: Any) -> Any:
        asked.append(len(files))
        for number, item in enumerate(predict(self, files, *rest)):
            if len(asked) == 1 and number == done_before:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(tlkit.Classifier, "iter_predict", interrupted)
    again = [*images, "--format", form, "--out", "found", "--resume"]
    assert command("predict", run, *again).code in {0, 4, 130}
    if done_before < 5:
        assert not Path("found").exists()
        other = command("predict", run, *again[1:])
        assert (other.code, "is of another run or other images" in flat(other.err)) == (2, True)
        done = command("predict", run, *again)
        # What is listed as bad counts as done with the next row.
        written = done_before if form == "jsonl" or done_before != 2 else 1
        assert (done.code, done.err.splitlines()[-2:]) == (4, whole.err.splitlines()[-2:])
        assert asked == [5, 5 - written]
    assert Path("found").read_bytes() == Path("whole").read_bytes()
    assert not list(Path().glob("found.*"))


def test_only_rows_in_a_file_can_be_resumed(command: CommandLine, run: Path) -> None:
    for more in ([], ["--out", "x"], ["--format", "json", "--out", "x"]):
        done = command("predict", run, "in", "--resume", *more)
        assert (done.code, "needs --out in the format csv or" in flat(done.err)) == (2, True)


def flat(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def test_json_has_rows_and_rejected_together(command: CommandLine, run: Path) -> None:
    done = command("predict", run, "-", "--format", "json", "--top", "1", stdin="a.png\nbad.png\n")
    good, bad = json.loads(done.out)
    assert good["path"] == "a.png"
    assert good["top"][0]["class"] == good["predicted"]
    assert (bad["path"], bad["error"][:15]) == ("bad.png", "is not an image")
    assert done.code == 4


def test_a_file_is_written_whole_and_never_over_another(command: CommandLine, run: Path) -> None:
    printed = command("predict", run, "in", "--format", "csv")
    done = command("predict", run, "in", "--format", "csv", "--out", "found.csv")
    assert (done.code, done.out) == (0, "")
    assert Path("found.csv").read_text() == printed.out
    for option in ("--out", "--features"):
        done = command("predict", run, "in", option, "found.csv")
        assert done.code == 2
        message = f"found.csv: exists; choose another with {option}, nothing is overwritten"
        assert message in " ".join(done.err.replace("│", " ").split())
    assert Path("found.csv").read_text() == printed.out


def test_features_have_a_row_for_each_row_printed(command: CommandLine, run: Path) -> None:
    done = command("predict", run, "a.png", "bad.png", "in", "--features", "x.npy",
                   "--format", "csv")  # fmt: skip
    found = np.load("x.npy", allow_pickle=False)
    assert (found.shape, found.dtype) == ((3, 16), np.float32)
    paths = [row["path"] for row in rows(done.out)]
    np.testing.assert_array_equal(found, tlkit.load(run).features(paths))
    command("predict", run, "in", "--features", "y.npy", "--layer", "block1_conv1")
    assert np.load("y.npy").shape == (2, 16)
    command("predict", run, "bad.png", "--features", "none.npy")
    assert np.load("none.npy").shape == (0, 0)


def test_a_layer_is_for_features(command: CommandLine, run: Path) -> None:
    done = command("predict", run, "in", "--layer", "1")
    assert (done.code, "needs --features" in done.err) == (2, True)


def test_evaluate_writes_its_answers(command: CommandLine, run: Path) -> None:
    lines = ["path,label,split,source", "c.png,circle,test,one", "a.png,circle,test,two"]
    Path("list.csv").write_text("\n".join([*lines, "in/b.png,triangle,test,two"]))
    done = command("evaluate", run, "--data", "list.csv", "--out", "there")
    assert done.code == 0
    out = done.out.splitlines()
    head = next(place for place, line in enumerate(out) if line.startswith("source"))
    table = out[head : head + 3]
    assert table[0].split() == ["source", "images", "accuracy", "95", "%", "interval"]
    assert [line.split()[:2] for line in table[1:]] == [["one", "1"], ["two", "2"]]
    written = rows(Path("there/predictions.csv").read_text())
    assert [row["path"] for row in written] == ["c.png", "a.png", "in/b.png"]
    classifier = tlkit.load(run)
    assert [row["predicted"] for row in written] == classifier.predict(
        ["c.png", "a.png", "in/b.png"]
    )
    metrics = json.loads(Path("there/metrics.json").read_text())
    assert metrics["data"]["images"] == 3
    assert {name: one["images"] for name, one in metrics["sources"].items()} == {"one": 1, "two": 2}
    printed = json.loads(command("evaluate", run, "--data", "list.csv", "--json").out)
    own = {key: metrics[key] for key in ("sources", "caveats")}
    assert printed == metrics["data"] | own
    command("evaluate", run, "--data", "list.csv", "--out", "again", "--resume")
    for name in ("predictions.csv", "metrics.json"):
        assert Path("again", name).read_bytes() == Path("there", name).read_bytes()
    assert not list(Path().glob("again.*"))
    done = command("evaluate", run, "--data", "list.csv", "--resume")
    assert (done.code, "needs --out" in flat(done.err)) == (2, True)


def test_compare_names_the_key_that_differs_first(
    command: CommandLine, run: Path, tmp_path: Path
) -> None:
    experiment = structure(tlkit.Experiment, TABLE | {"fit": {"epochs": 2, "xla": False}})
    other = tlkit.run(experiment, tmp_path / "other").folder
    done = command("compare", run, other)
    lines = done.out.splitlines()
    assert lines[:2] == [f"[1] {run}", f"[2] {other}"]
    assert [line.split() for line in lines[3:5]] == [
        ["settings", "that", "differ", "[1]", "[2]"], ["fit.epochs", "1", "2"]
    ]  # fmt: skip
    assert lines[5] == ""
    assert "note: [1] was trained on drawn" not in done.err
    found = json.loads(command("compare", run, other, "--json").out)
    assert found["differences"] == [{"key": "fit.epochs", "values": ["1", "2"]}]
    assert found["against_first"][0]["images"] == 3
    assert command("compare", run).code == 2
    assert command("compare", run, "nowhere").code == 7


def test_explain_draws_a_picture_an_image(command: CommandLine, run: Path) -> None:
    done = command("explain", run, "in", "bad.png", "a.png")
    folder = Path("runs/run-explain-1")
    assert done.code == 4
    assert done.err.startswith("bad.png: is not an image")
    assert done.out.endswith(f"method: grad_cam, layer block5_conv3\nexplanations: {folder}\n")
    found = rows((folder / "explanations.csv").read_text())
    assert [row["path"] for row in found] == ["in/b.png", "in/d.png", "a.png"]
    classifier = tlkit.load(run)
    assert [r["predicted"] for r in found] == classifier.predict([r["path"] for r in found])
    assert [row["picture"] for row in found] == ["001-b.png", "002-d.png", "003-a.png"]
    assert {path.name for path in folder.iterdir()} == {
        "explanations.csv", *(row["picture"] for row in found)
    }  # fmt: skip
    for row in found:
        with Image.open(folder / row["picture"]) as picture:
            assert picture.width > 2 * 320


def test_with_a_threshold_it_is_the_called_class_that_is_explained(
    command: CommandLine, run: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    unseal(copy)
    table = json.loads((copy / "experiment.json").read_text(encoding="utf-8"))
    least = CLASSES[int(tlkit.load(run).predict_proba(["a.png"])[0].argmin())]
    table["calibration"] = {"temperature": False, "min_recall": {least: 1.0}}
    learnt = {"temperature": 1.0, "threshold": {"class": least, "p": 0.0}, "raw": {}}
    for name, content in (("experiment.json", table), ("calibration.json", learnt)):
        (copy / name).write_text(json.dumps(content), encoding="utf-8")
    command("explain", copy, "a.png", "--out", "there")
    (row,) = rows(Path("there/explanations.csv").read_text())
    assert row["predicted"] == row["class"] == least


@pytest.mark.slow
def test_a_chosen_class_is_explained_by_any_method(command: CommandLine, run: Path) -> None:
    done = command("explain", run, "a.png", "--class", "circle", "--method", "occlusion",
                   "--out", "there")  # fmt: skip
    (row,) = rows(Path("there/explanations.csv").read_text())
    assert (done.code, row["class"]) == (0, "circle")
    p = dict(zip(CLASSES, tlkit.load(run).predict_proba(["a.png"])[0], strict=True))["circle"]
    assert float(row["p_class"]) == pytest.approx(p, abs=5e-4)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a.png", "--class", "circel"], 2, "must be one of circle, square, triangle"),
        (["a.png", "--layer", "dense"], 3, "explain: layer: no layer or block matches 'dense'"),
        (["a.png", "--method", "lime"], 2, "lime"),
        (
            ["a.png", "--out", "in"],
            2,
            "in: exists; choose another with --out",
        ),
        (["bad.png"], 4, "bad.png: is not an image"),
    ],
    ids=["class", "layer", "method", "folder", "image"],
)
def test_what_cannot_be_explained_leaves_no_folder(
    arguments: list[str], code: int, message: str, command: CommandLine, run: Path
) -> None:
    done = command("explain", run, *arguments)
    assert done.code == code
    assert message in " ".join(done.err.replace("│", " ").split())
    assert not Path("runs").exists()


HOSTILE = [
    "<script>.png",
    "\u202egnp.exe.png",
    "\x1b[31m red.png",
    "'\",=1+1.png",
    "x" * 251 + ".png",
]


def test_hostile_file_names_are_harmless(command: CommandLine, run: Path) -> None:
    for name in HOSTILE:
        Path(name).write_bytes(Path("a.png").read_bytes())
    (Path().absolute() / b"\xff.png".decode("utf-8", "surrogateescape")).write_bytes(
        Path("a.png").read_bytes()
    )
    done = command("explain", run, "*.png", "--out", "there")
    drawn = list(Path("there").glob("*.png"))
    assert len(drawn) == 8
    for path in drawn:
        assert path.name.isprintable()
        assert not set(path.name) & set("<>\"'\u202e\x1b =+,")
    assert "\x1b" not in done.out
    assert "\u202e" not in done.out
    for form in ("table", "json"):
        done = command("predict", run, "*.png", "--format", form)
        assert (done.code, "\x1b" in done.out) == (4, False)
    done = command("predict", run, "*.png", "--format", "csv")
    assert len(rows(done.out)) == 8


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """`tlkit predict … | head -1` ends quietly."""
    vgg19 = {"name": "vgg19", "weights": "none", "image_size": 32}  # the same in all processes
    run = tlkit.run({**TABLE, "backbone": vgg19}, tmp_path / "run").folder
    for number in range(40):
        Image.new("L", (40, 40)).save(tmp_path / f"{number}.png")
    command = f"{sys.executable} -m tlkit predict {run} {tmp_path} --format csv | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("path,predicted")
    assert "Traceback" not in done.stderr


def test_what_is_left_out_or_dark_is_noted(command: CommandLine, run: Path) -> None:
    """`predict` and `evaluate` say what they passed over, and how many pictures show nothing."""
    folder = Path("odd/circle")
    folder.mkdir(parents=True)
    Path("odd/square").mkdir()
    Path("odd/triangle").mkdir()
    for number, name in enumerate(("circle/1.jfif", "square/2", "triangle/3.PNG")):
        Image.fromarray(picture(number)).save(f"odd/{name}", "PNG")
    twelve_bits = np.random.default_rng(0).integers(0, 4096, (32, 32), dtype=np.uint16)
    Image.fromarray(twelve_bits).save(folder / "deep.png")
    for name in ("notes.txt", "._1.png"):
        (folder / name).write_text("no image")
    expected = (
        "note: 1 left out: hidden, such as odd/circle/._1.png\n"
        "note: 1 left out: not an image file, such as odd/circle/notes.txt\n"
    )
    predicted = command("predict", run, "odd", "--format", "csv")
    assert predicted.code == 0
    assert len(predicted.out.splitlines()) == 5
    assert predicted.err == expected + (
        "note: 1 nearly black, no value above 16 of 255, as 12-bit values in a 16-bit file, such "
        f"as odd/circle/deep.png\n{CHANCE}"
    )
    evaluated = command("evaluate", run, "--data", "odd")
    assert evaluated.code == 0
    assert evaluated.err == expected


def test_a_manifest_may_have_its_images_elsewhere(command: CommandLine, run: Path) -> None:
    Path("elsewhere").mkdir()
    Path("tables").mkdir()
    rows = ["path,label,split"]
    for number, label in enumerate(("circle", "square", "triangle")):
        Image.fromarray(picture(number)).save(f"elsewhere/{number}.png")
        rows.append(f"{number}.png,{label},test")
    Path("tables/scans.csv").write_text("\n".join(rows))
    for arguments in (
        ["evaluate", run, "--data", "tables/scans.csv"],
        ["predict", run, "tables/scans.csv"],
        ["explain", run, "tables/scans.csv"],
        ["data", "verify", "tables/scans.csv"],
        ["data", "inspect", "tables/scans.csv"],
    ):
        wrong = command(*arguments)
        assert wrong.code == 4
        assert "there is no file '0.png'" in wrong.err
        right = command(*arguments, "--root", "elsewhere")
        assert right.code == 0, right.err
