"""The graph of a Keras model: its layers in order, its cut points, and its flattened form."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict

from tlkit.model.layers import Layer, LayerTable
from tlkit.system.cache import LAYERS, default_folder, entry_key
from tlkit.system.files import write_text
from tlkit.system.keras import start_keras, uninitialized
from tlkit.system.untrusted import read_json

if TYPE_CHECKING:
    import keras

PACKAGES = ("tlkit", "keras", "keras-cv", "keras-hub")  # the packages that layers come from

log = logging.getLogger(__name__)


def layer_table(model: keras.Model) -> LayerTable:
    """Return the numbered layers of any Keras model; blocks are read off the layers' names."""
    start_keras()
    import keras

    cuttable = cut_points(model)
    layers = []
    for name, layer in leaves(model):
        output = getattr(layer, "output", None)  # a layer that was never called has no output
        shape = getattr(output, "shape", (None,))[1:]
        params = sum(map(_size, learnable_variables(layer)))
        kernel = {*layer.kernel_size} if type(layer) is keras.layers.Conv2D else {0}
        layers.append(
            Layer(
                name,
                type(layer).__name__,
                _block_from(name),
                tuple(size or 0 for size in shape),
                params,
                sum(map(_size, layer.weights)) - params,
                isinstance(layer, keras.layers.BatchNormalization),
                is_cut_point=id(layer) in cuttable,
                kernel_size=kernel.pop() if len(kernel) == 1 else 0,
            )
        )
    return LayerTable(tuple(layers))


def cached_table(
    name: str, settings: Mapping[str, Any], build: Callable[[], LayerTable]
) -> LayerTable:
    """Return a backbone's layer table from the user's cache; if it is not there, build it."""
    versions = {**dict(_versions()), "source": _source_hash(build)}
    key = entry_key(backbone=name, settings=settings, versions=versions)
    path = default_folder() / LAYERS / f"{name}-{key[:16]}.json"
    try:
        known = read_json(path)
        rows = known["rows"]
        layers = tuple(Layer(**row | {"output_shape": tuple(row["output_shape"])}) for row in rows)
        if layers and known["sha256"] == entry_key(key=key, rows=rows):
            return LayerTable(layers)
    except (OSError, ValueError, TypeError, KeyError):  # missing, damaged or of an earlier version
        pass
    log.debug("building %s once to number its layers", name)
    start_keras()
    with uninitialized():
        table = build()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [asdict(layer) for layer in table.layers]
        write_text(path, json.dumps({"sha256": entry_key(key=key, rows=rows), "rows": rows}))
    except OSError as error:
        log.info("the layers of %s cannot be cached: %s", name, error.strerror)
    return table


def _source_hash(build: Callable[..., Any]) -> str:
    """Return a hash of the code that makes a table: the modules next to `build`'s, and these."""
    modules = [Path(__file__)]
    if file := getattr(sys.modules.get(build.__module__), "__file__", None):
        modules.append(Path(file))
    own = [Path(__file__).parents[1] in module.parents for module in modules]
    files = [
        file
        for module, is_own in zip(modules, own, strict=True)
        for file in (sorted(module.parent.glob("*.py")) if is_own else [module])
    ]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _versions() -> Iterator[tuple[str, str]]:
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            yield package, version(package)


def _block_from(name: str) -> str:
    """Return a layer's block by its name alone: its nested model, or the name's first word."""
    return name.rpartition("/")[0] or name.partition("_")[0]


def cut_points(model: keras.Model) -> set[int]:
    """Return the ids of the layers whose output is all that the rest of the model needs.

    A layer with a branch or skip connection around it is not one. The graph is followed along
    `operations`, not `layers`, because some operations are not layers.
    """
    import keras

    if isinstance(model, keras.Sequential):
        return {id(layer) for layer in model.layers}
    nodes = list(itertools.chain.from_iterable(model._nodes_by_depth.values()))
    place = {id(operation): number for number, operation in enumerate(model.operations)}
    last_use = dict.fromkeys(place, 0)
    for node in nodes:
        for tensor in node.input_tensors:
            producer = id(tensor._keras_history.operation)
            last_use[producer] = max(last_use[producer], place[id(node.operation)])
    calls = Counter(id(node.operation) for node in nodes)
    points, needed_until = set(), 0  # how far the output of any earlier operation is used
    for number, operation in enumerate(model.operations):
        if needed_until <= number and calls[id(operation)] == 1:  # two calls have two outputs
            points.add(id(operation))
        needed_until = max(needed_until, last_use[id(operation)])
    return points


def leaves(
    model: keras.Model, prefix: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, keras.Layer]]:
    """Yield each layer of a model once, with the layers of nested models instead of the models."""
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


def learnable_variables(layer: keras.Layer) -> list[Any]:
    """Return the variables that learn when nothing is frozen.

    Keras's public lists depend on the `trainable` flags, which must not matter here.
    """
    return [v for inner in layer._flatten_layers() for v in inner._trainable_variables]


def flattened(model: keras.Model, drop: Callable[[keras.Layer], bool] = lambda layer: False) -> Any:
    """Return the same network, with new weights, as one graph without nested models.

    Args:
        model: A functional model; Sequential models in it are replaced by their layers.
        drop: Tells which layers to leave out; each must keep the shape of its input.
    """
    import keras

    def call(layer: Any, *inputs: Any, **settings: Any) -> Any:
        if isinstance(layer, keras.Sequential):
            (x,) = inputs
            for inner in layer.layers:
                x = _copy(inner)(x)
            return x
        return inputs[0] if drop(layer) else layer(*inputs, **settings)

    def clone(layer: Any) -> Any:
        return layer if isinstance(layer, keras.Sequential) else _copy(layer)

    return keras.models.clone_model(model, clone_function=clone, call_function=call)


def _copy(layer: Any) -> Any:
    return type(layer).from_config(layer.get_config())


def renamed_copy(layer: Any, name: str) -> Any:
    """Return a layer with the same settings, another name and new weights."""
    cls, config = type(layer), layer.get_config() | {"name": name}
    try:
        copy = cls.from_config(config)
    except TypeError:  # KerasHub's ViT lists derived values, which its constructor refuses
        made = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)]
        known = {key for init in made for key in inspect.signature(init).parameters}
        copy = cls.from_config({key: value for key, value in config.items() if key in known})
    if stated := vars(layer).get("compute_output_shape"):  # set where its class states a wrong one
        copy.compute_output_shape = stated
    return copy


def copy_onto(model: keras.Model, features: Any, prefix: str) -> Any:
    """Build the same network, with new weights, on a tensor; return its output."""
    import keras

    copies: dict[int, Any] = {}

    def copied(operation: Any) -> Any:
        if id(operation) not in copies:
            copy, name = operation, prefix + operation.name
            if isinstance(operation, keras.layers.Layer):
                copy = renamed_copy(operation, name)
            else:  # it has no weights, so it can be in both graphs
                operation.name = name
            copies[id(operation)] = copy
        return copies[id(operation)]

    inputs = keras.tree.map_structure(lambda _: features, model.input)
    return model._run_through_graph(inputs, operation_fn=copied)


def renumber_names(model: keras.Model) -> None:
    """Renumber the names that Keras has made up, in the order of the layers.

    Keras keeps counting from model to model, so a second build would have other names.
    """
    counts: Counter[str] = Counter()
    for layer in model.layers:
        kind = snake_case(type(layer).__name__)
        if re.fullmatch(rf"{kind}(_\d+)?", layer.name):
            number = counts[kind]
            layer.name = f"{kind}_{number}" if number else kind
            counts[kind] += 1


def snake_case(name: str) -> str:
    """Return a class name in the form that Keras gives layer names.

    >>> snake_case("BatchNormalization"), snake_case("Conv2D"), snake_case("ReLU")
    ('batch_normalization', 'conv2d', 're_lu')
    """
    name = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def named_weights(layer: keras.Layer) -> list[tuple[str, Any]]:
    """Return a layer's weights under unique names that are the same in every build.

    Where Keras made a name up, or inner layers share it, the weight's number within the layer takes
    its place or is added.
    """
    weights = layer.weights
    counts = Counter(variable.name for variable in weights)

    def unique(number: int, name: str) -> str:
        if re.fullmatch(r"variable(_\d+)?", name):
            return f"variable_{number}"
        return f"{name}_{number}" if counts[name] > 1 else name

    return [(unique(number, variable.name), variable) for number, variable in enumerate(weights)]
