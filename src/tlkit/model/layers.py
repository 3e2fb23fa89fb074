"""Layer numbers: how layers are counted, selected by number or name, and shown as a table.

The input is layer 0 and has nothing to train; 1…n follow in forward order. In VGG-16 with the head
`flatten_dense`, 1–18 are convolutions and pools, 19 is flatten and 20–22 are dense layers: the
"19-22" and "1-22" of papers that count this way are the layers *trained*, ends included.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import groupby, islice

from attrs import evolve, field, frozen

from tlkit.system.notebook import face, folded, html_table
from tlkit.system.text import first_lines, nearest

HEAD = "head"
BLOCKS = "blocks:"  # the beginning of a range of blocks
MAX_WIDTH = 80  # of a table, in columns
MOST_ROWS = 40  # that are shown one by one, unless all are asked for
HEAD_ROW = ("no.", "layer", "kind", "block", "output", "parameters")
SHOWN_ROWS = 5  # of a table in a message; a network may have hundreds of layers
RANGE = re.compile(r"\s*(\d{1,9})?\s*([-–])?\s*(\d{1,9})?\s*", re.ASCII)


class LayerError(ValueError):
    """A layer number, range or name that does not exist; the message ends with a few layers."""


@frozen
class LayerRange:
    """Consecutive layers, both ends included.

    Attributes:
        first: The first number, at least 1.
        last: The last number; None means the last layer of the model.
        blocks: Whether these are the numbers at the end of blocks' names, not those of layers.
    """

    first: int
    last: int | None = None
    blocks: bool = field(default=False, repr=False)

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

        After ``blocks:`` these are blocks: ``"blocks:10-"`` is block 10 and everything after it.

        >>> LayerRange.parse("19–22")
        LayerRange(first=19, last=22)
        >>> str(LayerRange.parse("-18"))
        '1-18'

        Raises:
            ValueError: If the text has another form, includes layer 0 or runs backward.
        """
        blocks = text.strip().startswith(BLOCKS)
        text = text.strip().removeprefix(BLOCKS) if blocks else text
        match = RANGE.fullmatch(text)
        first, hyphen, last = match.groups() if match else (None, None, None)
        both = first is not None and last is not None
        if (first is None and last is None) or (both and hyphen is None):
            raise ValueError(
                f"expected layers such as '19-22', '20', '19-' or '-18', got {text[:40]!r}"
            )
        if hyphen is None:
            return cls(int(text), int(text), blocks)
        return cls(int(first) if first else 1, int(last) if last else None, blocks)

    @classmethod
    def is_range(cls, text: str) -> bool:
        """Tell whether `text` consists of numbers and is not a name."""
        text = text.strip()
        numbers = RANGE.fullmatch(text) and any(character.isdigit() for character in text)
        return bool(numbers) or text.startswith(BLOCKS)

    def __str__(self) -> str:
        unit = BLOCKS if self.blocks else ""
        if self.last == self.first:
            return f"{unit}{self.first}"
        return f"{unit}{self.first}-{'' if self.last is None else self.last}"


@frozen
class Layer:
    """The facts about one layer that a table shows.

    Attributes:
        name: Its name in the model, such as ``block5_conv1``.
        kind: Its Keras class, such as ``Conv2D``.
        block: The block it belongs to; ``head`` for every layer of the head.
        output_shape: The shape of its output without the batch axis, such as ``(14, 14, 512)``.
        params: The number of trainable parameters.
        other_params: The number of other parameters, such as BatchNorm's moving statistics.
        batch_norm: Whether it is a BatchNorm layer.
        is_cut_point: Whether the rest of the model needs only its output, so that the model can be
            cut in two after it.
        is_cut_beside_pools: Whether the rest of the model needs only its output and fixed pools of
            earlier layers, so that the model can be cut in two after it and them.
        fixed: Whether it has no parameters and computes the same in training, so that it belongs
            to the frozen prefix whatever its rate.
        kernel_size: The side of a `Conv2D` layer's square kernel; 0 for all else.
        network: The member of a `joined` backbone that it belongs to; empty in all others.
        is_network_cut: Whether it is a cut point of that member on its own.
    """

    name: str
    kind: str
    block: str
    output_shape: tuple[int, ...]
    params: int = 0
    other_params: int = 0
    batch_norm: bool = False
    is_cut_point: bool = True
    is_cut_beside_pools: bool = False
    fixed: bool = False
    kernel_size: int = 0
    network: str = ""
    is_network_cut: bool = False


@frozen
class LayerTable:
    """The layers of one model in forward order, numbered from 1.

    Attributes:
        layers: The layers; item 0 of the tuple is layer 1.
    """

    layers: tuple[Layer, ...]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[tuple[int, Layer]]:
        return iter(enumerate(self.layers, start=1))

    def __getitem__(self, number: int) -> Layer:
        if not 1 <= number <= len(self):
            end = self.excerpt([len(self)])
            raise LayerError(f"layer {number}: there are layers 1-{len(self)}\n{end}")
        return self.layers[number - 1]

    def __add__(self, other: LayerTable) -> LayerTable:
        return LayerTable(self.layers + other.layers)

    def in_block(self, block: str) -> LayerTable:
        """Return the same layers with all of them in `block`."""
        return self._in_blocks([block] * len(self))

    def grouped(self, pattern: str, prefix: str = "", closes: bool = False) -> LayerTable:
        """Return the same layers, with blocks read off their names.

        Args:
            pattern: A regular expression; its first group in a layer's name is the layer's block.
            prefix: The beginning of the block names, before the group.
            closes: Whether a layer whose name matches ends its block, so that layers without a
                match belong to the next one that has; otherwise it begins the block.
        """
        matches = [re.search(pattern, layer.name) for layer in self.layers]
        blocks = [prefix + match.group(1) if match else "" for match in matches]
        forward, backward = range(len(blocks)), range(len(blocks) - 1, -1, -1)
        for order in (backward, forward) if closes else (forward, backward):
            block = ""
            for number in order:
                block = blocks[number] = blocks[number] or block
        return self._in_blocks(blocks)

    def with_head(self) -> LayerTable:
        """Return the same layers, those after the last feature map in block `head`.

        A feature map has several axes. Layers of nested models keep their blocks.
        """
        maps = [number for number, layer in self if len(layer.output_shape) > 1]
        last = max(maps, default=0)
        return self._in_blocks(
            [
                HEAD if 0 < last < number and "/" not in layer.name else layer.block
                for number, layer in self
            ]
        )

    def _in_blocks(self, blocks: Sequence[str]) -> LayerTable:
        """Return the same layers in the given blocks; "" keeps a layer's own."""
        pairs = zip(self.layers, blocks, strict=True)
        return LayerTable(tuple(evolve(x, block=block or x.block) for x, block in pairs))

    @property
    def blocks(self) -> tuple[str, ...]:
        """Return the names of the blocks in forward order."""
        return tuple(dict.fromkeys(layer.block for layer in self.layers))

    def networks(self) -> tuple[Mapping[int, Layer], ...]:
        """Return the layers of each member of a `joined` backbone, in order, by their numbers.

        They are cut points where they are in the member on its own. Any other table is one network.
        """
        members: dict[str, dict[int, Layer]] = {}
        for number, layer in self:
            if layer.network:
                alone = evolve(layer, is_cut_point=layer.is_network_cut)
                members.setdefault(layer.network, {})[number] = alone
        return tuple(sorted(members.values(), key=max)) or (dict(self),)

    def in_range(self, chosen: LayerRange) -> frozenset[int]:
        """Return the numbers in a range.

        Raises:
            LayerError: If the range reaches past the last layer or block.
        """
        if chosen.blocks:
            return self._in_blocks_range(chosen)
        last = len(self) if chosen.last is None else chosen.last
        if last > len(self) or chosen.first > len(self):
            raise LayerError(
                f"layers {chosen} reach past the last one, {len(self)} "
                f"({self.layers[-1].name})\n{self.excerpt(range(len(self), 0, -1))}"
            )
        return frozenset(range(chosen.first, last + 1))

    def _in_blocks_range(self, chosen: LayerRange) -> frozenset[int]:
        """Return the numbers of the layers from one block to another."""
        ends = {number: re.search(r"\d+$", layer.block) for number, layer in self}
        block_of = {number: int(end[0]) for number, end in ends.items() if end}
        highest = max(block_of.values(), default=0)
        last = highest if chosen.last is None else chosen.last
        inside = [n for n, block in block_of.items() if chosen.first <= block <= last]
        if not inside or last > highest:
            raise LayerError(f"{chosen}: the last numbered block is {highest}\n{self}")
        end = len(self) if chosen.last is None else max(inside)
        return frozenset(range(min(inside), end + 1))

    def named(self, pattern: str) -> frozenset[int]:
        """Return the numbers of the layers that match a name, glob or block name.

        Raises:
            LayerError: If no layer matches.
        """
        numbers = frozenset(
            number
            for number, layer in self
            if fnmatchcase(layer.name, pattern) or layer.block == pattern
        )
        if not numbers:
            names = [*self.blocks, *(layer.name for layer in self.layers)]
            hint = nearest(pattern, names)
            if not hint and any(pattern in name for name in names):  # a nested model's block
                hint = f"; did you mean '*{pattern}*'?"
            raise LayerError(
                f"no layer or block matches {pattern!r}{hint}\n{self._nearest_rows(pattern)}"
            )
        return numbers

    def _nearest_rows(self, pattern: str) -> str:
        """Return the rows whose layer or block has a name like `pattern`, or the blocks."""
        plain = re.sub(r"[*?\[\]]", "", pattern)
        first = {layer.block: number for number, layer in reversed([*self])}
        first |= {layer.name: number for number, layer in self}
        close = get_close_matches(plain, first, n=SHOWN_ROWS, cutoff=0.5)
        if not close:
            return f"blocks: {', '.join(first_lines(self.blocks, 'blocks'))}"
        return self.excerpt(dict.fromkeys(first[name] for name in close))

    def select(self, selector: LayerRange | str) -> frozenset[int]:
        """Return the numbers of a range (``"19-22"``), glob, layer name or block name.

        Raises:
            LayerError: If no layer matches, or the range reaches past the last layer.
            ValueError: If a range runs backward or includes layer 0.
        """
        if isinstance(selector, str) and LayerRange.is_range(selector):
            selector = LayerRange.parse(selector)
        return self.named(selector) if isinstance(selector, str) else self.in_range(selector)

    def refuse_held(self, selector: str, numbers: Collection[int], batch_norm: str) -> None:
        """Raise if a selector names one BatchNorm layer, which `batch_norm` holds fixed.

        A glob, a block or a range may include such layers.

        Args:
            selector: The range, glob, or name.
            numbers: The layers that it selects.
            batch_norm: As in a freeze policy.

        Raises:
            LayerError: It would not learn, although it was named.
        """
        rows = [self[number] for number in numbers]
        if len(rows) != 1 or set("*?[") & set(selector) or not rows[0].batch_norm:
            return
        if holds_batch_norm(batch_norm, rows[0].block):
            ways = "'head' or 'train'" if rows[0].block == HEAD else "'train'"
            raise LayerError(
                f"{selector!r} is BatchNorm, held fixed by batch_norm = {batch_norm!r}; "
                f"leave it out, or set batch_norm to {ways}\n{self.excerpt(numbers)}"
            )

    def choose(self, selector: str) -> int:
        """Return the number of the one layer that a number or name selects.

        Raises:
            LayerError: If no layer matches, or more than one.
            ValueError: If a range runs backward or includes layer 0.
        """
        numbers = sorted(self.select(selector))
        if len(numbers) > 1:
            raise LayerError(
                f"must be one layer, got {selector!r}, which selects {len(numbers)}\n"
                f"{self.excerpt(numbers)}"
            )
        return numbers[0]

    def rates(self, trained: frozenset[int], rate: float = 1.0) -> tuple[float, ...]:
        """Return one learning-rate multiplier per layer: `rate` if it is trained, else 0."""
        return tuple(rate if number in trained else 0.0 for number, _ in self)

    def frozen_prefix(self, rates: Sequence[float]) -> int:
        """Return the number of the last layer of the frozen prefix; 0 if there is none.

        The prefix is the longest run of layers that are fixed or have rate 0, from layer 1, that
        ends in a single tensor, or in one and fixed pools of earlier ones.
        """
        self.check(rates)
        learns = [rate > 0 and not x.fixed for rate, x in zip(rates, self.layers, strict=True)]
        frozen_until = next((i for i, own in enumerate(learns) if own), len(rates))
        frozen = ((number, layer) for number, layer in self if number <= frozen_until)
        return max((n for n, x in frozen if x.is_cut_point or x.is_cut_beside_pools), default=0)

    def trainable_params(self, rates: Sequence[float]) -> int:
        """Return the number of parameters in layers with a rate above 0."""
        self.check(rates)
        return sum(layer.params for rate, (_, layer) in zip(rates, self, strict=True) if rate > 0)

    @property
    def params(self) -> int:
        """Return the number of parameters, trainable or not."""
        return sum(layer.params + layer.other_params for layer in self.layers)

    def check(self, rates: Sequence[float]) -> None:
        """Raise `ValueError` unless there is one rate per layer."""
        if len(rates) != len(self):
            raise ValueError(f"expected one rate for each of {len(self)} layers, got {len(rates)}")

    def excerpt(self, numbers: Iterable[int], rates: Sequence[float] | None = None) -> str:
        """Return the table's head and the first five of some rows, for a message."""
        head, *rows = self.render(rates).splitlines()
        return "\n".join([head, *(rows[n - 1] for n in sorted(islice(numbers, SHOWN_ROWS)))])

    def render(self, rates: Sequence[float] | None = None, by_block: bool = False) -> str:
        """Return the table as text, with a column for `rates` if given.

        The layers' kinds are left out if it would be wider than 80 columns.

        Args:
            rates: The rate of each layer.
            by_block: Show a block whose trained layers have one rate as one row.
        """
        stages = [] if rates is None else [rates]
        table = [[*HEAD_ROW, "rate"] if stages else [*HEAD_ROW], *self._rows(stages, by_block)]
        if _width(table) > MAX_WIDTH:
            kind = HEAD_ROW.index("kind")
            table = [[*row[:kind], *row[kind + 1 :]] for row in table]
        right = {"no.", "parameters", "rate"}
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if title in right else cell.ljust(width)
                for title, cell, width in zip(table[0], row, widths, strict=True)
            ).rstrip()
            for row in table
        )

    def _rows(self, stages: Sequence[Sequence[float]], by_block: bool) -> Iterator[list[str]]:
        """Yield a row per layer, or per block whose trained layers have one rate in each stage."""
        for rates in stages:
            self.check(rates)
        for _, of_block in groupby(self, lambda row: row[1].block):
            block = [*of_block]
            trained = [{rates[n - 1] for n, _ in block if rates[n - 1]} for rates in stages]
            whole = by_block and all(len(rates) < 2 for rates in trained)
            for rows in [block] if whole else [[row] for row in block]:
                yield [*_row(rows), *(_rate(rows, rates) for rates in stages)]

    def html(self, *rates: Sequence[float]) -> str:
        """Return the table for a notebook, with a column for each stage's rates.

        A large network has a row per block, and all layers on a click.
        """
        titles = ["rate"] if len(rates) == 1 else [f"stage {n}" for n in range(1, len(rates) + 1)]
        head = _layer_first([*HEAD_ROW, *titles])
        every, blocks = (
            html_table(head, map(_layer_first, self._rows(rates, by_block)))
            for by_block in (False, True)
        )
        large = len(self) > MOST_ROWS
        return blocks + folded(f"all {len(self)} layers", every) if large else every

    def __repr__(self) -> str:
        return f"LayerTable({len(self)} layers, {self.params:,} parameters)"

    def _repr_html_(self) -> str:
        return face(f"{len(self)} layers, {self.params:,} parameters", self.html())

    def __str__(self) -> str:
        return self.render()


def _row(rows: Sequence[tuple[int, Layer]]) -> list[str]:
    """Return the table's row for a layer, or for the layers of a block, without rates."""
    (first, _), (last, layer) = rows[0], rows[-1]
    one = first == last
    return [
        str(first) if one else f"{first}-{last}",
        layer.name if one else f"({len(rows)} layers)",
        layer.kind if one else "",
        layer.block,
        "×".join(map(str, layer.output_shape)),
        f"{sum(x.params + x.other_params for _, x in rows):,}",
    ]


def _rate(rows: Sequence[tuple[int, Layer]], rates: Sequence[float]) -> str:
    """Return the rate of some layers that have one, and how many of them are frozen."""
    trained = [rates[n - 1] for n, _ in rows if rates[n - 1]]
    held = sum(not rates[n - 1] and layer.params > 0 for n, layer in rows)
    rate = f"{trained[0]:g}" if trained else "frozen"
    return f"{rate}, {held} frozen" if trained and held else rate


def _layer_first(row: list[str]) -> list[str]:
    number, name, *others = row
    return [name, number, *others]


def _width(table: Sequence[Sequence[str]]) -> int:
    columns = list(zip(*table, strict=True))
    return sum(max(map(len, column)) for column in columns) + 2 * (len(columns) - 1)


def holds_batch_norm(batch_norm: str, block: str) -> bool:
    """Tell whether the BatchNorm layers of a block are held fixed."""
    return batch_norm == "inference" or (batch_norm == "head" and block != HEAD)
