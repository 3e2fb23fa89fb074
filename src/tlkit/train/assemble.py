"""Build a model from parts, set which layers learn, and split it after the frozen prefix."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from tlkit.config.experiment import Experiment
from tlkit.model.graph import layer_table, leaves
from tlkit.model.layers import LayerTable, holds_batch_norm
from tlkit.parts.backbones.applications import KerasApplication
from tlkit.parts.backbones.efficientnet_lite import EfficientNetLite
from tlkit.parts.backbones.vgg import VGG
from tlkit.parts.kinds import Backbone, BatchNorm, FreezePolicy, Head, Stage
from tlkit.parts.optimizers import layerwise
from tlkit.parts.plugins import guarded, part_name
from tlkit.system.errors import PartError, ResourceError
from tlkit.system.keras import check_settings, keras, start_keras, tf, uninitialized
from tlkit.system.keras import seeded as seeded  # also used by tests of parts
from tlkit.system.limits import require_memory
from tlkit.system.notebook import face, few_names
from tlkit.system.renames import renamed_method
from tlkit.train.plan import model_layers, seed_for

ROUNDING = 1e-3  # by which probabilities may be off
LARGE_BYTES = 100e6  # a smaller model is not worth the 0.14 s that a garbage collection takes
# These refuse a file that lacks any.
LOAD_ALL = {VGG.load_weights, KerasApplication.load_weights, EfficientNetLite.load_weights}
ALL_STAGES = 1000  # epochs enough that a policy has all its stages; `freeze` wants the first


def free_old_models(params: int) -> None:
    """Free the memory of models that are no longer used, before a large one is built.

    Keras models contain reference cycles, so only the garbage collector frees them.
    """
    if 4 * params > LARGE_BYTES:
        gc.collect()


@guarded()
def assemble(
    backbone: Backbone,
    head: Head,
    classes: int,
    seed: int,
    mixed_precision: str | None = None,
    load_weights: bool = True,
) -> tuple[keras.Model, Mapping[str, str]]:
    """Build a model and load the backbone's weights; return it and what was loaded.

    All layers but the last compute in the dtype `mixed_precision`, if given. Without
    `load_weights` the caller sets all weights, which have no random values.
    """
    start_keras()
    check_settings()
    layers = model_layers(backbone, head, classes)
    free_old_models(layers.params)
    require_memory(4 * layers.params, f"the model's {layers.params:,} parameters")
    try:
        model, loaded = _assembled(backbone, head, layers, classes, seed, load_weights)
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        what = f"memory is too short for the model's {layers.params:,} parameters"
        raise ResourceError(f"{what}; use fewer head.units or a smaller backbone") from error
    if mixed_precision:
        for _, layer in list(leaves(model))[:-1]:  # probabilities and loss stay float32
            for inner in layer._flatten_layers():
                inner.dtype_policy = f"mixed_{mixed_precision}"
    check_settings()  # parts have been at work
    return model, loaded


def model_of(
    experiment: Experiment, classes: int, load_weights: bool = True
) -> tuple[keras.Model, Mapping[str, str]]:
    """Assemble an experiment's model."""
    return assemble(
        experiment.backbone,
        experiment.head,
        classes,
        experiment.seed,
        experiment.fit.mixed_precision,
        load_weights,
    )


def _assembled(
    backbone: Backbone,
    head: Head,
    layers: LayerTable,
    classes: int,
    seed: int,
    load_weights: bool,
) -> tuple[keras.Model, Mapping[str, str]]:
    """Build a model as its layer table says; return it and what was loaded."""
    with (
        uninitialized(not load_weights or _loads_all(backbone)),
        seeded(seed_for(seed, "backbone")),
    ):
        base: Any = backbone.build()
    if not isinstance(base, keras.Model):
        raise PartError(
            f"{part_name(backbone)}: its `build` must return a Keras model, got {base!r}"
        )
    with uninitialized(not load_weights), seeded(seed_for(seed, "head")):
        scores: Any = head.connect(base, backbone.layers(), classes)
        shape = getattr(scores, "shape", None)
        if shape != (None, classes):
            what = f"must return probabilities (batch, {classes}), got {shape or repr(scores)}"
            raise PartError(f"{part_name(head)}: its `attach` {what}")
        model = keras.Model(base.input, scores, name="model")
    _check(model, layers)
    _check_probabilities(model, head)
    loaded: Any = backbone.load_weights(base) if load_weights else {"source": "not loaded"}
    if not (isinstance(loaded, Mapping) and all(isinstance(x, str) for x in loaded.values())):
        what = f"must return what it loaded, such as {{'source': 'path'}}, got {loaded!r}"
        raise PartError(f"{part_name(backbone)}: its `load_weights` {what}")
    return model, loaded


def _loads_all(backbone: Backbone) -> bool:
    """Tell whether a backbone is known to replace all its weights by those of a file."""
    return type(backbone).load_weights in LOAD_ALL and "none" not in backbone.sources


def _check_probabilities(model: keras.Model, head: Head) -> None:
    """Try a model on noise, unless it ends in softmax and needs no trial."""
    *_, (_, last) = leaves(model)
    if getattr(last, "activation", None) is keras.activations.softmax:
        return
    noise = tf.random.stateless_uniform((2, *model.input.shape[1:]), (0, 0))
    refuse_others(model(noise, training=False).numpy(), part_name(head))


def refuse_others(probabilities: Any, part: str) -> None:
    """Raise `PartError` unless rows are probabilities; what is not finite is told elsewhere."""
    sums = probabilities.sum(axis=1)
    wrong = ~((probabilities >= -ROUNDING).all(axis=1) & (abs(sums - 1) < ROUNDING))
    wrong &= np.isfinite(sums)
    if wrong.any():
        row = probabilities[wrong][0]
        shown = ", ".join(f"{value:.3g}" for value in row[:8])
        what = f"must end in probabilities that sum to 1, got {shown} with sum {row.sum():.3g}"
        raise PartError(f"{part}: {what}; end it in a softmax")


def _check(model: keras.Model, planned: LayerTable) -> None:
    """Raise unless the built layers are the planned ones, number by number."""
    built = layer_table(model)
    facts = [
        [(x.name, x.output_shape, x.params, x.other_params, x.batch_norm) for _, x in table]
        for table in (planned, built)
    ]
    if facts[0] != facts[1]:
        different = [pair for pair in zip(*facts, strict=False) if pair[0] != pair[1]]
        first = different[0] if different else (len(facts[0]), len(facts[1]))
        raise PartError(
            f"backbone or head: its layer table differs from the built model, {first}; "
            "fix its `layers` or what it builds"
        )


@frozen
class Frozen:
    """The result of `freeze`.

    Attributes:
        layers: The model's layers.
        rates: The learning-rate multiplier of each layer; 0 is frozen.
        variable_rates: The multiplier of each of `model.trainable_variables`.
    """

    layers: LayerTable
    rates: tuple[float, ...]
    variable_rates: tuple[float, ...]

    def optimizer(self, optimizer: keras.optimizers.Optimizer | str) -> keras.optimizers.Optimizer:
        """Return a new optimizer like the given one, or of that name, with each layer's rate.

        Raises:
            PartError: If the optimizer cannot give layers rates of their own, such as one that
                hands the steps on to others. Give the rates to the optimizer inside it instead.
        """
        return layerwise(keras.optimizers.get(optimizer), self.variable_rates)

    scale = renamed_method("scale", "optimizer")

    def __repr__(self) -> str:
        trained = [layer.name for number, layer in self.layers if self.rates[number - 1]]
        return (
            f"Frozen({len(self.layers) - len(trained)} layers are frozen, {len(trained)} learn: "
            f"{few_names(trained)}; {self.layers.trainable_params(self.rates):,} parameters)"
        )

    def _repr_html_(self) -> str:
        learn = self.layers.trainable_params(self.rates)
        title = f"{learn:,} of {self.layers.params:,} parameters learn"
        return face(title, self.layers.html(self.rates))

    def __str__(self) -> str:
        return self.layers.render(self.rates)


def freeze(
    model: keras.Model,
    layers: LayerTable,
    train: Mapping[str, float] | FreezePolicy,
    batch_norm: BatchNorm,
) -> Frozen:
    """Freeze all layers but those a policy trains, or those selected, with their multipliers."""
    if isinstance(train, FreezePolicy):
        policy = train
    else:
        rates = _selected(layers, train, batch_norm)
        policy = _FixedRates(rates=rates, batch_norm=batch_norm)
    stage = policy.planned(layers, ALL_STAGES)[0]
    return apply_rates(model, layers, stage.lr_multipliers, policy.batch_norm)


@frozen(kw_only=True)
class _FixedRates(FreezePolicy):
    """One stage with given rates."""

    rates: tuple[float, ...]

    def stages(self, layers: LayerTable, epochs: int) -> tuple[Stage, ...]:
        return (Stage(epochs, self.rates),)


def _selected(
    layers: LayerTable, train: Mapping[str, float], batch_norm: BatchNorm
) -> tuple[float, ...]:
    rates = [0.0] * len(layers)
    for selector, rate in train.items():
        numbers = layers.select(selector)
        if rate:
            layers.refuse_held(selector, numbers, batch_norm)
        for number in numbers:
            rates[number - 1] = float(rate)
    return tuple(rates)


def apply_rates(
    model: keras.Model, layers: LayerTable, rates: Sequence[float], batch_norm: BatchNorm
) -> Frozen:
    """Set the `trainable` flags of a model by the layers' rates, and check the result."""
    layers.check(rates)
    rate_of: dict[int, float] = {}
    model.trainable = True  # a container that is not trainable hides its layers
    layers_in_order = [layer for _, layer in leaves(model)]
    for layer, (_, row), rate in zip(layers_in_order, layers, rates, strict=True):
        layer.trainable = rate > 0
        held = holds_batch_norm(batch_norm, row.block)
        for inner in layer._flatten_layers():
            if held and isinstance(inner, keras.layers.BatchNormalization):
                inner.trainable = False
        rate_of |= {id(variable): rate for variable in layer.trainable_variables}
    # Keras would reuse a step traced with the old flags; now `fit` demands a new compile.
    model.compiled = False
    assert {id(v) for v in model.trainable_variables} == rate_of.keys()
    return Frozen(layers, tuple(rates), tuple(rate_of[id(v)] for v in model.trainable_variables))


def split_at(
    model: keras.Model, layers: LayerTable, cut: int
) -> tuple[keras.Model | None, keras.Model]:
    """Split a flat functional model after a layer; both halves share its layers."""
    if cut == 0:
        return None, model
    middle = _boundary(model, layers, cut)
    vectors = [
        keras.layers.Flatten(name=f"flatten_{place}")(tensor) for place, tensor in enumerate(middle)
    ]
    features = middle[0] if len(middle) == 1 else keras.layers.Concatenate(name="packed")(vectors)
    return keras.Model(model.input, features), above_cut(model, layers, cut, model.output)


def above_cut(
    model: keras.Model, layers: LayerTable, cut: int, output: keras.KerasTensor
) -> keras.Model:
    """Return the part of a model from what the prefix returns to a tensor."""
    middle = _boundary(model, layers, cut) if cut else [model.input]
    if len(middle) == 1:
        return keras.Model(middle[0], output)
    sizes = [math.prod(tensor.shape[1:]) for tensor in middle]
    packed, start, unpacked = keras.Input((sum(sizes),)), 0, []
    for tensor, size in zip(middle, sizes, strict=True):
        vector = packed[:, start : start + size]
        unpacked.append(keras.ops.reshape(vector, (-1, *tensor.shape[1:])))
        start += size
    return keras.Model(packed, keras.Model(middle, output)(unpacked))


def _boundary(model: keras.Model, layers: LayerTable, cut: int) -> list[keras.KerasTensor]:
    """Return the output of layer `cut` and, where it is not all that follows needs, the pools."""
    middle = [model.get_layer(layers[cut].name).output]
    if layers[cut].is_cut_point:
        return middle
    below = {layer.name for number, layer in layers if number < cut}
    pools = [model.get_layer(row.name) for n, row in layers if n > cut and row.fixed]
    return middle + [pool.output for pool in pools if _producer(pool.input) in below]


def _producer(tensor: Any) -> str:
    """Return the name of the layer that a tensor comes from; empty for a list of tensors."""
    return "" if isinstance(tensor, list) else str(tensor._keras_history.operation.name)
