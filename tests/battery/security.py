"""S: attacks."""

from __future__ import annotations

from tests.battery.case import Case, changed

REFUSED = "battery/test_hostile.py::test_a_hostile_file_is_refused_and_nothing_else_is_touched"
READ = "battery/test_hostile.py::test_arrays_beside_code_and_links_are_read_and_nothing_else"
LITTLE = "battery/test_hostile.py::test_all_of_them_take_little_memory_and_leave_nothing_behind"
MODELS = "5: only arrays are read; a `.keras` file is not opened"

CASES = (
    Case(id="S01", what="`.keras` with a Lambda's bytecode", expected=MODELS, tests=(REFUSED,)),
    Case(
        id="S02",
        what="`.keras` that names os.system or another module",
        expected=MODELS,
        tests=(REFUSED,),
    ),
    Case(
        id="S03",
        what="`.keras` that names get_file, load_model, enable_unsafe_deserialization",
        expected=MODELS,
        tests=(REFUSED,),
    ),
    Case(
        id="S04",
        what="`.keras` with TFSMLayer, TorchModuleWrapper, StringLookup with a path",
        expected=MODELS,
        tests=(REFUSED,),
    ),
    Case(
        id="S05",
        what="The same, deep inside a layer's settings",
        expected=MODELS,
        tests=(REFUSED,),
    ),
    Case(
        id="S06",
        what="An old `.h5` model with a Lambda",
        expected="its arrays are read, its configuration is not",
        tests=(READ,),
    ),
    Case(
        id="S07",
        what="HDF5 with external and soft links, external and virtual data, links inside groups",
        expected="links are not followed; arrays outside the file: 5",
        tests=(REFUSED, READ),
    ),
    Case(
        id="S08",
        what="Bombs: shapes and chunks in HDF5, zip, npz",
        expected="5, in little memory and time",
        tests=(REFUSED, LITTLE),
    ),
    Case(
        id="S09",
        what="Zip members that lead elsewhere",
        expected="5: no zip file is unpacked",
        tests=(REFUSED, LITTLE),
    ),
    Case(
        id="S10",
        what="Class and file names with `../`, NUL, device names",
        expected="never used as a file name; a class with NUL or `/` cannot be a folder",
        tests=("battery/test_names.py::test_class_names_become_no_file_names",),
    ),
    Case(
        id="S11",
        what="Pickles, joblib, .pt, arrays of objects",
        expected="5, not unpickled; the source code uses none of these",
        tests=(REFUSED, "battery/test_source.py::test_nothing_dangerous_is_used"),
    ),
    Case(
        id="S12",
        what="safetensors that lie: header, offsets, shapes, repeated names, trailing bytes",
        expected="5",
        tests=(REFUSED,),
    ),
    Case(
        id="S13",
        what="A file that is both a picture and a zip file",
        expected="read as what was asked for: a picture where pictures are read",
        tests=("battery/test_hostile.py::test_a_strange_picture_is_what_was_asked_for",),
    ),
    Case(
        id="S14",
        what="A manifest that reaches out; a file replaced by a link after the check",
        expected="4",
        tests=(
            "test_root.py::test_what_leads_out_is_refused_unless_links_are_followed",
            "test_root.py::test_a_link_put_in_a_files_place_leads_nowhere",
            "test_root.py::test_a_link_that_is_there_for_a_moment_leads_nowhere",
        ),
    ),
    Case(
        id="S15",
        what="HTML in names of classes, files and sources, in reports",
        expected="shown as text; the page may load and run nothing",
        tests=(
            "test_report.py::test_names_from_strangers_appear_harmless",
            "test_report.py::test_its_policy_allows_only_its_own_style",
            "test_report.py::test_nothing_is_fetched_and_nothing_runs",
            "test_card.py::test_names_from_strangers_are_text_and_nothing_else",
            "test_svg.py::test_any_text_is_well_formed_and_nothing_but_text",
        ),
    ),
    Case(
        id="S16",
        what="Formulas in CSV files",
        expected="prefixed with an apostrophe, by a stated rule that reading reverses",
        tests=(
            "test_text.py::test_no_cell_begins_a_formula",
            "test_text.py::test_a_row_survives_the_file",
            "battery/test_names.py::test_odd_names_go_through_a_run_and_come_back",
        ),
    ),
    Case(
        id="S17",
        what="Escape codes and line breaks in names",
        expected="shown as escapes on the terminal",
        tests=(
            "test_text.py::test_a_printable_text_is_one_line_that_can_be_encoded",
            "battery/test_names.py::test_odd_names_go_through_a_run_and_come_back",
        ),
    ),
    Case(
        id="S18",
        what="Image bombs of every format; texts in PNG, frames in GIF, cycles in TIFF",
        expected="4, in little memory and time",
        tests=(REFUSED, LITTLE),
    ),
    Case(
        id="S19",
        what="DICOM: a DICOMDIR that leads out; damaged and hostile bytes",
        expected="4; no other file is opened",
        tests=(
            "test_dicom.py::test_a_dicomdir_is_refused_and_its_paths_are_not_followed",
            "test_dicom.py::test_a_damaged_file_gives_a_picture_or_an_image_error",
        ),
    ),
    Case(
        id="S20",
        what="A package that fails on import must not disable a check",
        expected="no check comes from a package",
        moot="every check is in tlkit's own code; none is registered or can be replaced",
    ),
    Case(
        id="S21",
        what="An experiment that asks for `safe_mode = false` or `trust = true`",
        expected="3: there are no such keys",
        faults=(
            changed("safe_mode", "backbone.safe_mode=false", r"backbone\.safe_mode: unknown key"),
            changed("trust", "trust=true", "trust: unknown key"),
        ),
    ),
    Case(
        id="S22",
        what="A run folder from a stranger",
        expected="none of its code is executed; weights are arrays; hostile files: 5 or 7",
        tests=(
            "test_plugins.py::test_a_folder_with_code_in_it_runs_none",
            "test_plugins.py::test_a_record_that_tlkit_did_not_write_is_refused",
            "battery/test_runs.py::test_hostile_weights_in_a_run_folder_are_refused",
        ),
    ),
    Case(
        id="S23",
        what="Temporary files that others can guess or read",
        expected="random names, created exclusively, for the user only",
        tests=("battery/test_source.py::test_a_file_that_is_being_written_is_the_users_alone",),
    ),
    Case(
        id="S24",
        what="Home folder, user name or environment in shared files",
        expected="in no file of a run folder",
        tests=("battery/test_names.py::test_a_run_folder_does_not_tell_whose_it_is",),
    ),
    Case(
        id="S25",
        what="Keras below the minimum version, legacy tf_keras",
        expected="8, with the way out",
        tests=(
            "test_keras.py::test_a_keras_below_the_floor_is_refused",
            "test_keras.py::test_legacy_keras_is_refused",
        ),
    ),
    Case(
        id="S26",
        what="A canary in every attack: marker file, planted secret, watched events",
        expected="no marker, no secret, no event",
        tests=(REFUSED, READ, LITTLE),
    ),
    Case(
        id="S27",
        what="A sweep's folder from a stranger, whose experiment or overrides list code",
        expected="6: only plugin files that the command line names are imported",
        tests=(
            "battery/test_strange.py::test_a_sweeps_folder_runs_no_code",
            "battery/test_strange.py::test_a_sweeps_overrides_run_no_code",
        ),
    ),
    Case(
        id="S28",
        what="A file of a run replaced by a link, pipe, device, folder or a terabyte",
        expected="5 or 7, with its name; nothing outside is read, shown or written",
        tests=(
            "battery/test_strange.py::test_a_strange_file_is_refused_by_its_name",
            "battery/test_strange.py::test_every_file_is_refused_by_every_command_whatever_was_done_to_it",
            "battery/test_strange.py::test_a_link_named_like_an_experiment_is_not_shown",
        ),
    ),
    Case(
        id="S29",
        what="JSON with NaN, repeated names, deep nesting, a million arrays, endless numbers",
        expected="7, with the file",
        tests=("test_untrusted.py::test_other_json_is_refused",),
    ),
    Case(
        id="S30",
        what="A lock or the checkpoints' folder that is a link, a folder, a file or a pipe",
        expected="7; nothing is written where it leads",
        tests=(
            "test_lock.py::test_a_lock_that_is_no_file_is_refused_and_nothing_is_written",
            "test_checkpoint.py::test_nothing_is_written_where_checkpoints_lead_elsewhere",
        ),
    ),
    Case(
        id="S31",
        what="A thousand folders with random changes",
        expected="3, 5 or 7, or no effect; no traceback, no hang, little memory",
        tests=("battery/test_strange.py::test_a_thousand_strange_folders",),
    ),
    Case(
        id="S32",
        what="A sweep's folder that names an experiment file elsewhere",
        expected="3 or 7, unread: a sweep holds its experiments; an older one is told FILE",
        tests=(
            "battery/test_strange.py::test_a_sweeps_folder_has_no_other_file_read",
            "test_sweeps.py::test_a_file_outside_is_read_only_if_it_is_named",
        ),
    ),
    Case(
        id="S33",
        what="Files as in S28 and S29, for every other verb, and in caches",
        expected="3 to 8, with its name and without output; a cache's entry is made again",
        tests=(
            "battery/test_verbs.py::test_every_file_a_verb_reads_is_refused_whatever_was_done_to_it",
            "battery/test_verbs.py::test_a_strange_cache_is_made_again",
            "battery/test_verbs.py::test_a_strange_experiment_is_refused",
            "battery/test_verbs.py::test_strange_images_are_refused_or_left_out",
        ),
    ),
)
