"""What objects show in a notebook: short lines, tables, charts, and a bar in one output."""

from __future__ import annotations

import html
import html.parser
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from attrs import evolve
from tests.finished_runs import HOSTILE, made_up

import tlkit
from tlkit.reports import figures
from tlkit.reports.compare import Answer, ComparedRun, Comparison, paired
from tlkit.reports.diagnosis import next_steps
from tlkit.reports.gallery import Source
from tlkit.runfolder.record import RunRecord
from tlkit.sweeps.summary import Outcome
from tlkit.system.notebook import CALLS, argument, choose_another, data_frame, hint

LONG = 400  # characters of a repr at most
VOID = {"meta", "img", "br", "path", "circle", "rect", "progress"}


class Page(html.parser.HTMLParser):
    """Notes text and tags, and that every tag is closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.tags, self._open = "", list[str](), list[str]()
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self._open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += "" if self._open[-1:] == ["style"] else data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tlkit.Run:
    experiment = {
        "data": {"name": "shapes", "train": 6, "val": 3, "test": 4, "image_px": 32},
        "backbone": {"name": "vgg16", "weights": "none", "image_size": 32},
        "head": {"name": "pooled"},
        "augmentation": {"name": "affine", "rotation_deg": 45},
        "fit": {"epochs": 2, "xla": False},
    }
    return tlkit.run(experiment, tmp_path_factory.mktemp("notebook") / "run")


def many_classes() -> RunRecord:
    return made_up(classes=[f"{HOSTILE[0]}{'x' * 60}{n}" for n in range(40)], counts=[3] * 40)


def compared(record: RunRecord, name: str) -> ComparedRun:
    answers = {p.path: Answer(p.label, p.predicted) for p in record.judged}
    return ComparedRun(
        name=name, settings={"seed": name}, split="test", scores=record.scores,
        history=record.history, answers=answers, trained_on=frozenset(),
    )  # fmt: skip


def test_every_object_has_a_short_line_and_a_page_without_scripts(
    run: tlkit.Run, tmp_path: Path
) -> None:
    many = many_classes()
    runs = tuple(compared(many, f"{HOSTILE[1]}{number}" * 20) for number in range(3))
    sweep_file = tmp_path / "study.toml"
    sweep_file.write_text('[data]\nname = "shapes"\n[backbone]\nweights = "none"\n')
    trials = tlkit.plan_trials(sweep_file, seeds="0-1")
    waiting = [Outcome(trial=trial, status="failed", error=HOSTILE[0]) for trial in trials.trials]
    model = tlkit.build_model(run.experiment.backbone, "pooled", classes=3)
    shown: dict[str, Any] = {
        "Plan": evolve(run.plan, notes=(HOSTILE[0],)),
        "Run": run,
        "Scores": many.scores,
        "Frozen": tlkit.freeze(model, train="head"),
        "Classifier": tlkit.load(run.folder),
        "Sweep": tlkit.Sweep.of(tmp_path / ("x" * 200), trials, waiting),
        "Comparison": Comparison(runs, tuple(paired(runs[0], other) for other in runs[1:])),
        "LayerTable": run.plan.layers,
        "Drawing": run.plot_curves(),
    }
    for name, value in shown.items():
        line = repr(value)
        assert line.startswith(f"{name}(")
        assert len(line) <= LONG
        assert line.isprintable()
        page = Page(value._repr_html_())
        assert not {"script", "img"} & set(page.tags), name
        assert len(page.text) > 20


def test_a_run_shows_its_figures_and_its_cautions(run: tlkit.Run) -> None:
    assert "test accuracy" in repr(run)
    text = Page(run._repr_html_()).text
    assert "before you believe this" in text
    assert str(run.folder / "report.html") in text
    for label in run.plan.classes:
        assert label in text


def test_the_report_is_a_page_in_the_cell(run: tlkit.Run) -> None:
    frame = run.report.html
    assert Page(frame).tags == ["iframe"]
    page = html.unescape(frame.partition('srcdoc="')[2].partition('"')[0])
    assert page == (run.folder / "report.html").read_text("utf-8")
    assert "allow-scripts" not in frame.replace(page, "")


def test_history_predictions_and_scores_are_dataframes(run: tlkit.Run) -> None:
    history, predictions, scores = (
        run.to_pandas(table) for table in ("history", "predictions", "scores")
    )
    assert history.val_loss.tolist() == [epoch.val_loss for epoch in run.history]
    judged = predictions[predictions.split == "test"]
    assert (judged.label == judged.predicted).mean() == run.result.accuracy
    assert np.allclose(judged.filter(like="p_").sum(axis=1), 1)
    assert scores.set_index("class").loc["all", "accuracy"] == run.result.accuracy
    with pytest.raises(ValueError, match=r"table: must be history, predictions or scores"):
        run.to_pandas("weights")  # type: ignore[arg-type]


def test_without_pandas_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(tlkit.ResourceError, match=r"pandas: .* pip install 'tlkit\[notebook\]'"):
        data_frame([])


def test_pictures_are_those_of_the_run(run: tlkit.Run) -> None:
    worst = run.top_losses(count=3)
    assert worst.html.count("<figure>") == 3
    assert worst.html.count("Heatmap") == 3
    assert run.show_batch(count=5).html.count("<figure>") == 5
    wrong = sum(p.label != p.predicted for p in run._record.judged)
    assert (run.most_confused().html.count("<figure>") > 0) == (wrong > 0)


def test_the_highest_losses_come_first() -> None:
    record = made_up()
    pixels = np.zeros((8, 8, 3), np.uint8)
    drawing = figures.top_losses(record, Source(lambda path: pixels, record.classes), 4)  # type: ignore[arg-type]
    lowest = sorted(p.probabilities[p.label] for p in record.judged)[:4]
    paths = {p.path for p in record.judged if p.probabilities[p.label] in lowest}
    assert set(re.findall(r'class="file"><bdi>([^<]+)', drawing.html)) == paths


@pytest.mark.parametrize(
    "draw", [figures.curves, figures.reliability, figures.roc], ids=lambda f: f.__name__
)
def test_charts_are_the_report_s_and_can_be_saved(draw: Any, tmp_path: Path) -> None:
    drawing = draw(made_up())
    assert "<svg" in drawing.html
    assert drawing.save(tmp_path / "page.html").read_text("utf-8").count("<svg") >= 1
    if len(drawing.charts) == 1:
        assert drawing.save(tmp_path / "chart.svg").read_text("utf-8").startswith("<svg ")
    with pytest.raises(ValueError, match=r"must end in \.html"):
        drawing.save(tmp_path / "chart.png")


def test_the_style_of_a_drawing_stays_inside_it() -> None:
    style = figures.curves(made_up()).html.partition("<style>")[2].partition("</style>")[0]
    depth, outside = 0, ""
    for character in style:
        depth += {"{": 1, "}": -1}.get(character, 0)
        outside += character if depth == 0 and character != "}" else ""
    assert depth == 0
    for selector in re.split(r"\s*[\n,]\s*", outside.strip()):
        assert ".tlkit" in selector, selector


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Outputs of a cell, as IPython would show them."""
    shown: list[str] = []

    def display(html: str, display_id: bool) -> Any:
        shown.append(html)
        number = len(shown) - 1
        return SimpleNamespace(update=lambda html: shown.__setitem__(number, html))

    fake = ModuleType("IPython")
    fake.get_ipython = lambda: SimpleNamespace(kernel=True)  # type: ignore[attr-defined]
    fake.display = SimpleNamespace(HTML=str, display=display)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", fake)
    return shown


def test_in_a_notebook_a_run_is_one_output_that_ends_with_the_result(
    outputs: list[str], run: tlkit.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = tlkit.run(run.experiment, tmp_path / "run")
    (output,) = outputs
    text = Page(output).text
    assert "epoch 2/2" in text
    assert "test: accuracy" in text
    assert f"report: {done.folder}/report.html" in text
    assert "<progress" not in output
    assert capsys.readouterr().err == ""


def test_a_bar_is_drawn_below_the_lines_and_removed(outputs: list[str]) -> None:
    terminal = tlkit.Terminal()
    terminal.say("first")
    terminal.on_image_checked(1, 4)
    assert 'value="0" max="4"' in outputs[0]
    assert outputs[0].index("first") < outputs[0].index("<progress")
    terminal.close()
    assert "<progress" not in outputs[0]
    assert len(outputs) == 1


def test_messages_name_the_call_in_a_notebook_and_the_command_elsewhere(
    outputs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path("my runs/x")
    assert hint("resume", folder) == "tlkit.resume('my runs/x')"
    assert hint("predict", folder, "IMAGE...") == "tlkit.load('my runs/x').predict([image, ...])"
    assert hint("weights fetch", "vgg16") == "!tlkit weights fetch vgg16"
    assert choose_another() == "choose another with out=..., nothing is overwritten"
    assert [argument(option) for option in ("--seeds", "--set")] == ["seeds", "overrides"]
    monkeypatch.delitem(sys.modules, "IPython")
    assert hint("resume", folder) == "tlkit resume 'my runs/x'"
    assert hint("predict", folder, "IMAGE...") == "tlkit predict 'my runs/x' IMAGE..."
    assert choose_another() == "choose another with --out, nothing is overwritten"
    assert argument("--seeds") == "--seeds"


def test_the_calls_are_those_of_public_functions() -> None:
    for call in CALLS.values():
        name = call.removeprefix("tlkit.").partition("(")[0]
        assert callable(getattr(tlkit, name))


def test_in_a_notebook_a_run_says_what_to_change_and_what_is_next_as_calls(
    outputs: list[str], run: tlkit.Run
) -> None:
    terminal = tlkit.Terminal()
    terminal.on_run_end(run.folder)
    text = Page(outputs[0]).text
    assert "next: your own pictures: !tlkit init --from FOLDER" in text
    record = evolve(run._record, experiment=evolve(
        run._record.experiment, data=evolve(run._record.experiment.data, name="folder")
    ))  # fmt: skip
    (step,) = next_steps(record, run.folder, [])
    assert step.startswith(("look at the data: tlkit.inspect_data(folder)", "read the report"))
    assert "tlkit " not in step


def test_a_frame_is_pandas_own() -> None:
    assert isinstance(data_frame([{"a": 1}]), pd.DataFrame)
