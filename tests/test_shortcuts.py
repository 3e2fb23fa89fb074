"""Shortcuts: in images of noise, only what is planted predicts the label."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.pictures import facts_of, noise, png

from tlkit.inspect import shortcuts
from tlkit.inspect.fingerprints import ImageFacts
from tlkit.inspect.inspect import inspect_data
from tlkit.inspect.shortcuts import find_shortcuts
from tlkit.inspect.verify import verify_manifest

XRAYS = Path(__file__).parent.parent.parent / "shared" / "data" / "cxr"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer trees and samples; what is planted is found with them too."""
    monkeypatch.setattr(shortcuts, "TREES", 50)
    monkeypatch.setattr(shortcuts, "RESAMPLES", 50)


def planted(what: str, number: int, label: str) -> ImageFacts:
    second = label == "b"
    pixels = noise(number)
    known = {"label": label, "source": f"clinic {number % 2}"}
    if what == "source":
        known["source"] = f"clinic {label}"
    elif what == "size":
        pixels = noise(number, 32 + 8 * second)
    elif what == "border":
        pixels[:3] = 250 if second else 5
    elif what == "center":
        pixels[12:20, 12:20] = 250 if second else 5
    if what == "file":
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG" if second else "BMP")
        return facts_of(buffer.getvalue(), number, **known)
    return facts_of(png(pixels), number, **known)


def measured(what: str, count: int = 80) -> dict[str, Any]:
    looks = [planted(what, number, "ab"[number // (count // 2)]) for number in range(count)]
    return {one.what: one for one in find_shortcuts(looks, range(count))}


CONTROLS = ("picture, center 60% black", "whole picture")


@pytest.mark.parametrize("what", ["source", "size", "file", "border"])
def test_what_is_planted_predicts_the_label_and_nothing_else_does(what: str) -> None:
    found = measured(what)
    assert found[what].verdict == "strong"
    assert found[what].auc > 0.95
    # A size changes the length of the file and the noise of means; JPEG changes the noise.
    related = {"size": {"file", "border"}, "file": {"border"}, "border": {"file"}}.get(what, set())
    for other in {"source", "size", "file", "border"} - {what} - related:
        assert found[other].verdict in {"none", "not measured: the same for all images"}


def test_a_class_that_is_given_away_counts_although_the_others_are_not() -> None:
    """As in the study's set: one class from a source of its own, the others from one."""
    looks = []
    for number in range(100):
        label = "abcd"[number % 4]
        source = "cohen" if label == "c" else "rsna"
        looks.append(facts_of(png(noise(number)), number, label=label, source=source))
    (found,) = [one for one in find_shortcuts(looks, range(100)) if one.what == "source"]
    assert found.auc is not None
    assert found.low is not None
    assert found.low < shortcuts.STRONG
    assert found.clearest == "c"
    assert found.classes["c"].auc > 0.99
    assert found.classes["a"].auc < 0.8
    assert found.auc == pytest.approx(np.mean([area.auc for area in found.classes.values()]))
    assert found.verdict == "strong"


def test_the_interval_is_over_patients() -> None:
    looks = [planted("border", number, "ab"[number // 40]) for number in range(80)]
    alone = shortcuts._areas(*_table(looks), np.arange(80), 0)[0]
    groups = np.arange(80) // 4
    together = shortcuts._areas(*_table(looks), groups, 0)[0]
    assert together.high - together.low > alone.high - alone.low


def _table(looks: list[ImageFacts]) -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    labels = np.array([one.image.label for one in looks])
    of_group = np.repeat(random.normal(size=20), 4)
    return (of_group + 0.8 * (labels == "b"))[:, None], labels


def test_what_is_in_the_center_is_no_shortcut() -> None:
    found = measured("center")
    assert found["border"].verdict == "none"
    assert found["whole picture"].auc > 0.95
    black = found["picture, center 60% black"]
    assert black.low < 0.5 < black.high


def test_nothing_planted_is_nothing_found() -> None:
    for one in measured("nothing").values():
        assert one.auc is None or (one.low < 0.6 and one.verdict == "none")


def test_images_of_one_patient_are_not_learnt_from_and_judged_by() -> None:
    """The same border in all images of a patient, and patients of both kinds in each class."""
    looks: list[ImageFacts] = []
    groups: list[int] = []
    for patient in range(20):
        for copy in range(4):
            pixels = noise(1000 * patient + copy)
            inside = pixels[3:-3, 3:-3].copy()
            pixels[:] = np.random.default_rng(patient).integers(0, 256)
            pixels[3:-3, 3:-3] = inside
            looks.append(facts_of(png(pixels), len(looks), label="ab"[patient % 2]))
            groups.append(patient)
    apart = {one.what: one.auc or 0 for one in find_shortcuts(looks, groups)}
    together = {one.what: one.auc or 0 for one in find_shortcuts(looks, range(len(looks)))}
    assert together["border"] > 0.9
    assert apart["border"] < 0.75


def test_of_very_many_images_a_part_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "MOST", 60)
    drawn = shortcuts.evenly(["a"] * 1000 + ["b"] * 10, 0)
    assert [sum(low <= n < high for n in drawn) for low, high in ((0, 1000), (1000, 1010))] == [
        30, 10,
    ]  # fmt: skip
    assert measured("border")["border"].verdict == "strong"


def test_too_few_images_are_not_measured() -> None:
    looks = [planted("border", number, "ab"[number // 4]) for number in range(8)]
    for one in find_shortcuts(looks, range(8)):
        assert one.auc is None
        assert one.verdict.startswith("not measured: ")


def test_a_source_that_is_known_of_no_image_is_not_called_the_same() -> None:
    looks = [facts_of(png(noise(number)), number, label="ab"[number % 2]) for number in range(4)]
    found = {one.what: one.verdict for one in find_shortcuts(looks, range(4))}
    assert found["source"] == "not measured: is not known"
    assert found["file"] != found["source"]


@pytest.mark.skipif(not XRAYS.is_dir(), reason=f"{XRAYS} is not there")
@pytest.mark.slow
def test_the_public_xray_set_is_found_out() -> None:
    found = inspect_data(XRAYS)
    verdicts = {one.what: one.verdict for one in found.shortcuts}
    assert verdicts["border"] == "strong"
    assert found.duplicates.pairs == ()
    # The names hold ChestX-ray8's patient numbers, and 68 patients are in both folders.
    assert len(verify_manifest(XRAYS, patient=r"^(\d{8})_").leaks) == 68
