"""R: parts and the packages they come from."""

from __future__ import annotations

from tests.battery.case import Case, Fault, changed

CASES = (
    Case(
        id="R01",
        what="A package that fails on import",
        expected="6 if it is used, with entry point and distribution; harmless otherwise",
        tests=("test_registry.py::test_a_broken_package_is_named_and_harmless_unless_used",),
    ),
    Case(
        id="R02",
        what="A package that prints, starts threads or sleeps on import",
        expected="not imported unless used",
        tests=(
            "test_registry.py::test_a_part_is_listed_and_described_without_importing_its_package",
        ),
    ),
    Case(
        id="R03",
        what="Two packages claim one name; a package claims a built-in name",
        expected="6, with both; of a built-in part, the built-in is used, with a note",
        tests=(
            "test_registry.py::test_two_distributions_that_claim_one_name_are_both_named",
            "test_registry.py::test_a_distribution_that_claims_a_built_in_name_never_replaces_it",
        ),
    ),
    Case(
        id="R04",
        what="A part name with a slash, dots or capitals, or an empty one",
        expected="6",
        tests=(
            "test_registry.py::test_a_name_of_other_characters_is_refused",
            "properties/test_registry.py::test_a_text_that_is_no_name_cannot_be_registered",
        ),
    ),
    Case(
        id="R05",
        what="A part of the wrong type or width",
        expected="6, or reported by `tlkit.testing.check_part`",
        tests=(
            "test_registry.py::test_an_object_of_the_wrong_kind_is_refused_with_its_distribution",
            "test_contracts.py::test_each_is_named",
        ),
    ),
    Case(
        id="R06",
        what="A part that changes global state",
        expected="reported by `tlkit.testing.check_part`",
        tests=(
            "test_contracts.py::test_a_part_that_changes_shared_state_is_named_and_the_state_put_back",
        ),
    ),
    Case(
        id="R07",
        what="A part's file that raises an error",
        expected="6, with the file and line",
        tests=("test_plugins.py::test_a_file_that_fails_is_named_with_the_line",),
    ),
    Case(
        id="R08",
        what="An augmentation that uses more randomness than its key, or changes the shape",
        expected="reported by `tlkit.testing.check_part`",
        tests=(
            "test_augmentations.py::test_draws_are_equal_if_and_only_if_keys_are",
            "test_contracts.py::test_every_kind_has_a_check",
        ),
    ),
    Case(
        id="R09",
        what="A metric that returns nan or raises an error",
        expected="metrics are tlkit's own; undefined ones are null",
        moot="metrics are not registered parts",
    ),
    Case(
        id="R10",
        what="An optional package is not installed",
        expected="6, with what to install; everything else works",
        tests=(
            "test_keras_cv_augmentations.py::test_used_without_kerascv_it_says_what_to_install",
            "test_weights_sources.py::test_a_package_that_is_not_installed_is_not_available",
        ),
    ),
    Case(
        id="R11",
        what="A package that needs a newer tlkit",
        expected="pip refuses to install it",
        moot="packages declare the tlkit version they need like any other dependency",
    ),
    Case(
        id="R12",
        what="An unknown name",
        expected="3 in a file, 6 on the command line, with the closest name",
        faults=(
            changed("in a file", 'backbone.name="vvg16"', "no backbone named 'vvg16'; did you"),
            Fault(
                "typed", ("layers", "vvg16"), 6, "no backbone named 'vvg16'; did you mean 'vgg16'"
            ),
        ),
    ),
    Case(
        id="R13",
        what="Parts registered in another order, or twice",
        expected="the same result",
        tests=(
            "properties/test_registry.py::test_the_order_of_registration_means_nothing",
            "properties/test_registry.py::test_registering_again_changes_nothing_and_another_class_is_refused",
        ),
    ),
    Case(
        id="R14",
        what="Parts that lie: no probabilities, other images, losses without a gradient, "
        "rates of their own",
        expected="6, with the part, before training where that can be seen",
        tests=(
            "test_calls.py::test_a_run_names_the_part_that_lies",
            "test_calls.py::test_probabilities_are_checked_where_they_are_used",
        ),
    ),
    Case(
        id="R15",
        what="A part that calls sys.exit or prints",
        expected="6, with file and line; what it prints goes to standard error",
        tests=(
            "test_calls.py::test_the_command_does_not_end_as_if_all_were_well",
            "test_calls.py::test_what_parts_print_does_not_mix_with_results",
        ),
    ),
    Case(
        id="R16",
        what="Global settings of Keras changed by a part, keras.json or the program",
        expected="8, with the setting",
        tests=("test_calls.py::test_changed_settings_of_keras_are_refused",),
    ),
    Case(
        id="R17",
        what="Preprocessing of an image that depends on the others in its batch",
        expected="6 with the backbone, before the run folder is made",
        tests=("test_calls.py::test_preprocessing_that_depends_on_the_batch_is_named",),
    ),
)
