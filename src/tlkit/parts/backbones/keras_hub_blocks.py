"""KerasHub's transformers as flat graphs of whole blocks, each of which is one layer.

KerasHub puts all blocks of a transformer into one layer. Here each block is a layer of the model,
so that some of them can be frozen, cached and trained at their own rate. What is inside a block
stays together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from tlkit.model.graph import named_weights, renamed_copy
from tlkit.weights.files import Arrays

if TYPE_CHECKING:
    import keras

IN_SIGLIP = "layers/sig_lip_vision_encoder/"  # where a file with a text encoder has it
POSITIONS = "embedding/position_embeddings"  # DINOv2's
BLOCKS = r"^(embedding|(?:stage_\d+_)?block_\d+)"


@frozen
class Step:
    """A layer of the flat graph.

    Attributes:
        name: Its name there.
        layer: KerasHub's layer, which is copied.
        settings: What it is called with besides its input.
        shape: The shape of its output, without the batch axis, where KerasHub states a wrong one.
    """

    name: str
    layer: Any
    settings: Mapping[str, Any] = {}
    shape: tuple[int, ...] = ()

    def copied(self) -> Any:
        """Return a copy of the layer, which states the right shape."""
        copy = renamed_copy(self.layer, self.name)
        if self.shape:
            copy.compute_output_shape = lambda input_shape: (None, *self.shape)
        return copy


def _numbered(layers: Any, prefix: str = "") -> Iterator[Step]:
    for number, layer in enumerate(layers, start=1):
        yield Step(f"{prefix}block_{number}", layer)


def _vit(built: Any, size: int) -> Iterator[Step]:
    encoder = built.get_layer("vit_encoder")
    yield Step("embedding", built.get_layer("vit_patching_and_embedding"))
    yield Step("dropout", encoder.dropout)
    yield from _numbered(encoder.encoder_layers)
    yield Step("norm", encoder.layer_norm)


def _dinov2(built: Any, size: int) -> Iterator[Step]:
    yield Step("embedding", built.embeddings)
    yield from _numbered(built.encoder.layers)
    yield Step("norm", built.layernorm)


def _dinov3(built: Any, size: int) -> Iterator[Step]:
    import numpy as np

    # They depend on the image's size alone. As an output of a layer they would go around every
    # block, and the model could be cut nowhere.
    positions = built.rope_embedding(np.zeros((1, size, size, 3), np.float32))
    settings = {
        "position_embeddings": tuple(map(np.asarray, positions)),
        "num_prefix_tokens": 1 + built.num_register_tokens,
    }
    yield Step("embedding", built.embeddings)
    for step in _numbered(built.encoder.layers):
        yield evolve(step, settings=settings)
    yield Step("norm", built.layernorm)


def _swin(built: Any, size: int) -> Iterator[Step]:
    import keras

    embedding = built.patch_embedding
    yield Step("embedding", embedding.proj)
    yield Step("tokens", keras.layers.Reshape((-1, embedding.embed_dim)))
    if embedding.norm is not None:
        yield Step("embedding_norm", embedding.norm)
    yield Step("dropout", built.get_layer("pos_drop"))
    for number, stage in enumerate(built.stages, start=1):
        yield from _numbered(stage.blocks, f"stage_{number}_")
        if stage.downsample is not None:
            height, width = stage.input_resolution
            settings = {"H": height, "W": width}
            shape = (-(-height // 2) * -(-width // 2), 2 * stage.dim)
            yield Step(f"stage_{number}_downsample", stage.downsample, settings, shape)
    yield Step("norm", built.norm)


def _siglip(built: Any, size: int) -> Iterator[Step]:
    embedding = built.embedding  # it counts a class token that it does not have
    shape = (embedding.num_positions, embedding.hidden_dim)
    yield Step("embedding", embedding, shape=shape)
    yield from _numbered(built.encoder_layers)
    yield Step("norm", built.post_layer_norm)
    yield Step("attention_pool", built.head)


STEPS: Mapping[str, Callable[[Any, int], Iterator[Step]]] = {
    "ViTBackbone": _vit,
    "DINOV2Backbone": _dinov2,
    "DINOV3Backbone": _dinov3,
    "SwinTransformerBackbone": _swin,
    "SigLIPVisionEncoder": _siglip,
}
# Composite networks that cannot be opened, and why.
CLOSED = {
    "DeiTBackbone": "its blocks return two tensors, so it cannot be cut between them",
    "MiTBackbone": "its blocks get the height and width beside their input",
}


def opened(kind: str, built: Any, size: int) -> keras.Model:
    """Return a transformer as a flat model with new weights."""
    import keras

    image = x = keras.Input((size, size, 3))
    for step in STEPS[kind](built, size):
        x = step.copied()(x, **step.settings)
    return keras.Model(image, x)


def by_layer(arrays: Arrays, kind: str, built: Any, size: int, model: keras.Model) -> Arrays:
    """Return arrays, named by their places in a file, by the layers of the flat model.

    The file may be one of KerasHub's network, or of the flat model.
    """
    constant = {  # such as the numbers of positions; they are not read from files
        f"{layer.name}/{name}": variable.numpy()
        for layer in model.layers
        for name, variable in named_weights(layer)
        if "float" not in str(variable.dtype)
    }
    stored = {
        key.removeprefix(IN_SIGLIP): array
        for key, array in arrays.named.items()
        if key.startswith(IN_SIGLIP)
    } or arrays.named
    layers = {step.name: step.layer for step in STEPS[kind](built, size)}
    theirs = _places(built, layers)
    flat = _places(model, {layer.name: layer for layer in model.layers})
    is_theirs = len(theirs.keys() & stored) > len(flat.keys() & stored)  # they share some places
    places = theirs if is_theirs else flat
    named = {places.get(key, key): array for key, array in stored.items()}
    if is_theirs and kind == "DINOV2Backbone":
        named |= _interpolated(built.embeddings, named.get(POSITIONS))
    return evolve(arrays, named=constant | named)


def _interpolated(embedding: Any, positions: Any) -> dict[str, Any]:
    """Return DINOv2's positions for its image size, which KerasHub never takes from a file."""
    if positions is None or positions.shape != tuple(embedding.position_embeddings.shape):
        return {}  # the message about that comes when arrays are assigned
    fitted = embedding._interpolate_position_embeddings(
        positions,
        patch_size=embedding.patch_size,
        source_shape=embedding.position_embedding_shape,
        target_shape=embedding.image_shape,
        antialias=embedding.antialias_in_interpolation,
    )
    return {f"embedding/interpolated_{POSITIONS.rpartition('/')[2]}": fitted.numpy()}


def _places(model: keras.Model, layers: Mapping[str, Any]) -> dict[str, str]:
    """Return the name of each variable by its place in the file that Keras would write."""
    from keras.src.saving.saving_lib import H5IOStore, _save_state

    class Places(H5IOStore):  # type: ignore[misc]  # Keras has no types
        """Notes where variables would be written."""

        def __init__(self) -> None:
            self.made: dict[str, dict[str, Any]] = {}

        def __bool__(self) -> bool:
            return True

        def make(self, path: str, metadata: Any = None) -> dict[str, Any]:
            return self.made.setdefault(f"{path}/vars".lstrip("/"), {})

    store = Places()
    _save_state(model, store, None, "", set())
    name_of = {
        id(variable): f"{layer_name}/{name}"
        for layer_name, layer in layers.items()
        for name, variable in named_weights(layer)
    }
    return {
        f"{place}/{number}": name_of[id(variable)]
        for place, entry in store.made.items()
        for number, variable in entry.items()
        if id(variable) in name_of
    }
