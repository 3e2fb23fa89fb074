"""Several backbones on one input, as one flat graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from attrs import Factory, asdict, evolve, field, fields_dict

from tlkit.model.graph import cached_table, copy_onto, layer_table
from tlkit.model.layers import LayerTable
from tlkit.parts.kinds import Backbone, part, registries
from tlkit.parts.validators import at_least
from tlkit.system.errors import FieldError, PartError
from tlkit.system.keras import start_keras
from tlkit.weights.sources import WeightsSource

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


def _check_members(instance: Joined, attribute: object, members: tuple[Backbone, ...]) -> None:
    if len(members) < 2:
        raise FieldError("members", f"needs at least 2, got {len(members)}")
    for number, member in enumerate(members):
        where = f"members[{number}]"
        if isinstance(member, Joined):
            raise FieldError(where, "must not be joined itself; list its members")
        if hasattr(member, "record"):
            raise FieldError(where, "must be a registered backbone; a FromModel stands alone")
        usual: Any = fields_dict(type(member))["image_size"].default
        if isinstance(usual, Factory):  # type: ignore[arg-type]  # attrs types it as a function
            usual = usual.factory(member)
        if member.image_size not in {usual, instance.image_size}:
            message = f"{instance.image_size} is common to all; set backbone.image_size"
            raise FieldError(f"{where}.image_size", message)


@part("joined")
class Joined(Backbone):
    """Several backbones on one input; heads see their pooled features side by side.

    Features of different networks add up. The layers of a member have its name and a dot before
    their own: `vgg16.block5_conv1`. Each member's preprocessing is a layer of the model.

    Attributes:
        members: The backbones, at least two, each a table with `name`, `weights` and so on.
        image_size: Height and width of the input, in pixels, common to all members.
    """

    # Each member has its own.
    weights: WeightsSource = field(default="none", init=False, metadata={"key": False})
    preprocess: Literal["native"] = field(default="native", init=False, metadata={"key": False})
    image_size: int = field(default=224, validator=at_least(1))
    members: tuple[Backbone, ...] = field(
        metadata={"registry": registries.backbones, "default": None, "many": True},
        validator=_check_members,
    )

    def __attrs_post_init__(self) -> None:
        for _ in self.named():  # so that a size that a member refuses is an error here
            pass

    def named(self) -> Iterator[tuple[str, Backbone]]:
        """Yield each member and its name in the model; a second one of a name has a number."""
        counts: Counter[str] = Counter()
        for member in self.members:
            name = registries.backbones.name_of(type(member)).replace("/", "_")
            counts[name] += 1
            number = f"_{counts[name]}" if counts[name] > 1 else ""
            sized: Any = {"image_size": self.image_size}
            yield name + number, evolve(member, **sized)

    @property
    def params(self) -> int | None:
        """Return the number of parameters, if all members know theirs."""
        known = [member.params for _, member in self.named()]
        return sum(map(int, filter(None, known))) if all(known) else None

    def with_used_weights(self, used: Mapping[str, str]) -> Joined:
        """Return the backbone with the sources that a record of `load_weights` names."""
        pairs = zip(self.named(), self.members, strict=True)
        return evolve(
            self,
            members=tuple(
                member.with_used_weights(_own(used, name)) for (name, _), member in pairs
            ),
        )

    def layers(self) -> LayerTable:
        """Return the layers of all members, in the order in which Keras runs them."""
        tables = {name: member.layers() for name, member in self.named()}
        settings = {
            "members": [[name, *(asdict(row) for _, row in t)] for name, t in tables.items()],
            "image_size": self.image_size,
        }
        return cached_table("joined", settings, lambda: self._table(tables))

    def _table(self, tables: Mapping[str, LayerTable]) -> LayerTable:
        members = {f"{name}.{row.name}": row for name, table in tables.items() for _, row in table}
        rows = []
        for _, layer in layer_table(self.build()):
            name = layer.name.partition(".")[0]
            if name not in tables:
                rows.append(evolve(layer, block="joined"))
                continue
            ends = tables[name].layers
            own = members.get(
                layer.name,  # preprocessing is in the first block, pooling in the last
                evolve(ends[0 if layer.kind == "Preprocess" else -1], is_cut_point=False),
            )
            rows.append(
                evolve(
                    layer,
                    block=f"{name}.{own.block}",
                    network=name,
                    is_network_cut=own.is_cut_point,
                )
            )
        return LayerTable(tuple(rows))

    def build(self) -> keras.Model:
        """Return the model, `(batch, size, size, 3) -> (batch, 1, 1, all features)`."""
        start_keras()
        import keras
        from keras import layers

        pixels = keras.Input((self.image_size, self.image_size, 3))
        pooled = []
        for name, member in self.named():
            order, scale, offset = _pixel_arithmetic(name, member)
            prepare = preprocess_layer()(order, scale, offset, name=f"{name}.preprocess")
            features = copy_onto(member.build(), prepare(pixels), f"{name}.")
            if len(features.shape) == 4:
                features = layers.GlobalAveragePooling2D(name=f"{name}.pool")(features)
            elif len(features.shape) == 3:  # tokens
                features = layers.GlobalAveragePooling1D(name=f"{name}.pool")(features)
            width = features.shape[-1]
            pooled.append(layers.Reshape((1, 1, width), name=f"{name}.features")(features))
        return keras.Model(pixels, layers.Concatenate(name="joined")(pooled))

    def preprocess_native(self, images: tf.Tensor) -> tf.Tensor:
        """Return the pixels as they are; each member's preprocessing is a layer."""
        return images

    def load_weights(self, model: keras.Model) -> Mapping[str, str]:
        """Load the first available source of each member into `model`."""
        used: dict[str, str] = {}
        for name, member in self.named():
            alone = member.build()
            pairs = [
                (theirs, ours)
                for layer in alone.layers
                if layer.weights
                for theirs, ours in zip(
                    layer.weights, model.get_layer(f"{name}.{layer.name}").weights, strict=True
                )
            ]
            for theirs, ours in pairs:  # random weights stay those of the run's seed
                theirs.assign(ours)
            used |= {f"{name}.{key}": text for key, text in member.load_weights(alone).items()}
            for theirs, ours in pairs:
                ours.assign(theirs)
        sources = ", ".join(f"{name} {used[f'{name}.source']}" for name, _ in self.named())
        return {"source": sources, **used}


def _own(used: Mapping[str, str], name: str) -> dict[str, str]:
    """Return the part of a record that is about one member."""
    return {
        key.removeprefix(f"{name}."): value
        for key, value in used.items()
        if key.startswith(f"{name}.")
    }


def _pixel_arithmetic(name: str, member: Backbone) -> tuple[list[int], list[float], list[float]]:
    """Return a preprocessing's order of the channels, and the factor and offset of each."""
    import numpy as np

    def prepared(pixels: Any) -> Any:
        return np.asarray(member.preprocess_images(np.asarray(pixels, np.float32)), np.float64)

    offset = prepared(np.zeros((1, 1, 1, 3)))[0, 0, 0]
    matrix = (prepared(255 * np.eye(3).reshape(1, 1, 3, 3))[0, 0] - offset) / 255
    order = np.abs(matrix).argmax(axis=0)
    scale = matrix[order, range(3)]
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 4, 4, 3)).astype(np.float32)
    expected = prepared(pixels)
    if expected.shape != pixels.shape or not np.allclose(
        expected, pixels[..., order] * scale + offset, rtol=1e-4, atol=1e-3
    ):
        raise PartError(
            f"backbone.members: the preprocessing of {name} does more than scale, shift and "
            "reorder channels, so it cannot be a layer of a joined model"
        )
    return order.tolist(), scale.tolist(), offset.tolist()


@cache
def preprocess_layer() -> Any:
    """Return the Keras layer class that prepares pixels, registered as `tlkit>Preprocess`."""
    import keras
    from keras import ops

    @keras.saving.register_keras_serializable(package="tlkit")
    class Preprocess(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
        """Reorder the channels of pixels in [0, 255], then scale and shift each."""

        def __init__(
            self,
            order: Sequence[int],
            scale: Sequence[float],
            offset: Sequence[float],
            **options: Any,
        ) -> None:
            # Bytes have more bits than bfloat16.
            super().__init__(autocast=False, **options)
            self.order, self.scale, self.offset = list(order), list(scale), list(offset)

        def call(self, pixels: Any) -> Any:
            pixels = ops.cast(pixels, "float32")
            if self.order != [0, 1, 2]:
                pixels = ops.take(pixels, self.order, axis=-1)
            return pixels * ops.array(self.scale, "float32") + ops.array(self.offset, "float32")

        def get_config(self) -> dict[str, Any]:
            own = {"order": self.order, "scale": self.scale, "offset": self.offset}
            return {**super().get_config(), **own}

    return Preprocess
