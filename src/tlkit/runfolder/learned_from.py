"""The images that a run has learned from, for comparison with those it is evaluated on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from attrs import evolve, field, frozen

from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.tables import Learned, read_learned_before, read_looks, read_manifest

UNKNOWN = "0" * 64  # as a flat picture's, which is nobody's near copy
Group = tuple[str, str]  # the name of an earlier run, empty for this one, and a split


@frozen(slots=False)
class LearnedFrom:
    """The training and validation images of a run and of those it started from; read once.

    Attributes:
        folder: The run's folder; None: not known.
        refit: Whether the kept weights were fitted to the validation images too.
    """

    folder: RunFolder | None = field(default=None, repr=False)
    refit: bool = False

    @cached_property
    def images(self) -> tuple[Learned, ...]:
        """Return the images, this run's training images first; old runs have no `bits`."""
        if self.folder is None:
            return ()
        bits, manifest = read_looks(self.folder), read_manifest(self.folder)
        own = [
            Learned("", split, e.sha256, bits.get(e.path, ""))
            for split in ("train", "val")
            for e in manifest.get(split, ())
        ]
        return (*own, *read_learned_before(self.folder))

    def as_earlier(self, name: str, trained: bool) -> tuple[Learned, ...]:
        """Return the images for a run that starts from this one."""
        own = (
            evolve(image, run=name, split="train" if self.refit else image.split)
            for image in self.images
            if not image.run and trained
        )
        return (*own, *(image for image in self.images if image.run))

    def caveats(self, images: Sequence[tuple[str, str]]) -> Iterator[str]:
        """Yield what must be known of images, each with its file's hash and difference hash."""
        return learned_caveats(self.images, images, self.refit)


def learned_caveats(
    learned: Sequence[Learned], images: Sequence[tuple[str, str]], refit: bool = False
) -> Iterator[str]:
    """Yield which of the images were learned from, as the same files and as near copies."""
    groups: dict[str, Group] = {}
    for known in learned:
        groups.setdefault(known.sha256, (known.run, known.split))
    same = [groups.get(sha256) for sha256, _ in images]
    near = _near(learned, [bits for _, bits in images])
    for run, split in dict.fromkeys((known.run, known.split) for known in learned):
        copies = sum(own == (run, split) for own in same)
        others = sum(
            not own and (run, split) in looks for own, looks in zip(same, near, strict=True)
        )
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


def _near(learned: Sequence[Learned], bits: Sequence[str]) -> list[set[Group]]:
    """Return the groups in which each image has a near-copy."""
    import numpy as np

    from tlkit.data.near import near_pairs

    def arrays(texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(bytes.fromhex(text), np.uint8) for text in texts]

    groups: list[set[Group]] = [set() for _ in bits]
    known = [image for image in learned if image.bits]
    for one, other, _ in near_pairs(arrays(bits), others=arrays([image.bits for image in known])):
        groups[one].add((known[other].run, known[other].split))
    return groups
