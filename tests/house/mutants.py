"""Mutants: the code broken in one place at a time, each with the test that must notice.

A property that no mutant breaks is decoration. `python tests/house/mutants.py [NAME...]` copies the
source, breaks the copy and runs the test against it; `test_mutants.py` does the same for all, in
`make test-all`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).parent.parent.parent


@frozen
class Mutant:
    """One break.

    Attributes:
        name: What is broken.
        file: Where, below `src/tlkit`.
        old: The code, which must be there exactly once.
        new: What takes its place.
        test: The test that must fail.
    """

    name: str
    file: str
    old: str
    new: str
    test: str


FOLDER = "tests/properties/test_run_folder.py"
CRASH = f"{FOLDER}::test_a_crash_at_an_operation_on_the_disk_changes_no_byte"
STOP = f"{FOLDER}::test_an_interruption_commits_the_last_finished_epoch"
RESUME = "tests/test_resume.py"
MUTANTS = (
    Mutant(
        "the order of joined networks is not part of the cache's key",
        "parts/backbones/joined.py",
        "[[name, *(asdict(row) for _, row in t)] for name, t in tables.items()]",
        "{name: [asdict(row) for _, row in t] for name, t in tables.items()}",
        "tests/test_joined.py::test_a_cached_table_is_of_the_members_in_this_order",
    ),
    Mutant(
        "a convolution by tiles forgets its bias",
        "train/winograd.py",
        "tf.nn.bias_add(tiling.output(sums), bias)",
        "tiling.output(sums)",
        "tests/test_winograd.py::test_it_is_the_direct_convolution_but_for_rounding",
    ),
    Mutant(
        "a kernel's gradient by tiles is that of the last portion",
        "train/winograd.py",
        "total = products if total is None else total + products",
        "total = products",
        "tests/test_winograd.py::"
        "test_its_gradients_are_those_of_the_direct_convolution_but_for_rounding",
    ),
    Mutant(
        "BatchNorm is folded without its mean",
        "train/lean.py",
        "(bias - norm.moving_mean) * scale",
        "bias * scale",
        "tests/test_lean.py::test_batch_norm_is_folded_into_the_convolution_before_it",
    ),
    Mutant(
        "frozen layers that compute in bfloat16 leave the model so",
        "train/lean.py",
        "            layer.dtype_policy = policy",
        "            pass",
        "tests/test_lean.py::test_in_bfloat16_the_features_are_those_of_rounded_numbers_and_the_model_stays",
    ),
    Mutant(
        "frozen layers that int8 does not know are let through",
        "train/refusals.py",
        "layer.kind not in INT8_KINDS",
        "False",
        "tests/test_plan.py::test_frozen_layers_that_int8_does_not_know_are_refused",
    ),
    Mutant(
        "int8 is planned where bfloat16 is known",
        "train/plan.py",
        '"int8": has_int8}',
        '"int8": has_bfloat16}',
        "tests/test_plan.py::test_cheaper_numbers_are_planned_where_the_processor_has_them_and_else_noted",
    ),
    Mutant(
        "features in bfloat16 have the name of others",
        "train/feature_key.py",
        '{"computed_in": frozen_dtype} if frozen_dtype != "float32" else {}',
        "{}",
        "tests/test_feature_key.py::test_what_features_depend_on_changes_their_name",
    ),
    Mutant(
        "a step's sums are read from the device",
        "train/stage.py",
        "time.monotonic() >= read_s + READ_EVERY_S",
        "True",
        "tests/test_step.py::test_an_epoch_reads_as_much_from_the_device_whatever_the_number_of_its_steps",
    ),
    Mutant(
        "a row that was not written counts as done",
        "cli/resumable.py",
        "        images, size, rejected, dark = self._written\n",
        "        images, size, rejected, dark = self.images, *self._written[1:]\n",
        "tests/test_cli_images.py::test_an_interrupted_predict_goes_on_where_it_stopped",
    ),
    Mutant(
        "near copies that differ in every group of bits are missed",
        "data/near.py",
        "max(near_bits + 1, LEAST_GROUPS)",
        "max(near_bits, LEAST_GROUPS)",
        "tests/test_near.py::test_few_of_many_pairs_are_compared",
    ),
    Mutant(
        "an evaluation that goes on forgets what it has seen",
        "classifier.py",
        "looks.seen.update(zip(paths, kept.looks, strict=False))",
        "pass",
        "tests/test_classifier.py::test_an_interrupted_evaluation_goes_on_where_it_stopped",
    ),
    Mutant(
        "nothing is convolved by tiles",
        "train/stage.py",
        "            plan.winograd,\n            plan.frozen_dtype,",
        "            False,\n            plan.frozen_dtype,",
        "tests/test_dead_settings.py::test_the_other_keys_of_fit_change_what_a_run_ends_with",
    ),
    Mutant(
        "a constant feature is divided by nothing",
        "parts/heads.py",
        "np.where(varies, deviation, 1)",
        "deviation",
        "tests/test_probe.py::TestStatistics::test_of_a_constant_feature_do_no_harm",
    ),
    Mutant(
        "a probe's strength is chosen with the images that it is scored on",
        "probes/crossval.py",
        "place = self._best_strength(features, train)",
        "place = self._best_strength(features, np.arange(len(self.labels)))",
        "tests/test_probes.py::TestFolds::"
        "test_predict_without_the_labels_and_features_of_their_own",
    ),
    Mutant(
        "equal operations of compose draw alike",
        "parts/compose.py",
        "folded = functools.partial(_folded, number=number)",
        "folded = functools.partial(_folded, number=0)",
        "tests/test_compose.py::test_equal_operations_draw_differently",
    ),
    Mutant(
        "the solver ignores weights",
        "train/solver.py",
        "p *= self.shares[:, None]",
        "p /= len(p)",
        "tests/test_solver.py::test_a_weight_is_as_many_copies",
    ),
    Mutant(
        "a sweep's run on other images is made beside the old ones",
        "sweeps/worker.py",
        "except OtherInputs:",
        "except MemoryError:",
        "tests/test_sweeps.py::test_a_run_that_was_stopped_does_not_go_on_with_other_images",
    ),
    Mutant(
        "bfloat16 layers are convolved by tiles, in float32",
        "train/winograd.py",
        ' or layer.compute_dtype != "float32"',
        "",
        "tests/test_winograd.py::test_which_layers_are_convolved_by_tiles",
    ),
    Mutant(
        "features by tiles and direct ones have one name",
        "train/feature_key.py",
        '        "winograd": winograd and 2,  # its second form, which rounds otherwise\n',
        "",
        "tests/test_feature_key.py::test_what_features_depend_on_changes_their_name",
    ),
    Mutant(
        "of large weights only the first portion is read",
        "weights/tensors.py",
        "for start in range(0, len(array), count):",
        "for start in (0,):",
        "tests/test_tensors.py::test_values_of_every_kind_come_back_whatever_is_read_at_a_time",
    ),
    Mutant(
        "a file gets its name before it is on the disk",
        "system/files.py",
        "        _sync(partial)\n        disk_operation(",
        "        disk_operation(",
        "tests/test_files.py::"
        "test_content_is_on_the_disk_before_it_gets_its_name_and_the_name_after",
    ),
    Mutant(
        "a file's new name is not synced",
        "system/files.py",
        "partial.replace(path))\n        _sync(path.parent)",
        "partial.replace(path))",
        "tests/test_files.py::"
        "test_content_is_on_the_disk_before_it_gets_its_name_and_the_name_after",
    ),
    Mutant(
        "a folder gets its name before it is on the disk",
        "system/files.py",
        "    _sync(partial)\n    disk_operation(",
        "    disk_operation(",
        "tests/test_files.py::"
        "test_a_folder_is_on_the_disk_before_it_gets_its_name_and_the_name_after",
    ),
    Mutant(
        "a folder's new name is not synced",
        "system/files.py",
        "_rename_folder(partial, path))\n    _sync(path.parent)",
        "_rename_folder(partial, path))",
        "tests/test_files.py::"
        "test_a_folder_is_on_the_disk_before_it_gets_its_name_and_the_name_after",
    ),
    Mutant(
        "files are written in place",
        "system/files.py",
        "    with atomic_write(path) as partial:\n"
        '        disk_operation("write", partial, lambda: writer(partial))',
        '    disk_operation("write", path, lambda: writer(path))',
        CRASH,
    ),
    Mutant(
        "safetensors may fail in its own way",
        "weights/tensors.py",
        "        except SafetensorError as error:",
        "        except ZeroDivisionError as error:",
        "tests/test_tensors.py::test_a_full_disk_is_an_ordinary_error",
    ),
    Mutant(
        "checkpoints are not checked",
        "train/checkpoint.py",
        'path.lstat().st_size == wanted["bytes"] and _described(path) == wanted',
        "True",
        "tests/test_checkpoint.py::test_a_damaged_one_is_passed_over_and_named",
    ),
    Mutant(
        "a checkpoint's manifest may leave files out",
        "train/checkpoint.py",
        "if missing := sorted({WEIGHTS, ON_VAL, STATE} - files.keys()):",
        "if missing := sorted(set() - files.keys()):",
        "tests/test_checkpoint.py::test_a_damaged_one_is_passed_over_and_named",
    ),
    Mutant(
        "the end of a stage is not committed",
        "train/checkpointer.py",
        "        if stage_over or self._is_due():",
        "        if self._is_due():",
        f"{FOLDER}::test_without_an_interruption_the_checkpoints_are_those_of_the_interval",
    ),
    Mutant(
        "what a crash has left stays",
        "runner/resume.py",
        "        folder.remove_partial()\n",
        "",
        CRASH,
    ),
    Mutant(
        "one checkpoint is kept",
        "train/checkpoint.py",
        "KEPT = 2",
        "KEPT = 1",
        "tests/test_checkpoint.py::test_the_last_two_are_kept_and_each_has_the_best",
    ),
    Mutant(
        "the best epoch's weights are those of the last checkpoint",
        "train/checkpoint.py",
        "        if state.best_weights is not None:\n",
        "        if state.best_weights is not None and not state.best:\n",
        "tests/test_checkpoint.py::"
        "test_a_best_epoch_that_no_checkpoint_was_written_after_is_written_with_the_next",
    ),
    Mutant(
        "the optimizer begins anew",
        "train/fit.py",
        "    if done:\n        checkpointer.resume_optimizer",
        "    if False:\n        checkpointer.resume_optimizer",
        CRASH,
    ),
    Mutant(
        "the averaged weights are not in the checkpoint",
        "train/step.py",
        "        return numbered if self.average is None else {**numbered, **self.average.state}\n",
        "        return numbered\n",
        "tests/test_phase.py::test_a_run_stopped_in_each_phase_goes_on_to_the_same_bytes",
    ),
    Mutant(
        "a phase goes on from the last weights though the best are to be kept",
        "train/fit.py",
        "    return opens and training.checkpointer.best is not history[-1]\n",
        "    return False\n",
        "tests/test_phase.py::"
        "test_a_phase_starts_from_the_best_weights_so_far_if_they_are_to_be_kept",
    ),
    Mutant(
        "the schedule and early stopping forget what was before",
        "train/checkpointer.py",
        "self.history = checkpoint.history\n",
        "self.history = checkpoint.history[-1:]\n",
        CRASH,
    ),
    Mutant(
        "the epoch held in memory is not committed",
        "train/fit.py",
        "        checkpointer.commit()\n        raise",
        "        raise",
        STOP,
    ),
    Mutant(
        "the unfinished epoch is committed",
        "train/checkpointer.py",
        "            self.checkpoints.commit(self._held)",
        '            object.__setattr__(self._held, "weights", snapshot(self.variables))\n'
        "            self.checkpoints.commit(self._held)",
        STOP,
    ),
    Mutant(
        "dropout goes on with the seeds it has",
        "train/stage.py",
        "        reseed(trained, self.run.plan.layers, self.experiment.seed, number)\n",
        "",
        f"{RESUME}::test_a_run_that_goes_on_ends_with_the_same_bytes",
    ),
    Mutant(
        "BatchNorm's statistics are not kept",
        "train/checkpointer.py",
        "        frozen = snapshot(",
        '        self.variables = {n: v for n, v in self.variables.items() if "moving" not in n}\n'
        "        frozen = snapshot(",
        f"{RESUME}::test_a_run_that_goes_on_ends_with_the_same_bytes",
    ),
    Mutant(
        "the order of the images depends on the process",
        "train/sampling.py",
        'seed_for(seed, "order", epoch)',
        'seed_for(seed, "order", epoch, __import__("time").monotonic_ns())',
        f"{RESUME}::test_a_run_that_goes_on_ends_with_the_same_bytes",
    ),
    Mutant(
        "other weights in frozen layers are not noticed",
        "train/checkpointer.py",
        "if checkpoint.frozen_sha256 != self.frozen_sha256:",
        "if False:",
        f"{RESUME}::test_other_weights_in_frozen_layers_are_refused",
    ),
    Mutant(
        "an edited experiment goes on",
        "runfolder/resume_state.py",
        "    if edits:",
        "    if False:",
        f"{RESUME}::test_another_run_than_the_one_that_was_begun_is_refused",
    ),
    Mutant(
        "other versions go on without a word",
        "runner/resume.py",
        "        if changes and not anyway:",
        "        if False:",
        f"{RESUME}::test_another_environment_is_refused_unless_it_is_accepted_and_then_recorded",
    ),
    Mutant(
        "another image goes on",
        "runner/resume.py",
        "    if was != now:",
        "    if False:",
        f"{RESUME}::test_another_run_than_the_one_that_was_begun_is_refused",
    ),
    Mutant(
        "a run goes on without its lock",
        "runner/resume.py",
        "    with locked(folder.path):",
        "    with suppress(ZeroDivisionError):",
        f"{RESUME}::test_a_folder_that_somebody_writes_to_is_refused",
    ),
    Mutant(
        "early stopping waits one epoch more",
        "train/callback.py",
        ">= patience",
        "> patience",
        "tests/test_callback.py::"
        "test_training_stalls_when_none_of_the_last_epochs_is_better_than_all_before",
    ),
    Mutant(
        "all images of an epoch are augmented alike",
        "train/feature_key.py",
        "    keys[:, 1] = np.arange(count)",
        "    keys[:, 1] = 0",
        "tests/test_feature_key.py::test_each_image_and_view_has_a_key_of_its_own",
    ),
    Mutant(
        "a short batch goes through the frozen layers as it is",
        "train/features.py",
        "    if len(rows) == count:",
        "    if True:",
        "tests/test_features.py::test_a_short_batch_is_padded_and_the_padding_dropped",
    ),
    Mutant(
        "features are taken as they lie",
        "system/cache.py",
        "if sha256 is not None and hashlib",
        "if False and hashlib",
        "tests/test_cache.py::test_a_damaged_entry_is_removed_and_can_be_written_again",
    ),
    Mutant(
        "what is missing of a file that was cut off is anything",
        "system/rows.py",
        "raise OSError(errno.EIO, CUT_OFF, str(self.path))",
        "return",
        "tests/test_rows.py::test_a_file_that_is_cut_while_it_is_used_is_an_error",
    ),
    Mutant(
        "a sweep reads whatever file its folder names",
        "sweeps/trials.py",
        "if self.given is not None and place not in self.given:",
        "if False:",
        "tests/battery/test_strange.py::test_a_sweeps_folder_has_no_other_file_read",
    ),
    Mutant(
        "whatever lies in an entry's place is taken for it",
        "system/cache.py",
        "                if self.get(key) is None:",
        "                if False:",
        "tests/test_cache.py::test_what_a_power_cut_has_left_of_an_entry_is_never_taken_for_it",
    ),
    Mutant(
        "the lock lets everybody in",
        "system/lock.py",
        "        return lock_descriptor(handle, blocking=False)",
        "        return True",
        "tests/test_lock.py::test_a_locked_folder_is_refused_with_who_holds_it",
    ),
    Mutant(
        "a second signal is a wish too",
        "system/signals.py",
        "        if self.number:\n",
        "        if False:\n",
        "tests/test_signals.py::test_a_second_signal_ends_the_process_at_once",
    ),
    Mutant(
        "threads share the seeds that Keras draws",
        "system/keras.py",
        "getattr(self.own or random, name)",
        "getattr(random, name)",
        "tests/test_odd_systems.py::test_models_built_in_threads_begin_as_those_built_alone",
    ),
    Mutant(
        "a JPEG with an end marker is whole",
        "data/decoding.py",
        "    if not markers.end:",
        "    if True:",
        "tests/test_limits.py::test_a_jpeg_cut_off_before_an_end_marker_is_refused",
    ),
    Mutant(
        "pixels may leave their range",
        "train/features.py",
        "        if not (low >= -ROUNDING and high <= 255 + ROUNDING):",
        "        if False:",
        "tests/test_calls.py::test_an_augmentation_that_returns_other_images_is_named",
    ),
    Mutant(
        "a message that nobody reads ends the run",
        "system/stdio.py",
        "sys.stderr = _tolerant(sys.stderr, io.TextIOWrapper)",
        "pass",
        "tests/test_stdio.py::test_a_message_that_nobody_reads_changes_no_exit_code",
    ),
    Mutant(
        "signal handlers stay",
        "system/signals.py",
        "            signal.signal(number, signal.SIG_DFL if handler is None else handler)",
        "            pass",
        "tests/test_signals.py::test_handlers_are_as_before_afterwards",
    ),
    Mutant(
        "a training loss that is not finite goes on",
        "train/stage.py",
        "                if bad is not None:",
        "                if False:",
        "tests/test_run.py::test_a_loss_that_is_not_finite_names_epoch_and_files",
    ),
    Mutant(
        "a patient may be in two splits",
        "data/leakage.py",
        "if len(patient.splits) > 1]",
        "if False]",
        "tests/test_leakage.py::test_patients_in_several_splits_are_listed_with_every_row",
    ),
    Mutant(
        "a picture may be in two splits",
        "data/checks.py",
        "if len(picture.splits) > 1]",
        "if False]",
        "tests/test_checks.py::TestLeakage::"
        "test_a_picture_in_two_splits_is_an_error_with_both_rows",
    ),
    Mutant(
        "images that are skipped are not recorded",
        "data/checks.py",
        "skipped=skipped, notes=notes",
        "notes=notes",
        "tests/test_checks.py::TestSkip::test_what_cannot_be_decoded_is_left_out_told_and_recorded",
    ),
    Mutant(
        "an image that changes meanwhile is read",
        "data/checks.py",
        "!= hashes[path]:",
        "!= hashes[path] and False:",
        "tests/test_checks.py::test_an_image_that_changes_afterwards_is_refused_when_it_is_read",
    ),
    Mutant(
        "pixel bombs are decoded",
        "data/decoding.py",
        '    if image.width * image.height > limit("TLKIT_MAX_PIXELS"):',
        "    if False:",
        "tests/test_decoding.py::test_too_many_declared_pixels_are_refused_before_decoding",
    ),
    Mutant(
        "16-bit grey is clipped",
        "data/decoding.py",
        "(values.astype(np.uint32) * 255 + white // 2) // white",
        "values.clip(0, 255)",
        "tests/test_decoding.py::test_16_bit_grey_is_scaled_and_not_clipped",
    ),
    Mutant(
        "white-is-zero stays as it is",
        "data/decoding.py",
        "            values = white - values.astype(np.int32)",
        "            pass",
        "tests/test_odd_images.py::test_any_gray_tiff_is_read_right",
    ),
    Mutant(
        "a clear color is compared in 8 bits",
        "data/decoding.py",
        "(values == key).all(-1, keepdims=True)",
        "(values >> 8 == np.array(key) >> 8).all(-1, keepdims=True)",
        "tests/test_odd_images.py::test_any_png_is_read_right",
    ),
    Mutant(
        "hidden images are not counted",
        "data/walk.py",
        "            yield LeftOut(str(path), HIDDEN)\n        elif",
        "            continue\n        elif",
        "tests/test_walk.py::test_each_file_is_read_or_counted_with_its_reason",
    ),
    Mutant(
        "NaN is a label",
        "data/splits.py",
        "        return bool(label != label)",
        "        return False",
        "tests/test_labels.py::test_a_missing_label_is_an_error",
    ),
    Mutant(
        "paths of a manifest may lead out of its folder",
        "data/manifest.py",
        'or ".." in PurePosixPath(path).parts',
        "",
        "tests/test_manifest.py::test_a_wrong_row_is_named_with_its_number_and_reason",
    ),
    Mutant(
        "links in folders of others are followed",
        "system/untrusted.py",
        "_FLAGS if follow else _FLAGS | _NO_FOLLOW",
        "_FLAGS",
        "tests/test_untrusted.py::test_a_link_put_in_a_files_place_after_the_look_is_not_followed",
    ),
    Mutant(
        "a seal is not looked at",
        "system/seal.py",
        "        same = hash_of_content(content) == known",
        "        same = True",
        "tests/test_untrusted.py::test_content_that_was_read_already_is_compared_with_the_seal",
    ),
    Mutant(
        "a run writes into the folder that took its folder's place",
        "system/files.py",
        "in path.absolute().parents and not is_same(folder):",
        "in path.absolute().parents and False:",
        "tests/test_lock.py::test_nothing_is_written_to_the_folder_that_takes_the_place_of_a_locked_one",
    ),
    Mutant(
        "both checkpoints have one copy of the best weights",
        "train/checkpoint.py",
        "copy_file(folder / BEST,",
        "link(folder / BEST,",
        "tests/test_checkpoint.py::test_one_bad_bit_costs_one_checkpoint",
    ),
    Mutant(
        "a sweep's folder says what code is run",
        "config/toml.py",
        "    if plugins is not None:",
        "    if False:",
        "tests/battery/test_strange.py::test_a_sweeps_folder_runs_no_code",
    ),
    Mutant(
        "where an open image lies is not looked at",
        "data/root.py",
        "            if not self.follow_links and not self._holds(_place(file)):",
        "            if False:",
        "tests/test_root.py::test_a_link_put_in_a_files_place_leads_nowhere",
    ),
    Mutant(
        "HDF5 may point outside its file",
        "weights/files.py",
        "        if item.external or item.is_virtual:",
        "        if False:",
        "tests/test_weights_files.py::test_a_dataset_stored_outside_is_refused",
    ),
    Mutant(
        "HDF5 may declare what it does not hold",
        "weights/files.py",
        "        if left < 0 or declared > ",
        "        if False and declared > ",
        "tests/test_weights_files.py::test_an_array_that_declares_far_more_than_it_holds_is_refused",
    ),
    Mutant(
        "escape codes reach the terminal",
        "system/text.py",
        "        char if char.isprintable() else char.encode",
        "        char if True else char.encode",
        "tests/test_text.py::test_what_a_terminal_would_obey_is_written_out",
    ),
    Mutant(
        "formulas reach CSV files",
        "system/text.py",
        "    return MARK + text if FORMULA.match(text)",
        "    return MARK + text if False and FORMULA.match(text)",
        "tests/test_text.py::test_no_cell_begins_a_formula",
    ),
    Mutant(
        "a loss that is not finite can be the best",
        "train/stage.py",
        "        if not np.isfinite(val.loss):",
        "        if False:",
        "tests/test_run.py::test_weights_that_explode_in_the_last_step_are_noticed_too",
    ),
    Mutant(
        "a model goes on with the step it was compiled with",
        "train/assemble.py",
        "    model.compiled = False\n",
        "",
        "tests/properties/test_frozen_weights.py::"
        "test_freezing_after_compile_demands_a_new_compile",
    ),
    Mutant(
        "multipliers that an optimizer part ignores stay ignored",
        "parts/optimizers.py",
        "(1.0,) * len(PROBES)):\n        return layerwise(built, multipliers)",
        "(1.0,) * len(PROBES)):\n        return built",
        "tests/test_optimizers.py::test_the_engine_scales_what_a_part_does_not",
    ),
    Mutant(
        "near-copies may be in two folds",
        "data/folds.py",
        "    for one, other, _ in near_pairs(bits):",
        "    for one, other, _ in ():",
        "tests/test_folds.py::test_copies_of_every_degree_stay_in_one_fold",
    ),
    Mutant(
        "pooled folds take images of one patient for independent ones",
        "sweeps/summary.py",
        "unit_numbers(len(answers), [answer.patient for answer in answers])",
        "unit_numbers(len(answers), [])",
        "tests/test_sweep_summary.py::test_pooled_folds_have_the_intervals_of_one_run_by_patient",
    ),
    Mutant(
        "one more variant survives each comparison of a search",
        "sweeps/halving.py",
        "if place >= keep:",
        "if place > keep:",
        "tests/test_search.py::test_what_is_decided_early_is_what_all_results_decide",
    ),
    Mutant(
        "precision is compared as if both variants named the same images",
        "sweeps/pairs.py",
        "ours = (hits - share * among) / size",
        "ours = hits / size",
        "tests/test_pairs.py::test_the_recall_of_a_class_is_tested_on_its_images_alone",
    ),
    Mutant(
        "augmented versions are filled for one seed",
        "sweeps/features.py",
        'fit |= {"seed": experiment.seed, ',
        "fit |= {",
        "tests/test_fill.py::test_augmented_images_are_those_of_a_seed_and_a_fold",
    ),
    Mutant(
        "a Ray of tlkit's own listens on all addresses",
        "sweeps/executors.py",
        'os.environ.setdefault(LOOPBACK, "0")',
        "pass",
        "tests/test_sweep_failures.py"
        "::test_ray_is_started_for_this_machine_alone_with_a_token_and_without_telemetry",
    ),
    Mutant(
        "an evaluation is silent on what was trained on",
        "classifier.py",
        "        yield from self.learned_from.caveats(shown)",
        "        yield from ()",
        "tests/test_learned_from.py::test_the_command_prints_it",
    ),
    Mutant(
        "an exported script forgets the threshold",
        "exporter/formats.py",
        "if rule else (None, 0.0)",
        "if False else (None, 0.0)",
        "tests/test_exporter.py::test_the_script_reads_and_decides_as_the_run_does",
    ),
    Mutant(
        "what a process leaves undone is lost",
        "system/parallel.py",
        "if message else self.work(item)",
        "if message else None",
        "tests/test_parallel.py::TestForked::test_what_a_process_leaves_undone_is_done_here",
    ),
    Mutant(
        "processes share the archive that others' parts read",
        "data/file_work.py",
        "    if own and cores > 1",
        "    if cores > 1",
        "tests/test_first_look.py::test_when_processes_are_used",
    ),
    Mutant(
        "validation images are not learned in the second fit",
        "train/refit.py",
        "evolve(run, learns_val=True)",
        "evolve(run, learns_val=False)",
        "tests/test_refit.py::test_it_is_what_so_many_epochs_on_both_splits_give",
    ),
    Mutant(
        "the second fit begins where the first ended",
        "train/refit.py",
        "    checkpointer.load_initial()\n",
        "",
        "tests/test_refit.py::test_phases_are_repeated_too",
    ),
    Mutant(
        "patients in file names may be in two splits that are drawn",
        "parts/datasets.py",
        "with_patients(read_folder(self.path, self.classes), self.patient)",
        "read_folder(self.path, self.classes)",
        "tests/test_datasets.py::TestPatientsInFileNames::"
        "test_stay_in_one_split_of_those_that_are_drawn",
    ),
    Mutant(
        "others' augmentations are called twice at a time",
        "train/features.py",
        " or has_gpu() or self.autograph",
        " or has_gpu()",
        "tests/test_features.py::TestPasses::test_some_pass_alone",
    ),
)


def caught(mutant: Mutant) -> bool:
    """Break a copy of the source and tell whether the test fails."""
    with tempfile.TemporaryDirectory() as top:
        source = Path(top) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        path = source / "tlkit" / mutant.file
        text = path.read_text(encoding="utf-8")
        if text.count(mutant.old) != 1:
            raise SystemExit(f"{mutant.name}: what it breaks is not there once, in {mutant.file}")
        path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, mutant.test],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in {0, 1}:  # not one that failed: it could not be run
            raise SystemExit(f"{mutant.name}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.returncode == 1


def main() -> None:
    """Try the mutants that are named, or all, and end with an error if one was not caught."""
    chosen = [mutant for mutant in MUTANTS if mutant.name in sys.argv[1:] or not sys.argv[1:]]
    survivors = 0
    for mutant in chosen:
        found = caught(mutant)
        survivors += not found
        print("caught  " if found else "SURVIVED", mutant.name, flush=True)
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
