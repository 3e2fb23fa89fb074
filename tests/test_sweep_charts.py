"""The pictures of a sweep: a curve where one number is swept, else a row a variant."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from markupsafe import Markup

from tlkit.reports.svg import standalone
from tlkit.sweeps.charts import curve_chart, rows_chart
from tlkit.sweeps.summary import Figure, VariantSummary
from tlkit.sweeps.trials import Variant

KEY = "data.max_per_class"


def summary(value: Any, mean: float | None = 0.5, file: str = "a.toml") -> VariantSummary:
    accuracy = Figure(name="accuracy", values=(mean,), low=0.42, high=0.75)
    variant = Variant(Path(file), {KEY: value})
    return VariantSummary(
        variant=variant, label=variant.label, seeds=(0,), folds=0, runs=1, planned=1, split="val",
        images=9, interval="", figures={} if mean is None else {"accuracy": accuracy},
    )  # fmt: skip


def parsed(chart: Markup | None) -> ET.Element:
    assert chart is not None
    return ET.fromstring(standalone(chart))


def places(chart: Markup | None, tag: str, *names: str) -> list[tuple[float, ...]]:
    nodes = parsed(chart).iter(f"{{http://www.w3.org/2000/svg}}{tag}")
    return [tuple(float(node.attrib[name]) for name in names) for node in nodes]


def test_a_curve_rises_and_is_spread_by_the_logarithm_if_values_span_ten() -> None:
    svg = curve_chart([summary(1000, 0.9), summary(10, 0.5), summary(100, 0.7)], [KEY])
    circles = places(svg, "circle", "cx", "cy")
    xs, ys = zip(*circles, strict=True)
    assert xs[2] - xs[1] == pytest.approx(xs[1] - xs[0], abs=0.2)
    assert ys[0] > ys[1] > ys[2]
    near = places(curve_chart([summary(v) for v in (1, 2, 4)], [KEY]), "circle", "cx")
    assert near[2][0] - near[1][0] == pytest.approx(2 * (near[1][0] - near[0][0]), abs=0.2)


@pytest.mark.parametrize(
    ("summaries", "swept"),
    [
        ([summary("a"), summary("b")], [KEY]),
        ([summary(True), summary(False)], [KEY]),
        ([summary(1), summary(2)], [KEY, "seed"]),
        ([summary(1), summary(2)], []),
        ([summary(1)], [KEY]),
        ([summary(1), summary(1.0)], [KEY]),
        ([summary(1), summary(2, file="b.toml")], [KEY]),
        ([summary(1), summary(2, mean=None)], [KEY]),
    ],
)
def test_what_is_no_curve_is_not_drawn_as_one(
    summaries: list[VariantSummary], swept: list[str]
) -> None:
    assert curve_chart(summaries, swept) is None


def test_a_row_a_variant_begins_at_the_tenth_below_all_of_it() -> None:
    svg = rows_chart([summary("<b>&", 0.6), summary("b", 0.9)])
    texts = [node.text for node in parsed(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["40", "50", "60", "70", "80", "90", "100",
                     "1  a, max_per_class <b>&", "2  a, max_per_class b"]  # fmt: skip
    (one,), (other,) = places(svg, "circle", "cx")
    assert one < other


def test_a_long_label_is_the_values_alone() -> None:
    assert f"1  {'x' * 50}<" in (rows_chart([summary("x" * 50)]) or "")
    assert f"1  {'x' * 54}…<" in (rows_chart([summary("x" * 90)]) or "")


def test_everything_right_everywhere_can_be_drawn() -> None:
    assert rows_chart([summary(1, 1.0)])
    perfect = [summary(1, 1.0), summary(2, 1.0)]
    assert "nan" not in (curve_chart(perfect, [KEY]) or "nan")
