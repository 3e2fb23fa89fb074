"""DICOM: from a file's bytes to 8-bit gray, by stated rules; needs the extra `dicom`.

Only the tags below are read: names, dates and identifiers never leave the file.

1. Rescale slope and intercept, or the modality's lookup table, give the pixel values.
2. The first window maps them to black and white, or else the first lookup table for display.
   Without either, 8-bit values stay as they are; of others the lowest becomes black and the
   highest white.
3. MONOCHROME1, in which low values are white, is inverted.
"""

from __future__ import annotations

import io
import logging
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from tlkit.data.jpeg import JpegError, JpegMarkers
from tlkit.system.errors import ResourceError
from tlkit.system.limits import DECODED_BYTES, beyond, decoding_budget, limit

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SUFFIXES = frozenset({".dcm", ".dicom"})
PREAMBLE = 128  # arbitrary bytes before the four that identify DICOM
GRAY = ("MONOCHROME1", "MONOCHROME2")
DIRECTORY = "1.2.840.10008.1.3.10"  # the SOP class of a DICOMDIR
TAGS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData",
)  # fmt: skip
NUMBERS = ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth")
LARGEST = 1e12  # what these may be; larger ones are damage, and overflow
DEFLATED = b"1.2.840.10008.1.2.1.99"  # the transfer syntax
SYNTAX_TAG = b"\x02\x00\x10\x00UI"
HEAD_BYTES = 4096  # of a file, in which its transfer syntax is
CHUNK_BYTES = 1 << 20
STRIP_PIXELS = 1 << 20  # that are worked on at once
MISSING = "is a DICOM file; to read it: pip install 'tlkit[dicom]'"


class DicomError(ValueError):
    """A DICOM file has no usable picture, and why."""


def is_dicom(content: bytes) -> bool:
    """Return whether a file is DICOM, by its content.

    >>> is_dicom(bytes(128) + b"DICM"), is_dicom(b"DICM")
    (True, False)
    """
    return content[PREAMBLE : PREAMBLE + 4] == b"DICM"


def gray_picture(content: bytes, held: ExitStack) -> npt.NDArray[np.uint8]:
    """Return the picture in a DICOM file.

    Returns:
        `(height, width)` uint8; 0 is black.
    """
    with _warnings() as warnings:
        picture = _decoded(content, held)
    if warnings:
        raise DicomError(f"is doubtful DICOM: {' '.join(warnings[0].split())}")
    if isinstance(picture, DicomError):
        raise picture
    return picture


def _decoded(content: bytes, held: ExitStack) -> npt.NDArray[np.uint8] | DicomError:
    """Return the picture, or why there is none."""
    try:
        import pydicom
    except ImportError:
        return DicomError(MISSING)
    try:
        _check_deflated(content)
        file = pydicom.dcmread(io.BytesIO(content), specific_tags=list(TAGS))
        _check_header(file)
        held.enter_context(decoding_budget.holding(DECODED_BYTES * file.Rows * file.Columns))
        return _picture(file, _stored_values(file))
    except DicomError as error:
        return error
    except JpegError as error:
        return DicomError(str(error))
    except (MemoryError, ResourceError):
        raise
    except Exception as error:  # on hostile bytes a decoder may raise anything
        return DicomError(f"cannot be decoded as DICOM: {_one_line(error)}")


def _check_deflated(content: bytes) -> None:
    """Refuse a deflated file that unpacks to too much, before pydicom unpacks it."""
    start = PREAMBLE + 4
    head = content[start : start + HEAD_BYTES]
    place = head.find(SYNTAX_TAG)
    if place < 0 or not head[place + 8 :].startswith(DEFLATED):
        return
    (length,) = struct.unpack_from("<I", head, 8)  # of the other tags before the data
    packed, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    left = content[start + 12 + length :]
    while left and not packed.eof:
        size += len(packed.decompress(left, CHUNK_BYTES))
        left = packed.unconsumed_tail
        if size > limit("TLKIT_MAX_UNPACKED_MB") << 20:
            raise DicomError(f"unpacks to {beyond('TLKIT_MAX_UNPACKED_MB', ' MB')}")


def require_pydicom() -> None:
    """Check that DICOM files can be read."""
    try:
        import pydicom  # noqa: F401  # only to see whether it is installed
    except ImportError:
        raise ResourceError(f"pydicom: {MISSING}") from None


def _check_header(file: Any) -> None:
    if file.file_meta.get("MediaStorageSOPClassUID") == DIRECTORY:
        raise DicomError("is a DICOMDIR, a list of files without an image")
    if "PixelData" not in file:
        raise DicomError("is a DICOM file without pixel data")
    height, width = int(file.get("Rows") or 0), int(file.get("Columns") or 0)
    if not height or not width:
        raise DicomError(f"declares {width}×{height} pixels, at least 1×1 is needed")
    if height * width > limit("TLKIT_MAX_PIXELS"):
        raise DicomError(f"declares {width}×{height} pixels, {beyond('TLKIT_MAX_PIXELS')}")
    if (frames := int(file.get("NumberOfFrames") or 1)) > 1:
        raise DicomError(f"has {frames} frames, one is expected")
    if (kind := file.get("PhotometricInterpretation")) not in GRAY:
        raise DicomError(f"has photometric interpretation {kind}; {' and '.join(GRAY)} are read")
    if not file.file_meta.TransferSyntaxUID.is_encapsulated:
        _cut_padding(file, height * width)
    elif (jpeg := file.PixelData.find(b"\xff\xd8\xff")) >= 0:
        JpegMarkers(file.PixelData[jpeg:])
    for name in NUMBERS:
        if (number := file.get(name)) is not None and not abs(float(_first(number))) <= LARGEST:
            raise DicomError(f"has {name} {float(_first(number)):g}; at most {LARGEST:g} is read")


def _cut_padding(file: Any, pixels: int) -> None:
    """Refuse pixel data that are cut off or too long; up to two bytes of padding are dropped."""
    expected = pixels * int(file.SamplesPerPixel) * int(file.BitsAllocated) // 8
    length = len(file.PixelData)
    if not expected <= length <= expected + 2:
        raise DicomError(f"has {length:,} bytes of pixel data, expected {expected:,}")
    if length > expected + expected % 2:  # more than the standard's own
        file.PixelData = file.PixelData[: expected + expected % 2]


def _stored_values(file: Any) -> npt.NDArray[Any]:
    """Return the stored values, `(height, width)`."""
    syntax = file.file_meta.TransferSyntaxUID
    try:
        stored: npt.NDArray[Any] = file.pixel_array
    except RuntimeError as error:  # pydicom's answer to a missing decoder
        if not syntax.is_encapsulated or "missing" not in str(error):
            raise
        packages = "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
        raise DicomError(
            f"is compressed as {syntax.name} ({syntax}); to read it: pip install {packages}"
        ) from None
    if stored.shape != (file.Rows, file.Columns):
        raise DicomError(f"has pixels of shape {stored.shape}, declares one picture")
    return stored


def _modality_values(file: Any, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return stored values, rescaled."""
    from pydicom.pixels.processing import apply_modality_lut

    if not file.get("ModalityLUTSequence") and _rescaling(file) == (1, 0):
        return stored
    values: npt.NDArray[Any] = apply_modality_lut(stored, file)
    return values


def _rescaling(file: Any) -> tuple[float, float]:
    """Return the slope and the intercept; `(1, 0)` changes nothing, as without the tags."""
    slope, intercept = file.get("RescaleSlope"), file.get("RescaleIntercept")
    if slope is None or intercept is None:  # pydicom applies both or neither
        return 1, 0
    return float(slope), float(intercept)


def _picture(file: Any, stored: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return the stored values as a display shows them, strip by strip to save memory."""
    import numpy as np

    rows = max(1, STRIP_PIXELS // stored.shape[1])
    strips = [slice(top, top + rows) for top in range(0, len(stored), rows)]
    low = high = 0.0
    if not _has_window(file) and not file.get("VOILUTSequence"):
        ends = [
            end
            for strip in strips
            for values in [_modality_values(file, stored[strip])]
            for end in (float(values.min()), float(values.max()))
        ]
        low, high = min(ends), max(ends)
    picture = np.empty(stored.shape, np.uint8)
    for strip in strips:
        picture[strip] = _shown(file, _modality_values(file, stored[strip]), low, high)
    return picture


def _shown(file: Any, values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[Any]:
    """Return values as a display shows them; without a window they go from low to high."""
    inverted = file.PhotometricInterpretation == "MONOCHROME1"
    if values.dtype == "uint8" and not _has_window(file) and not file.get("VOILUTSequence"):
        return 255 - values if inverted else values
    shares = _shares(file, values, low, high)
    shown: npt.NDArray[Any] = ((1 - shares if inverted else shares) * 255).round()
    return shown.astype("uint8")


def _has_window(file: Any) -> bool:
    return file.get("WindowCenter") is not None and file.get("WindowWidth") is not None


def _shares(
    file: Any, values: npt.NDArray[Any], low: float, high: float
) -> npt.NDArray[np.float64]:
    """Return the brightness of each value, from 0 to 1."""
    if _has_window(file):
        center, width = float(_first(file.WindowCenter)), float(_first(file.WindowWidth))
        return _windowed(values, center, width, file.get("VOILUTFunction") or "LINEAR")
    if file.get("VOILUTSequence"):
        return _looked_up(file, values)
    return (values - low) / ((high - low) or 1)


def _looked_up(file: Any, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Apply the first lookup table for display; pydicom's own wraps at shallow tables."""
    import numpy as np

    table = file.VOILUTSequence[0]
    count, first, bits = (int(number) for number in table.LUTDescriptor)
    entries = table.LUTData
    if isinstance(entries, bytes):
        order = "<" if file.file_meta.TransferSyntaxUID.is_little_endian else ">"
        packed = bits == 8 and len(entries) < 2 * (count or 2**16)  # one byte per entry
        entries = np.frombuffer(entries, "u1" if packed else f"{order}u2")
    if len(entries) < (count or 2**16):
        raise DicomError(f"has a lookup table of {len(entries)} entries and states {count}")
    places = (values.round().astype(np.int64) - first).clip(0, (count or 2**16) - 1)
    shares: npt.NDArray[np.float64] = np.asarray(entries)[places] / (2**bits - 1)
    return shares.clip(0, 1)


def _windowed(
    values: npt.NDArray[Any], center: float, width: float, function: str
) -> npt.NDArray[np.float64]:
    """Apply a window; the three functions are those of DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3."""
    import numpy as np

    if not width >= 1 and not (function != "LINEAR" and width > 0):
        raise DicomError(f"has a window of width {width:g}; it must be at least 1")
    if function == "LINEAR":
        # A width of 1 is a step: avoid dividing by zero, the clip makes the step.
        shares = (values - (center - 0.5)) / max(width - 1, 1e-9) + 0.5
    elif function == "LINEAR_EXACT":
        shares = (values - center) / width + 0.5
    elif function == "SIGMOID":
        with np.errstate(over="ignore"):  # exp of a large number is infinite, the share 0
            shares = 1 / (1 + np.exp(-4 * (values - center) / width))
    else:
        raise DicomError(f"has the window function {function!r}, which DICOM does not define")
    return np.clip(shares, 0, 1)


def _first(value: Any) -> Any:
    """Return the first of several values, or the single one."""
    return value if isinstance(value, (int, float, str)) else value[0]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class _Listening(logging.Logger):
    """pydicom's logger, which keeps its first warning for the thread that is decoding.

    pydicom logs each warning before it warns. The filters of `warnings` and the levels of `logging`
    belong to the whole process, and several threads decode at once, so neither can be relied on.
    """

    kept = threading.local()

    def warning(self, msg: object, *args: Any, **more: Any) -> None:
        messages: list[str] | None = getattr(self.kept, "messages", None)
        if messages == []:  # the first is enough
            messages.append(str(msg) % args if args else str(msg))
        super().warning(msg, *args, **more)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what pydicom warns of in this thread."""
    logging.getLogger("pydicom").__class__ = _Listening
    _Listening.kept.messages = messages = list[str]()
    try:
        yield messages
    finally:
        _Listening.kept.messages = None
