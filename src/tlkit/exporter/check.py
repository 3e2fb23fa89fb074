"""The check of an export: its script answers image files of many kinds as the run does."""

from __future__ import annotations

import runpy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tlkit.classifier import Classifier, Prediction
from tlkit.data.sources import Rejected
from tlkit.exporter.formats import SCRIPT, Format, installed
from tlkit.system.errors import PartError, WeightsError

# Patches of random colors differ more from each other than noise, and so do their probabilities.
PATCHES, CHECK_ROWS = 7, 1000


def check_script(classifier: Classifier, folder: Path, form: Format, out: Path) -> float | None:
    """Return the largest difference of a probability of the script from the run's.

    Both read the same files: gray, color and palettes, 8 and 16 bits, with transparency, turned,
    wide and high. Returns None if the package that reads the model is not installed.
    """
    if not installed(form.reader):
        return None
    script = _script(folder, form)
    largest = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        files = [str(path) for path in drawn_files(Path(scratch))]
        read = [item for chunk in classifier.read_images(files) for item in chunk]
        for item, own in zip(read, classifier.iter_predict(files), strict=True):
            assert isinstance(own, Prediction), own
            assert not isinstance(item, Rejected), item
            kind = Path(own.path).name
            if not np.array_equal(item[1], script["read_pixels"](own.path)):
                raise WeightsError(f"{out}: {SCRIPT} reads {kind} differently from the run")
            _, row = script["classify"](own.path)
            difference = float(np.abs(row - own.probabilities).max())
            if not difference <= form.tolerance:
                raise WeightsError(
                    f"{out}: the exported model is off by {difference:.2g} on {kind}, more than "
                    f"{form.tolerance:.0e}; export to another format"
                )
            largest = max(largest, difference)
    count = len(classifier.classes)
    rows = np.random.default_rng(0).dirichlet(np.ones(count), CHECK_ROWS).astype(np.float32)
    own_numbers = classifier.calibrator.predicted(rows)
    if script["predicted"](rows) != [classifier.classes[k] for k in own_numbers]:
        raise WeightsError(f"{out}: {SCRIPT} decides differently from the run")
    return largest


def _script(folder: Path, form: Format) -> dict[str, Any]:
    """Run `predict.py` as an import would; return its names."""
    try:
        return runpy.run_path(str(folder / SCRIPT), run_name="predict")
    except Exception as error:  # ONNX Runtime's own, without a public name
        if form.reader != "onnxruntime":
            raise
        raise PartError(
            f"{form.file}: tf2onnx has no operator for a layer of this network; export to "
            f"savedmodel or keras ({' '.join(str(error).split())[:200]})"
        ) from error


def drawn_files(folder: Path) -> Iterator[Path]:
    """Write image files of different kinds, each with other patches, and yield their paths."""
    draws = np.random.default_rng(0)

    def picture(width: int, height: int, channels: int = 3, mode: str | None = None) -> Any:
        small = draws.integers(0, 256, (PATCHES, PATCHES, channels), np.uint8)
        image = Image.fromarray(small[..., 0] if channels == 1 else small)
        image = image.resize((width, height), Image.Resampling.NEAREST)
        return image.convert(mode) if mode else image

    turned = Image.Exif()
    turned[0x0112] = 6  # Orientation: by 90 degrees
    deep = np.kron(draws.integers(0, 65536, (PATCHES, PATCHES), np.uint16), np.ones((9, 7), "u2"))
    images: dict[str, tuple[Any, dict[str, Any]]] = {
        "color.png": (picture(64, 48), {}),
        "square.bmp": (picture(64, 64), {}),
        "high.tiff": (picture(40, 90), {}),
        "gray.png": (picture(64, 48, 1), {}),
        "gray 16 bit.png": (Image.fromarray(deep), {}),
        "transparent.png": (picture(48, 64, 4), {}),
        "palette.png": (picture(64, 48, mode="P"), {"transparency": 3}),
        "turned.jpg": (picture(64, 48), {"exif": turned, "quality": 95}),
    }
    for name, (image, keys) in images.items():
        image.save(folder / name, **keys)
        yield folder / name
