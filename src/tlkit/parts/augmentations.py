"""Augmentations: random changes of training images, each image's drawn from its own key.

They work on pixels in [0, 255], after resizing and before preprocessing. With stateless random
numbers and one projective transform, the result is a pure function of pixels and key. Unlike with
Keras's random layers, it does not depend on batch, order, worker or restart.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attrs import field, frozen

from tlkit.parts.kinds import Augmentation, part, typed_init
from tlkit.parts.transforms import (
    adjust_saturation,
    adjust_tone,
    affine_transform,
    flip_horizontally,
    uniforms,
)
from tlkit.parts.validators import between, fraction

if TYPE_CHECKING:
    import tensorflow as tf


MAX_STRENGTH = 2  # bounds of other keys are set so that twice as much still makes sense


@typed_init
@frozen(kw_only=True)
class StrengthAugmentation(Augmentation):
    """An augmentation whose changes can be made weaker or stronger together.

    Attributes:
        strength: Factor of all changes: 0 is none, 1 is what the other keys say, 2 is the maximum.
    """

    strength: float = field(default=1.0, validator=between(0, MAX_STRENGTH))

    @property
    def changes(self) -> bool:
        """Tell whether it changes images: not at strength 0."""
        return self.strength > 0


@part("none")
class NoAugmentation(Augmentation):
    """Leave every image as it is."""

    @property
    def changes(self) -> bool:
        """Return False: features are the same in every epoch."""
        return False

    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return `images`."""
        return images


@part("affine")
class Affine(Augmentation):
    """Rotation, shifts, zoom, horizontal flip and brightness; uncovered borders are black.

    Each change is drawn evenly between its negative and its positive bound.

    Attributes:
        rotation_deg: The largest angle, in degrees.
        shift_frac: The largest shift, as a fraction of height and width.
        zoom_frac: Show 1 ± up to this much of height and width, resized to the whole.
        flip: Flip half of the images horizontally.
        brightness_frac: Multiply pixels by 1 ± up to this much, clipped at black and white.
    """

    rotation_deg: float = field(default=5.0, validator=between(0, 180))
    shift_frac: float = field(default=0.05, validator=fraction(below=1))
    zoom_frac: float = field(default=0.05, validator=fraction(below=1))
    flip: bool = True
    brightness_frac: float = field(default=0.05, validator=fraction(below=1))

    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return the images rotated, shifted, zoomed, flipped and brightened."""
        import tensorflow as tf

        draws = uniforms(keys, 6)
        images = affine_transform(
            images,
            angles=draws[:, 0] * math.radians(self.rotation_deg),
            down=draws[:, 1] * self.shift_frac,
            right=draws[:, 2] * self.shift_frac,
            visible=1 + draws[:, 5] * self.zoom_frac,
        )
        if self.flip:
            images = flip_horizontally(images, draws[:, 3])
        if self.brightness_frac:
            factor = 1 + self.brightness_frac * draws[:, 4]
            images = tf.clip_by_value(images * factor[:, None, None, None], 0.0, 255.0)
        return images


@part("xray_safe")
class XraySafe(StrengthAugmentation):
    """Small changes that keep a radiograph plausible: no flip, and no black border.

    Uncovered borders repeat the pixels at the edge. Each change is drawn evenly between its
    negative and its positive bound.

    Attributes:
        rotation_deg: The largest angle, in degrees.
        shift_frac: The largest shift, as a fraction of height and width.
        zoom_frac: Show 1 ± up to this much of height and width, resized to the whole.
        brightness_frac: Multiply pixels by 1 ± up to this much, clipped at black and white.
        contrast_frac: Multiply the distance from the image's mean by 1 ± up to this much.
    """

    rotation_deg: float = field(default=5.0, validator=between(0, 90))
    shift_frac: float = field(default=0.04, validator=fraction(below=0.5))
    zoom_frac: float = field(default=0.05, validator=fraction(below=0.5))
    brightness_frac: float = field(default=0.1, validator=fraction(below=0.5))
    contrast_frac: float = field(default=0.1, validator=fraction(below=0.5))

    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return the images rotated, shifted, zoomed, and with changed exposure."""
        if not self.changes:
            return images
        draws = self.strength * uniforms(keys, 6)
        images = affine_transform(
            images,
            angles=draws[:, 0] * math.radians(self.rotation_deg),
            down=draws[:, 1] * self.shift_frac,
            right=draws[:, 2] * self.shift_frac,
            visible=1 + draws[:, 3] * self.zoom_frac,
            fill="NEAREST",
        )
        return adjust_tone(
            images,
            brightness=1 + draws[:, 4] * self.brightness_frac,
            contrast=1 + draws[:, 5] * self.contrast_frac,
        )


@part("natural")
class Natural(StrengthAugmentation):
    """The usual changes of photographs: flip, crop, small rotation, light and color.

    Borders that a rotation uncovers show the mirrored image.

    Attributes:
        flip: Flip half of the images horizontally, at any strength above 0.
        crop_frac: Cut off up to this fraction of each side, at a random place, and enlarge the
            rest.
        rotation_deg: The largest angle, in degrees.
        brightness_frac: Multiply pixels by 1 ± up to this much, clipped at black and white.
        contrast_frac: Multiply the distance from the image's mean by 1 ± up to this much.
        saturation_frac: Multiply the distance from gray by 1 ± up to this much.
    """

    flip: bool = True
    crop_frac: float = field(default=0.25, validator=fraction(below=0.5))
    rotation_deg: float = field(default=10.0, validator=between(0, 90))
    brightness_frac: float = field(default=0.2, validator=fraction(below=0.5))
    contrast_frac: float = field(default=0.2, validator=fraction(below=0.5))
    saturation_frac: float = field(default=0.3, validator=fraction(below=0.5))

    def augment(self, images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Return the images flipped, cropped, rotated, and with changed light and color."""
        if not self.changes:
            return images
        raw = uniforms(keys, 8)
        draws = self.strength * raw
        if self.flip:
            images = flip_horizontally(images, raw[:, 0])
        cut_off = (self.strength + draws[:, 1]) * 0.5 * self.crop_frac
        room = cut_off * 0.5  # how far the crop's center may be from the image's
        images = affine_transform(
            images,
            angles=draws[:, 2] * math.radians(self.rotation_deg),
            down=raw[:, 3] * room,
            right=raw[:, 4] * room,
            visible=1 - cut_off,
            fill="REFLECT",
        )
        images = adjust_tone(
            images,
            brightness=1 + draws[:, 5] * self.brightness_frac,
            contrast=1 + draws[:, 6] * self.contrast_frac,
        )
        return adjust_saturation(images, 1 + draws[:, 7] * self.saturation_frac)
