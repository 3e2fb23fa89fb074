"""F: faults while a run goes on."""

from __future__ import annotations

from tests.battery.case import Case, changed

CASES = (
    Case(
        id="F01",
        what="A crash before or after every file operation, then resume",
        expected="the same bytes as an uninterrupted run",
        tests=(
            "properties/test_run_folder.py::test_a_crash_at_any_operation_on_the_disk_changes_no_byte",
        ),
    ),
    Case(
        id="F02",
        what="The same, with the last write torn",
        expected="the same bytes as an uninterrupted run",
        tests=(
            "properties/test_run_folder.py::test_a_crash_at_any_operation_on_the_disk_changes_no_byte",
        ),
    ),
    Case(
        id="F03",
        what="The same, losing data that were not synced",
        expected="the same bytes, from an earlier checkpoint if necessary",
        tests=(
            "properties/test_run_folder.py::test_a_crash_at_any_operation_on_the_disk_changes_no_byte",
        ),
    ),
    Case(
        id="F04",
        what="kill -9 at random moments, several times",
        expected="the same bytes as an uninterrupted run",
        tests=("test_kill.py::test_a_run_is_killed_at_random_moments",),
    ),
    Case(
        id="F05",
        what="A kill between writing weights and recording them",
        expected="not observable: a single rename",
        tests=(
            "properties/test_run_folder.py::test_a_crash_at_any_operation_on_the_disk_changes_no_byte",
        ),
    ),
    Case(
        id="F06",
        what="A kill while scoring or writing results",
        expected="each file is complete or absent",
        tests=(
            "properties/test_run_folder.py::test_a_crash_at_any_operation_on_the_disk_changes_no_byte",
        ),
    ),
    Case(
        id="F07",
        what="The newest checkpoint is damaged",
        expected="the one before is used, with a warning",
        tests=(
            "test_checkpoint.py::test_a_damaged_one_is_passed_over_and_named",
            "test_resume.py::test_a_damaged_checkpoint_is_passed_over_and_it_is_said",
        ),
    ),
    Case(
        id="F08",
        what="All checkpoints are damaged",
        expected="5; nothing is deleted",
        tests=(
            "test_checkpoint.py::test_if_all_are_damaged_it_is_an_error_and_nothing_is_removed",
        ),
    ),
    Case(
        id="F09",
        what="Temporary files from an earlier crash",
        expected="ignored",
        tests=(
            "test_checkpoint.py::test_what_an_older_crash_has_left_is_no_checkpoint",
            "properties/test_run_folder.py::test_a_crash_at_any_operation_on_the_disk_changes_no_byte",
        ),
    ),
    Case(
        id="F10",
        what="The disk is full at any write",
        expected="8; the last checkpoint is intact",
        tests=(
            "properties/test_run_folder.py::test_a_disk_that_fails_is_said_to_fail_and_changes_no_byte",
            "test_checkpoint.py::test_a_full_disk_leaves_the_one_before_and_says_what_was_needed",
            "test_tensors.py::test_a_full_disk_is_an_ordinary_error",
            "test_cache.py::test_a_full_disk_is_an_error_and_leaves_nothing",
        ),
    ),
    Case(
        id="F11",
        what="Quota, read-only disk, input/output error",
        expected="8",
        tests=(
            "properties/test_run_folder.py::test_a_disk_that_fails_is_said_to_fail_and_changes_no_byte",
        ),
    ),
    Case(
        id="F12",
        what="The run folder or its parent disappears",
        expected="8; it is not created again elsewhere",
        tests=("test_resume.py::test_a_run_folder_that_goes_away_is_not_made_again",),
    ),
    Case(
        id="F13",
        what="Ctrl-C once",
        expected="130, with the command that resumes",
        tests=(
            "test_resume.py::test_what_a_stopped_run_says",
            "test_signals.py::test_the_first_signal_is_a_wish_that_a_check_raises",
        ),
    ),
    Case(
        id="F14",
        what="Ctrl-C twice; Ctrl-C while a checkpoint is written",
        expected="quits immediately; the checkpoint is complete or absent",
        tests=("test_signals.py::test_a_second_signal_ends_the_process_at_once",),
    ),
    Case(
        id="F15",
        what="SIGTERM",
        expected="143, resumable",
        tests=("test_kill.py::test_a_run_is_terminated_then_killed_and_ends_with_the_same_bytes",),
    ),
    Case(
        id="F16",
        what="The terminal is closed; output goes to `head`",
        expected="the run continues, or ends with 129, resumable; no traceback",
        tests=(
            "test_kill.py::test_a_run_survives_the_end_of_whoever_reads_what_it_says",
            "test_kill.py::test_a_terminal_that_is_closed_leaves_a_run_that_can_go_on",
            "test_stdio.py::test_a_reader_that_has_enough_is_no_mistake",
            "test_stdio.py::test_a_message_that_nobody_reads_changes_no_exit_code",
        ),
    ),
    Case(
        id="F17",
        what="Out of memory",
        expected="8, and suggests a smaller batch",
        tests=("test_resume.py::test_too_little_memory_is_said_and_the_last_checkpoint_is_good",),
    ),
    Case(
        id="F18",
        what="Two runs into one folder at the same time",
        expected="one continues, the other ends with 7",
        tests=("test_folder.py::test_runs_that_start_together_get_folders_of_their_own",),
    ),
    Case(
        id="F19",
        what="The lock of a process that is gone",
        expected="the lock ends with its process",
        tests=("test_lock.py::test_a_killed_process_leaves_its_name_but_no_lock",),
    ),
    Case(
        id="F20",
        what="Predicting with a run that is still training",
        expected="7: it is not finished",
        tests=("test_classifier.py::test_a_folder_that_is_not_a_sound_run_is_refused",),
    ),
    Case(
        id="F21",
        what="`tlkit run` into the folder of a finished run",
        expected="7; nothing is overwritten",
        tests=(
            "test_run.py::test_a_folder_that_exists_is_refused_before_any_work",
            "test_folder.py::test_a_folder_that_exists_is_never_taken",
        ),
    ),
    Case(
        id="F22",
        what="Resuming a finished run",
        expected="0; no file is changed",
        tests=("test_resume.py::test_a_finished_run_is_left_alone_and_it_is_said",),
    ),
    Case(
        id="F23",
        what="Resuming with another experiment",
        expected="7, with the differences",
        tests=("test_resume.py::test_another_run_than_the_one_that_was_begun_is_refused",),
    ),
    Case(
        id="F24",
        what="Resuming with other versions or on another machine",
        expected="7, with the differences",
        tests=(
            "test_resume.py::test_another_environment_is_refused_unless_it_is_accepted_and_then_recorded",
        ),
    ),
    Case(
        id="F25",
        what="A loss that is nan or infinite",
        expected="9, with epoch and files; such an epoch never becomes the best",
        tests=(
            "test_run.py::test_a_loss_that_is_not_finite_names_epoch_and_files",
            "test_run.py::test_weights_that_explode_in_the_last_step_are_noticed_too",
        ),
    ),
    Case(
        id="F26",
        what="Choosing the best epoch by a figure that does not exist",
        expected="3, before anything starts",
        faults=(
            changed("monitor", 'fit.monitor="val_f1"', "fit.monitor: expected 'val_loss' or"),
            changed(
                "monitor",
                'schedule={name="plateau", monitor="val_f1", patience=1}',
                r"schedule\.monitor: expected",
            ),
        ),
    ),
    Case(
        id="F27",
        what="An error in a thread that reads images",
        expected="4, with the file",
        tests=(
            "test_parallel.py::test_the_first_error_in_order_ends_it",
            "test_images.py::test_the_reader_names_what_it_cannot_read",
        ),
    ),
    Case(
        id="F28",
        what="The clock is set back",
        expected="nothing is ordered by time: epochs and runs are numbered",
        tests=("test_folder.py::test_without_a_folder_the_first_free_number_is_taken",),
    ),
    Case(
        id="F29",
        what="Thirty calls of fit in one process",
        expected="memory does not grow",
        tests=("test_kill.py::test_thirty_runs_in_one_process_take_no_more_memory_than_ten",),
    ),
    Case(
        id="F30",
        what="No GPU",
        expected="runs on the CPU; the device is in environment.json",
        tests=("test_run.py::test_the_environment_says_what_may_differ_elsewhere",),
    ),
    Case(
        id="F31",
        what="The same run twice, in new processes, with other hash seeds, threads and folders",
        expected="the same bytes",
        tests=(
            "test_folder.py::test_fresh_processes_leave_the_same_bytes",
            "test_images.py::test_batches_keep_the_order_whatever_the_workers",
        ),
    ),
    Case(
        id="F32",
        what="Another umask; the temporary folder is on another disk",
        expected="files are written next to their target, with the user's permissions",
        tests=(
            "test_files.py::test_a_new_file_has_the_permissions_of_any_other_new_file",
            "test_files.py::test_until_the_body_ends_the_old_content_is_there",
        ),
    ),
    Case(
        id="F33",
        what="Resuming after early stopping",
        expected="no further epoch",
        tests=(
            "properties/test_run_folder.py::test_an_interruption_commits_the_last_finished_epoch",
        ),
    ),
    Case(
        id="F34",
        what="Resuming while a plateau schedule is counting",
        expected="the same learning rates as an uninterrupted run",
        tests=("test_resume.py::test_a_run_that_goes_on_ends_with_the_same_bytes",),
    ),
    Case(
        id="F35",
        what="A flipped bit in any file of a finished run, an unfinished one, a sweep or a cache",
        expected="noticed, or no effect on what is printed and written",
        tests=(
            "battery/test_flips.py::test_flips_in_finished_runs",
            "battery/test_flips.py::test_flips_in_unfinished_runs",
            "battery/test_flips.py::test_flips_in_sweeps",
            "battery/test_flips.py::test_flips_in_caches",
        ),
    ),
    Case(
        id="F36",
        what="A flipped bit in a checkpoint, also in the best weights",
        expected="costs this checkpoint, not the run",
        tests=("test_checkpoint.py::test_one_bad_bit_costs_one_checkpoint",),
    ),
    Case(
        id="F37",
        what="The run folder is renamed and another one takes its place",
        expected="8; nothing is written to it, and the run resumes under its new name",
        tests=(
            "test_resume.py::test_a_run_never_writes_into_the_folder_that_took_its_place",
            "test_lock.py::test_nothing_is_written_to_the_folder_that_takes_the_place_of_a_locked_one",
        ),
    ),
    Case(
        id="F38",
        what="The images change during a sweep, or one of its runs is copied, swapped or renamed",
        expected="7 for the runs that do not belong; they are not pooled",
        tests=(
            "test_sweeps.py::test_a_run_with_other_images_does_not_join_the_others",
            "test_sweeps.py::test_more_images_are_other_images",
            "test_sweeps.py::test_a_run_that_was_copied_or_swapped_is_noticed",
        ),
    ),
    Case(
        id="F39",
        what="A file of features or weights is cut off while it is used",
        expected="8, for weights 5, with its name; nothing is mapped, so SIGBUS cannot come",
        tests=(
            "test_rows.py::test_a_file_that_is_cut_while_it_is_used_is_an_error",
            "test_rows.py::test_a_weights_file_that_is_cut_while_it_is_used_is_an_error",
            "test_features.py::test_features_that_are_cut_off_while_they_are_used_are_an_error",
        ),
    ),
    Case(
        id="F40",
        what="Runs of three recipes, sweeps, those who joined them and their workers are killed",
        expected="gone on with until done: the same bytes",
        tests=(
            "battery/test_kills.py::test_runs_are_killed_at_random_moments",
            "battery/test_kills.py::test_sweeps_and_joins_are_killed_at_random_moments",
        ),
    ),
)
