"""From a DICOM file's bytes to 8-bit grey, by stated rules; needs the extra `dicom`.

Only the tags below are looked at: names, dates and identifiers never leave the file.

1. The pixel values are those of the modality: rescale slope and intercept, or its lookup table.
2. The first window maps them to black and white; without one the first lookup table for display
   does. Without either, 8-bit values are taken as they stand, and of others the lowest becomes
   black and the highest white.
3. MONOCHROME1, in which low values are white, is inverted.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tlkit.system.errors import ResourceError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SUFFIXES = frozenset({".dcm", ".dicom"})
PREAMBLE = 128  # bytes of anything before the four that tell a DICOM file
GREY = ("MONOCHROME1", "MONOCHROME2")
DIRECTORY = "1.2.840.10008.1.3.10"  # the SOP class of a DICOMDIR
TAGS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData",
)  # fmt: skip
MISSING = "is a DICOM file; to read such: pip install 'tlkit[dicom]'"


class DicomError(ValueError):
    """A DICOM file holds no picture that can be used, and why."""


def is_dicom(content: bytes) -> bool:
    """Tell a DICOM file by its content.

    >>> is_dicom(bytes(128) + b"DICM"), is_dicom(b"DICM")
    (True, False)
    """
    return content[PREAMBLE : PREAMBLE + 4] == b"DICM"


def grey_picture(content: bytes, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Return the one picture in a DICOM file.

    Args:
        content: The file.
        max_pixels: What declares more is refused before it is decoded.

    Returns:
        `(height, width)` uint8; 0 is black.

    Raises:
        DicomError: If it holds no sound grey picture, several, or one that cannot be decoded here.
    """
    try:
        import pydicom
    except ImportError:
        raise DicomError(MISSING) from None
    try:
        with _warnings_raised():
            file = pydicom.dcmread(io.BytesIO(content), specific_tags=list(TAGS))
            _check_header(file, max_pixels)
            values = _modality_values(file)
            picture = _picture(file, values)
    except DicomError:
        raise
    except Exception as error:  # on hostile bytes a decoder may raise anything
        raise DicomError(f"cannot be decoded as DICOM: {_one_line(error)}") from None
    return picture


def require_pydicom() -> None:
    """Check that DICOM files can be read here.

    Raises:
        ResourceError: If pydicom is not installed.
    """
    try:
        import pydicom  # noqa: F401  # only whether it is there
    except ImportError:
        raise ResourceError(f"pydicom: {MISSING}") from None


def _check_header(file: Any, max_pixels: int) -> None:
    if file.file_meta.get("MediaStorageSOPClassUID") == DIRECTORY:
        raise DicomError("is a DICOMDIR, a list of files and no image")
    if "PixelData" not in file:
        raise DicomError("is a DICOM file without pixel data")
    height, width = int(file.get("Rows") or 0), int(file.get("Columns") or 0)
    if not height or not width:
        raise DicomError(f"declares {width}×{height} pixels, at least 1×1 is needed")
    if height * width > max_pixels:
        raise DicomError(f"declares {width}×{height} pixels, more than {max_pixels:,}")
    if (frames := int(file.get("NumberOfFrames") or 1)) > 1:
        raise DicomError(f"has {frames} frames, one is expected")
    if (kind := file.get("PhotometricInterpretation")) not in GREY:
        raise DicomError(f"has photometric interpretation {kind}; {' and '.join(GREY)} are read")
    if not file.file_meta.TransferSyntaxUID.is_encapsulated:
        _check_length(file, height * width)


def _check_length(file: Any, pixels: int) -> None:
    """Refuse pixel data that are cut or too long; one byte may be added to make the number even."""
    expected = pixels * int(file.SamplesPerPixel) * int(file.BitsAllocated) // 8
    found = len(file.PixelData)
    if found not in {expected, expected + expected % 2}:
        raise DicomError(f"has {found:,} bytes of pixel data, expected {expected:,}")


def _modality_values(file: Any) -> npt.NDArray[Any]:
    """Return what the detector saw, `(height, width)`: stored values, rescaled."""
    from pydicom.pixels.processing import apply_modality_lut

    syntax = file.file_meta.TransferSyntaxUID
    try:
        stored = file.pixel_array
    except RuntimeError as error:  # what pydicom raises where a decoder is missing
        if not syntax.is_encapsulated or "missing" not in str(error):
            raise
        packages = "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
        raise DicomError(
            f"is compressed as {syntax.name} ({syntax}); to read such: pip install {packages}"
        ) from None
    values: npt.NDArray[Any] = apply_modality_lut(stored, file)
    return values


def _picture(file: Any, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return the values as they are shown."""
    inverted = file.PhotometricInterpretation == "MONOCHROME1"
    if values.dtype == "uint8" and not _has_window(file) and not file.get("VOILUTSequence"):
        return 255 - values if inverted else values
    shares = _shares(file, values)
    shown = (1 - shares if inverted else shares) * 255
    picture: npt.NDArray[np.uint8] = shown.round().astype("uint8")
    return picture


def _has_window(file: Any) -> bool:
    return file.get("WindowCenter") is not None and file.get("WindowWidth") is not None


def _shares(file: Any, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return how bright each value is shown, from 0 to 1."""
    if _has_window(file):
        center, width = float(_first(file.WindowCenter)), float(_first(file.WindowWidth))
        return _windowed(values, center, width, file.get("VOILUTFunction") or "LINEAR")
    if file.get("VOILUTSequence"):
        from pydicom.pixels.processing import apply_voi

        bits = int(file.VOILUTSequence[0].LUTDescriptor[2])
        shares: npt.NDArray[np.float64] = apply_voi(values, file, index=0) / (2**bits - 1)
        return shares.clip(0, 1)
    low, high = float(values.min()), float(values.max())
    return (values - low) / ((high - low) or 1)


def _windowed(
    values: npt.NDArray[Any], center: float, width: float, function: str
) -> npt.NDArray[np.float64]:
    """Apply a window; the three functions are those of DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3."""
    import numpy as np

    if not width >= 1 and not (function != "LINEAR" and width > 0):
        raise DicomError(f"has a window of width {width:g}; it must be at least 1")
    if function == "LINEAR":
        # A width of 1 is a step: the division is avoided, the clip makes the step.
        shares = (values - (center - 0.5)) / max(width - 1, 1e-9) + 0.5
    elif function == "LINEAR_EXACT":
        shares = (values - center) / width + 0.5
    elif function == "SIGMOID":
        with np.errstate(over="ignore"):  # exp of a large number is infinite, its share 0
            shares = 1 / (1 + np.exp(-4 * (values - center) / width))
    else:
        raise DicomError(f"has the window function {function!r}, which is not defined")
    return np.clip(shares, 0, 1)


def _first(value: Any) -> Any:
    """Return the first of several values, or the only one."""
    return value if isinstance(value, (int, float, str)) else value[0]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class _Raiser(logging.Handler):
    """Turns pydicom's warnings into errors in the threads that are decoding, and in no other.

    pydicom logs each warning before it warns. The filters of `warnings` belong to the whole
    process, and several threads decode at once, so they cannot be changed for one.
    """

    decoding = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(self.decoding, "active", False):
            raise DicomError(f"is doubtful DICOM: {' '.join(record.getMessage().split())}")


_raiser = _Raiser(logging.WARNING)


@contextmanager
def _warnings_raised() -> Iterator[None]:
    logging.getLogger("pydicom").addHandler(_raiser)  # added once, however often it is called
    _raiser.decoding.active = True
    try:
        yield
    finally:
        _raiser.decoding.active = False
