"""Hypothesis strategies for the inputs of parts."""

from __future__ import annotations

import string

from hypothesis import strategies as st

from tlkit.model.layers import HEAD, Layer, LayerRange, LayerTable

KINDS = ("Conv2D", "Dense", "BatchNormalization", "MaxPooling2D")


@st.composite
def layer_tables(draw: st.DrawFn) -> LayerTable:
    """Return a strategy for layer tables: 1 to 8 rows of a backbone, then 1 to 3 of a head.

    Names are unique and start with their block's; blocks are in order; the last row has weights.
    """
    blocks = sorted(draw(st.lists(st.integers(1, 4), min_size=1, max_size=8)))
    named = [*(f"block{block}" for block in blocks), *[HEAD] * draw(st.integers(0, 2))]
    rows = [draw(_layers(block, number)) for number, block in enumerate(named, start=1)]
    scores = Layer(f"{HEAD}_scores", "Dense", HEAD, (3,), params=draw(st.integers(1, 5000)))
    return LayerTable((*rows, scores))


@st.composite
def _layers(draw: st.DrawFn, block: str, number: int) -> Layer:
    kind = draw(st.sampled_from(KINDS))
    params = 0 if kind == "MaxPooling2D" else draw(st.integers(1, 5000))
    batch_norm = kind == "BatchNormalization"
    return Layer(
        name=f"{block}_{kind.lower()}_{number}",
        kind=kind,
        block=block,
        output_shape=tuple(draw(st.lists(st.integers(1, 64), min_size=1, max_size=3))),
        params=params,
        other_params=params if batch_norm else 0,
        batch_norm=batch_norm,
        is_cut_point=draw(st.booleans()),
    )


@st.composite
def layer_ranges(draw: st.DrawFn, length: int) -> LayerRange:
    """Return a strategy for layer ranges, also open ones, in a table of `length` layers."""
    first = draw(st.integers(1, length))
    return LayerRange(first, draw(st.none() | st.integers(first, length)))


def class_counts(min_classes: int = 2) -> st.SearchStrategy[dict[str, int]]:
    """Return a strategy for images per class: `min_classes` to 7 classes, none empty."""
    names = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=9)
    return st.dictionaries(names, st.integers(1, 100_000), min_size=min_classes, max_size=7)
