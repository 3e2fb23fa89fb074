"""The study's own part: the dataset `phantom`, drawn chest X-rays that stand in for missing data.

The drawings are schematic frontal films in body coordinates (``u`` to the viewer's right, ``v``
down, the frame is about -1 to 1); a key gives the same picture at every size. Pixels are made only
by ``+ - * /`` and square roots, which IEEE 754 rounds exactly, so every processor draws the same
bytes.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from attrs import field

import tlkit
from tlkit.parts.validators import at_least, between

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Field = npt.NDArray[np.floating]  # one number per pixel

SPLITS = ("train", "val", "test")
FINDINGS: tuple[str, ...] = ("clear", "one_sided", "both_sided")
FINEST_PX = 128  # smaller pictures are drawn at least this large and averaged: thin ribs survive


@tlkit.part("phantom")
class Phantom(tlkit.Dataset):
    """Drawn chest X-rays with up to three findings, for trying things out without data.

    Finding 1 is clear lungs, 2 a dense opacity on one side, 3 hazy opacities on both sides.

    Attributes:
        train: The number of training images, spread evenly over the classes.
        val: The number of validation images.
        test: The number of test images.
        image_px: Their height and width.
        draw_seed: The seed of the drawings.
    """

    train: int = field(default=45, validator=at_least(2))
    val: int = field(default=15, validator=at_least(2))
    test: int = field(default=15, validator=at_least(0))
    image_px: int = field(default=256, validator=between(16, 4096))
    draw_seed: int = field(default=0, validator=between(0, 2**31 - 1))

    def load(self) -> tlkit.Splits:
        """Return the pictures' names; a picture is drawn when it is read."""
        classes = self.classes or FINDINGS
        if len(classes) > len(FINDINGS):
            raise tlkit.DataError(
                f"phantom: there are {len(FINDINGS)} findings to draw, got classes {classes}"
            )
        keys: dict[str, tuple[int, tuple[int, ...]]] = {}
        examples: dict[str, tuple[tlkit.Example, ...]] = {}
        for number, (split, count) in enumerate(
            zip(SPLITS, (self.train, self.val, self.test), strict=True)
        ):
            rows = []
            for index in range(count):
                finding = index % len(classes)
                path = f"{split}/{classes[finding]}/{index:05d}.png"
                keys[path] = (finding, (self.draw_seed, number, index))
                rows.append(tlkit.Example(path, classes[finding], source="phantom"))
            examples[split] = tuple(rows)
        return tlkit.Splits(
            classes=classes,
            train=examples["train"],
            val=examples["val"],
            test=examples["test"],
            read=lambda path: _png(*keys[path], self.image_px),
        )


def _png(finding: int, key: tuple[int, ...], image_px: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(draw_chest(finding, key, image_px)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def draw_chest(finding: int, key: tuple[int, ...], image_px: int) -> npt.NDArray[np.uint8]:
    """Draw one frontal chest X-ray.

    Body, exposure and noise depend on ``key`` alone: the same key shows the same person with
    another finding. Use keys of one length: NumPy takes ``(1,)`` and ``(1, 0)`` as the same seed.

    Args:
        finding: Position in ``FINDINGS``.
        key: Non-negative integers that seed the drawing.
        image_px: Side of the square picture in pixels.

    Returns:
        Gray values of shape ``(image_px, image_px)``, bright where the body is dense.

    Raises:
        ValueError: If ``finding`` is not 0, 1 or 2, or ``image_px`` is below 16.
    """
    import numpy as np

    if finding not in range(len(FINDINGS)):
        raise ValueError(f"finding: must be 0, 1 or 2, got {finding}")
    if image_px < 16:
        raise ValueError(f"image_px: must be at least 16, got {image_px}")
    root = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    body_random, opacity_random = root.spawn(2)
    factor = -(-FINEST_PX // image_px)
    u, v, tissue, air = _body(body_random, image_px * factor)
    if FINDINGS[finding] == "one_sided":
        air = air * (1 - _consolidation(opacity_random, u, v))
    elif FINDINGS[finding] == "both_sided":
        air = air * (1 - _ground_glass(opacity_random, u, v))
    film = _expose(body_random, tissue - air).reshape(image_px, factor, image_px, factor)
    gray: npt.NDArray[np.uint8] = (255 * film.mean(axis=(1, 3))).round().astype(np.uint8)
    return gray


def _body(random: np.random.Generator, image_px: int) -> tuple[Field, Field, Field, Field]:
    """Draw one person: body coordinates, brightness without air, and what the air takes off it."""
    u, v = _coordinates(random, image_px)
    heart = _heart(random, u, v)
    lungs = _lung(random, u, v, -1) + _lung(random, u, v, 1)
    air = random.uniform(0.40, 0.52) * lungs * (1 - 0.93 * heart)
    inflated = air * (1 - _vessels(random, u, v, _noise(random, 9, image_px)))
    tissue = _soft_tissue(random, u, v) + 0.06 * heart * _ramp(v, 0.15)
    return u, v, tissue + _bones(random, u, v, 0.2 + 1.7 * air), inflated


def _coordinates(random: np.random.Generator, image_px: int) -> tuple[Field, Field]:
    """Place the body on the film: position, tilt, size, and a slight warp so no two are alike."""
    import numpy as np

    line = (np.arange(image_px, dtype=np.float32) + 0.5) * (2 / image_px) - 1
    x = line[None, :] - random.uniform(-0.06, 0.06)
    y = line[:, None] - random.uniform(-0.05, 0.05)
    tilt = random.uniform(-0.07, 0.07)  # radians; the sine of so small an angle is the angle
    width, height = random.uniform(0.90, 1.08), random.uniform(0.92, 1.06)
    u = (x + tilt * y) / width + 0.022 * _noise(random, 4, image_px)
    v = (y - tilt * x) / height + 0.022 * _noise(random, 4, image_px)
    return u, v


def _soft_tissue(random: np.random.Generator, u: Field, v: Field) -> Field:
    """Neck, shoulders and trunk on a dark background, brighter where the body is thicker."""
    import numpy as np

    a = abs(u)
    armpit = 0.60 * (-0.125 - 2.5 * v).clip(0, 1) ** 2
    side = random.uniform(0.80, 0.87) + 0.05 * v + armpit - a
    top = v + 0.89 - 0.04 * a - 0.14 * a * a * a
    neck = random.uniform(0.21, 0.26) + 0.5 * (v + 0.98).clip(0, 1) ** 2 - a
    depth: Field = np.maximum(np.minimum(side, top), neck)
    discs = _stripe(v, random.uniform(0.105, 0.120)) * _ramp(v + 0.35, 0.5)
    spine = _bump((u / 0.14) ** 2) * (0.12 + 0.05 * discs)
    trachea = _bump(((u - 0.012) / 0.065) ** 2) * _ramp(-0.26 - v, 0.05)
    bulk = 0.50 + 0.12 * _ramp(v - 0.50, 0.25) + 0.07 * _bump((u / 0.75) ** 2)
    trunk: Field = bulk * (0.50 + 0.50 * _ramp(depth - 0.14, 0.20))
    return _ramp(depth, 0.018) * (trunk + spine - 0.10 * trachea)


def _lung(random: np.random.Generator, u: Field, v: Field, side: int) -> Field:
    """One lung: rounded apex, bowed outer wall, and a dome of diaphragm below."""
    w = side * u
    apex, widest = random.uniform(-0.74, -0.66), random.uniform(0.25, 0.45)
    inner, outer = random.uniform(0.10, 0.13), random.uniform(0.64, 0.71)
    dome = random.uniform(0.43, 0.54) - (0.05 if side < 0 else 0.0)  # the liver lifts that one
    bow = ((widest - v) / (widest - apex)).clip(0, 1) ** 2
    sink = random.uniform(0.13, 0.20) * ((w - 0.32) / 0.36) ** 2
    across = _ramp(0.24 + (outer - 0.24) * (1 - bow) ** 0.5 - w, 0.020)
    across = across * _ramp(w - inner - 0.10 * bow * bow * bow * bow, 0.020)
    return across * _ramp(dome + sink - v, 0.014) * _ramp(v - apex, 0.025)


def _heart(random: np.random.Generator, u: Field, v: Field) -> Field:
    """Heart with its tip to the viewer's right, right atrium, and the knob of the aorta."""
    size, low = random.uniform(0.80, 1.20), v - random.uniform(0.28, 0.34)
    along, across = (u - 0.13) + 0.45 * low, low - 0.45 * (u - 0.13)
    ventricle = _ramp(size - (along / 0.36) ** 2 - (across / 0.30) ** 2, 0.14)
    atrium = _ramp(size - ((u + 0.04) / 0.15) ** 2 - ((low + 0.02) / 0.24) ** 2, 0.14)
    knob = _ramp(1 - ((u - 0.05) / 0.115) ** 2 - ((v + 0.24) / 0.17) ** 2, 0.14)
    return 1 - (1 - ventricle) * (1 - atrium) * (1 - knob)


def _bones(random: np.random.Generator, u: Field, v: Field, seen: Field) -> Field:
    """Back ribs that arch outwards and down, fainter front ribs, clavicles, heads of the arms."""
    a = abs(u)
    spacing = random.uniform(0.125, 0.15)
    sag = (0.04 * a + 0.62 * a * a * a) * (1 + 0.7 * (-v).clip(0, 1))
    back = _ramp(_stripe(v - sag - random.uniform(0, 0.1), spacing) - 0.62, 0.16)
    climb = v + 0.62 * a - 0.28 * a * a - random.uniform(0, 0.1)
    front = _ramp(_stripe(climb, 1.25 * spacing) - 0.68, 0.16) * _ramp(a - 0.30, 0.08)
    cage = _ramp(0.74 - a, 0.03) * _ramp(a - 0.07, 0.02) * _ramp(v + 0.72, 0.05)
    ribs = random.uniform(0.055, 0.095) * cage * _ramp(0.72 - v, 0.12) * (back + 0.55 * front)
    slope, bend = random.uniform(-0.26, -0.12), 0.9 * (a - 0.08) * (a - 0.4) * (a - 0.8)
    line = random.uniform(-0.60, -0.53) + slope * (a - 0.08) + bend
    clavicle = _ramp(0.027 - abs(v - line), 0.010) * _ramp(a - 0.09, 0.02) * _ramp(0.78 - a, 0.06)
    arm = 0.12 * _bump(((a - 0.97) / 0.20) ** 2 + ((v + 0.52) / 0.20) ** 2)
    return seen * ribs + random.uniform(0.10, 0.16) * clavicle + arm


def _vessels(random: np.random.Generator, u: Field, v: Field, wobble: Field) -> Field:
    """Vessels that fan out from each hilum and fade towards the wall."""
    away, down = abs(u) - 0.13, v + random.uniform(-0.04, 0.04)
    distance = abs(away) + abs(down) + 0.08
    turn, bend = down / distance + 0.05 * u, 0.16 * wobble
    fan = _ramp(_stripe(turn + bend, random.uniform(0.38, 0.46)) - 0.80, 0.20)
    twigs = _ramp(_stripe(turn - 1.5 * bend, random.uniform(0.22, 0.27)) - 0.84, 0.20)
    hilum = _bump((away / 0.15) ** 2 + (down / 0.22) ** 2)
    return (0.28 * fan + 0.20 * twigs) * _bump((distance / 1.05) ** 2) + 0.40 * hilum


def _consolidation(random: np.random.Generator, u: Field, v: Field) -> Field:
    """How far one dense opacity fills the air of one lung, 0 to 1."""
    side, zone = (-1, 1)[random.integers(2)], int(random.integers(3))  # upper, middle, lower
    # The heart would hide an opacity behind it, so a low one on its side lies further out and up.
    by_heart = 0.10 if side > 0 and zone == 2 else 0.0
    w = side * u - by_heart - random.uniform(0.34, 0.46)
    y = v + by_heart - (-0.42, -0.06, 0.28)[zone] - random.uniform(-0.05, 0.05)
    wide, high = random.uniform(0.20, 0.34), random.uniform(0.18, 0.32)
    ragged = 0.20 * _noise(random, 22, len(u)) + 0.30 * _noise(random, 7, len(u))
    inside = 1 - (w / wide) ** 2 - (y / high) ** 2 + 2 * ragged
    # A fissure is a straight border: the lower one of an upper lobe, else the upper one.
    fissure = (y + random.uniform(-0.25, 0.25) * w) * (-1 if zone == 0 else 1) + 0.5 * high
    shape = _ramp(inside, 0.40) * _ramp(fissure + 0.06 * ragged, 0.030) * _ramp(side * u, 0.02)
    turn = v / (abs(side * u - 0.12) + abs(v) + 0.02) + 0.10 * ragged
    bronchi = _ramp(_stripe(turn, random.uniform(0.22, 0.32)) - 0.92, 0.08) * _ramp(inside, 0.6)
    return shape * random.uniform(0.62, 0.95) * (1 - random.uniform(0.0, 0.35) * bronchi)


def _ground_glass(random: np.random.Generator, u: Field, v: Field) -> Field:
    """How far soft hazy patches fill the air of both lungs, 0 to 1, most at the edge and below."""
    strength, clear = random.uniform(0.42, 0.70), 1 - 0 * u
    for side, out in ((-1, 0.0), (1, 0.05)):  # past the heart
        for _ in range(int(random.integers(3, 6))):
            w = side * u - out - random.uniform(0.40, 0.60)
            y = v - 0.42 + 0.75 * random.uniform() * random.uniform()
            wide, high = random.uniform(0.14, 0.22), random.uniform(0.15, 0.26)
            patch = _bump(0.8 * ((w / wide) ** 2 + (y / high) ** 2))
            clear = clear * (1 - strength * random.uniform(0.7, 1.0) * patch)
    mottle = 1 + 0.25 * _noise(random, 13, len(u)) + 0.30 * _noise(random, 30, len(u))
    return ((1 - clear) * mottle).clip(0, 0.85)


def _expose(random: np.random.Generator, film: Field) -> Field:
    """Turn density into gray: exposure, contrast, tone curve, uneven beam and smooth grain."""
    film = 0.5 + random.uniform(0.90, 1.20) * (film - 0.42) + random.uniform(-0.09, 0.09)
    film = film + random.uniform(-0.3, 0.3) * film * (1 - film)
    film = film + 0.025 * _noise(random, 3, len(film)) + 0.018 * _noise(random, 48, len(film))
    return (film + random.uniform(0.012, 0.030) * _noise(random, 110, len(film))).clip(0, 1)


def _noise(random: np.random.Generator, cells: int, image_px: int) -> Field:
    """Smooth noise between -1 and 1, alike at every size: a random lattice, blended between."""
    import numpy as np

    lattice = random.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    place = (np.arange(image_px, dtype=np.float32) + 0.5) * (cells / image_px)
    cell = place.astype(np.intp)
    blend = _ramp(place - cell.astype(np.float32) - 0.5, 0.5)
    rows = lattice[cell] + blend[:, None] * np.diff(lattice, axis=0)[cell]
    noise: Field = rows[:, cell] + blend * np.diff(rows, axis=1)[:, cell]
    return noise


def _ramp(distance: Field, softness: float) -> Field:
    """0 below ``-softness``, 1 above ``softness``, smooth between: a mask with a soft edge."""
    part: Field = (distance * (0.5 / softness) + 0.5).clip(0, 1)
    return part * part * (3 - 2 * part)


def _bump(squared: Field) -> Field:
    """1 at 0, falling smoothly to 0 at 1: a blob, given the squared distance from its middle."""
    return (1 - squared).clip(0, 1) ** 2


def _stripe(place: Field, spacing: float) -> Field:
    """1 on the middle line of each stripe, 0 half-way between two of them."""
    turns = place * (1 / spacing)
    return 1 - 2 * abs(turns - turns.round())
