"""The images that a run has learned from, for comparison with those it is evaluated on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from attrs import field, frozen

from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.tables import read_looks, read_manifest


@frozen(slots=False)
class LearnedFrom:
    """The training and validation images of a run; read when first used.

    Attributes:
        folder: The run's folder; None: not known.
        refit: Whether the kept weights were fitted to the validation images too.
    """

    folder: RunFolder | None = field(default=None, repr=False)
    refit: bool = False

    @cached_property
    def hashes(self) -> Mapping[str, str]:
        """Return the split of each image file by its hash."""
        if self.folder is None:
            return {}
        manifest = read_manifest(self.folder)
        return {e.sha256: split for split in ("val", "train") for e in manifest.get(split, ())}

    @cached_property
    def looks(self) -> Mapping[str, str]:
        """Return the split of each image by its difference hash; empty for old runs."""
        if self.folder is None:
            return {}
        bits, manifest = read_looks(self.folder), read_manifest(self.folder)
        return {
            bits[e.path]: split
            for split in ("val", "train")
            for e in manifest.get(split, ())
            if e.path in bits
        }

    def caveats(self, images: Sequence[tuple[str, str]]) -> Iterator[str]:
        """Yield what must be known of images, each with its file's hash and difference hash."""
        same = [self.hashes.get(sha256, "") for sha256, _ in images]
        near = self._near([bits for _, bits in images])
        of_val = "fitted to" if self.refit else "chosen or calibrated on"
        for split, use in (("train", "trained on"), ("val", of_val)):
            copies = sum(own == split for own in same)
            others = sum(not own and split in looks for own, looks in zip(same, near, strict=True))
            what = [f"{copies} of the {len(images)} images"] if copies else []
            what += [f"near-copies of {others} of them"] if others else []
            if what:
                yield f"The model was {use} {' and on '.join(what)}: the scores are too good."

    def _near(self, bits: Sequence[str]) -> list[set[str]]:
        """Return the splits in which each image has a near-copy."""
        import numpy as np

        from tlkit.data.near import near_pairs

        def arrays(texts: Sequence[str]) -> list[np.ndarray]:
            return [np.frombuffer(bytes.fromhex(text), np.uint8) for text in texts]

        splits: list[set[str]] = [set() for _ in bits]
        known = list(self.looks)
        for one, other, _ in near_pairs(arrays(bits), others=arrays(known)):
            splits[one].add(self.looks[known[other]])
        return splits
