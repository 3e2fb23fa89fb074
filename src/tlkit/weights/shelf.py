"""Packed weights: a folder with the arrays of one backbone and a card that says what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, field, fields_dict, frozen

from tlkit.system.errors import WeightsError
from tlkit.system.files import write_text
from tlkit.system.notebook import hint
from tlkit.system.untrusted import read_json

CARD, ARRAYS = "weights.json", "weights.safetensors"
FORMAT = "tlkit weights 1"


def _tuples(value: Any) -> Any:
    """Return a JSON value with tuples for lists, as keys of parts have them."""
    if isinstance(value, Mapping):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


@frozen(kw_only=True)
class Card:
    """What packed weights are and where they come from.

    Attributes:
        backbone: The backbone's registered name.
        keys: The backbone's keys that differ from their defaults.
        image_size: The size of the images of `features`, in pixels.
        source: The source that was packed, such as `imagenet`.
        file: The name of the file that was read.
        file_sha256: Its SHA-256.
        license: The license of the weights.
        preprocessing: What the first layer gets, in words.
        sha256: The SHA-256 of the packed arrays' file.
        features: Features of a drawn picture, to compare on another machine.
    """

    backbone: str
    keys: Mapping[str, Any] = field(factory=dict, converter=_tuples)
    image_size: int
    source: str
    file: str
    file_sha256: str
    license: str
    preprocessing: str
    sha256: str
    features: tuple[float, ...] = field(converter=_tuples)

    @classmethod
    def read(cls, folder: Path) -> Card:
        """Read the card in a folder."""
        path = folder / CARD
        try:
            table = read_json(path)
            if table.pop("format") != FORMAT:
                raise ValueError("of another version")
            card = cls(**table)
            texts = set(fields_dict(cls)) - {"keys", "image_size", "features"}
            if not all(isinstance(getattr(card, name), str) for name in texts):
                raise ValueError("texts are missing")
            if type(card.image_size) is not int or not all(map(_is_number, card.features)):
                raise ValueError("numbers are missing")
        except OSError as error:
            way_out = f"{hint('weights pack', 'NAME --out DIR')} writes such folders"
            raise WeightsError(f"{path}: cannot be read: {error.strerror}; {way_out}") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise WeightsError(f"{path}: is not as tlkit writes it: {error}") from None
        return card

    def write(self, folder: Path) -> None:
        """Write the card into a folder."""
        write_text(folder / CARD, json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n")


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def cards(shelf: Path) -> tuple[tuple[Path, Card], ...]:
    """Return the packed weights in the folders below a folder; broken ones are left out."""
    found = []
    for path in sorted(shelf.glob(f"*/{CARD}")):
        try:
            found.append((path.parent, Card.read(path.parent)))
        except WeightsError:
            continue
    return tuple(found)


def shelf_faults(shelf: Path) -> dict[str, str]:
    """Return what is wrong with a folder of packed weights, and what to do about it."""
    another = "name the folder that holds packed folders"
    if not shelf.is_dir():
        what = "is not a folder" if shelf.exists() else "there is no such folder"
        return {f"{shelf}: {what}": another}
    if (shelf / CARD).is_file():
        return {f"{shelf}: is itself a packed folder": f"name the folder above it, {shelf.parent}"}
    faults, paths = {}, sorted(shelf.glob(f"*/{CARD}"))
    for path in paths:
        try:
            Card.read(path.parent)
        except WeightsError as error:
            faults[str(error)] = "pack it again, or remove its folder"
    return faults if paths else {f"{shelf}: holds no packed folders": another}
