"""DICOM: which grey a stored value becomes, what is refused, and what never leaves the file."""

from __future__ import annotations

import builtins
import contextlib
import io
import logging
import struct
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLosslessSV1

import tlkit
from tlkit.config.structure import structure
from tlkit.data.decoding import ImageError, decode
from tlkit.data.dicom import is_dicom
from tlkit.data.images import Reader
from tlkit.parts.datasets import Folder

Pixels = npt.NDArray[Any]
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
CHEST_XRAY = UID("1.2.840.10008.5.1.4.1.1.1")  # computed radiography


def dicom(pixels: Pixels, syntax: UID = ExplicitVRLittleEndian, **tags: Any) -> bytes:
    """Return a DICOM file of one grey picture; `tags` change or, when None, remove what it says."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = CHEST_XRAY
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    file = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    bits = 8 * pixels.itemsize
    said = {
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": int(tags.get("BitsStored") or bits) - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelData": pixels.tobytes() + bytes(pixels.nbytes % 2),
    } | tags
    for name, value in said.items():
        if value is not None:
            setattr(file, name, value)
    file["PixelData"].VR = "OB" if bits == 8 else "OW"
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def decoded(content: bytes) -> Pixels:
    return np.asarray(decode(content))


def values(*grey: int, kind: Any = np.uint16) -> Pixels:
    return np.array([grey], kind)


def test_eight_bits_without_a_window_come_back_as_they_stand() -> None:
    np.testing.assert_array_equal(decoded(dicom(RAMP)), RAMP)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_monochrome1_is_the_same_picture_inverted(bits: int) -> None:
    stored = (RAMP.astype(np.uint16) << (bits - 8)).astype(np.uint8 if bits == 8 else np.uint16)
    highest = stored.max()
    same = dicom(highest - stored, PhotometricInterpretation="MONOCHROME1", BitsStored=bits)
    np.testing.assert_array_equal(decoded(same), decoded(dicom(stored, BitsStored=bits)))
    assert decoded(same)[0, 0] == 0


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_without_a_window_the_lowest_is_black_and_the_highest_white(kind: Any) -> None:
    stored = np.array([[-1000, 0, 3000]], np.int64) + (1000 if kind is np.uint16 else 0)
    np.testing.assert_array_equal(decoded(dicom(stored.astype(kind))), [[0, 64, 255]])


@pytest.mark.parametrize("value", [0, 7, 4095])
def test_one_grey_all_over_is_black_and_no_division_by_zero(value: int) -> None:
    assert decoded(dicom(values(value, value))).tolist() == [[0, 0]]


def test_bits_above_those_stored_do_not_count() -> None:
    clean = values(0, 2048, 4095)
    np.testing.assert_array_equal(
        decoded(dicom(clean | 0xA000, BitsStored=12)), decoded(dicom(clean, BitsStored=12))
    )


# Center 100, width 100: LINEAR reaches from 50 to 149, LINEAR_EXACT from 50 to 150.
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (None, [0, 0, 0, 129, 255, 255]),
        ("LINEAR", [0, 0, 0, 129, 255, 255]),
        ("LINEAR_EXACT", [0, 0, 0, 128, 252, 255]),
        ("SIGMOID", [5, 30, 30, 128, 224, 255]),
    ],
)
def test_a_window_gives_the_greys_of_its_function(
    function: str | None, expected: list[int]
) -> None:
    stored = values(0, 50, 50, 100, 149, 4095)
    content = dicom(stored, WindowCenter=100, WindowWidth=100, VOILUTFunction=function)
    assert decoded(content).tolist() == [expected]


def test_the_first_of_several_windows_counts() -> None:
    stored = values(0, 50, 100, 150, 4095)
    several = dicom(stored, WindowCenter=[100, 2000], WindowWidth=[100, 4000])
    first = dicom(stored, WindowCenter=100, WindowWidth=100)
    np.testing.assert_array_equal(decoded(several), decoded(first))


def test_a_window_is_laid_over_the_rescaled_values() -> None:
    hounsfield = values(-1000, -50, 0, 50, 1000, kind=np.int16)
    window: dict[str, Any] = {"WindowCenter": 0.5, "WindowWidth": 101}
    stored = dicom(
        (hounsfield + 1024).astype(np.uint16), RescaleSlope=1, RescaleIntercept=-1024, **window
    )
    np.testing.assert_array_equal(decoded(stored), decoded(dicom(hounsfield, **window)))
    assert decoded(stored).tolist() == [[0, 0, 128, 255, 255]]


def test_a_negative_slope_turns_the_picture_over() -> None:
    content = dicom(values(0, 100), RescaleSlope=-1, RescaleIntercept=0)
    assert decoded(content).tolist() == [[255, 0]]


def test_a_window_of_width_one_is_a_step() -> None:
    content = dicom(values(9, 10, 11), WindowCenter=10.5, WindowWidth=1)
    assert decoded(content).tolist() == [[0, 128, 255]]


@pytest.mark.parametrize(
    ("function", "width"), [("LINEAR", 0), ("LINEAR", 0.5), ("LINEAR_EXACT", 0), ("SIGMOID", -3)]
)
def test_a_window_without_width_is_refused(function: str, width: float) -> None:
    content = dicom(values(1, 2), WindowCenter=1, WindowWidth=width, VOILUTFunction=function)
    with pytest.raises(ImageError, match=r"^has a window of width .*; it must be at least 1$"):
        decode(content)


def test_an_unknown_window_function_is_refused() -> None:
    content = dicom(values(1, 2), WindowCenter=1, WindowWidth=2, VOILUTFunction="SQUARE")
    with pytest.raises(ImageError, match=r"^has the window function 'SQUARE'"):
        decode(content)


def lookup_table(*entries: int, bits: int, packed: bool = False) -> Dataset:
    table = Dataset()
    table.LUTDescriptor = [len(entries), 0, bits]
    table.LUTData = np.array(entries, np.uint8 if packed else np.uint16).tobytes()
    return table


def test_a_lookup_table_for_display_is_used_where_there_is_no_window() -> None:
    tables = [lookup_table(1023, 512, 0, bits=10), lookup_table(0, 0, 0, bits=10)]
    content = dicom(values(0, 1, 2), VOILUTSequence=tables)
    assert decoded(content).tolist() == [[255, 128, 0]]
    window: dict[str, Any] = {"WindowCenter": 1, "WindowWidth": 2}
    both = dicom(values(0, 1, 2), VOILUTSequence=tables, **window)
    np.testing.assert_array_equal(decoded(both), decoded(dicom(values(0, 1, 2), **window)))


def test_a_lookup_table_is_laid_over_the_rescaled_values() -> None:
    tables = [lookup_table(1023, 512, 0, bits=10)]
    content = dicom(
        values(0, 1, 2, 9), VOILUTSequence=tables, RescaleSlope=0.5, RescaleIntercept="-0.25"
    )  # -0.25, 0.25, 0.75, 4.25 are entries 0, 0, 1 and the last
    assert decoded(content).tolist() == [[255, 255, 128, 0]]


@given(
    stored=arrays.arrays(np.uint16, (3, 3)),
    entries=st.lists(st.integers(0, 255), min_size=300, max_size=400).map(
        lambda x: x[: len(x) & ~1]
    ),
    packed=st.booleans(),
)
def test_a_lookup_table_of_8_bits_serves_deeper_values(
    stored: Pixels, entries: list[int], packed: bool
) -> None:
    content = dicom(stored, VOILUTSequence=[lookup_table(*entries, bits=8, packed=packed)])
    expected = np.array(entries)[stored.clip(0, len(entries) - 1)]
    np.testing.assert_array_equal(decoded(content), expected)


def test_a_lookup_table_with_fewer_entries_than_it_states_is_refused() -> None:
    table = lookup_table(1023, 512, 0, bits=10)
    table.LUTDescriptor = [4, 0, 10]
    with pytest.raises(ImageError, match=r"^has a lookup table of 3 entries and states 4$"):
        decode(dicom(values(0, 1, 2), VOILUTSequence=[table]))


@given(
    pixels=arrays.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5))),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    slope=st.sampled_from([1, "1", "1.0", "1e0"]),
    padding=st.integers(0, 3),
)
def test_rescaling_that_changes_nothing_and_padding_leave_the_pixels(
    pixels: Pixels, photometric: str, slope: Any, padding: int
) -> None:
    data = pixels.tobytes() + bytes(padding)
    tags: dict[str, Any] = {"PhotometricInterpretation": photometric, "PixelData": data}
    content = dicom(pixels, RescaleSlope=slope, RescaleIntercept="0", **tags)
    # The file itself pads to an even length.
    if len(data) + len(data) % 2 > pixels.size + 2:
        with pytest.raises(ImageError, match=r"bytes of pixel data, expected"):
            decode(content)
        return
    expected = 255 - pixels if photometric == "MONOCHROME1" else pixels
    np.testing.assert_array_equal(decoded(content), expected)


def encoded(pixels: Pixels, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg_dicom(pixels: Pixels = RAMP) -> bytes:
    return dicom(
        pixels, JPEGBaseline8Bit, PixelData=encapsulate([encoded(pixels, "JPEG", quality=95)])
    )


def test_baseline_jpeg_as_in_the_rsna_challenge_needs_nothing_else() -> None:
    expected = np.asarray(Image.open(io.BytesIO(encoded(RAMP, "JPEG", quality=95))))
    np.testing.assert_array_equal(decoded(jpeg_dicom()), expected)


def test_a_compression_without_its_decoder_is_named_with_what_to_install() -> None:
    content = dicom(RAMP, JPEGLosslessSV1, PixelData=encapsulate([bytes(100)]))
    match = r"JPEG Lossless.*1\.2\.840\.10008\.1\.2\.4\.70\); to read it: pip install pylibjpeg "
    with pytest.raises(ImageError, match=match):
        decode(content)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"NumberOfFrames": 2}, r"^has 2 frames, one is expected$"),
        ({"Rows": 20_000, "Columns": 20_000}, r"^declares 20000×20000 pixels, more than 81,000"),
        ({"Rows": 0}, r"^declares 16×0 pixels, at least 1×1 is needed$"),
        ({"Columns": None}, r"^declares 0×16 pixels, at least 1×1 is needed$"),
        ({"PhotometricInterpretation": "RGB"}, r"^has photometric interpretation RGB; MONO"),
        ({"PhotometricInterpretation": None}, r"^has photometric interpretation None; MONO"),
        ({"PixelData": bytes(254)}, r"^has 254 bytes of pixel data, expected 256$"),
        ({"PixelData": bytes(128)}, r"^has 128 bytes of pixel data, expected 256$"),
        ({"PixelData": bytes(260)}, r"^has 260 bytes of pixel data, expected 256$"),
        ({"BitsAllocated": None}, r"^cannot be decoded as DICOM: "),
    ],
)
def test_a_file_that_holds_no_single_sound_grey_picture_is_refused(
    tags: dict[str, Any], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        decode(dicom(RAMP, **tags))


def test_a_file_without_pixels_is_refused() -> None:
    content = dicom(RAMP)
    with pytest.raises(ImageError, match=r"^is a DICOM file without pixel data$"):
        decode(content[: content.index(b"\xe0\x7f\x10\x00")])


def test_a_dicomdir_is_refused_and_its_paths_are_not_followed() -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.1.3.10")
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    buffer = io.BytesIO()
    FileDataset("", {}, file_meta=meta, preamble=bytes(128)).save_as(
        buffer, enforce_file_format=True
    )
    with pytest.raises(ImageError, match=r"^is a DICOMDIR, a list of files without an image$"):
        decode(buffer.getvalue())


@pytest.mark.parametrize("tenth", range(1, 10))
@pytest.mark.parametrize("make", [lambda: dicom(RAMP), jpeg_dicom], ids=["native", "JPEG"])
def test_a_truncated_file_is_refused(make: Callable[[], bytes], tenth: int) -> None:
    content = make()
    start = content.index(b"\xe0\x7f\x10\x00")  # the pixel data, the last thing in the file
    cut = start + (len(content) - start) * tenth // 10
    with pytest.raises(ImageError, match=r"."):
        decode(content[:cut])


def test_what_pydicom_only_warns_of_is_refused() -> None:
    content = jpeg_dicom()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it must not depend on anybody's filters
        without_end = content[: -len(b"\xfe\xff\xdd\xe0\0\0\0\0")]
        with pytest.raises(ImageError, match=r"^is doubtful DICOM: End of file reached"):
            decode(without_end)
        pydicom.dcmread(io.BytesIO(without_end))  # elsewhere the same warning stays a warning


def test_several_threads_decode_at_once() -> None:
    sound, broken = dicom(RAMP), dicom(RAMP)[:-100]

    def outcome(content: bytes) -> str:
        try:
            return str(decoded(content).sum())
        except ImageError:
            return "refused"

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(outcome, [sound, broken] * 40))
    assert found == [str(RAMP.sum()), "refused"] * 40


@given(st.binary(max_size=600))
def test_any_bytes_after_the_magic_give_an_image_error_at_worst(rest: bytes) -> None:
    content = bytes(128) + b"DICM" + rest
    with pytest.raises(ImageError, match=r"^\S[^\n]*$"):
        decode(content)


@given(st.data())
def test_a_damaged_file_gives_a_picture_or_an_image_error(data: st.DataObject) -> None:
    content = bytearray(dicom(RAMP, WindowCenter=100, WindowWidth=100))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageError):
        assert decode(bytes(content)).mode == "L"


@given(arrays.arrays(np.uint16, arrays.array_shapes(min_dims=2, max_dims=2, max_side=6)))
def test_brighter_values_never_become_darker(stored: Pixels) -> None:
    order = np.argsort(stored, axis=None)
    shown = decoded(dicom(stored)).ravel()[order].astype(int)
    assert (np.diff(shown) >= 0).all()


def test_a_preamble_alone_is_no_dicom() -> None:
    assert not is_dicom(bytes(128))
    assert not is_dicom(b"DICM")
    assert is_dicom(dicom(RAMP))


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "pydicom":
            raise ImportError(name)
        return real(name, *rest, **more)

    content = dicom(RAMP)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImageError, match=r"^is a DICOM file; .*pip install 'tlkit\[dicom\]'$"):
        decode(content)


def folder_of_dicoms(top: Path, **tags: Any) -> Path:
    for split in ("train", "val"):
        for number, label in enumerate(("normal", "pneumonia")):
            path = top / split / label / f"{number}.dcm"
            path.parent.mkdir(parents=True)
            path.write_bytes(dicom(np.roll(RAMP, 2 * number + (split == "val")), **tags))
    return top


def test_a_folder_of_dicoms_is_a_dataset(tmp_path: Path) -> None:
    splits = Folder(path=folder_of_dicoms(tmp_path)).load()
    assert [example.path for example in splits.train] == [
        "train/normal/0.dcm", "train/pneumonia/1.dcm",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["image.dcm", "image", "image.png"])
def test_a_dicom_is_read_whatever_its_suffix(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(dicom(RAMP))
    pixels = Reader(lambda path: Path(path).read_bytes(), 16)(str(tmp_path / name))
    np.testing.assert_array_equal(pixels[..., 0], RAMP)


def test_dicoms_train_and_predict_and_nothing_personal_reaches_the_run_folder(
    tmp_path: Path,
) -> None:
    planted = {
        "PatientName": "SECRET^NAME", "PatientID": "SECRET-1", "PatientBirthDate": "19450508",
        "InstitutionName": "SECRET CLINIC", "StudyDate": "20200401",
    }  # fmt: skip
    data = folder_of_dicoms(tmp_path / "data", **planted)
    table = {
        "data": {"name": "folder", "path": str(data)},
        "backbone": {"name": "vgg16", "weights": "none", "image_size": 32},
        "head": {"name": "linear"},
        "fit": {"epochs": 1, "xla": False},
    }
    done = tlkit.run(structure(tlkit.Experiment, table), tmp_path / "run")
    image = data / "val" / "normal" / "0.dcm"
    assert np.shape(tlkit.load(done.folder).predict_proba([str(image)])) == (1, 2)
    written = [path.read_bytes() for path in done.folder.rglob("*") if path.is_file()]
    assert written
    for content in written:
        assert b"SECRET" not in content
        assert b"19450508" not in content


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e308"])
@pytest.mark.parametrize("tag", ["RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"])
def test_a_number_that_blackens_the_picture_is_refused(tag: str, value: str) -> None:
    content = dicom(RAMP, RescaleSlope="11", RescaleIntercept="12", WindowCenter="13",
                    WindowWidth="14")  # fmt: skip
    number = {"RescaleSlope": b"11", "RescaleIntercept": b"12", "WindowCenter": b"13",
              "WindowWidth": b"14"}[tag]  # fmt: skip
    long = value.encode() + b" " * (len(value) % 2)
    old, new = (b"DS" + struct.pack("<H", len(x)) + x for x in (number, long))
    assert content.count(old) == 1
    with pytest.raises(ImageError, match=rf"^has {tag} |^cannot be decoded as DICOM|^is doubtful"):
        decode(content.replace(old, new))


def test_warnings_are_heard_whatever_logging_is_told() -> None:
    without_end = jpeg_dicom()[: -len(b"\xfe\xff\xdd\xe0\0\0\0\0")]
    logging.disable(logging.CRITICAL)
    try:
        with pytest.raises(ImageError, match=r"^is doubtful DICOM: End of file reached"):
            decode(without_end)
    finally:
        logging.disable(logging.NOTSET)


def test_two_frames_that_are_declared_as_one_are_refused() -> None:
    pixels = np.stack([RAMP, RAMP])
    with pytest.raises(ImageError, match=r"bytes of pixel data, expected"):
        decode(dicom(pixels, NumberOfFrames=None))
