"""Backbones from KerasHub: image classifiers' networks, by the name or the folder of a preset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import evolve, field, frozen

from tlkit.model.graph import layer_table, renumber_names, set_blocks, snake_case
from tlkit.model.layers import LayerTable
from tlkit.parts.backbones.hub_presets import CONFIG, PRESETS, WEIGHTS, Tables, find, place
from tlkit.parts.backbones.layer_tables import kept_table
from tlkit.parts.kinds import Backbone, check_sources, part
from tlkit.system.errors import PartError, WeightsError
from tlkit.system.keras import extra_package
from tlkit.weights import sources as weights
from tlkit.weights.files import Arrays, read_arrays

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


@frozen
class Network:
    """What is to be known of one of KerasHub's networks.

    Attributes:
        block: A pattern whose first group in a layer's name is its block.
        shape: What the key of its input's shape is called.
    """

    block: str
    shape: str = "image_shape"


# Those that are made of plain layers. The others (MobileNet, HGNetV2, MiT, ViT, DeiT, Swin …) have
# composite layers, whose parts can be neither frozen nor loaded apart.
NETWORKS: Mapping[str, Network] = {
    "CSPNetBackbone": Network(r"^(csp_stem|stage_\d+)"),
    "DenseNetBackbone": Network(r"^(conv1|stack\d+|transition\d+)"),
    "EfficientNetBackbone": Network(r"^(stem|block\d+|top)", shape="input_shape"),
    "ResNetBackbone": Network(r"^(conv1|stack\d+)"),
    "VGGBackbone": Network(r"^(block\d+)"),
    "XceptionBackbone": Network(r"^(block\d+)"),
}
if TYPE_CHECKING:
    Preset = str | Path
else:
    Preset = Literal[tuple(PRESETS)] | Path
Source = Literal["preset", "none"] | Path


@part("keras_hub")
class KerasHub(Backbone):
    """The network of one of KerasHub's presets for image classifiers (extra `hub`).

    Attributes:
        preset: The name of a preset, such as `resnet_50_imagenet`, that is on this machine, or the
            path of a preset's folder. Nothing is downloaded.
        weights: Where the first weights come from, or several sources tried in this order:
            `preset` (those in its folder), `none` (random), or the path of a weights file.
        preprocess: How pixels become the network's input: `native` scales and shifts them as the
            preset's `image_converter.json` says, `unit` divides by 255.
        recorded: What the preset's tables say. A run writes it down, and is loaded by it where
            the preset is not; unset: read from the folder.
    """

    preset: Preset = field()
    weights: Source | tuple[Source, ...] = field(default="preset", validator=check_sources)  # type: ignore[assignment]  # other words than the kind's
    recorded: str | None = field(default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        folder = place(self.preset)
        if self.recorded is None and (folder / CONFIG).is_file():
            object.__setattr__(self, "recorded", str(Tables.read(folder)))

    def layers(self) -> LayerTable:
        """Return its layers; it is built for that once, and the table kept on disk."""
        settings = {"config": self._config(), "image_size": self.image_size}
        if self.preprocess == "native":
            self._tables().scaling()  # so that a plan says whether it can be done
        return kept_table("keras_hub", settings, lambda: layer_table(self.build()))

    def build(self) -> keras.Model:
        """Return the network, its layers named by their order in it."""
        hub = extra_package("keras_hub", "'tlkit[hub]'")
        import keras

        where = self._tables().where(CONFIG)
        kind, config = self._config()
        network = NETWORKS[kind]
        config[network.shape] = (self.image_size, self.image_size, 3)
        try:
            built = getattr(hub.models, kind)(**config)
        except (TypeError, ValueError) as error:
            raise WeightsError(f"{where}: makes no {kind}: {error}") from None
        inside = [layer.name for layer in built.layers if len(layer._flatten_layers()) > 1]
        if inside:
            raise PartError(
                f"{where}: {inside[0]} is a composite layer, whose parts "
                "can be neither frozen nor loaded apart; choose another preset"
            )
        model = keras.Model(built.input, built.output)
        places = _places(model)
        renumber_names(model)
        set_blocks(model, network.block)
        model.places = {spot: layer.name for spot, layer in zip(places, model.layers, strict=True)}
        return model

    def preprocess_native(self, images: tf.Tensor) -> tf.Tensor:
        """Scale and shift the pixels as the preset says."""
        import tensorflow as tf

        scale, offset = (tf.constant(row, tf.float32) for row in self._tables().scaling())
        return images * scale + offset

    def load_weights(self, model: keras.Model) -> Mapping[str, str]:
        """Load the first available source into `model`."""

        def arrays(source: Any) -> Arrays:
            if source != "preset":
                return _by_layer(read_arrays(Path(source)), model.places)
            path = find(self.preset) / WEIGHTS
            if not path.is_file():
                raise weights.NotAvailableError(f"the preset has no {WEIGHTS}")
            return _by_layer(read_arrays(path), model.places)

        return weights.load_first(model, self.sources, arrays)

    def _config(self) -> tuple[str, dict[str, Any]]:
        """Return the network's name and settings."""
        tables = self._tables()
        kind, config = tables.stated(CONFIG)
        if kind not in NETWORKS:
            raise PartError(
                f"{tables.where(CONFIG)}: must be one of {', '.join(NETWORKS)}, got {kind!r}; "
                "the others are no classifiers of images or are made of composite layers"
            )
        for key in ("name", "trainable", "dtype"):  # tlkit's own affair
            config.pop(key, None)
        if "data_format" in config:
            config["data_format"] = "channels_last"
        return kind, config

    def _tables(self) -> Tables:
        if self.recorded is None:
            return Tables.read(find(self.preset))  # says where it should be
        return Tables.parse(place(self.preset), self.recorded)


def _places(model: keras.Model) -> list[str]:
    """Return where Keras puts each layer in a weights file: numbered within its class."""
    counts: Counter[str] = Counter()
    places = []
    for layer in model.layers:
        kind = snake_case(type(layer).__name__)
        places.append(f"layers/{kind}_{counts[kind]}" if counts[kind] else f"layers/{kind}")
        counts[kind] += 1
    return places


def _by_layer(arrays: Arrays, names: Mapping[str, str]) -> Arrays:
    """Return the same arrays under their layers' names, if the file has only their places."""
    named = {}
    for key, array in arrays.named.items():
        place, _, number = key.rpartition("/vars/")
        named[f"{names[place]}/{number}" if place in names else key] = array
    return evolve(arrays, named=named)
