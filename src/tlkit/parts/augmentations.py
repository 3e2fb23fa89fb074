"""Augmentations: random changes of training images, each image's drawn from its own key.

They work on pixels in [0, 255] after resizing and before preprocessing. Stateless random numbers
and one projective transform make the result a pure function of pixels and key: it depends on no
batch, order, worker or restart, which Keras's own random layers do.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attrs import field, frozen

from tlkit.parts.kinds import Augmentation, registries
from tlkit.parts.transforms import mirrored, moved, placed, saturated, toned, uniforms
from tlkit.parts.validators import between, fraction

if TYPE_CHECKING:
    import tensorflow as tf


STRONGEST = 2  # bounds of other keys are set so that twice as much still makes sense


@frozen(kw_only=True)
class StrengthAugmentation(Augmentation):
    """An augmentation whose changes can be made weaker or stronger together.

    Attributes:
        strength: What all changes are multiplied by: 0 is none, 1 is as the other keys say, 2 is
            the most.
    """

    strength: float = field(default=1.0, validator=between(0, STRONGEST))

    @property
    def changes(self) -> bool:
        """Tell whether it does anything: not at strength 0."""
        return self.strength > 0


@registries.augmentations.register("none")
@frozen(kw_only=True)
class NoAugmentation(Augmentation):
    """Leave every image as it is."""

    @property
    def changes(self) -> bool:
        """Return False: features are the same in every epoch."""
        return False

    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return `images`."""
        return images


@registries.augmentations.register("covidx")
@frozen(kw_only=True)
class Covidx(Augmentation):
    """The paper's augmentation: rotation by up to 10°, shifts by up to a tenth, filled with black.

    Attributes:
        rotation_deg: The largest angle; drawn evenly from its negative to it, in degrees.
        shift_frac: The largest shift, as a share of height and width, drawn the same way.
    """

    rotation_deg: float = field(default=10.0, validator=between(0, 180))
    shift_frac: float = field(default=0.1, validator=fraction(below=1))

    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return the images rotated and shifted, bilinearly."""
        return moved(images, uniforms(keys, 3), self.rotation_deg, self.shift_frac)


@registries.augmentations.register("covidx_published")
@frozen(kw_only=True)
class CovidxPublished(Augmentation):
    """What the study's published code did: as `covidx`, and flips and changes of brightness.

    Attributes:
        rotation_deg: The largest angle, in degrees.
        shift_frac: The largest shift, as a share of height and width.
        flip: Mirror every second image, left to right.
        brightness_frac: Multiply pixels by 1 ± up to this much, cut off at black and white.
    """

    rotation_deg: float = field(default=10.0, validator=between(0, 180))
    shift_frac: float = field(default=0.1, validator=fraction(below=1))
    flip: bool = True
    brightness_frac: float = field(default=0.1, validator=fraction(below=1))

    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return the images rotated, shifted, flipped and brightened."""
        import tensorflow as tf

        draws = uniforms(keys, 5)
        images = moved(images, draws, self.rotation_deg, self.shift_frac)
        if self.flip:
            images = mirrored(images, draws[:, 3])
        factor = 1 + self.brightness_frac * draws[:, 4]
        return tf.clip_by_value(images * factor[:, None, None, None], 0.0, 255.0)


@registries.augmentations.register("xray_safe")
@frozen(kw_only=True)
class XraySafe(StrengthAugmentation):
    """Small changes that leave a radiograph plausible: no flip, and no black border drawn.

    What comes in from outside is the edge's own pixels, drawn out. Each change is drawn evenly
    from its negative bound to its positive one.

    Attributes:
        rotation_deg: The largest angle, in degrees.
        shift_frac: The largest shift, as a share of height and width.
        zoom_frac: Show 1 ± up to this much of height and width, brought to the same size.
        brightness_frac: Multiply pixels by 1 ± up to this much, cut off at black and white.
        contrast_frac: Multiply the distance from the picture's mean by 1 ± up to this much.
    """

    rotation_deg: float = field(default=5.0, validator=between(0, 90))
    shift_frac: float = field(default=0.04, validator=fraction(below=0.5))
    zoom_frac: float = field(default=0.05, validator=fraction(below=0.5))
    brightness_frac: float = field(default=0.1, validator=fraction(below=0.5))
    contrast_frac: float = field(default=0.1, validator=fraction(below=0.5))

    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return the images rotated, shifted, zoomed and exposed a little differently."""
        if not self.changes:
            return images
        draws = self.strength * uniforms(keys, 6)
        images = placed(
            images,
            angles=draws[:, 0] * math.radians(self.rotation_deg),
            down=draws[:, 1] * self.shift_frac,
            right=draws[:, 2] * self.shift_frac,
            shown=1 + draws[:, 3] * self.zoom_frac,
            fill="NEAREST",
        )
        brightness = 1 + draws[:, 4] * self.brightness_frac
        return toned(images, brightness, contrast=1 + draws[:, 5] * self.contrast_frac)


@registries.augmentations.register("natural")
@frozen(kw_only=True)
class Natural(StrengthAugmentation):
    """The usual changes of ordinary photographs: flip, crop, small rotation, light and colour.

    What a rotation brings in from outside is the picture mirrored at its edge.

    Attributes:
        flip: Mirror every second image, left to right, at any strength but 0.
        crop_frac: Cut off up to this share of each side and enlarge what is left; where it is cut
            out is drawn too.
        rotation_deg: The largest angle, in degrees.
        brightness_frac: Multiply pixels by 1 ± up to this much, cut off at black and white.
        contrast_frac: Multiply the distance from the picture's mean by 1 ± up to this much.
        saturation_frac: Multiply the distance from grey by 1 ± up to this much.
    """

    flip: bool = True
    crop_frac: float = field(default=0.25, validator=fraction(below=0.5))
    rotation_deg: float = field(default=10.0, validator=between(0, 90))
    brightness_frac: float = field(default=0.2, validator=fraction(below=0.5))
    contrast_frac: float = field(default=0.2, validator=fraction(below=0.5))
    saturation_frac: float = field(default=0.3, validator=fraction(below=0.5))

    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return the images mirrored, cropped, rotated and with other light and colours."""
        if not self.changes:
            return images
        raw = uniforms(keys, 8)
        draws = self.strength * raw
        if self.flip:
            images = mirrored(images, raw[:, 0])
        cut_off = (self.strength + draws[:, 1]) * 0.5 * self.crop_frac
        room = cut_off * 0.5  # how far the crop may lie from the middle
        images = placed(
            images,
            angles=draws[:, 2] * math.radians(self.rotation_deg),
            down=raw[:, 3] * room,
            right=raw[:, 4] * room,
            shown=1 - cut_off,
            fill="REFLECT",
        )
        images = toned(
            images,
            brightness=1 + draws[:, 5] * self.brightness_frac,
            contrast=1 + draws[:, 6] * self.contrast_frac,
        )
        return saturated(images, 1 + draws[:, 7] * self.saturation_frac)
