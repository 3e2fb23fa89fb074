"""Caveats: each is there when it must be, and not otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from tests.finished_runs import made_up

from tlkit.data.splits import Example
from tlkit.metrics.scoring import score_confusion
from tlkit.reports.caveats import caveats, score_caveats, source_caveats, source_table
from tlkit.runfolder.inputs import DataFacts
from tlkit.runfolder.tables import Learned

CLASSES = ("normal", "pneumonia", "covid-19")
CAREFUL: dict[str, Any] = {"counts": (100, 100, 60), "patients": True, "skill": 2.5}


def test_a_careful_study_has_none() -> None:
    assert caveats(made_up(**CAREFUL)) == []


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"stand_in": "shapes"}, "The data are synthetic images (shapes), not the real data"),
        ({"evaluated_on": "val"}, "There is no test split."),
    ],
)
def test_what_the_metrics_say_is_warned_of(changed: dict[str, Any], text: str) -> None:
    run = made_up(**CAREFUL)
    run = evolve(run, metrics=evolve(run.metrics, **changed))
    (found,) = caveats(run)
    assert text in found


def test_test_images_that_an_earlier_run_was_trained_on_are_told() -> None:
    run = made_up(**CAREFUL)
    first, *others = run.manifest["test"]
    test = (evolve(first, sha256="cd" * 32), *others)
    run = evolve(run, manifest={**run.manifest, "test": test})
    other = Learned("a", "train", "ef" * 32, "")
    assert caveats(evolve(run, learned_before=(other,))) == []
    learned = (other, Learned("a", "train", "cd" * 32, ""))
    (found,) = caveats(evolve(run, learned_before=learned))
    assert found.startswith(
        "The model started from the run a, which was trained on 1 of the 260 images: the scores "
    )


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"leakage_accepted": {"patient": 1}}, "Leakage was accepted"),
        ({"skipped": {"train": 3, "val": 1}}, "were skipped: 3 of train, 1 of val."),
    ],
)
def test_what_the_plan_says_of_the_data_is_warned_of(facts: dict[str, Any], text: str) -> None:
    run = made_up(**CAREFUL)
    run = evolve(run, plan=evolve(run.plan, data=DataFacts(**facts)))
    (found,) = caveats(run)
    assert text in found


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"patients": False}, "No patients are given"),
        ({"source": "hospital of {label}"}, "The source of an image predicts its class for 100 %"),
        ({"counts": (100, 100, 31)}, "Few test images: covid-19 (31)."),
        (
            {"skill": 0.0},
            "The accuracy is not clearly better than classifying every image as normal",
        ),
    ],
)
def test_what_the_data_say_is_warned_of(changed: dict[str, Any], text: str) -> None:
    (found,) = caveats(made_up(**CAREFUL | changed))
    assert text in found


@pytest.mark.parametrize(
    ("confusion", "text"),
    [
        ([[0, 100, 0], [0, 100, 0], [0, 60, 0]], "Every image is classified as pneumonia"),
        ([[90, 10, 0], [10, 90, 0], [30, 30, 0]], "No image is classified as covid-19."),
    ],
)
def test_classes_never_predicted_are_warned_of(confusion: list[list[int]], text: str) -> None:
    assert text in score_caveats(score_confusion(confusion, CLASSES))[0]


def images(*pairs: tuple[str, str]) -> list[Example]:
    return [Example(str(n), label, source=source) for n, (label, source) in enumerate(pairs)]


def test_a_source_that_is_every_class_s_own_tells_nothing() -> None:
    mixed = [(label, source) for label in CLASSES for source in "ab" for _ in range(5)]
    assert source_caveats(images(*mixed)) == []
    assert source_caveats(images(*[("normal", "a")] * 95, *[("pneumonia", "a")] * 5)) == []


def test_a_class_that_comes_from_a_source_of_its_own_is_named() -> None:
    """As in the study: two classes from one collection, the third from another."""
    hospital = [("normal", "a")] * 40 + [("pneumonia", "a")] * 40
    (found,) = source_caveats(images(*hospital, *[("covid-19", "b")] * 10))
    assert found.startswith("The source of an image reveals covid-19")
    assert source_caveats(images(*hospital, ("covid-19", "a"), *[("covid-19", "b")] * 9))
    assert not source_caveats(images(*hospital, *[("covid-19", s) for s in "ab" for _ in "12345"]))


def test_a_model_that_is_worse_than_a_constant_is_called_so() -> None:
    found = score_caveats(score_confusion([[10, 90, 0], [60, 40, 0], [0, 0, 60]], CLASSES))
    assert found[0].startswith("The accuracy is not clearly better")
    found = score_caveats(score_confusion([[0, 95, 5], [95, 5, 0], [40, 10, 10]], CLASSES))
    assert found[0].startswith("The accuracy is worse than classifying every image as normal")


def test_the_source_table_counts_every_image_once() -> None:
    run = made_up(counts=(4, 3, 2), source="from {label}")
    assert source_table(run) == [
        ("from covid-19", {"normal": 0, "pneumonia": 0, "covid-19": 6}),
        ("from normal", {"normal": 12, "pneumonia": 0, "covid-19": 0}),
        ("from pneumonia", {"normal": 0, "pneumonia": 9, "covid-19": 0}),
    ]
