"""The facts about each image that the checks compare, and which images are duplicates."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import asdict, field, frozen
from PIL import Image

from tlkit.data.decoding import LESS, ImageError, decoded, stored_as
from tlkit.data.file_work import over_files
from tlkit.data.leakage import linked, same_patient
from tlkit.data.near import NEAR_BITS as NEAR_BITS
from tlkit.data.near import Bits, difference_hash, near_pairs
from tlkit.data.pictures import picture_of
from tlkit.data.sources import LabeledImage, LabeledImages
from tlkit.system.errors import named_shortage

THUMB_SIDE = 48

Thumb = npt.NDArray[np.uint8]


@frozen(kw_only=True)
class ImageFacts:
    """What is known about one image after it was decoded.

    Attributes:
        image: The image.
        width: In pixels.
        height: In pixels.
        format: The file format.
        mode: Pillow's name for the kind of pixels, before conversion.
        bytes: The file size.
        sha256: The hash of the file.
        pixels: The hash of the picture; see `tlkit.data.pictures.picture_of`.
        brightest: The highest value of any channel.
        bits: The difference hash, `(32,)` uint8.
        thumb: A thumbnail, `(48, 48)` uint8.
    """

    image: LabeledImage
    width: int
    height: int
    format: str
    mode: str
    bytes: int
    sha256: str
    pixels: str
    brightest: int = 255
    bits: Bits = field(eq=False, repr=False)
    thumb: Thumb = field(eq=False, repr=False)


def all_image_facts(
    labeled: LabeledImages, on_image: Callable[[int, int], None] = lambda done, count: None
) -> tuple[list[ImageFacts], list[str]]:
    """Read every image once."""

    def attempt(image: LabeledImage) -> ImageFacts | str:
        try:
            with named_shortage(image.where, LESS):
                return image_facts(image, labeled.root.read(image.path))
        except OSError as error:
            return f"{image.where}: cannot be read: {error.strerror or error}"
        except ImageError as error:
            return f"{image.where}: {error}"

    facts: list[ImageFacts] = []
    problems: list[str] = []
    images = labeled.images
    attempts = over_files(
        lambda some: [*map(attempt, some)], images, labeled.root.read, _pack, _unpack
    )
    with attempts as results:
        for done, result in enumerate(results, start=1):
            if isinstance(result, ImageFacts):
                facts.append(result)
            else:
                problems.append(result)
            on_image(done, len(images))
    return facts, problems


def _pack(result: ImageFacts | str) -> Any:
    """Return plain values: the facts but for the image, or the problem."""
    if isinstance(result, str):
        return result
    plain = asdict(result, filter=lambda key, _: key.name not in {"image", "bits", "thumb"})
    arrays = {"bits": result.bits, "thumb": result.thumb}
    return plain | {name: array.tobytes().hex() for name, array in arrays.items()}


def _unpack(image: LabeledImage, plain: Any) -> ImageFacts | str:
    if isinstance(plain, str):
        return plain
    bits, thumb = (
        np.frombuffer(bytes.fromhex(plain[name]), np.uint8) for name in ("bits", "thumb")
    )
    arrays = {"bits": bits, "thumb": thumb.reshape(THUMB_SIDE, THUMB_SIDE)}
    return ImageFacts(image=image, **plain | arrays)


def image_facts(image: LabeledImage, content: bytes) -> ImageFacts:
    """Return the facts about one image."""
    with decoded(content) as picture:
        kind, mode = stored_as(content)
        gray = picture.convert("L")
        shown = picture_of(picture)
    return ImageFacts(
        image=image,
        width=shown.width,
        height=shown.height,
        format=kind,
        mode=mode,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        pixels=shown.pixels,
        brightest=shown.brightest,
        bits=difference_hash(gray),
        thumb=np.asarray(gray.resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX)),
    )


@frozen
class Pair:
    """Two duplicate images.

    Attributes:
        one: The index of the first image.
        other: The index of the second image, which is greater.
        kind: `bytes`, `pixels` or `near`.
        bits: The number of bits, of 256, in which their difference hashes differ.
    """

    one: int
    other: int
    kind: str
    bits: int = 0


@frozen
class Duplicates:
    """Pairs of duplicate images, and the groups that they form.

    Attributes:
        pairs: For equal bytes or pixels, each image with the first of its kind; for near
            duplicates, all pairs.
        groups: The indices of images that are linked by pairs, each group of two or more, sorted.
    """

    pairs: tuple[Pair, ...]
    groups: tuple[tuple[int, ...], ...]

    def count(self, kind: str) -> int:
        """Return the number of pairs of one kind."""
        return sum(pair.kind == kind for pair in self.pairs)


def find_duplicates(images: Sequence[ImageFacts], near_bits: int = NEAR_BITS) -> Duplicates:
    """Find duplicate images."""
    pairs: list[Pair] = []
    first_pixels: dict[str, int] = {}
    first_bytes: dict[str, int] = {}
    for index, image in enumerate(images):
        same_picture = first_pixels.setdefault(image.pixels, index)
        same_file = first_bytes.setdefault(image.sha256, index)
        if same_file != index:
            pairs.append(Pair(same_file, index, "bytes"))
        elif same_picture != index:
            pairs.append(Pair(same_picture, index, "pixels"))
    distinct = sorted(first_pixels.values())
    pairs += [
        Pair(distinct[one], distinct[other], "near", bits)
        for one, other, bits in near_pairs([images[index].bits for index in distinct], near_bits)
    ]
    pairs.sort(key=lambda pair: (pair.one, pair.other))
    return Duplicates(tuple(pairs), _groups(pairs, len(images)))


def _pairs_of(pairs: Sequence[Pair], count: int) -> list[list[str]]:
    """Return the pairs that each image is in, as keys for `linked`."""
    keys: list[list[str]] = [[] for _ in range(count)]
    for number, pair in enumerate(pairs):
        keys[pair.one].append(f"pair {number}")
        keys[pair.other].append(f"pair {number}")
    return keys


def _groups(pairs: Sequence[Pair], count: int) -> tuple[tuple[int, ...], ...]:
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(linked(_pairs_of(pairs, count))):
        members[group].append(index)
    return tuple(tuple(group) for group in members.values() if len(group) > 1)


def group_numbers(images: Sequence[ImageFacts], duplicates: Duplicates) -> list[int]:
    """Return a group number per image: one patient is one group, and so are duplicates."""
    keys = _pairs_of(duplicates.pairs, len(images))
    for own, facts in zip(keys, images, strict=True):
        if patient := same_patient(facts.image.patient):
            own.append(f"patient {patient}")
    return linked(keys)
