"""The trials of a sweep: what will be run, and every mistake found before anything is."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes import small

import tlkit
from tlkit.sweeps.trials import brief, fingerprint, plan_trials

QUICK = f"""
{small(train=12, val=6)}
[fit]
epochs = 1
batch_size = 4
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "quick.toml"
    path.write_text(QUICK)
    return path


def swept(file: Path, table: str) -> Path:
    file.write_text(f"{table}\n{QUICK}")
    return file


def test_a_plain_experiment_is_a_sweep_of_one(file: Path) -> None:
    (trial,) = plan_trials(file).trials
    assert (trial.name, trial.label, trial.overrides) == ("001-quick", "quick, seed 0", ())
    assert trial.experiment == tlkit.load_experiment(file)


def test_every_combination_is_run_with_every_seed_seeds_outermost(file: Path) -> None:
    table = '[sweep]\nseeds = "0-1"\n[sweep.set]\noptimizer.learning_rate = [1e-3, 2e-5]\n'
    found = plan_trials(swept(file, table + '"fit.epochs" = [2]'))
    assert [t.overrides for t in found.trials] == [
        (f"optimizer.learning_rate={rate}", "fit.epochs=2", f"seed={seed}")
        for seed in (0, 1)
        for rate in (0.001, 2e-05)
    ]
    assert found.swept == ("optimizer.learning_rate",)
    assert [variant.label for variant in found.variants] == [
        "quick, learning_rate 0.001",
        "quick, learning_rate 2e-05",
    ]
    for trial in found.trials:
        again = tlkit.load_experiment(file, trial.overrides)
        assert fingerprint(again) == trial.sha256
    assert len({trial.sha256 for trial in found.trials}) == 4


def test_a_key_of_a_phase_is_swept(file: Path) -> None:
    table = '[sweep.set]\n"phase[1].epochs" = [2, 3]\n'
    file.write_text(f"{table}{QUICK}[[phase]]\n[[phase]]\n", encoding="utf-8")
    found = plan_trials(file)
    assert [t.experiment.phase[1].epochs for t in found.trials] == [2, 3]
    assert [plan.epochs for plan in (tlkit.check(t.experiment) for t in found.trials)] == [3, 4]
    (one,) = plan_trials(file, ["phase[1].epochs=5"]).trials
    assert one.experiment.phase[1].epochs == 5


def test_the_command_line_goes_before_the_file(file: Path) -> None:
    path = swept(file, "[sweep]\nseeds = [5]\n[sweep.set]\nfit.epochs = [1, 2]\n")
    found = plan_trials(path, ["fit.epochs=3", "head={name='linear'}"], "7,9")
    assert [(t.seed, t.experiment.fit.epochs) for t in found.trials] == [(7, 3), (9, 3)]
    assert found.swept == ()
    assert plan_trials(path).trials[0].seed == 5


def test_folds_are_all_run_unless_one_is_named(file: Path) -> None:
    assert [t.fold for t in plan_trials(file, ["data.folds=3"]).trials] == [1, 2, 3]
    assert [t.fold for t in plan_trials(file, ["data.folds=3", "data.fold=2"]).trials] == [None]
    assert [t.experiment.data.fold for t in plan_trials(file, ["data.folds=[2, 3]"]).trials] == [
        1, 2, 1, 2, 3,
    ]  # fmt: skip


def test_a_list_of_files_is_run_file_by_file(file: Path, tmp_path: Path) -> None:
    (tmp_path / "b c.toml").write_text(QUICK)
    study = tmp_path / "study.toml"
    study.write_text('[sweep]\nfiles = ["quick.toml", "b c.toml"]\nseeds = "0-1"\n')
    found = plan_trials(study, ["fit.epochs=2"])
    assert [t.name for t in found.trials] == ["001-quick", "002-b_c", "003-quick", "004-b_c"]
    assert {t.experiment.fit.epochs for t in found.trials} == {2}
    with pytest.raises(tlkit.ConfigError, match=r"run them with tlkit sweep \S+$"):
        tlkit.load_experiment(study)


def test_one_run_of_a_sweep_s_file_is_the_rest_of_it(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = tlkit.load_experiment(file)
    with caplog.at_level("INFO"):
        assert tlkit.load_experiment(swept(file, "[sweep]\nseeds = [1]")) == plain
    assert "this is one run; [sweep] is for tlkit sweep" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        plan_trials(file)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("sweep = 1", r"sweep: expected a table, got 1"),
        ("[sweep]\nsede = 1", r"sweep\.sede: unknown key; did you mean 'seeds'\?"),
        ("[sweep]\nset = 1", r"sweep\.set: expected a table, got 1"),
        ("[sweep]\nseeds = '4-1'", r"sweep\.seeds: seeds rise"),
        ("[sweep.set]\nfit.epochs = []", r"sweep\.set\.fit\.epochs: has no value"),
        ("[sweep.set]\nfit.epoch = [1, 2]", r"fit\.epoch: unknown key; did you mean 'epochs'"),
        ("[sweep]\nfiles = ['none.toml']", r"data: has no effect with sweep\.files"),
        (
            "[sweep.set]\nfreeze = {name = 'layer_range', train = '30-'}",
            r"freeze\.train: layers 30-",
        ),
        (
            "[sweep.set]\nseed = [1, 2]\n[sweep]\nseeds = [1]",
            r"seed: is set twice, here and by the sweep's seeds",
        ),
    ],
)
def test_a_mistake_is_found_before_anything_is_run(file: Path, table: str, message: str) -> None:
    with pytest.raises(tlkit.ConfigError, match=message):
        plan_trials(swept(file, table))


def test_all_mistakes_are_shown_each_once(file: Path) -> None:
    with pytest.raises(tlkit.ConfigError) as caught:
        plan_trials(file, ["optimizer.learning_rate=[1, -1, -2]", "fit.x=[1, 2]"], "0-3")
    unknown, *others = str(caught.value).splitlines()
    assert unknown.startswith(f"{file}: fit.x: unknown key; known: batch_size, ")
    assert others == [
        f"{file}: optimizer.learning_rate: must be above 0, got -1.0",
        f"{file}: optimizer.learning_rate: must be above 0, got -2.0",
    ]


def test_a_sweep_without_end_is_refused(file: Path) -> None:
    with pytest.raises(tlkit.ConfigError, match=r"sweep: has 20000 runs; the maximum is 10000"):
        plan_trials(file, ["fit.epochs=[1,2]"], "0-9999")


def test_data_that_are_missing_are_found_and_notes_are_said_once(file: Path) -> None:
    missing = ['data={name="folder", path="none"}', "fit.epochs=[1,2]"]
    with pytest.raises(tlkit.DataError, match="the data's folder is not there"):
        plan_trials(file, missing)
    drawn = ['data={name="folder", path="none", stand_in="shapes"}', "fit.epochs=[1,2]"]
    assert len(plan_trials(file, drawn, "0-2").notes) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"name": "none"}, "none"),
        ({"name": "pooled", "units": [32]}, "pooled (units 32)"),
        ({"a": 1}, "{'a': 1}"),
        ([1, "b"], "1 b"),
        ([], "none"),
        (True, "true"),
    ],
)
def test_a_value_is_brief_in_a_label(value: object, text: str) -> None:
    assert brief(value) == text


def test_weights_that_are_not_there_are_found_before_the_first_run(file: Path) -> None:
    with pytest.raises(tlkit.WeightsError, match=r"^backbone\.weights: there is no file .*no\.h5$"):
        plan_trials(file, ["backbone.weights=['none','no.h5']"])
