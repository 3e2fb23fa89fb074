"""Backbones from KerasHub: the networks of its presets for image classifiers.

A preset is a folder: `config.json` describes the network, `model.weights.h5` holds its weights, and
`image_converter.json` describes how pixels are prepared. The JSON files are only read for numbers
and settings, no objects are made from them, and nothing is downloaded.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import Factory, evolve, field, frozen

from tlkit.model.graph import cached_table, layer_table, renumber_names, snake_case
from tlkit.model.layers import LayerTable
from tlkit.parts.backbones.keras_hub_blocks import BLOCKS, CLOSED, STEPS, by_layer, opened
from tlkit.parts.backbones.keras_hub_presets import PRESETS
from tlkit.parts.kinds import Backbone, check_sources, part
from tlkit.parts.validators import at_least
from tlkit.system.cache import home_folder
from tlkit.system.errors import PartError, WeightsError
from tlkit.system.keras import extra_package
from tlkit.system.text import nearest
from tlkit.system.untrusted import parse_json, read_bytes
from tlkit.weights import sources as weights
from tlkit.weights.files import Arrays, read_arrays
from tlkit.weights.shelf import CARD, Card

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

CONFIG, WEIGHTS, CONVERTER = "config.json", "model.weights.h5", "image_converter.json"
# The keys that an image converter may have; any other would change pixels unnoticed. Sizes and
# cropping are the business of `image_size` and `[data] resize`.
SCALING = {"scale", "offset", "mean", "variance"}
RESIZING = {"image_size", "height", "width", "crop_to_aspect_ratio", "pad_to_aspect_ratio",
            "interpolation", "antialias", "bounding_box_format", "data_format",
            "name", "trainable", "dtype"}  # fmt: skip
OTHERS = "the others do not classify images or are made of composite layers"
Channels = tuple[float, ...]  # red, green, blue


@frozen
class Network:
    """One of KerasHub's network classes.

    Attributes:
        block: A pattern whose first group in a layer's name is its block.
        shape: The name of the setting for the input's shape.
    """

    block: str
    shape: str = "image_shape"


# Networks of plain layers, and transformers whose blocks are layers. The others (MobileNet, MiT,
# DeiT, HGNetV2 …) have composite layers, whose parts cannot be frozen or loaded separately.
NETWORKS: Mapping[str, Network] = {
    "CSPNetBackbone": Network(r"^(csp_stem|stage_\d+)"),
    "DenseNetBackbone": Network(r"^(conv1|stack\d+|transition\d+)"),
    "EfficientNetBackbone": Network(r"^(stem|block\d+|top)", shape="input_shape"),
    "ResNetBackbone": Network(r"^(conv1|stack\d+)"),
    "VGGBackbone": Network(r"^(block\d+)"),
    "XceptionBackbone": Network(r"^(block\d+)"),
    **{kind: Network(BLOCKS) for kind in STEPS},
}
if TYPE_CHECKING:
    Preset = str | Path
else:
    Preset = Literal[tuple(PRESETS)] | Path
Source = Literal["preset", "none"] | Path


def preset_folder(preset: str | Path) -> Path:
    """Return where a preset's folder is or should be; for a name, where kagglehub puts it."""
    address = PRESETS.get(str(preset))
    if address is None:
        return Path(preset)
    home = os.environ.get("KAGGLEHUB_CACHE") or home_folder() / ".cache" / "kagglehub"
    return Path(home) / "models" / address


def find_preset(preset: str | Path) -> Path:
    """Return a preset's folder."""
    folder = preset_folder(preset)
    if (folder / CONFIG).is_file():
        return folder
    if preset not in PRESETS:
        raise WeightsError(
            f"backbone.preset: there is no preset in {folder}, for it has no {CONFIG}"
            f"{nearest(folder.name, PRESETS)}"
        )
    fetch = f"kagglehub.model_download('{PRESETS[str(preset)]}')"
    raise WeightsError(
        f"backbone.preset: {preset} is not on this machine; where there is a connection: "
        f'python -c "import kagglehub; {fetch}", or put its files into {weights.short(folder)}'
    )


@frozen
class PresetFiles:
    """The JSON files of a preset.

    Attributes:
        folder: The preset's folder, for messages.
        texts: Their contents by file name.
    """

    folder: Path
    texts: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> PresetFiles:
        """Read the files that exist."""
        texts = {}
        for name in (CONFIG, CONVERTER):
            with suppress(OSError):
                texts[name] = read_bytes(folder / name, follow=True).decode(errors="replace")
        return cls(folder, texts)

    @classmethod
    def parse(cls, folder: Path, text: str) -> PresetFiles:
        """Read the result of `str`."""
        try:
            return cls(folder, dict(parse_json(text)))
        except (ValueError, TypeError):
            raise WeightsError("backbone.recorded: is not as tlkit writes it") from None

    def __str__(self) -> str:
        return json.dumps(dict(self.texts), sort_keys=True)

    def where(self, name: str) -> str:
        """Return the beginning of a message about a file."""
        return f"backbone.preset: {weights.short(self.folder / name)}"

    def config(self, name: str) -> tuple[Any, dict[str, Any]]:
        """Return the class and the settings in a file."""
        try:
            table = parse_json(self.texts.get(name, ""))
            return table["class_name"], dict(table["config"])
        except (ValueError, TypeError, KeyError):
            raise WeightsError(
                f"{self.where(name)}: is not a KerasHub file with a class_name and a config"
            ) from None

    def network(self) -> tuple[str, dict[str, Any]]:
        """Return the network's class and settings."""
        kind, config = self.config(CONFIG)
        if kind == "SigLIPBackbone":  # an image and a text encoder
            kind, config = _inner(config.get("vision_encoder"), self.where(CONFIG))
        if kind not in NETWORKS:
            raise PartError(
                f"{self.where(CONFIG)}: must be one of {', '.join(NETWORKS)}, got {kind!r}; "
                + CLOSED.get(str(kind), OTHERS)
            )
        if kind.startswith("DINO") and config.get("drop_path_rate"):
            raise PartError(
                f"{self.where(CONFIG)}: drop_path_rate must be 0, got {config['drop_path_rate']}: "
                "KerasHub takes its random numbers from where they cannot be repeated; "
                "set it to 0 there"
            )
        for key in ("name", "trainable", "dtype"):  # set by tlkit
            config.pop(key, None)
        if "data_format" in config:
            config["data_format"] = "channels_last"
        return kind, config

    def scaling(self) -> tuple[Channels, Channels]:
        """Return the factor and the offset of each channel."""
        where = self.where(CONVERTER)
        if CONVERTER not in self.texts:
            raise WeightsError(
                f"{where}: is missing, and it defines native preprocessing; "
                'set preprocess = "unit", or put that file there'
            )
        kind, config = self.config(CONVERTER)
        own = str(self.config(CONFIG)[0]).replace("Backbone", "ImageConverter")
        other = sorted(config.keys() - SCALING - RESIZING)
        if kind not in {"ImageConverter", own} or other:
            raise PartError(
                f"{where}: does more than scale and shift: {', '.join(other) or kind}; "
                'set preprocess = "unit"'
            )
        given = {key: _channels(where, key, config[key]) for key in SCALING & config.keys()}
        scale = given.get("scale", (1.0,) * 3)
        if "mean" in given and "variance" in given:  # in files of KerasHub's first versions
            deviations = [math.sqrt(value) for value in given["variance"]]
            scale = tuple(s / d for s, d in zip(scale, deviations, strict=True))
            return scale, tuple(-m / d for m, d in zip(given["mean"], deviations, strict=True))
        return scale, given.get("offset", (0.0,) * 3)


def _inner(table: Any, where: str) -> tuple[Any, dict[str, Any]]:
    """Return the class and the settings of a network within another."""
    try:
        return table["class_name"], dict(table["config"])
    except (TypeError, KeyError, ValueError):
        raise WeightsError(f"{where}: has no vision_encoder as KerasHub writes it") from None


def _channels(where: str, key: str, value: Any) -> Channels:
    """Return one number per channel."""
    if value is None:
        return (0.0 if key == "offset" else 1.0,) * 3
    row = value if isinstance(value, list) else [value] * 3
    numbers = [item for item in row if type(item) in {int, float} and math.isfinite(item)]
    if len(row) != 3 or len(numbers) != 3 or (key == "variance" and min(numbers) <= 0):
        raise WeightsError(f"{where}: {key} must be a number or one per channel, got {value!r}")
    return tuple(numbers)


def _files_if_there(part: KerasHub) -> str | None:
    """Return the preset's files, or those that its packed weights hold."""
    folder = preset_folder(part.preset)
    if (folder / CONFIG).is_file():
        return str(PresetFiles.read(folder))
    with suppress(WeightsError):  # a broken card is an error once the files are needed
        return _packed_files(part)
    return None


def _packed_files(part: KerasHub) -> str | None:
    """Return the files of the preset whose weights are in a packed folder, if there is one."""
    for source in part.sources:
        if isinstance(source, Path) and (source / CARD).is_file():
            recorded = Card.read(source).keys.get("recorded")
            if isinstance(recorded, str):
                return recorded
    return None


def _own_size(part: KerasHub) -> int:
    """Return the size that the preset's images have, or 224 if it does not say."""
    text = _files_if_there(part)
    if text is not None:
        with suppress(WeightsError):
            files = PresetFiles.parse(preset_folder(part.preset), text)
            size = files.config(CONVERTER)[1].get("image_size")
            sides: list[Any] = size if isinstance(size, list) else [size]
            if {*map(type, sides)} == {int} and len({*sides}) == 1 and sides[0] > 0:
                return int(sides[0])
    return 224


@part("keras_hub")
class KerasHub(Backbone):
    """The network of a KerasHub preset for image classifiers (extra `hub`).

    Attributes:
        preset: The name of a preset that is on this machine, such as `resnet_50_imagenet`, or the
            path of a preset's folder. Nothing is downloaded.
        weights: The initial weights, or several sources tried in this order: `preset` (those in its
            folder), `none` (random), or the path of a weights file or of a packed folder, which
            holds the preset's JSON files too.
        preprocess: How pixels become the network's input: `native` scales and shifts them as the
            preset's `image_converter.json` says, `unit` divides by 255.
        image_size: Height and width of the input, in pixels; unset: as the preset's
            `image_converter.json` says, or 224.
        recorded: The preset's JSON files. A run records them, so that it can be loaded where the
            preset is not; unset: read from the folder.
    """

    preset: Preset = field()
    weights: Source | tuple[Source, ...] = field(default="preset", validator=check_sources)  # type: ignore[assignment]  # other sources than the base class
    image_size: int = field(default=Factory(_own_size, takes_self=True), validator=at_least(1))
    recorded: str | None = field(default=Factory(_files_if_there, takes_self=True), repr=False)

    def layers(self) -> LayerTable:
        """Return its layers; the network is built once, and the table is kept on disk."""
        files = self._files()
        kind, config = files.network()
        settings = {"config": (kind, config), "image_size": self.image_size}
        if self.preprocess == "native":
            files.scaling()  # so that a plan fails if it cannot be done
        block = NETWORKS[kind].block
        return cached_table("keras_hub", settings, lambda: layer_table(self.build()).grouped(block))

    def build(self) -> keras.Model:
        """Return the network, with its layers named in their order."""
        where = self._files().where(CONFIG)
        import keras

        kind, built = self._built()
        if kind in STEPS:
            return opened(kind, built, self.image_size)
        composite = [layer.name for layer in built.layers if len(layer._flatten_layers()) > 1]
        if composite:
            raise PartError(
                f"{where}: {composite[0]} is a composite layer, whose parts "
                "cannot be frozen or loaded separately; choose another preset"
            )
        model = keras.Model(built.input, built.output)
        renumber_names(model)
        return model

    def _built(self) -> tuple[str, Any]:
        """Return the network's class and the network as KerasHub builds it."""
        hub = extra_package("keras_hub", "'tlkit[hub]'")
        kind, config = self._files().network()
        config[NETWORKS[kind].shape] = (self.image_size, self.image_size, 3)
        try:
            with warnings.catch_warnings():
                # Swin calls its attention with an argument named mask that is none of Keras's.
                warnings.filterwarnings("ignore", r"Layer 'attn' \(of type WindowAttention\)")
                return kind, getattr(hub.models, kind)(**config)
        except (TypeError, ValueError) as error:
            where = self._files().where(CONFIG)
            raise WeightsError(f"{where}: makes no {kind}: {error}") from None

    def preprocess_native(self, images: tf.Tensor) -> tf.Tensor:
        """Scale and shift the pixels as the preset says."""
        import tensorflow as tf

        scale, offset = (tf.constant(row, tf.float32) for row in self._files().scaling())
        return images * scale + offset

    def load_weights(self, model: keras.Model) -> Mapping[str, str]:
        """Load the first available source into `model`."""

        def read(source: Any) -> Arrays:
            path = find_preset(self.preset) / WEIGHTS if source == "preset" else Path(source)
            if source == "preset" and not path.is_file():
                raise weights.NotAvailableError(f"the preset has no {WEIGHTS}")
            kind, _ = self._files().network()
            if kind not in STEPS:
                return _by_layer_name(read_arrays(path), model)
            arrays = read_arrays(path, by_place=True)
            return by_layer(arrays, kind, self._built()[1], self.image_size, model)

        return weights.load_first(model, self.sources, read)

    def _files(self) -> PresetFiles:
        if self.recorded is None:
            _packed_files(self)  # raises if a card is broken
            return PresetFiles.read(find_preset(self.preset))  # raises with where it should be
        return PresetFiles.parse(preset_folder(self.preset), self.recorded)


def _by_layer_name(arrays: Arrays, model: keras.Model) -> Arrays:
    """Return the arrays under their layers' names where a file has only layers by class and number.

    Keras stores the n-th layer of a class at `layers/CLASS_N`.
    """
    counts: Counter[str] = Counter()
    names = {}
    for layer in model.layers:
        kind = snake_case(type(layer).__name__)
        names[f"layers/{kind}_{counts[kind]}" if counts[kind] else f"layers/{kind}"] = layer.name
        counts[kind] += 1
    named = {}
    for key, array in arrays.named.items():
        place, _, number = key.rpartition("/vars/")
        named[f"{names[place]}/{number}" if place in names else key] = array
    return evolve(arrays, named=named)
