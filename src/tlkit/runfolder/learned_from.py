"""The images that a run has learned from, for comparison with those it is evaluated on."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from attrs import evolve, field, frozen

from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.tables import LOOK_BYTES, Learned, read_learned, read_learned_before

UNKNOWN = "0" * 64  # as a flat picture's, which is nobody's near copy
Group = tuple[str, str]  # the name of an earlier run, empty for this one, and a split


@frozen
class LearnedFrom:
    """The training and validation images of a run and of those it started from.

    Attributes:
        folder: The run's folder; None: not known.
        refit: Whether the kept weights were fitted to the validation images too.
    """

    folder: RunFolder | None = field(default=None, repr=False)
    refit: bool = False

    def images(self) -> Iterator[Learned]:
        """Yield the images, this run's training images first; old runs have no `bits`."""
        if self.folder is not None:
            yield from read_learned(self.folder)
            yield from read_learned_before(self.folder)

    def as_earlier(self, name: str, trained: bool) -> tuple[Learned, ...]:
        """Return the images for a run that starts from this one."""
        return tuple(
            image
            if image.run
            else evolve(image, run=name, split="train" if self.refit else image.split)
            for image in self.images()
            if image.run or trained
        )

    def caveats(self, images: Sequence[tuple[str, str]]) -> Iterator[str]:
        """Yield what must be known of images, each with its file's hash and difference hash."""
        return learned_caveats(self.images(), images, self.refit)


def learned_caveats(
    learned: Iterable[Learned], images: Sequence[tuple[str, str]], refit: bool = False
) -> Iterator[str]:
    """Yield which of the images were learned from, as the same files and as near copies."""
    groups: dict[Group, int] = {}
    # There may be a million: only their groups and 32 bytes of each are kept.
    own: dict[str, int | None] = dict.fromkeys(sha256 for sha256, _ in images)
    known, bits = array("L"), bytearray()
    for image in learned:
        group = groups.setdefault((image.run, image.split), len(groups))
        if own.get(image.sha256, group) is None:
            own[image.sha256] = group
        if image.bits:
            known.append(group)
            bits += bytes.fromhex(image.bits)
    near = _near(known, bits, [bits for _, bits in images])
    for (run, split), group in groups.items():
        same = [own[sha256] for sha256, _ in images]
        copies = same.count(group)
        others = sum(same[number] is None and group in some for number, some in near.items())
        what = [f"{copies} of the {len(images)} images"] if copies else []
        what += [f"near-copies of {others} of them"] if others else []
        if what:
            model = f"The model started from the run {run}, which was" if run else "The model was"
            use = "chosen or calibrated on"
            if split == "train":
                use = "trained on"
            elif not run and refit:
                use = "fitted to"
            yield f"{model} {use} {' and on '.join(what)}: the scores are too good."


def _near(groups: Sequence[int], learned: bytearray, bits: Sequence[str]) -> Mapping[int, set[int]]:
    """Return the groups in which an image has near-copies, by the image's place, if any."""
    import numpy as np

    from tlkit.data.near import near_pairs

    def rows(content: bytes | bytearray) -> np.ndarray:
        return np.frombuffer(content, np.uint8).reshape(-1, LOOK_BYTES)

    near = defaultdict[int, set[int]](set)
    for one, other, _ in near_pairs(rows(bytes.fromhex("".join(bits))), others=rows(learned)):
        near[one].add(groups[other])
    return near
