"""Charts as SVG: well-formed, escaped, and each value at its place."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.finished_runs import HOSTILE

from tlkit.reports.svg import Frame, Scale, chart, number, tag

finite = st.floats(-1e6, 1e6)


@given(value=finite)
def test_a_coordinate_is_short_and_near(value: float) -> None:
    assert float(number(value)) == pytest.approx(value, abs=0.006, rel=1e-5)
    assert number(value) != "-0"


@given(text=st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(HOSTILE))
def test_any_text_is_well_formed_and_nothing_but_text(text: str) -> None:
    found = ET.fromstring(tag("text", text, id=text))
    assert list(found) == []
    assert set(found.attrib) == {"id"}


def test_a_whole_chart_says_in_words_what_it_shows() -> None:
    found = ET.fromstring(chart("c", "A <title>", "a & b", 100, tag("circle", r=1.0)))
    title, text, circle = found
    assert (title.text, text.text, circle.get("r")) == ("A <title>", "a & b", "1")
    assert found.get("aria-labelledby") == f"{title.get('id')} {text.get('id')}"
    assert found.get("viewBox") == "0 0 360 100"


@given(low=finite, width=st.floats(1e-3, 1e6), share=st.floats(0, 1))
def test_a_linear_axis_goes_from_end_to_end(low: float, width: float, share: float) -> None:
    scale = Scale(low, low + width, 10, 110)
    assert scale(low + share * width) == pytest.approx(10 + 100 * share, abs=1e-3)


def test_a_logarithmic_axis_has_its_middle_at_the_geometric_mean() -> None:
    scale = Scale(1e-5, 1e-1, 0, 100, log=True)
    assert scale(1e-3) == pytest.approx(50)
    assert scale.ticks() == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])


@given(low=st.floats(1e-9, 1e2), factor=st.floats(1, 1e6))
def test_ticks_of_a_logarithmic_axis_are_inside_a_few_and_apart(low: float, factor: float) -> None:
    scale = Scale(low / 1.5, low * factor * 1.5, 200, 0, log=True)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 5
    assert all(scale.low <= tick <= scale.high for tick in ticks)
    places = [scale(tick) for tick in ticks]
    assert all(above - below >= 12 for above, below in pairwise(places))


@given(low=st.floats(-1e3, 1e3), width=st.floats(1e-2, 1e4))
def test_ticks_are_inside_and_a_few(low: float, width: float) -> None:
    ticks = Scale(low, low + width, 0, 1).ticks()
    assert 1 <= len(ticks) <= 7
    assert all(low - 1e-6 * width <= tick <= low + 1.000001 * width for tick in ticks)


def test_an_axis_of_a_single_value_has_it_in_the_middle() -> None:
    assert Scale(3, 3, 0, 100)(3) == 50


def test_a_line_goes_through_its_points_and_a_stepped_one_goes_flat_first() -> None:
    frame = Frame(x=Scale(0, 10, 0, 100), y=Scale(0, 1, 100, 0))
    points = [(0.0, 0.0), (5.0, 1.0)]
    assert 'd="M0 100L50 0"' in frame.line(points, 0)
    assert 'd="M0 100H50V0"' in frame.line(points, 9, step=True)
    assert 'class="line c1 d1"' in frame.line(points, 9)
    assert frame.dots(points, 0).count("<circle") == 2
