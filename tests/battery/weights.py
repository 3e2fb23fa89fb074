"""W: weights and model files."""

from __future__ import annotations

from pathlib import Path

from tests.battery.case import Case, Fault

WITH = ("run", "study.toml", "--out", "run", "--set")
HOSTILE = "battery/test_hostile.py::test_a_hostile_file_is_refused_and_nothing_else_is_touched"


def other_classes(folder: Path) -> None:
    """Give labelled images a class that no run of `study.toml` knows."""
    (folder / "data" / "val" / "b").rename(folder / "data" / "val" / "c")


CASES = (
    Case(
        id="W01",
        what="The weights file is missing, is a folder or cannot be read",
        expected="5, with its path",
        faults=(
            Fault(
                "missing",
                (*WITH, 'backbone.weights="none.h5"'),
                5,
                "^backbone.weights: there is no file none.h5",
            ),
            Fault(
                "a folder",
                (*WITH, 'backbone.weights="data"'),
                5,
                r"^data/weights\.json: cannot be read: No such file",
            ),
        ),
        tests=(
            "battery/test_weights_files.py::test_a_file_that_cannot_be_read_is_named_with_the_reason",
        ),
    ),
    Case(
        id="W02",
        what="The hash differs from the published one",
        expected="5, with both; the file is not deleted",
        tests=(
            "test_weights_sources.py::test_a_file_with_a_wrong_hash_is_an_error_and_is_not_kept",
            "test_weights_sources.py::test_a_file_in_place_with_a_wrong_hash_is_left_for_its_owner",
        ),
    ),
    Case(
        id="W03",
        what="A Git LFS pointer or a web page instead of weights",
        expected="5, and says which",
        tests=("test_weights_files.py::test_a_pointer_or_a_web_page_is_called_what_it_is",),
    ),
    Case(
        id="W04",
        what="The file is cut off anywhere, or has a changed byte",
        expected="5 if cut off; a changed byte is detected if a hash is published",
        tests=(
            "test_weights_files.py::test_a_truncated_file_is_refused",
            "battery/test_weights_files.py::test_a_changed_byte_gives_arrays_or_a_weights_error",
            "test_weights_sources.py::test_a_file_with_a_wrong_hash_is_an_error_and_is_not_kept",
        ),
    ),
    Case(
        id="W05",
        what="Other names, shapes or order; a file that includes its classifier",
        expected="5, with the first that differ; nothing is loaded",
        tests=("test_weights_sources.py::test_what_does_not_fit_is_named_and_nothing_is_loaded",),
    ),
    Case(
        id="W06",
        what="A missing or extra layer; integers, half precision, big-endian numbers",
        expected="5 for missing, extra and integers; floats are converted to float32",
        tests=(
            "test_weights_sources.py::test_what_does_not_fit_is_named_and_nothing_is_loaded",
            "battery/test_weights_files.py::test_floats_of_any_kind_are_read_as_float32",
            HOSTILE,
        ),
    ),
    Case(
        id="W07",
        what="nan or inf in the weights",
        expected="5, with the array",
        tests=("test_weights_sources.py::test_what_does_not_fit_is_named_and_nothing_is_loaded",),
    ),
    Case(
        id="W08",
        what="A loader that only warns",
        expected="tlkit's own loader has no warnings; Keras's is not used",
        tests=("battery/test_source.py::test_keras_loads_nothing",),
    ),
    Case(
        id="W09",
        what="The model holds other values than the file",
        expected="every array goes to the variable of its name, bit for bit",
        tests=(
            "test_weights_sources.py::test_files_that_keras_3_writes_are_read_back",
            "test_folder.py::test_weights_come_back_to_the_bit_in_another_model",
        ),
    ),
    Case(
        id="W10",
        what="No network, nothing cached",
        expected="5 within seconds, and says where to put the file; no partial file is left",
        tests=(
            "test_weights_sources.py::test_a_server_that_never_answers_is_given_up_in_time",
            "test_weights_sources.py::test_a_refused_connection_is_not_available",
            "test_weights_sources.py::test_a_file_that_is_cut_off_is_not_kept",
        ),
    ),
    Case(
        id="W11",
        what="A run or weights from a newer version",
        expected="unknown keys or arrays: 3 or 5; the run's versions are in environment.json",
        tests=(
            "test_folder.py::test_weights_that_do_not_fit_are_refused_and_nothing_is_loaded",
            "test_run.py::test_the_environment_says_what_may_differ_elsewhere",
        ),
    ),
    Case(
        id="W12",
        what="Scoring a run on data with other classes",
        expected="4, with both lists",
        tests=("test_classifier.py::test_data_of_other_classes_are_refused_with_both_lists",),
    ),
    Case(
        id="W13",
        what="Exporting and reading back",
        expected="the run's probabilities, without tlkit; classes and preprocessing are included",
        tests=(
            "test_exporter.py::test_a_program_without_tlkit_gives_the_runs_probabilities",
            "test_exporter.py::test_the_facts_say_what_one_must_know",
        ),
    ),
    Case(
        id="W14",
        what="The export target exists",
        expected="7; nothing is overwritten",
        tests=("test_exporter.py::test_nothing_is_overwritten",),
    ),
)
