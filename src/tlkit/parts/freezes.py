"""Freeze policies: pure functions from a layer table to stages of learning-rate multipliers."""

from __future__ import annotations

from attrs import field, frozen

from tlkit.errors import FieldError
from tlkit.layers import HEAD, LayerError, LayerRange, LayerTable
from tlkit.parts.kinds import Freeze, Stage, registries


@registries.freezes.register("head_only")
@frozen(kw_only=True)
class HeadOnly(Freeze):
    """Train the head, hold the whole backbone fixed."""

    def stages(self, layers: LayerTable, epochs: int) -> tuple[Stage, ...]:
        """Return one stage in which the head's layers have the full rate."""
        return (Stage(epochs, layers.rates(layers.named(HEAD))),)


@registries.freezes.register("layer_range")
@frozen(kw_only=True)
class TrainRange(Freeze):
    """Train the layers of one range, hold all others fixed.

    Attributes:
        train: The layers that are trained, ends included: `19-22`, `19-`, `-18` or `20`.
            `tlkit layers` prints the numbers.
    """

    train: LayerRange

    def stages(self, layers: LayerTable, epochs: int) -> tuple[Stage, ...]:
        """Return one stage in which the layers of the range have the full rate."""
        try:
            trained = layers.in_range(self.train)
        except LayerError as error:
            raise FieldError("train", str(error)) from None
        return (Stage(epochs, layers.rates(trained)),)


def _check_names(instance: object, attribute: object, names: tuple[str, ...]) -> None:
    if not names or "" in names:
        raise ValueError(f"at least one name is needed and none may be empty, got {list(names)}")


@registries.freezes.register("layer_names")
@frozen(kw_only=True)
class TrainNames(Freeze):
    """Train the layers that some names denote, hold all others fixed.

    Attributes:
        train: Layer names, globs such as `block5_*`, block names such as `block5`, or `head`.
    """

    train: tuple[str, ...] = field(validator=_check_names)

    def stages(self, layers: LayerTable, epochs: int) -> tuple[Stage, ...]:
        """Return one stage in which the named layers have the full rate."""
        try:
            trained = frozenset[int]().union(*(layers.named(name) for name in self.train))
        except LayerError as error:
            raise FieldError("train", str(error)) from None
        return (Stage(epochs, layers.rates(trained)),)


@registries.freezes.register("all_layers")
@frozen(kw_only=True)
class TrainAll(Freeze):
    """Train every layer."""

    def stages(self, layers: LayerTable, epochs: int) -> tuple[Stage, ...]:
        """Return one stage in which every layer has the full rate."""
        return (Stage(epochs, (1.0,) * len(layers)),)
