"""The graph of a Keras model: its layers in order, where it can be cut, one flat form of it."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tlkit.model.layers import Layer, LayerTable
from tlkit.system.keras import start_keras

if TYPE_CHECKING:
    import keras

BLOCK = "_tlkit_block"  # the attribute in which a layer notes its block


def layer_table(model: keras.Model) -> LayerTable:
    """Return the numbered layers of any Keras model; see `tlkit.layer_table`."""
    start_keras()
    import keras

    rows = []
    cuttable = cuts(model)
    for name, layer in leaves(model):
        output = getattr(layer, "output", None)  # a layer that was never called has none
        shape = getattr(output, "shape", (None,))[1:]
        params = sum(_size(variable) for variable in _trainable_when_unfrozen(layer))
        rows.append(
            Layer(
                name,
                type(layer).__name__,
                getattr(layer, BLOCK, name.rpartition("/")[0] or name.partition("_")[0]),
                tuple(size or 0 for size in shape),
                params,
                sum(_size(variable) for variable in layer.weights) - params,
                isinstance(layer, keras.layers.BatchNormalization),
                is_cut_point=id(layer) in cuttable,
            )
        )
    return LayerTable(tuple(rows))


def cuts(model: keras.Model) -> set[int]:
    """Return the ids of the layers whose output is all that the rest of the model needs.

    A branch or skip connection around a layer rules it out. Operations that are no layers count:
    the graph is followed along `operations`, not `layers`.
    """
    import keras

    if isinstance(model, keras.Sequential):
        return {id(layer) for layer in model.layers}
    place = {id(operation): number for number, operation in enumerate(model.operations)}
    last_use = dict.fromkeys(place, 0)
    for node in itertools.chain.from_iterable(model._nodes_by_depth.values()):
        for tensor in node.input_tensors:
            producer = id(tensor._keras_history.operation)
            last_use[producer] = max(last_use[producer], place[id(node.operation)])
    calls = Counter(
        id(node.operation) for nodes in model._nodes_by_depth.values() for node in nodes
    )
    found, needed = set(), 0  # `needed`: how far any earlier operation's output is used
    for number, operation in enumerate(model.operations):
        if needed <= number and calls[id(operation)] == 1:  # called twice, it has two outputs
            found.add(id(operation))
        needed = max(needed, last_use[id(operation)])
    return found


def leaves(
    model: keras.Model, prefix: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, keras.Layer]]:
    """Yield each layer of a model once, those of nested models in place of the model."""
    import keras

    seen = set() if seen is None else seen
    for layer in model.layers:
        if isinstance(layer, keras.Model) and layer.layers:
            yield from leaves(layer, f"{prefix}{layer.name}/", seen)
        elif not isinstance(layer, keras.layers.InputLayer) and id(layer) not in seen:
            seen.add(id(layer))
            yield prefix + layer.name, layer


def _size(variable: Any) -> int:
    size = 1
    for side in variable.shape:
        size *= side
    return size


def _trainable_when_unfrozen(layer: keras.Layer) -> list[Any]:
    """Return the variables that learn if nothing is frozen.

    Keras's public lists change with the flags that this must not depend on.
    """
    return [v for inner in layer._flatten_layers() for v in inner._trainable_variables]


def flat(model: keras.Model, drop: Callable[[keras.Layer], bool] = lambda layer: False) -> Any:
    """Return the same network, with new weights, as one graph without models inside.

    Args:
        model: A functional model; Sequential models in it are replaced by their layers.
        drop: Tells which layers to leave out, each of which must keep its input's shape.
    """
    import keras

    def call(layer: Any, *inputs: Any, **settings: Any) -> Any:
        if isinstance(layer, keras.Sequential):
            (x,) = inputs
            for inner in layer.layers:
                x = _copy(inner)(x)
            return x
        return inputs[0] if drop(layer) else layer(*inputs, **settings)

    def copied(layer: Any) -> Any:
        return layer if isinstance(layer, keras.Sequential) else _copy(layer)

    return keras.models.clone_model(model, clone_function=copied, call_function=call)


def _copy(layer: Any) -> Any:
    return type(layer).from_config(layer.get_config())


def name_anew(model: keras.Model) -> None:
    """Number the layers that Keras has named itself, in the order of the model.

    Keras goes on counting from model to model, so they would have other names in a second build.
    """
    counts: Counter[str] = Counter()
    for layer in model.layers:
        kind = snake(type(layer).__name__)
        if re.fullmatch(rf"{kind}(_\d+)?", layer.name):
            number = counts[kind]
            layer.name = f"{kind}_{number}" if number else kind
            counts[kind] += 1


def snake(name: str) -> str:
    """Return a class name as Keras makes layer names of it.

    >>> snake("BatchNormalization"), snake("Conv2D"), snake("ReLU"), snake("ZeroPadding2D")
    ('batch_normalization', 'conv2d', 're_lu', 'zero_padding2d')
    """
    name = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def named_weights(layer: keras.Layer) -> list[tuple[str, Any]]:
    """Return a layer's weights with names that differ, and are the same in every build.

    A name that Keras made up or that two inner layers share gets its place in the layer instead.
    """
    weights = layer.weights
    often = Counter(variable.name for variable in weights)
    return [
        (
            f"{variable.name.partition('_')[0]}_{number}"
            if re.fullmatch(r"variable(_\d+)?", variable.name)
            else f"{variable.name}_{number}"
            if often[variable.name] > 1
            else variable.name,
            variable,
        )
        for number, variable in enumerate(weights)
    ]


def name_blocks(model: keras.Model, pattern: str, prefix: str = "", closes: bool = False) -> None:
    """Note each layer's block: the first group of a pattern in its name.

    Args:
        model: The model.
        pattern: A regular expression with one group.
        prefix: What stands before the group in the block's name.
        closes: Layers whose names do not match belong to the next that does, which ends the block;
            otherwise to the one before, which began it.
    """
    matches = [re.search(pattern, layer.name) for layer in model.layers]
    blocks = [match and prefix + match.group(1) for match in matches]
    for order in (range(len(blocks)), range(len(blocks) - 1, -1, -1))[:: -1 if closes else 1]:
        last = None
        for number in order:
            last = blocks[number] = blocks[number] or last
    for layer, block in zip(model.layers, blocks, strict=True):
        setattr(layer, BLOCK, block)
