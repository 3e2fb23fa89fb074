"""Models: building one from parts, numbering its layers, freezing them, cutting it in two."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from attrs import frozen

from tlkit.model.graph import layer_table, leaves, set_block
from tlkit.model.layers import LayerTable
from tlkit.parts.kinds import Backbone, BatchNorm, FreezePolicy, Head, Stage, holds_batch_norm
from tlkit.parts.optimizers import scaled
from tlkit.system.errors import PartError
from tlkit.system.keras import keras
from tlkit.train import assemble as litter
from tlkit.train.plan import model_layers, seed_for

# Looking for them takes 0.14 s, so it is done when they may take more than a small model does.
ENOUGH_BYTES = 100e6

_models: weakref.WeakSet[keras.Model] = weakref.WeakSet()


def note(model: keras.Model) -> None:
    """Note that a model was made."""
    _models.add(model)


def clear() -> None:
    """Free what models of earlier runs take, if nobody has them and it may be much."""
    if sum(4 * model.count_params() for model in _models) > ENOUGH_BYTES:
        gc.collect()


ENOUGH_EPOCHS = 1000  # so that a policy in stages has them all when only its first is asked for


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make the seeds that Keras draws for initializers and dropout depend on `seed` alone.

    Keras takes a seed that nobody gave from Python's global generator, which is put back after.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def assemble(
    backbone: Backbone,
    head: Head,
    classes: int,
    seed: int,
    mixed_precision: str | None = None,
    load_weights: bool = True,
) -> tuple[keras.Model, Mapping[str, str]]:
    """Build a model and load the backbone's weights; return it and what was loaded.

    Args:
        backbone: What it begins with.
        head: What it ends with.
        classes: How many it tells apart.
        seed: What random weights depend on.
        mixed_precision: What all layers but the last compute in; None: float32.
        load_weights: Load the backbone's weights; otherwise they stay random.

    Raises:
        WeightsError: If the backbone's weights are not available or do not fit.
        PartError: If the built model is not what the parts' tables say.
    """
    litter.clear()
    with seeded(seed_for(seed, "backbone")):
        base = backbone.build()
    with seeded(seed_for(seed, "head")):
        scores = head.attach(base.output, classes)
        model = keras.Model(base.input, scores, name="model")
    layers = model_layers(backbone, head, classes)
    _check(model, layers)
    litter.note(model)
    if mixed_precision:
        for _, layer in list(leaves(model))[:-1]:  # probabilities stay float32, and so the loss
            for inner in layer._flatten_layers():
                inner.dtype_policy = f"mixed_{mixed_precision}"
    for _, row in layers:  # so that `freeze` and `layer_table` know the head of this model too
        set_block(model.get_layer(row.name), row.block)
    loaded = backbone.load_weights(base) if load_weights else {"source": "not loaded"}
    return model, loaded


def _check(model: keras.Model, planned: LayerTable) -> None:
    """Raise unless the built layers are the planned ones: this ties the numbers to the network."""
    built = layer_table(model)
    facts = [
        [(x.name, x.output_shape, x.params, x.other_params) for _, x in table]
        for table in (planned, built)
    ]
    if facts[0] != facts[1]:
        different = [pair for pair in zip(*facts, strict=False) if pair[0] != pair[1]]
        first = different[0] if different else (len(facts[0]), len(facts[1]))
        raise PartError(
            f"backbone or head: its layer table differs from the built model, {first}; "
            "mend its `layers` or what it builds"
        )


@frozen(str=False)
class Frozen:
    """What `freeze` did to a model.

    Attributes:
        layers: The model's layers.
        rates: One learning-rate multiplier a layer; 0 is frozen.
        variable_rates: One multiplier for each of `model.trainable_variables`, in their order.
    """

    layers: LayerTable
    rates: tuple[float, ...]
    variable_rates: tuple[float, ...]

    def scale(self, optimizer: keras.optimizers.Optimizer | str) -> keras.optimizers.Optimizer:
        """Return a fresh optimizer like the given one, or of that name, with each layer's rate."""
        return scaled(keras.optimizers.get(optimizer), self.variable_rates)

    def __str__(self) -> str:
        return self.layers.render(self.rates)


def freeze(
    model: keras.Model, train: Mapping[str, float] | FreezePolicy, batch_norm: BatchNorm
) -> Frozen:
    """FreezePolicy all layers but those chosen by a policy, or by selectors with their rates."""
    layers = layer_table(model)
    if isinstance(train, FreezePolicy):
        policy = train
    else:
        policy = _Chosen(rates=_chosen(layers, train), batch_norm=batch_norm)
    stage = policy.planned(layers, ENOUGH_EPOCHS)[0]
    return apply_rates(model, layers, stage.lr_multipliers, policy.batch_norm)


@frozen(kw_only=True)
class _Chosen(FreezePolicy):
    """The policy behind `freeze`: rates that are known already."""

    rates: tuple[float, ...]

    def stages(self, layers: LayerTable, epochs: int) -> tuple[Stage, ...]:
        return (Stage(epochs, self.rates),)


def _chosen(layers: LayerTable, train: Mapping[str, float]) -> tuple[float, ...]:
    rates = [0.0] * len(layers)
    for selector, rate in train.items():
        for number in layers.select(selector):
            rates[number - 1] = float(rate)
    return tuple(rates)


def apply_rates(
    model: keras.Model, layers: LayerTable, rates: Sequence[float], batch_norm: BatchNorm
) -> Frozen:
    """Set the `trainable` flags of a model to what the rates say, and check that they took."""
    layers.check(rates)
    rate_of: dict[int, float] = {}
    model.trainable = True  # a container that is not trainable hides everything in it
    layers_in_order = [layer for _, layer in leaves(model)]
    for layer, (_, row), rate in zip(layers_in_order, layers, rates, strict=True):
        layer.trainable = rate > 0
        held = holds_batch_norm(batch_norm, row.block)
        for inner in layer._flatten_layers():
            if held and isinstance(inner, keras.layers.BatchNormalization):
                inner.trainable = False
        rate_of |= {id(variable): rate for variable in layer.trainable_variables}
    # Keras goes on using a step traced with the old flags; this makes `fit` demand a new compile.
    model.compiled = False
    assert {id(v) for v in model.trainable_variables} == rate_of.keys()
    return Frozen(layers, tuple(rates), tuple(rate_of[id(v)] for v in model.trainable_variables))


def split_at(
    model: keras.Model, layers: LayerTable, cut: int
) -> tuple[keras.Model | None, keras.Model]:
    """Cut a flat functional model behind a layer; both halves share its layers.

    Returns:
        The prefix, None for cut 0, and the tail.
    """
    if cut == 0:
        return None, model
    middle = model.get_layer(layers[cut].name).output
    return keras.Model(model.input, middle), keras.Model(middle, model.output)
