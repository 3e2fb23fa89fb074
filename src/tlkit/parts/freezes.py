"""Freeze policies: pure functions from a layer table to stages of learning-rate multipliers."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from attrs import field

from tlkit.model.layers import BLOCKS, HEAD, LayerError, LayerRange, LayerTable
from tlkit.parts.kinds import FreezePolicy, Stage, part
from tlkit.parts.validators import above, at_least, open_interval, unless_none
from tlkit.system.errors import FieldError


@part("head_only")
class HeadOnly(FreezePolicy):
    """Train the head; freeze the whole backbone."""

    def stages(self, layers: LayerTable, epochs: int) -> tuple[Stage, ...]:
        """Return one stage with the head at the full rate."""
        return (Stage(epochs, layers.rates(layers.named(HEAD))),)


@part("layer_range")
class TrainRange(FreezePolicy):
    """Train one range of layers; freeze the others.

    Attributes:
        train: The trained layers, both ends included: `19-22`, `19-`, `-18` or `20`; or blocks by
            the numbers in their names: `blocks:10-`. `tlkit layers` prints both.
    """

    train: LayerRange

    def stages(self, layers: LayerTable, epochs: int) -> tuple[Stage, ...]:
        """Return one stage with the layers of the range at the full rate."""
        try:
            trained = layers.in_range(self.train)
        except LayerError as error:
            raise FieldError("train", str(error)) from None
        return (Stage(epochs, layers.rates(trained)),)


def _check_names(instance: object, attribute: object, names: tuple[str, ...]) -> None:
    if not names or "" in names:
        raise ValueError(f"at least one name is needed and none may be empty, got {list(names)}")


@part("layer_names")
class TrainNames(FreezePolicy):
    """Train layers chosen by name; freeze the others.

    Attributes:
        train: Layer names, globs such as `block5_*`, block names such as `block5`, ranges of blocks
            such as `blocks:10-`, or `head`.
    """

    train: tuple[str, ...] = field(validator=_check_names)

    def stages(self, layers: LayerTable, epochs: int) -> tuple[Stage, ...]:
        """Return one stage with the chosen layers at the full rate."""
        return (Stage(epochs, layers.rates(_chosen(layers, self.train, self.batch_norm))),)


def _chosen(layers: LayerTable, names: tuple[str, ...], batch_norm: str) -> frozenset[int]:
    """Return the numbers of the layers that the key `train` chooses."""
    try:
        numbers = frozenset[int]()
        for name in names:
            own = layers.select(name) if name.startswith(BLOCKS) else layers.named(name)
            layers.refuse_held(name, own, batch_norm)
            numbers |= own
        return numbers
    except ValueError as error:
        raise FieldError("train", str(error)) from None


@part("all_layers")
class TrainAll(FreezePolicy):
    """Train every layer."""

    def stages(self, layers: LayerTable, epochs: int) -> tuple[Stage, ...]:
        """Return one stage with every layer at the full rate."""
        return (Stage(epochs, (1.0,) * len(layers)),)


@part("head_then")
class HeadThen(FreezePolicy):
    """Two phases: the head alone, then the head and some layers of the backbone.

    A new head sends large gradients; training it alone first keeps them out of the backbone.

    Attributes:
        head_epochs: Epochs in which only the head is trained; fewer than `fit.epochs`.
        train: The layers that join it, as in `layer_names`.
        rate: Their learning-rate multiplier; the head keeps the full rate.
    """

    head_epochs: int = field(default=1, validator=at_least(1))
    train: tuple[str, ...] = field(validator=_check_names)
    rate: float = field(default=0.1, validator=above(0))

    def stages(self, layers: LayerTable, epochs: int) -> tuple[Stage, ...]:
        """Return the two stages."""
        if self.head_epochs >= epochs:
            raise FieldError(
                "head_epochs", f"must be below fit.epochs, {epochs}, got {self.head_epochs}"
            )
        head = layers.rates(layers.named(HEAD))
        joined = layers.rates(_chosen(layers, self.train, self.batch_norm), self.rate)
        both = tuple(max(pair) for pair in zip(head, joined, strict=True))
        return (Stage(self.head_epochs, head), Stage(epochs - self.head_epochs, both))


@part("gradual")
class Gradual(FreezePolicy):
    """The head alone, then one more block of the backbone at a time, from the top down.

    Blocks without parameters join with the one above. The last stage gets the remaining epochs.

    Attributes:
        every: Epochs between two blocks.
        blocks: The largest number of blocks that join; unset: all, if there are enough epochs.
    """

    every: int = field(default=1, validator=at_least(1))
    blocks: int | None = field(default=None, validator=unless_none(at_least(1)))

    def stages(self, layers: LayerTable, epochs: int) -> tuple[Stage, ...]:
        """Return a stage for the head and one per joining block."""
        joining = [block for block in reversed(layers.blocks) if block != HEAD]
        joining = [block for block in joining if _params(layers, block)][: self.blocks]
        trained = layers.named(HEAD)
        rates = [layers.rates(trained)]
        for block in joining[: (epochs - 1) // self.every]:
            trained |= frozenset(range(min(layers.named(block)), len(layers) + 1))
            rates.append(layers.rates(trained))
        lengths = [self.every] * (len(rates) - 1)
        return tuple(
            Stage(length, each)
            for length, each in zip([*lengths, epochs - sum(lengths)], rates, strict=True)
        )


def _params(layers: LayerTable, block: str) -> int:
    return sum(layers[number].params for number in layers.named(block))


@part("layer_decay")
class LayerDecay(FreezePolicy):
    """Train lower layers more slowly than higher ones: general features change less than specific.

    Attributes:
        factor: Multiplies the rate at each step down from the head.
        per: Whether a step is a `block` or a `layer` with parameters.
        steps: The largest number of steps down from the head that are trained; unset: all. Layers
            further down stay frozen, so that their features are computed once.
    """

    factor: float = field(default=0.5, validator=open_interval(0, 1))
    per: Literal["block", "layer"] = "block"
    steps: int | None = field(default=None, validator=unless_none(at_least(1)))

    def stages(self, layers: LayerTable, epochs: int) -> tuple[Stage, ...]:
        """Return one stage with multiplier 1 for the head, times `factor` per step down."""
        steps, last, rates = Counter[str](), dict[str, str](), []
        for number in range(len(layers), 0, -1):
            layer = layers[number]
            own = layer.block if self.per == "block" else layer.name
            changed = own != last.get(layer.network, HEAD)
            if layer.block != HEAD and changed and (self.per == "block" or layer.params):
                steps[layer.network] += 1  # each member of a joined backbone has its own
                last[layer.network] = own
            deep = self.steps is not None and steps[layer.network] > self.steps
            rates.append(0.0 if deep else self.factor ** steps[layer.network])
        return (Stage(epochs, tuple(reversed(rates))),)
