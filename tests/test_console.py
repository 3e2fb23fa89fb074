"""What `tlkit run` and `evaluate` print of a result."""

from __future__ import annotations

import pytest
from tests.finished_runs import HOSTILE, made_up

from tlkit.config.experiment import Experiment
from tlkit.config.structure import structure
from tlkit.data.splits import Example, Splits
from tlkit.metrics.intervals import Interval, format_share
from tlkit.metrics.scoring import score_confusion, score_predictions
from tlkit.reports.console import caveats_text, plan_text, scores_text
from tlkit.train.plan import Plan, make_plan

PAPER = [[61, 36, 3], [3, 91, 6], [0, 3, 28]]  # experiment 3, figure 8
PRINTED = """\
test: accuracy 77.9 % (72.1–82.8), 231 images (95 % intervals)
balanced accuracy 80.8 % (75.6–85.9), macro F1 0.79 (0.73–0.84), kappa 0.64 (0.55–0.73)

class      images   precision %      recall %  specificity %  AUROC
normal        100  95.3 (87–98)  61.0 (51–70)   97.7 (93–99)      -
pneumonia     100  70.0 (62–77)  91.0 (84–95)   70.2 (62–77)      -
covid-19       31  75.7 (60–87)  90.3 (75–97)   95.5 (92–98)      -

truth \\ predicted  normal  pneumonia  covid-19
normal                 61         36         3
pneumonia               3         91         6
covid-19                0          3        28"""


def test_the_papers_result_is_printed_with_its_intervals() -> None:
    assert (
        scores_text("test", score_confusion(PAPER, ("normal", "pneumonia", "covid-19"))) == PRINTED
    )


def test_what_needs_probabilities_is_printed_where_they_are_known() -> None:
    text = scores_text("test", made_up().scores)
    assert "\nlog loss 0." in text
    assert all(len(line) <= 90 for line in text.splitlines())


def test_what_is_not_defined_is_said_to_be() -> None:
    text = scores_text("val", score_confusion([[0, 9, 0], [0, 9, 0], [0, 3, 0]], "abc"))
    assert text.splitlines()[4].split()[:3] == ["a", "9", "undefined"]


def test_names_from_strangers_are_printed_in_one_line() -> None:
    text = scores_text("test", made_up(HOSTILE, (9, 9, 9, 9)).scores)
    assert len(text.splitlines()) == 3 + 1 + 5 + 1 + 5
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_matrix_that_is_too_wide_has_numbers_for_names_or_is_a_list_of_its_peaks() -> None:
    twelve = made_up([f"kind of bird {k}" for k in range(12)], [9] * 12).scores
    lines = scores_text("test", twelve).splitlines()[-13:]
    assert lines[0].split() == ["truth", "\\", "predicted", *map(str, range(1, 13))]
    assert lines[1].split()[:5] == ["1", "kind", "of", "bird", "0"]
    many = made_up([f"kind {k}" for k in range(40)], [3] * 40, skill=2).scores
    text = scores_text("test", many)
    head, first = text.splitlines()[text.splitlines().index("", 6) + 1 :][:2]
    assert head.split() == ["most", "often", "confused:", "truth", "predicted", "images"]
    worst = max(n for i, row in enumerate(many.confusion) for k, n in enumerate(row) if i != k)
    assert first.split()[-1] == str(worst)
    assert all(len(line) <= 100 for line in text.splitlines())


def test_warnings_are_a_line_each() -> None:
    assert caveats_text(["one\x1b[2J", "two"]) == "! one\\x1b[2J\n! two"


def test_an_interval_in_parentheses_is_as_exact_as_its_figure() -> None:
    interval = Interval(0.123456, 0.987654, "wilson", 9)
    assert format_share(0.5, interval, digits=0) == "50 % (12–99)"
    assert format_share(0.5, interval, percent=False, digits=2) == "0.50 (0.12–0.99)"
    assert format_share(0.5, None) == "50.0 %"


def planned(classes: int) -> Plan:
    """Return the plan of a study with many classes."""
    names = tuple(f"species {number:04d}" for number in range(classes))
    train, val = (
        tuple(Example(f"{split}/{n}.png", name) for n, name in enumerate(names))
        for split in ("train", "val")
    )
    experiment = structure(
        Experiment,
        {"data": {"name": "shapes"}, "backbone": {"weights": "none"}, "head": {"name": "pooled"}},
    )
    return make_plan(experiment, Splits(classes=names, read=str.encode, train=train, val=val))


@pytest.mark.parametrize("classes", [2, 7, 20, 1000])
def test_a_plan_of_many_classes_fits_a_terminal(classes: int) -> None:
    text = plan_text(planned(classes)).split("\n\n")[0]
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) <= 24
    assert "species 0001" in text
    more = f"… and {classes - 20} more classes; images per class: 1 to 1 train, 1 to 1 val"
    assert (lines[-1] == more) == (classes > 20)


def test_scores_of_many_classes_name_the_worst() -> None:
    names = [f"species {number:04d}" for number in range(100)]
    labels = [*range(100)]
    text = scores_text("test", score_predictions(labels, [0, *labels[1:-1], 0], names))
    assert len(text.splitlines()) < 40
    assert "species 0099" in text
    assert "… and 80 more classes with a recall as high or higher" in text
