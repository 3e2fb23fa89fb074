"""Layer numbers: the only module that knows how layers are counted.

The input is layer 0 and has nothing to train; 1…n follow in forward order. For VGG-16 with the
study's head, 1–18 are convolutions and pools, 19 is flatten and 20–22 are dense layers (paper,
Table 4, where "19-22" and "1-22" are the layers that are *trained*, ends included).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from attrs import evolve, frozen

from tlkit.system.text import nearest

HEAD = "head"
RANGE = re.compile(r"\s*(\d{1,9})?\s*([-–])?\s*(\d{1,9})?\s*", re.ASCII)


class LayerError(ValueError):
    """A range or name does not fit the layers; the message ends with their table."""


@frozen
class LayerRange:
    """Consecutive layer numbers, both ends included.

    Attributes:
        first: The first number, at least 1.
        last: The last number; None means up to the last layer there is.
    """

    first: int
    last: int | None = None

    def __attrs_post_init__(self) -> None:
        if isinstance(self.first, str):
            raise TypeError(f"needs numbers, got {self.first!r}; LayerRange.parse reads text")
        if self.first < 1:
            raise ValueError(f"layer {self.first} is the input, the first layer is 1")
        if self.last is not None and self.last < self.first:
            raise ValueError(f"the last layer must not come before the first, got {self}")

    @classmethod
    def parse(cls, text: str) -> LayerRange:
        """Read ``"19-22"``, ``"19–22"``, ``"20"``, ``"19-"`` or ``"-18"``.

        >>> LayerRange.parse("19–22")
        LayerRange(first=19, last=22)
        >>> str(LayerRange.parse("-18"))
        '1-18'

        Raises:
            ValueError: If the text has another form, names layer 0 or runs backwards.
        """
        match = RANGE.fullmatch(text)
        first, hyphen, last = match.groups() if match else (None, None, None)
        both = first is not None and last is not None
        if (first is None and last is None) or (both and hyphen is None):
            raise ValueError(
                f"expected layers such as '19-22', '20', '19-' or '-18', got {text[:40]!r}"
            )
        if hyphen is None:
            return cls(int(text), int(text))
        return cls(int(first) if first else 1, int(last) if last else None)

    @classmethod
    def is_range(cls, text: str) -> bool:
        """Tell whether `text` is meant as numbers rather than as a name."""
        return bool(RANGE.fullmatch(text)) and any(character.isdigit() for character in text)

    def __str__(self) -> str:
        if self.last == self.first:
            return str(self.first)
        return f"{self.first}-{'' if self.last is None else self.last}"


@frozen
class Layer:
    """What is known of one layer without building it.

    Attributes:
        name: Its name in the model, such as ``block5_conv1``.
        kind: The Keras class, such as ``Conv2D``.
        block: The block it belongs to; ``head`` for every layer of the head.
        output_shape: Its output without the batch axis, such as ``(14, 14, 512)``.
        params: How many parameters can be trained.
        other_params: How many cannot, such as BatchNorm's moving statistics.
        batch_norm: Whether it is a BatchNorm layer.
        is_cut_point: Whether everything up to and with it ends in one tensor, its output.
    """

    name: str
    kind: str
    block: str
    output_shape: tuple[int, ...]
    params: int = 0
    other_params: int = 0
    batch_norm: bool = False
    is_cut_point: bool = True


@frozen
class LayerTable:
    """The layers of one model in forward order, numbered from 1.

    Attributes:
        layers: The rows; row 0 of the tuple is layer 1.
    """

    layers: tuple[Layer, ...]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[tuple[int, Layer]]:
        return iter(enumerate(self.layers, start=1))

    def __getitem__(self, number: int) -> Layer:
        if not 1 <= number <= len(self):
            raise LayerError(f"layer {number}: there are layers 1-{len(self)}\n{self}")
        return self.layers[number - 1]

    def __add__(self, other: LayerTable) -> LayerTable:
        return LayerTable(self.layers + other.layers)

    def in_block(self, block: str) -> LayerTable:
        """Return the same layers, all of them said to be of `block`."""
        return LayerTable(tuple(evolve(layer, block=block) for layer in self.layers))

    @property
    def blocks(self) -> tuple[str, ...]:
        """Return the block names in forward order, each once."""
        return tuple(dict.fromkeys(layer.block for layer in self.layers))

    def in_range(self, chosen: LayerRange) -> frozenset[int]:
        """Return the numbers in `chosen`.

        Raises:
            LayerError: If the range reaches past the last layer.
        """
        last = len(self) if chosen.last is None else chosen.last
        if last > len(self) or chosen.first > len(self):
            raise LayerError(
                f"layers {chosen} reach past the last one, {len(self)} "
                f"({self.layers[-1].name})\n{self}"
            )
        return frozenset(range(chosen.first, last + 1))

    def named(self, pattern: str) -> frozenset[int]:
        """Return the numbers of the layers that a name, glob or block name denotes.

        Raises:
            LayerError: If nothing matches; never a silent no-op.
        """
        found = frozenset(
            number
            for number, layer in self
            if fnmatchcase(layer.name, pattern) or layer.block == pattern
        )
        if not found:
            names = [*self.blocks, *(layer.name for layer in self.layers)]
            raise LayerError(
                f"no layer or block matches {pattern!r}{nearest(pattern, names)}\n{self}"
            )
        return found

    def select(self, chosen: LayerRange | str) -> frozenset[int]:
        """Return the numbers denoted by a range (``"19-22"``), glob, layer name or block name."""
        if isinstance(chosen, str) and LayerRange.is_range(chosen):
            chosen = LayerRange.parse(chosen)
        return self.named(chosen) if isinstance(chosen, str) else self.in_range(chosen)

    def rates(self, trained: frozenset[int], rate: float = 1.0) -> tuple[float, ...]:
        """Return one learning-rate multiplier a layer: `rate` if it is trained, else 0."""
        return tuple(rate if number in trained else 0.0 for number, _ in self)

    def frozen_prefix(self, rates: Sequence[float]) -> int:
        """Return the number of the last layer of the frozen prefix; 0 if there is none.

        The prefix is the longest run of rate-0 layers from layer 1 that ends in a single tensor.
        """
        self.check(rates)
        frozen_until = next((i for i, rate in enumerate(rates) if rate > 0), len(rates))
        cuts = [number for number, layer in self if number <= frozen_until and layer.is_cut_point]
        return max(cuts, default=0)

    def trainable_params(self, rates: Sequence[float]) -> int:
        """Return how many parameters have a rate above 0."""
        self.check(rates)
        return sum(layer.params for rate, (_, layer) in zip(rates, self, strict=True) if rate > 0)

    @property
    def params(self) -> int:
        """Return how many parameters there are, trainable or not."""
        return sum(layer.params + layer.other_params for layer in self.layers)

    def check(self, rates: Sequence[float]) -> None:
        """Raise `ValueError` unless there is one rate a layer."""
        if len(rates) != len(self):
            raise ValueError(f"expected one rate for each of {len(self)} layers, got {len(rates)}")

    def render(self, rates: Sequence[float] | None = None) -> str:
        """Return the table as text, with a column for `rates` if they are given."""
        head = ["no.", "layer", "kind", "block", "output", "parameters"]
        rows = [
            [str(n), x.name, x.kind, x.block, "×".join(map(str, x.output_shape)),
             f"{x.params + x.other_params:,}"]
            for n, x in self
        ]  # fmt: skip
        if rates is not None:
            self.check(rates)
            head.append("rate")
            for row, rate in zip(rows, rates, strict=True):
                row.append(f"{rate:g}" if rate else "frozen")
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        right = {"no.", "parameters", "rate"}
        return "\n".join(
            "  ".join(
                cell.rjust(width) if title in right else cell.ljust(width)
                for title, cell, width in zip(head, row, widths, strict=True)
            ).rstrip()
            for row in [head, *rows]
        )

    def __str__(self) -> str:
        return self.render()
