"""The drawn chest phantoms: pure, the same person whatever the finding, findings where they belong.

What a person sees (is it a chest film, are the three findings told apart at a glance) was judged on
contact sheets; these tests hold what can be counted.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.fakes import STUDY, study_parts

import tlkit
from tlkit.parts.datasets import Manifest
from tlkit.parts.kinds import registries
from tlkit.parts.plugins import PluginFile, active
from tlkit.reports.console import stand_in_banner
from tlkit.testing import check_part

PARTS = study_parts()
FINDINGS, Phantom, draw_chest = PARTS.FINDINGS, PARTS.Phantom, PARTS.draw_chest
CLEAR, ONE_SIDED, BOTH_SIDED = range(3)
PX = 128

keys = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
findings = st.sampled_from(range(len(FINDINGS)))
quick = settings(max_examples=25, deadline=None)


def picture(finding: int, key: tuple[int, ...], image_px: int = PX) -> npt.NDArray[np.float64]:
    drawn: npt.NDArray[np.float64] = draw_chest(finding, key, image_px).astype(np.float64)
    return drawn


def opacity(finding: int, key: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """What the finding adds to the clear picture of the same person."""
    return picture(finding, key) - picture(CLEAR, key)


def halves(image: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean size of the values left and right of the middle."""
    middle = image.shape[1] // 2
    return float(np.abs(image[:, :middle]).mean()), float(np.abs(image[:, middle:]).mean())


def test_findings_are_the_documented_ones() -> None:
    assert FINDINGS == ("clear", "one_sided", "both_sided")


@quick
@given(finding=findings, key=keys, image_px=st.integers(16, 64))
def test_any_size_gives_a_square_grey_picture(
    finding: int, key: tuple[int, ...], image_px: int
) -> None:
    image = draw_chest(finding, key, image_px)
    assert image.shape == (image_px, image_px)
    assert image.dtype == np.uint8


@pytest.mark.parametrize("image_px", [127, 128, 129, 224, 256])
def test_larger_sizes_too(image_px: int) -> None:
    assert draw_chest(BOTH_SIDED, (3,), image_px).shape == (image_px, image_px)


@quick
@given(finding=findings, key=keys)
def test_same_key_same_bytes(finding: int, key: tuple[int, ...]) -> None:
    first = draw_chest(finding, key, 48).tobytes()
    np.random.default_rng(0).random(10)  # no hidden state is shared
    assert draw_chest(finding, key, 48).tobytes() == first


@quick
@given(finding=findings, one=keys, other=keys)
def test_another_key_is_another_picture(
    finding: int, one: tuple[int, ...], other: tuple[int, ...]
) -> None:
    same = draw_chest(finding, one, 48).tobytes() == draw_chest(finding, other, 48).tobytes()
    assert same == (one == other)


@pytest.mark.parametrize("finding", range(len(FINDINGS)))
@pytest.mark.parametrize("image_px", [16, 32, 64, 128])
def test_one_key_looks_the_same_at_every_size(finding: int, image_px: int) -> None:
    blocks = picture(finding, (8, 1), 256).reshape(image_px, 256 // image_px, image_px, -1)
    assert np.abs(blocks.mean(axis=(1, 3)) - picture(finding, (8, 1), image_px)).mean() < 2


@quick
@given(key=keys)
def test_contrast_is_not_degenerate(key: tuple[int, ...]) -> None:
    image = picture(CLEAR, key)
    dark, bright = np.quantile(image, [0.05, 0.95])
    assert bright - dark > 80
    assert (image == 255).mean() < 0.2
    assert (image == 0).mean() < 0.4


@quick
@given(key=keys)
def test_lungs_are_darker_than_spine_and_belly(key: tuple[int, ...]) -> None:
    image = picture(CLEAR, key)
    spine, belly = image[45:90, 62:67].mean(), image[115:, 45:85].mean()
    left_lung, right_lung = image[40:60, 32:44].mean(), image[40:60, 84:96].mean()
    assert max(left_lung, right_lung) + 20 < min(spine, belly)


@quick
@given(finding=st.sampled_from([ONE_SIDED, BOTH_SIDED]), key=keys)
def test_the_body_is_the_same_whatever_the_finding(finding: int, key: tuple[int, ...]) -> None:
    added = opacity(finding, key)
    assert (added == 0).mean() > 0.6  # the film outside the lungs, to the byte
    assert added.min() >= 0  # an opacity only brightens
    border = np.ones((PX, PX), dtype=bool)
    border[4:-4, 4:-4] = False
    assert not added[border].any()


@quick
@given(finding=st.sampled_from([ONE_SIDED, BOTH_SIDED]), key=keys)
def test_a_finding_is_visible(finding: int, key: tuple[int, ...]) -> None:
    added = opacity(finding, key)
    assert added.max() > 40
    assert (added > 12).mean() > 0.01


@quick
@given(key=keys)
def test_one_sided_is_in_one_half(key: tuple[int, ...]) -> None:
    weaker, stronger = sorted(halves(opacity(ONE_SIDED, key)))
    assert stronger > 20 * weaker


@quick
@given(key=keys)
def test_both_sided_is_in_both_halves(key: tuple[int, ...]) -> None:
    weaker, stronger = sorted(halves(opacity(BOTH_SIDED, key)))
    assert weaker > 0.5
    assert stronger < 6 * weaker


def test_one_sided_takes_either_side_and_every_height() -> None:
    added = [opacity(ONE_SIDED, (number, 4)) for number in range(40)]
    on_the_right = [right > left for left, right in map(halves, added)]
    heights = [float(np.argmax(image.sum(axis=1))) / PX for image in added]
    assert 8 <= sum(on_the_right) <= 32
    assert min(heights) < 0.35 < 0.6 < max(heights)


def test_mean_brightness_does_not_tell_the_finding() -> None:
    means = [
        np.array([picture(finding, (finding, number), 32).mean() for number in range(100)])
        for finding in range(len(FINDINGS))
    ]
    spread = np.mean([values.std() for values in means])
    assert np.ptp([values.mean() for values in means]) < 0.75 * spread


@pytest.mark.parametrize("finding", [-1, 3])
def test_finding_out_of_range(finding: int) -> None:
    with pytest.raises(ValueError, match=rf"^finding: must be 0, 1 or 2, got {finding}$"):
        draw_chest(finding, (1,), 32)


@pytest.mark.parametrize("image_px", [-1, 0, 15])
def test_picture_too_small(image_px: int) -> None:
    with pytest.raises(ValueError, match=rf"^image_px: must be at least 16, got {image_px}$"):
        draw_chest(CLEAR, (1,), image_px)


def test_the_drawings_stay_the_same_to_the_bit() -> None:
    digest = hashlib.sha256()
    for finding in range(3):
        for key, image_px in (((0, 0, finding), 64), ((3, 1, 7), 200)):
            digest.update(draw_chest(finding, key, image_px).tobytes())
    assert digest.hexdigest() == "22f847e28a0a3f9bf8e7f27ecf794799e9367d6c78a497fd7e7ebf7e9ad8429e"


def test_the_dataset_is_a_sound_part() -> None:
    with active((PluginFile.read(STUDY / "parts.py"),)):
        check_part(registries.datasets, "phantom", train=6, val=3, test=3, image_px=32)


def test_its_images_are_gray_pngs_of_three_findings() -> None:
    splits = Phantom(train=31, val=7, test=3, image_px=48).load()
    assert splits.classes == FINDINGS
    assert splits.counts("train") == {"clear": 11, "one_sided": 10, "both_sided": 10}
    image = Image.open(io.BytesIO(splits.read(splits.train[0].path)))
    assert (image.format, image.mode, image.size) == ("PNG", "L", (48, 48))
    with pytest.raises(tlkit.DataError, match=r"^phantom: there are 3 findings to draw, got cl"):
        Phantom(classes=("a", "b", "c", "d")).load()


def test_an_experiment_without_data_runs_on_them_with_a_banner(tmp_path: Path) -> None:
    small = [
        "backbone.image_size=32",
        'backbone.weights="none"',
        "head.units=[4, 4]",
        "fit.epochs=1",
        "fit.xla=false",
    ]
    done = tlkit.run(STUDY / "exp3.toml", tmp_path / "run", overrides=small)
    assert done.plan.stand_in == "phantom"
    assert done.plan.counts["train"] == dict.fromkeys(("normal", "pneumonia", "covid-19"), 15)
    banner = stand_in_banner(done.plan.stand_in)
    assert "STAND-IN DATA: synthetic images (phantom)" in banner
    assert max(map(len, banner.splitlines())) <= 80
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["stand_in"] == "phantom"
    loaded = tlkit.load(tmp_path / "run")  # needs no plugin file, and still knows the data
    assert isinstance(loaded.experiment.data, Manifest)
    assert loaded.stand_in == "phantom"


def test_the_library_knows_nothing_of_the_study() -> None:
    words = re.compile("covid|lung|chest", re.IGNORECASE)
    texts = {".py", ".pyi", ".j2", ".css", ".html", ".md", ".typed"}
    sources = [path for path in (STUDY.parents[1] / "src").rglob("*") if path.suffix in texts]
    assert len(sources) > 100
    for path in sources:
        assert not words.search(path.read_text(encoding="utf-8")), path
