"""Backbones from KerasHub: image classifiers' networks, by the name or the folder of a preset.

A preset is a folder: `config.json` states the network, `model.weights.h5` holds its weights, and
`image_converter.json` says how pixels were prepared. They are read here as what they are, tables
and arrays; KerasHub only builds the network, and nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import evolve, field, frozen

from tlkit.backend import prepare
from tlkit.errors import PartError, WeightsError
from tlkit.graph import layer_table, name_anew, name_blocks, snake
from tlkit.layers import LayerTable
from tlkit.parts import weights
from tlkit.parts.arrays import Arrays, read_arrays
from tlkit.parts.kinds import Backbone, check_sources, registries
from tlkit.parts.tables import kept_table
from tlkit.registry import nearest

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

CONFIG, WEIGHTS, CONVERTER = "config.json", "model.weights.h5", "image_converter.json"


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
# KerasHub 0.32.0's presets of these networks, below their address on Kaggle. EfficientNet's others
# have composite layers, or the address of another preset.
ADDRESSES: Mapping[str, Sequence[str]] = {
    "resnetv1/keras/{}/3": (
        "resnet_18_imagenet",
        "resnet_50_imagenet",
        "resnet_101_imagenet",
        "resnet_152_imagenet",
    ),
    "resnetv2/keras/{}/3": ("resnet_v2_50_imagenet", "resnet_v2_101_imagenet"),
    "resnet_vd/keras/{}/2": (
        "resnet_vd_18_imagenet",
        "resnet_vd_34_imagenet",
        "resnet_vd_50_imagenet",
        "resnet_vd_50_ssld_imagenet",
        "resnet_vd_50_ssld_v2_imagenet",
        "resnet_vd_50_ssld_v2_fix_imagenet",
        "resnet_vd_101_imagenet",
        "resnet_vd_101_ssld_imagenet",
        "resnet_vd_152_imagenet",
        "resnet_vd_200_imagenet",
    ),
    "vgg/keras/{}/3": ("vgg_11_imagenet", "vgg_13_imagenet", "vgg_16_imagenet", "vgg_19_imagenet"),
    "densenet/keras/{}/3": (
        "densenet_121_imagenet",
        "densenet_169_imagenet",
        "densenet_201_imagenet",
    ),
    "efficientnet/keras/{}/5": ("efficientnet_b1_ft_imagenet",),
    "efficientnet/keras/{}/2": (
        "efficientnet_b0_ra_imagenet",
        "efficientnet_b0_ra4_e3600_r224_imagenet",
        "efficientnet_b1_ra4_e3600_r240_imagenet",
        "efficientnet_b2_ra_imagenet",
        "efficientnet_b3_ra2_imagenet",
        "efficientnet_b4_ra2_imagenet",
        "efficientnet_b5_sw_imagenet",
        "efficientnet_b5_sw_ft_imagenet",
        "efficientnet_lite0_ra_imagenet",
    ),
    "xception/keras/{}/2": ("xception_41_imagenet",),
    "cspdarknet/keras/{}/2": ("csp_darknet_53_ra_imagenet",),
    "cspdarknet/keras/{}/1": (
        "csp_resnext_50_ra_imagenet",
        "csp_resnet_50_ra_imagenet",
        "darknet_53_imagenet",
    ),
}
PRESETS: Mapping[str, str] = {
    name: f"keras/{address.format(name)}" for address, names in ADDRESSES.items() for name in names
}
if TYPE_CHECKING:
    Preset = str | Path
else:
    Preset = Literal[tuple(PRESETS)] | Path
Source = Literal["preset", "none"] | Path
Channels = tuple[float, ...]  # red, green, blue

# What an image converter may say; what else one does, tlkit would leave out unnoticed. Scale and
# offset are taken from it; size and cutting are the business of `image_size` and `[data] resize`.
CONVERTERS = {"ImageConverter", *(name.replace("Backbone", "ImageConverter") for name in NETWORKS)}
SCALING = {"scale", "offset", "mean", "variance"}
RESIZING = {"image_size", "height", "width", "crop_to_aspect_ratio", "pad_to_aspect_ratio",
            "interpolation", "antialias", "bounding_box_format", "data_format",
            "name", "trainable", "dtype"}  # fmt: skip


def models() -> Any:
    """Return `keras_hub.models`.

    Raises:
        PartError: If KerasHub is not installed or does not work with what is.
    """
    prepare()
    try:
        import keras_hub
    except Exception as error:  # its import runs much that may not fit what is installed
        raise PartError(
            f"keras_hub: cannot be imported: {type(error).__name__}: {error}; "
            "pip install 'tlkit[hub]'"
        ) from None
    return keras_hub.models


@registries.backbones.register("keras_hub")
@frozen(kw_only=True)
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
        if self.recorded is None and (self._place() / CONFIG).is_file():
            object.__setattr__(self, "recorded", _recorded(self._place()))

    @property
    def folder(self) -> Path:
        """Return the preset's folder.

        Raises:
            WeightsError: If it is not there, with what to do.
        """
        folder = self._place()
        if (folder / CONFIG).is_file():
            return folder
        if self.preset not in PRESETS:
            raise WeightsError(
                f"backbone.preset: there is no preset in {folder}, for it has no {CONFIG}"
                f"{nearest(folder.name, PRESETS)}"
            )
        fetch = f"kagglehub.model_download('{PRESETS[str(self.preset)]}')"
        raise WeightsError(
            f"backbone.preset: {self.preset} is not on this machine; where there is a connection: "
            f'python -c "import kagglehub; {fetch}", or put its files into {weights.short(folder)}'
        )

    def layers(self) -> LayerTable:
        """Return its layers; it is built for that once, and the table kept on disk."""
        if self.preprocess == "native":
            self._scaling()  # so that a plan says whether it can be done
        settings = {"config": self._config(), "image_size": self.image_size}
        return kept_table("keras_hub", settings, lambda: layer_table(self.build()))

    def build(self) -> keras.Model:
        """Return the network, its layers named by their order in it."""
        prepare()
        import keras

        kind, config = self._config()
        network = NETWORKS[kind]
        config[network.shape] = (self.image_size, self.image_size, 3)
        try:
            built = getattr(models(), kind)(**config)
        except (TypeError, ValueError) as error:
            raise WeightsError(f"{self._where(CONFIG)}: makes no {kind}: {error}") from None
        inside = [layer.name for layer in built.layers if len(layer._flatten_layers()) > 1]
        if inside:
            raise PartError(
                f"{self._where(CONFIG)}: {inside[0]} is a composite layer, whose parts "
                "can be neither frozen nor loaded apart; choose another preset"
            )
        model = keras.Model(built.input, built.output)
        places = _places(model)
        name_anew(model)
        name_blocks(model, network.block)
        model.places = {
            place: layer.name for place, layer in zip(places, model.layers, strict=True)
        }
        return model

    def native(self, images: tf.Tensor) -> tf.Tensor:
        """Scale and shift the pixels as the preset says."""
        import tensorflow as tf

        scale, offset = (tf.constant(row, tf.float32) for row in self._scaling())
        return images * scale + offset

    def load_weights(self, model: keras.Model) -> Mapping[str, str]:
        """Load the first available source into `model`."""

        def arrays(source: Any) -> Arrays:
            if source != "preset":
                return _by_layer(read_arrays(Path(source)), model.places)
            path = self.folder / WEIGHTS
            if not path.is_file():
                raise weights.NotAvailableError(f"the preset has no {WEIGHTS}")
            return _by_layer(read_arrays(path), model.places)

        return weights.load_first(model, self.sources, arrays)

    def _place(self) -> Path:
        """Return where the preset's folder is or should be."""
        address = PRESETS.get(str(self.preset))
        return Path(self.preset) if address is None else _kaggle_folder() / address

    def _config(self) -> tuple[str, dict[str, Any]]:
        """Return the network's name and settings."""
        where = self._where(CONFIG)
        kind, config = _stated(self._tables().get(CONFIG), where)
        if kind not in NETWORKS:
            raise PartError(
                f"{where}: must be one of {', '.join(NETWORKS)}, got {kind!r}; "
                "the others are no classifiers of images or are made of composite layers"
            )
        for key in ("name", "trainable", "dtype"):  # tlkit's own affair
            config.pop(key, None)
        if "data_format" in config:
            config["data_format"] = "channels_last"
        return kind, config

    def _scaling(self) -> tuple[Channels, Channels]:
        """Return what pixels are multiplied by and what is added then, for each channel."""
        where = self._where(CONVERTER)
        text = self._tables().get(CONVERTER)
        if text is None:
            raise WeightsError(
                f"{where}: is missing, and says what is native; "
                'set preprocess = "unit", or put that file there'
            )
        kind, config = _stated(text, where)
        strange = sorted(config.keys() - SCALING - RESIZING)
        if kind not in CONVERTERS or strange:
            raise PartError(
                f"{where}: does more than scale and shift: {', '.join(strange) or kind}; "
                'set preprocess = "unit"'
            )
        given = {key: _channels(where, key, config[key]) for key in SCALING & config.keys()}
        scale = given.get("scale", (1.0,) * 3)
        if "mean" in given and "variance" in given:  # as files of KerasHub's first versions say it
            deviations = [math.sqrt(value) for value in given["variance"]]
            scale = tuple(s / d for s, d in zip(scale, deviations, strict=True))
            return scale, tuple(-m / d for m, d in zip(given["mean"], deviations, strict=True))
        return scale, given.get("offset", (0.0,) * 3)

    def _tables(self) -> Mapping[str, str]:
        """Return the texts of the preset's tables by their files' names."""
        try:  # `folder` says why there is nothing recorded
            return dict(json.loads(self.recorded or _recorded(self.folder)))
        except (ValueError, TypeError, RecursionError):
            raise WeightsError("backbone.recorded: is not as tlkit writes it") from None

    def _where(self, name: str) -> str:
        return f"backbone.preset: {weights.short(self._place() / name)}"


def _kaggle_folder() -> Path:
    """Return where the package kagglehub, which fetches presets, keeps them."""
    home = os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub"
    return Path(home) / "models"


def _recorded(folder: Path) -> str:
    """Return the preset's tables as one text."""
    found = {}
    for name in (CONFIG, CONVERTER):
        with contextlib.suppress(FileNotFoundError):
            found[name] = (folder / name).read_text(encoding="utf-8", errors="replace")
    return json.dumps(found, sort_keys=True)


def _stated(text: str | None, where: str) -> tuple[Any, dict[str, Any]]:
    """Return the class and the settings that a preset's table states."""
    try:
        table = json.loads(text or "")
        return table["class_name"], dict(table["config"])
    except (ValueError, RecursionError, TypeError, KeyError):
        raise WeightsError(f"{where}: is no KerasHub file with a class_name and a config") from None


def _channels(where: str, key: str, value: Any) -> Channels:
    """Return one number a channel."""
    if value is None:
        return (0.0 if key == "offset" else 1.0,) * 3
    row = value if isinstance(value, list) else [value] * 3
    numbers = [one for one in row if type(one) in {int, float} and math.isfinite(one)]
    if len(row) != 3 or len(numbers) != 3 or (key == "variance" and min(numbers) <= 0):
        raise WeightsError(f"{where}: {key} must be a number or one a channel, got {value!r}")
    return tuple(numbers)


def _places(model: keras.Model) -> list[str]:
    """Return where Keras puts each layer in a weights file: numbered within its class."""
    counts: Counter[str] = Counter()
    places = []
    for layer in model.layers:
        kind = snake(type(layer).__name__)
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
