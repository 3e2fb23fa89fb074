"""L: the command line."""

from __future__ import annotations

from tests.battery.case import Case, Fault

CASES = (
    Case(
        id="L01",
        what="No arguments, an unknown command or option, a missing value",
        expected="2, with a short usage message",
        faults=(
            Fault("unknown command", ("rnu",), 2, "No such command"),
            Fault("unknown option", ("check", "study.toml", "--seed"), 2, "No such option"),
            Fault("value missing", ("check", "study.toml", "--set"), 2, "requires an argument"),
            Fault("file missing", ("check",), 2, "Missing argument"),
        ),
    ),
    Case(
        id="L02",
        what="`--help` of every command",
        expected="0, without TensorFlow",
        tests=(
            "house/test_imports.py::test_light_commands_start_without_heavy_packages",
            "test_cli.py::test_every_command_has_help",
        ),
    ),
    Case(
        id="L03",
        what="`--version`",
        expected="0, with the versions of Keras and TensorFlow",
        faults=(Fault("version", ("--version",), 0, r"^tlkit \S+ \(keras \S+, tensorflow \S+\)$"),),
    ),
    Case(
        id="L04",
        what="Results on standard output, messages on standard error; `--json`",
        expected="output is data only, and empty after an error",
        tests=(
            "test_cli.py::test_run_prints_results_on_stdout_and_messages_on_stderr",
            "test_cli.py::test_run_prints_json_alone_on_stdout",
            "test_cli.py::test_a_mistake_gives_one_clear_message_and_its_exit_code",
        ),
    ),
    Case(
        id="L05",
        what="No terminal, NO_COLOR, TERM=dumb, 20 columns, a locale that is not UTF-8",
        expected="no escape codes, no encoding error",
        tests=("battery/test_names.py::test_any_terminal_is_written_to",),
    ),
    Case(
        id="L06",
        what="A path that begins with a dash or contains a line break",
        expected="after `--` it is a path; it is printed on one line",
        faults=(
            Fault("a dash", ("check", "--", "-study.toml"), 3, "^-study.toml: cannot be read"),
            Fault("a line break", ("check", "a\nb.toml"), 3, "."),
        ),
        tests=("battery/test_names.py::test_odd_names_go_through_a_run_and_come_back",),
    ),
    Case(
        id="L07",
        what="`predict` without files, or with a bad one among others",
        expected="2; the others are printed, the bad one is named, 4",
        faults=(Fault("no files", ("predict", "run"), 2, "Missing argument"),),
        tests=("test_cli.py::test_predict_keeps_the_order_and_names_what_it_rejects",),
    ),
    Case(
        id="L08",
        what="`predict` keeps the order",
        expected="the same for any batch size",
        tests=(
            "test_classifier.py::test_an_images_answer_does_not_depend_on_the_others",
            "test_classifier.py::test_more_than_one_batch_of_pixels_keeps_its_order",
        ),
    ),
    Case(
        id="L09",
        what="`evaluate` twice",
        expected="the same figures; no file is written",
        tests=("battery/test_names.py::test_evaluating_twice_changes_nothing",),
    ),
    Case(
        id="L10",
        what="A dry run: `tlkit check`",
        expected="nothing is written",
        tests=("test_cli.py::test_check_writes_nothing",),
    ),
    Case(
        id="L11",
        what="`--force`",
        expected="does not exist",
        moot="nothing is ever overwritten, so there is nothing to force",
    ),
    Case(
        id="L12",
        what="Every kind of error",
        expected="its documented exit code",
        tests=("battery/test_errors.py::test_every_error_ends_with_its_documented_code",),
    ),
    Case(
        id="L13",
        what="Paths that cannot be: too long, below a file, a link to itself, NUL",
        expected="the code of a missing file, or 8",
        tests=(
            "test_odd_systems.py::test_a_path_that_cannot_be_has_its_documented_code",
            "test_odd_systems.py::test_a_nul_in_a_list_rejects_that_image_and_no_other",
        ),
    ),
    Case(
        id="L14",
        what="No home folder; nothing can be written anywhere",
        expected="8, with the variables to set; Keras starts anyway",
        tests=(
            "test_odd_systems.py::test_without_a_home_the_way_out_is_told",
            "test_odd_systems.py::test_a_read_only_system_can_start_keras",
        ),
    ),
    Case(
        id="L15",
        what="A model larger than memory",
        expected="8, before it is built",
        tests=(
            "test_odd_systems.py::test_a_model_larger_than_memory_is_not_begun",
            "test_odd_systems.py::test_memory_that_ends_while_a_model_is_built_is_named",
        ),
    ),
    Case(
        id="L16",
        what="Two runs in two threads of one process",
        expected="the results that each gives alone",
        tests=(
            "test_odd_systems.py::test_models_built_in_threads_begin_as_those_built_alone",
            "test_odd_systems.py::test_two_runs_in_two_threads_give_what_each_gives_alone",
        ),
    ),
    Case(
        id="L17",
        what="A process forked after TensorFlow was started",
        expected="8, with the reason",
        tests=("test_odd_systems.py::test_a_forked_process_is_told_why_it_would_wait_forever",),
    ),
)
