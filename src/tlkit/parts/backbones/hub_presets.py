"""KerasHub's presets: what they are called, where they lie, and what their tables say.

A preset is a folder: `config.json` states the network, `model.weights.h5` holds its weights, and
`image_converter.json` says how pixels were prepared. The tables are read as what they are: nothing
is made of them but numbers and a network's settings, and nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from tlkit.system.errors import PartError, WeightsError
from tlkit.system.text import nearest
from tlkit.weights import sources as weights

CONFIG, WEIGHTS, CONVERTER = "config.json", "model.weights.h5", "image_converter.json"
# KerasHub 0.32.0's presets of networks that tlkit takes, below their address on Kaggle. Of
# EfficientNet's, the others have composite layers, or the address of another preset.
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
# What an image converter may say; what else one does would be left out unnoticed. Scale and offset
# are taken from it; size and cutting are the business of `image_size` and `[data] resize`.
SCALING = {"scale", "offset", "mean", "variance"}
RESIZING = {"image_size", "height", "width", "crop_to_aspect_ratio", "pad_to_aspect_ratio",
            "interpolation", "antialias", "bounding_box_format", "data_format",
            "name", "trainable", "dtype"}  # fmt: skip
Channels = tuple[float, ...]  # red, green, blue


def place(preset: str | Path) -> Path:
    """Return where a preset's folder is or should be: for a name, where kagglehub puts it."""
    address = PRESETS.get(str(preset))
    if address is None:
        return Path(preset)
    home = os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub"
    return Path(home) / "models" / address


def find(preset: str | Path) -> Path:
    """Return a preset's folder.

    Raises:
        WeightsError: If it is not there, with what to do.
    """
    folder = place(preset)
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
class Tables:
    """What the tables of a preset say.

    Attributes:
        folder: The preset's folder, for messages.
        texts: Their texts by the names of their files.
    """

    folder: Path
    texts: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> Tables:
        """Read those that there are."""
        found = {}
        for name in (CONFIG, CONVERTER):
            with contextlib.suppress(OSError):
                found[name] = (folder / name).read_text(encoding="utf-8", errors="replace")
        return cls(folder, found)

    @classmethod
    def parse(cls, folder: Path, text: str) -> Tables:
        """Read what `str` gave."""
        try:
            return cls(folder, dict(json.loads(text)))
        except (ValueError, TypeError, RecursionError):
            raise WeightsError("backbone.recorded: is not as tlkit writes it") from None

    def __str__(self) -> str:
        return json.dumps(dict(self.texts), sort_keys=True)

    def where(self, name: str) -> str:
        """Return how a message about one of them begins."""
        return f"backbone.preset: {weights.short(self.folder / name)}"

    def stated(self, name: str) -> tuple[Any, dict[str, Any]]:
        """Return the class and the settings that one of them states.

        Raises:
            WeightsError: If it states none.
        """
        try:
            table = json.loads(self.texts.get(name, ""))
            return table["class_name"], dict(table["config"])
        except (ValueError, RecursionError, TypeError, KeyError):
            raise WeightsError(
                f"{self.where(name)}: is no KerasHub file with a class_name and a config"
            ) from None

    def scaling(self) -> tuple[Channels, Channels]:
        """Return what pixels are multiplied by and what is added then, for each channel.

        Raises:
            WeightsError: If nothing says so.
            PartError: If more is done to pixels.
        """
        where = self.where(CONVERTER)
        if CONVERTER not in self.texts:
            raise WeightsError(
                f"{where}: is missing, and says what is native; "
                'set preprocess = "unit", or put that file there'
            )
        kind, config = self.stated(CONVERTER)
        own = str(self.stated(CONFIG)[0]).replace("Backbone", "ImageConverter")
        strange = sorted(config.keys() - SCALING - RESIZING)
        if kind not in {"ImageConverter", own} or strange:
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


def _channels(where: str, key: str, value: Any) -> Channels:
    """Return one number a channel."""
    if value is None:
        return (0.0 if key == "offset" else 1.0,) * 3
    row = value if isinstance(value, list) else [value] * 3
    numbers = [one for one in row if type(one) in {int, float} and math.isfinite(one)]
    if len(row) != 3 or len(numbers) != 3 or (key == "variance" and min(numbers) <= 0):
        raise WeightsError(f"{where}: {key} must be a number or one a channel, got {value!r}")
    return tuple(numbers)
