"""D: images, manifests, splits."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tests.battery.case import Case, Fault, changed
from tests.battery.hostile import png

RUN = ("run", "study.toml", "--out", "run")
AS_MANIFEST = 'data={name="manifest", path="data/all.csv"}'
HEAD = "path,label,split"


def manifest(name: str, text: str | bytes, message: str, code: int = 4) -> Fault:
    """Return the fault of a manifest with such content, beside the sound images."""
    raw = text.encode() if isinstance(text, str) else text

    def make(folder: Path) -> None:
        (folder / "data" / "all.csv").write_bytes(raw)

    return Fault(name, ("check", "study.toml", "--set", AS_MANIFEST), code, message, make)


def row(name: str, line: str, message: str, make: Callable[[Path], object] | None = None) -> Fault:
    """Return the fault of one row after a sound one."""

    def both(folder: Path) -> None:
        text = f"{HEAD}\ntrain/a/0.png,a,train\n{line}\n"
        (folder / "data" / "all.csv").write_text(text, newline="")
        if make:
            make(folder)

    command = ("check", "study.toml", "--set", AS_MANIFEST)
    return Fault(name, command, 4, rf"data/all\.csv: row 3: {message}", both)


def image(name: str, content: bytes, message: str, code: int = 4) -> Fault:
    """Return the fault of one training image with such content."""
    return Fault(
        name,
        RUN,
        code,
        rf"data/train/a/0\.png: {message}",
        lambda folder: (folder / "data/train/a/0.png").write_bytes(content),
    )


def copied(name: str, source: str, target: str, message: str, *more: str, code: int = 4) -> Fault:
    """Return the fault of one image in a second place, as BMP so that only the pixels are equal."""

    def make(folder: Path) -> None:
        with Image.open(folder / source) as found:
            found.save(folder / target)

    return Fault(name, (*RUN, *more), code, message, make)


def saved(pixels: object, kind: str = "PNG") -> bytes:
    """Return pixels as a file."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(buffer, kind)
    return buffer.getvalue()


def without(folder: Path, name: str) -> None:
    """Remove the images of one class folder."""
    shutil.rmtree(folder / name)
    (folder / name).mkdir()


def emptied(folder: Path) -> None:
    """Remove all images and their folders."""
    shutil.rmtree(folder / "data")
    (folder / "data").mkdir()


def hidden(folder: Path) -> None:
    """Leave a class a hidden file only."""
    without(folder, "data/val/b")
    (folder / "data/val/b/.1.png").write_bytes(png())


def one_class(folder: Path) -> None:
    """Remove the second class."""
    for split in ("train", "val"):
        shutil.rmtree(folder / "data" / split / "b")


def patients(folder: Path) -> None:
    """Write a manifest in which `p7` and `P007` are in two splits."""
    rows = [f"{HEAD},patient"]
    for split in ("train", "val"):
        for label in "ab":
            name = {"train": "p7", "val": "P007"}[split] if label == "a" else f"{split}{label}"
            rows.append(f"{split}/{label}/0.png,{label},{split},{name}")
    (folder / "data" / "all.csv").write_text("\n".join(rows))


def pipes_and_loops(folder: Path) -> None:
    """Put what is no file among the images."""
    os.mkfifo(folder / "data/train/a/pipe.png")
    (folder / "data/train/a/loop.png").symlink_to("loop.png")
    (folder / "data/train/a/loop").symlink_to("..")


CASES = (
    Case(
        id="D01",
        what="The folder is missing, is empty or cannot be read",
        expected="4, with the folder",
        faults=(
            changed("missing", 'data={name="folder", path="none"}', "^none: .*is not there", 4),
            Fault(
                "empty",
                RUN,
                4,
                "^data: |^data/train: ",
                emptied,
            ),
        ),
    ),
    Case(
        id="D02",
        what="A class folder is empty or has only hidden files; there is only one class",
        expected="4, with the class",
        faults=(
            Fault(
                "empty",
                RUN,
                4,
                "data/train/a: class 'a' has no images in train",
                partial(without, name="data/train/a"),
            ),
            Fault(
                "hidden",
                RUN,
                4,
                "data/val/b: class 'b' has no images in val",
                hidden,
            ),
            Fault(
                "one class",
                RUN,
                4,
                "data/train: needs one folder for each of two or more classes, got a",
                one_class,
            ),
        ),
    ),
    Case(
        id="D03",
        what="An image of zero bytes",
        expected="4, with its path, before training",
        faults=(image("no bytes", b"", "is empty"),),
    ),
    Case(
        id="D04",
        what="An image cut off at each tenth of its length",
        expected="4; never padded with gray",
        tests=(
            "test_decoding.py::test_a_truncated_image_is_refused_and_never_filled_with_grey",
            "test_checks.py::test_what_cannot_be_decoded_is_left_out_told_and_recorded",
        ),
    ),
    Case(
        id="D05",
        what="One changed byte, anywhere",
        expected="decoded, or reported; nothing else",
        tests=("test_decoding.py::test_a_damaged_byte_gives_an_image_or_a_value_error",),
    ),
    Case(
        id="D06",
        what="Text or a web page named .png; a format that does not match the suffix",
        expected="the content decides: text is refused, a JPEG named .png is read",
        faults=(
            image("text", b"just text", "is not an image"),
            image("web page", b"<!DOCTYPE html><html></html>", "is not an image"),
            Fault(
                "JPEG called .png",
                ("run", "study.toml", "--out", "data/../run"),
                0,
                "",
                lambda folder: (folder / "data/train/a/0.png").write_bytes(
                    saved(np.random.default_rng(77).integers(0, 255, (40, 40), np.uint8), "JPEG")
                ),
            ),
        ),
    ),
    Case(
        id="D07",
        what="Animated GIF, multi-page TIFF, EPS, SVG, FITS, HEIC",
        expected="4, with the formats that are read",
        tests=(
            "test_decoding.py::test_other_content_is_no_image_and_the_formats_are_listed",
            "test_decoding.py::test_several_frames_are_refused",
            "battery/test_hostile.py::test_a_hostile_file_is_refused_and_nothing_else_is_touched",
        ),
    ),
    Case(
        id="D08",
        what="1 bit, palette, 16-bit gray, floats, CMYK, transparency",
        expected="converted by stated rules; 16 bits are scaled; floats are refused",
        tests=(
            "test_decoding.py::test_16_bit_grey_is_scaled_and_not_clipped",
            "test_decoding.py::test_floating_point_grey_is_refused",
            "test_decoding.py::test_one_bit_becomes_black_and_white",
            "test_decoding.py::test_a_palette_becomes_its_colours",
            "test_decoding.py::test_cmyk_becomes_rgb",
            "test_decoding.py::test_transparency_is_laid_over_black",
        ),
    ),
    Case(
        id="D09",
        what="EXIF rotation, an embedded color profile",
        expected="rotation is applied, a profile is not; the same in training and prediction",
        tests=(
            "test_decoding.py::test_rotation_noted_by_the_camera_is_applied",
            "test_classifier.py::test_probabilities_of_files_are_those_of_the_run_to_the_digit",
        ),
    ),
    Case(
        id="D10",
        what="1×1, 1×5000, smaller than the network's input",
        expected="resized; a note counts images with a side below 32 pixels",
        tests=(
            "test_images.py::test_any_shape_becomes_the_wanted_one",
            "test_checks.py::test_images_that_hardly_show_anything_are_told",
        ),
    ),
    Case(
        id="D11",
        what="20,000 × 20,000 pixels declared in a kilobyte",
        expected="4, before any pixel takes memory",
        faults=(
            image(
                "in PNG", png(20_000, 20_000), "declares 20000×20000 pixels, more than 81,000,000"
            ),
        ),
        tests=("test_decoding.py::test_too_many_declared_pixels_are_refused_before_decoding",),
    ),
    Case(
        id="D12",
        what="An image of a single color",
        expected="used; a note counts them; nothing is divided by its standard deviation",
        faults=(
            Fault(
                "all black",
                RUN,
                0,
                r"note: 1 image has only one color, such as .*data/train/a/0\.png",
                lambda folder: (folder / "data/train/a/0.png").write_bytes(
                    saved(np.zeros((40, 40), np.uint8))
                ),
            ),
        ),
    ),
    Case(
        id="D13",
        what="CSV: missing or misspelled column, separator, line break, NUL, ragged row, huge cell",
        expected="4, with file and row; a byte order mark and Windows line endings are accepted",
        faults=(
            manifest("no column", "path,split\n", "data/all.csv: there is no column 'label'"),
            manifest("misspelt", f"{HEAD},pateint\n", "unknown column 'pateint'; did you mean"),
            manifest("separator", "path|label|split\n", "there is no column 'path', got path|"),
            manifest("ragged", f"{HEAD}\nx.png,a\n", "row 2: expected 3 values, got 2"),
            manifest("1 MB field", f"{HEAD}\n{'x' * 1_000_000},a,train\n", "not valid CSV: field"),
            manifest("Latin-1", f"{HEAD}\n".encode() + b"\xe9.png,a,train", "must be UTF-8"),
            manifest("UTF-16", f"{HEAD}\n".encode("utf-16"), "must be UTF-8"),
            row("NUL", "x\0.png,a,train", "path: is empty or not a path"),
            manifest(
                "line break",
                f'{HEAD}\n"x\n.png",a,train\n',
                r"row 3: path: there is no file 'x\\n\.png'",
            ),
        ),
        tests=(
            "test_manifest.py::test_a_byte_order_mark_windows_line_ends_and_blank_lines_are_accepted",
        ),
    ),
    Case(
        id="D14",
        what="A blank label, or a class with a trailing space",
        expected="4, with the row; nothing is stripped",
        faults=(
            row("blank", "train/b/0.png,,train", "label: is empty"),
            Fault(
                "space",
                (
                    "check",
                    "study.toml",
                    "--set",
                    'data={name="manifest", path="data/all.csv", classes=["a", "b"]}',
                ),
                4,
                r"row 2: label: 'b ' is none of the classes a, b; did you mean 'b'",
                lambda folder: (folder / "data/all.csv").write_text(
                    f"{HEAD}\ntrain/b/0.png,b ,train\n"
                ),
            ),
        ),
    ),
    Case(
        id="D15",
        what="Classes named NA, null, 1e5, 007",
        expected="read as text",
        tests=("test_manifest.py::test_labels_are_text_and_are_kept_as_they_are",),
    ),
    Case(
        id="D16",
        what="Absolute paths, `..`, links that lead out, drives, URLs",
        expected="4, with the row",
        faults=(
            row("absolute", "/etc/hosts,a,train", "path: must stay below the images' folder"),
            row("dots", "../x.png,a,train", "path: must stay below the images' folder"),
            row("drive", r"C:\x.png,a,train", "path: must stay below the images' folder"),
            row("address", "http://x/y.png,a,train", "path: must stay below the images' folder"),
            row("file", "file:///x.png,a,train", "path: must stay below the images' folder"),
            row(
                "link",
                "out.png,a,train",
                "path: 'out.png' is a link that leads out of data",
                lambda folder: (folder / "data/out.png").symlink_to("/etc/hosts"),
            ),
        ),
    ),
    Case(
        id="D17",
        what="Rows whose files are missing",
        expected="4, with the first ten rows and the total",
        faults=(
            manifest(
                "thirteen",
                f"{HEAD}\n" + "".join(f"{n}.png,a,train\n" for n in range(13)),
                r"row 2: path: there is no file '0\.png'(.|\n)*… and 3 more rows",
            ),
        ),
    ),
    Case(
        id="D18",
        what="A file in two rows; a picture twice in a split, with one label or two",
        expected="rows: 4; pictures: a note with every path and, if they differ, the labels",
        faults=(
            row("two rows", "train/a/0.png,b,train", "path: 'train/a/0.png' is in row 2 already"),
            copied(
                "one label",
                "data/train/a/0.png",
                "data/train/a/copy.bmp",
                r"1 image is a copy of another .*train/a/0\.png \(train\), train/a/copy\.bmp",
                code=0,
            ),
            copied(
                "two labels",
                "data/train/a/0.png",
                "data/train/b/copy.bmp",
                r"1 picture has two labels: .*0\.png \(train, a\), train/b/copy\.bmp \(train, b",
                code=0,
            ),
        ),
    ),
    Case(
        id="D19",
        what="Different bytes, same pixels, in two splits",
        expected="4, with both rows",
        faults=(
            copied(
                "PNG and BMP",
                "data/train/a/0.png",
                "data/val/a/copy.bmp",
                r"the same picture in train and val: train/a/0\.png \(train\), val/a/copy\.bmp",
            ),
            copied(
                "accepted",
                "data/train/a/0.png",
                "data/val/a/copy.bmp",
                "warning: leakage accepted: 1 picture is in more than one split",
                "--set",
                "data.allow_leakage=true",
                code=0,
            ),
        ),
    ),
    Case(
        id="D20",
        what="Nearly the same picture in two splits: resized, compressed, brightened, mirrored",
        expected="`tlkit data inspect`, `split` and `verify` detect them; a run does not check",
        tests=(
            "test_fingerprints.py::test_a_changed_copy_is_nearly_the_same",
            "test_verify.py::test_a_copy_in_another_split_is_named",
        ),
    ),
    Case(
        id="D21",
        what="A patient in two splits",
        expected="4, with every row",
        tests=(
            "test_leakage.py::test_patients_in_several_splits_are_listed_with_every_row",
            "test_datasets.py::test_a_patient_in_two_splits_is_told_with_the_file",
        ),
    ),
    Case(
        id="D22",
        what="No patient ids",
        expected='`"patients": "unknown"` in plan.json and metrics.json',
        tests=("test_leakage.py::test_whether_patients_are_known_is_told",),
    ),
    Case(
        id="D23",
        what="Patient ids that differ only in case, zeros or spaces",
        expected="4: they count as the same patient",
        faults=(
            Fault(
                "p7 and P007",
                ("check", "study.toml", "--set", AS_MANIFEST),
                4,
                "patient 'p7' = 'P007' in train and val",
                patients,
            ),
        ),
        tests=("test_leakage.py::test_one_patient_written_in_two_ways_is_one",),
    ),
    Case(
        id="D24",
        what="Each class comes from its own source",
        expected="a warning on the terminal and in the report, with a table of sources and labels",
        tests=(
            "test_caveats.py::test_what_the_data_say_is_warned_of",
            "test_caveats.py::test_the_source_table_counts_every_image_once",
        ),
    ),
    Case(
        id="D25",
        what="Size, border, format or source alone predicts the label",
        expected="`tlkit data inspect` measures and reports it",
        tests=(
            "test_shortcuts.py::test_what_is_planted_predicts_the_label_and_nothing_else_does",
            "test_shortcuts.py::test_nothing_planted_is_nothing_found",
        ),
    ),
    Case(
        id="D26",
        what="A class without images in a split",
        expected="4, with split and class",
        tests=(
            "test_splits.py::test_every_class_needs_an_image_in_every_split",
            "properties/test_splits.py::test_taking_a_class_out_of_a_split_is_refused",
        ),
    ),
    Case(
        id="D27",
        what="Balanced weights for a class without images",
        expected="4, with the class; never infinite",
        tests=(
            "properties/test_weighting.py::test_a_class_without_images_is_named",
            "test_checks.py::test_a_class_that_is_left_empty_is_an_error",
        ),
    ),
    Case(
        id="D28",
        what="DICOM: empty, no DICM marker, text, header only, cut off",
        expected="4",
        tests=(
            "test_dicom.py::test_a_preamble_alone_is_no_dicom",
            "test_dicom.py::test_a_truncated_file_is_refused",
            "test_dicom.py::test_any_bytes_after_the_magic_give_an_image_error_at_worst",
        ),
    ),
    Case(
        id="D29",
        what="DICOM: no pixels, no size, pixel data too short or too long",
        expected="4",
        tests=(
            "test_dicom.py::test_a_file_without_pixels_is_refused",
            "test_dicom.py::test_a_file_that_holds_no_single_sound_grey_picture_is_refused",
        ),
    ),
    Case(
        id="D30",
        what="DICOM: compressed, without the decoder",
        expected="4, with what to install",
        tests=(
            "test_dicom.py::test_a_compression_without_its_decoder_is_named_with_what_to_install",
            "test_dicom.py::test_without_the_extra_the_error_names_it",
        ),
    ),
    Case(
        id="D31",
        what="DICOM: anything pydicom only warns about",
        expected="4: warnings are errors",
        tests=("test_dicom.py::test_what_pydicom_only_warns_of_is_refused",),
    ),
    Case(
        id="D32",
        what="DICOM: one picture as MONOCHROME1 and as MONOCHROME2",
        expected="the same pixels",
        tests=("test_dicom.py::test_monochrome1_is_the_same_picture_inverted",),
    ),
    Case(
        id="D33",
        what="DICOM: slope, window, sign, 12 bits in 16",
        expected="converted by stated rules",
        tests=(
            "test_dicom.py::test_a_window_gives_the_greys_of_its_function",
            "test_dicom.py::test_a_window_is_laid_over_the_rescaled_values",
            "test_dicom.py::test_a_window_without_width_is_refused",
            "test_dicom.py::test_the_first_of_several_windows_counts",
            "test_dicom.py::test_bits_above_those_stored_do_not_count",
        ),
    ),
    Case(
        id="D34",
        what="DICOM: several frames, color",
        expected="4",
        tests=("test_dicom.py::test_a_file_that_holds_no_single_sound_grey_picture_is_refused",),
    ),
    Case(
        id="D35",
        what="DICOM: personal data in tags",
        expected="in no file of a run folder",
        tests=(
            "test_dicom.py::test_dicoms_train_and_predict_and_nothing_personal_reaches_the_run_folder",
        ),
    ),
    Case(
        id="D36",
        what="An image is deleted or replaced during the run",
        expected="no effect, or if it has to be read again: 4, with its name",
        tests=(
            "test_checks.py::test_an_image_that_changes_afterwards_is_refused_when_it_is_read",
            "battery/test_runs.py::test_an_image_that_changes_before_it_is_read_again_ends_the_run",
            "battery/test_runs.py::test_an_image_that_changes_later_has_no_effect",
        ),
    ),
    Case(
        id="D37",
        what="The folder lists its entries in another order",
        expected="sorted: the same order and bytes",
        tests=(
            "test_datasets.py::test_classes_are_the_sorted_folders_and_images_the_sorted_files",
        ),
    ),
    Case(
        id="D38",
        what="Names with spaces, line breaks, emoji, 255 bytes, right-to-left text, invalid UTF-8",
        expected="used, and displayed safely; names that are not UTF-8 are refused",
        tests=(
            "battery/test_names.py::test_odd_names_go_through_a_run_and_come_back",
            "test_splits.py::test_a_name_that_is_no_utf_8_is_refused",
        ),
    ),
    Case(
        id="D39",
        what="Circular links, pipes and devices among the images",
        expected="skipped with a note; nothing blocks",
        faults=(
            Fault(
                "in a folder",
                RUN,
                0,
                r"note: \d left out: (no regular file|a link to a folder)",
                pipes_and_loops,
            ),
        ),
        tests=("test_root.py::test_what_is_not_a_file_is_named_and_never_blocks",),
    ),
    Case(
        id="D40",
        what="The data differ when a run is resumed",
        expected="7, with the differences",
        tests=("test_resume.py::test_another_run_than_the_one_that_was_begun_is_refused",),
    ),
    Case(
        id="D41",
        what="200,000 small files",
        expected="checked in little memory, with a progress bar",
        tests=("battery/test_runs.py::test_many_images_take_little_memory",),
    ),
    Case(
        id="D42",
        what="A JPEG cut off, with a new end marker behind the cut",
        expected="4; more data in front of the marker would change the picture",
        tests=("test_limits.py::test_a_jpeg_cut_off_before_an_end_marker_is_refused",),
    ),
    Case(
        id="D43",
        what="Small files that cost much: DICOM that unpacks a thousandfold, JPEGs of many scans, "
        "TIFFs of many pages, much metadata",
        expected="4, with the limit, which can be set",
        tests=(
            "test_limits.py::test_a_limit_is_named_and_can_be_set",
            "test_limits.py::test_pages_take_time_in_proportion",
        ),
    ),
    Case(
        id="D44",
        what="Memory, handles or threads run short, or the disk fails, while images are read",
        expected="8, with the image; never taken for a bad image",
        tests=(
            "test_limits.py::test_a_shortage_is_never_a_bad_image",
            "test_limits.py::test_memory_that_is_short_in_a_decoder_is_no_bad_image",
            "test_limits.py::test_a_thread_that_cannot_start_is_a_shortage",
        ),
    ),
    Case(
        id="D45",
        what="Many large images at once",
        expected="threads and processes share one budget; a larger image is decoded alone",
        tests=(
            "test_limits.py::test_threads_share_one_budget",
            "test_limits.py::test_a_picture_larger_than_the_budget_is_read_alone",
            "test_first_look.py::test_what_needs_more_than_a_process_may_take_is_decoded_here",
        ),
    ),
    Case(
        id="D46",
        what="Global switches of Pillow and logging, set by other packages",
        expected="no effect, or 8 with the switch",
        tests=(
            "test_limits.py::test_an_image_filled_up_is_never_accepted",
            "test_limits.py::test_other_peoples_limit_and_openers_do_not_matter",
            "test_dicom.py::test_warnings_are_heard_whatever_logging_is_told",
        ),
    ),
    Case(
        id="D47",
        what="DICOM with a slope, intercept or window of nan, inf or 1e308",
        expected="4, with the tag",
        tests=("test_dicom.py::test_a_number_that_blackens_the_picture_is_refused",),
    ),
    Case(
        id="D48",
        what="Patients and classes spelled with full width, invisible or foreign characters",
        expected="one patient; classes that look alike are noted",
        tests=(
            "test_leakage.py::test_a_patient_is_one_whatever_the_characters",
            "test_splits.py::test_classes_that_look_alike_are_told",
        ),
    ),
    Case(
        id="D49",
        what="5,000 images, DICOM, .safetensors and .h5 files with random damage",
        expected="read, or refused in one line; within 10 s each and 1 GB in all",
        tests=("battery/test_fuzz.py::test_damaged_files_are_read_or_refused",),
    ),
    Case(
        id="D50",
        what="A process that reads ahead is killed, or there can be no more processes",
        expected="its images are read by the command itself; none outlives the command",
        tests=(
            "test_parallel.py::test_what_a_process_leaves_undone_is_done_here",
            "test_parallel.py::test_without_further_processes_all_is_done_here",
            "test_parallel.py::test_no_process_outlives_one_that_is_killed",
        ),
    ),
)
