"""`[[phase]]`: parts of one training, each with settings of its own."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras  # noqa: F401  # so that `make quick` skips the file here, not inside tests.test_fit
import pytest
from attrs import evolve, frozen
from tests.fakes import contents, small, unseal
from tests.test_fit import FROM_SECOND, SCORES, Listener, Trained

import tlkit
from tlkit.config.experiment import Phase
from tlkit.config.structure import structure, unstructure
from tlkit.config.toml import load_experiment
from tlkit.parts.augmentations import Affine
from tlkit.parts.freezes import TrainNames
from tlkit.parts.kinds import Stage
from tlkit.parts.optimizers import SGD, Adam
from tlkit.parts.schedules import Cosine
from tlkit.reports.console import plan_text
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.inputs import PlanRecord

pytestmark = pytest.mark.usefixtures("slim_vgg", "no_pages")

PHASES = """
[fit]
batch_size = 4
xla = false

[[phase]]
epochs = 2

[[phase]]
epochs = 1
freeze = {name = "layer_names", train = ["block5_conv3", "head"]}
optimizer = {name = "sgd", learning_rate = 0.1}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(small() + PHASES, encoding="utf-8")
    return path


def test_a_phase_takes_what_it_leaves_out_from_the_file_s_tables(file: Path) -> None:
    experiment = load_experiment(file, ["optimizer.learning_rate=0.5", "fit.keep='best'"])
    first, second = experiment.phases
    assert first == evolve(experiment, phase=(), fit=evolve(experiment.fit, epochs=2))
    assert first.optimizer == Adam(learning_rate=0.5)
    assert second.freeze == TrainNames(train=("block5_conv3", "head"))
    assert (second.optimizer, second.fit.epochs) == (SGD(learning_rate=0.1), 1)
    assert second.fit.keep == first.fit.keep == "best"
    assert second.phases == (second,)
    table = unstructure(experiment, base=file.parent)
    assert structure(tlkit.Experiment, table, base=file.parent) == experiment


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("freeze", TrainNames(train=("block5",))),
        ("epochs", 3),
        ("optimizer", SGD()),
        ("schedule", Cosine()),
        ("augmentation", Affine()),
        ("early_stop_patience", 3),
        ("ema", 0.9),
    ],
)
def test_a_setting_that_every_phase_replaces_is_refused(key: str, value: Any, file: Path) -> None:
    plain = evolve(load_experiment(file), phase=())
    in_fit = key in {"epochs", "early_stop_patience", "ema"}
    changed: Any = {key: value}
    given = evolve(plain, **({"fit": evolve(plain.fit, **changed)} if in_fit else changed))
    every, some = (Phase(**changed),) * 2, (Phase(**changed), Phase())
    path = f"fit.{key}" if in_fit else key
    with pytest.raises(tlkit.ConfigError, match=rf"{path}: has no effect, because every phase has"):
        tlkit.check(evolve(given, phase=every))
    for allowed in (evolve(given, phase=some), evolve(plain, phase=every)):
        assert tlkit.check(allowed).phases == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["phase[1].optimizer={learning_rate=1}"],
            r"phase\[1\]\.optimizer\.name: missing; known: ",
        ),
        (["phase[1].freeze.train=['block9']"], r"phase\[1\]\.freeze\.train: .*block9"),
        (["freeze={name='layer_range', train='1-99'}"], r"toml: freeze\.train: layers 1-99"),
        (["phase[0].epochs=0"], r"phase\[0\]\.epochs: must be at least 1, got 0"),
        (["phase[2].epochs=1"], r"--set phase\[2\]\.epochs=1: there is no phase\[2\]"),
        (["fit[0].epochs=1"], r"--set fit\[0\]\.epochs=1: 'fit' is not a list of tables"),
        (["phase.epochs=1"], r"--set phase\.epochs=1: 'phase' is not a table"),
        (["phase[1].loss={name='focal'}"], r"phase\[1\]\.loss: unknown key"),
    ],
)
def test_a_wrong_phase_is_refused_where_it_is_wrong(
    overrides: list[str], message: str, file: Path
) -> None:
    with pytest.raises(tlkit.ConfigError, match=message):
        tlkit.check(file, overrides)


def test_a_key_of_a_phase_is_set_by_its_place_from_0(file: Path) -> None:
    experiment = load_experiment(file, ["phase[1].epochs=7", "phase[0].schedule.name='cosine'"])
    assert [phase.epochs for phase in experiment.phase] == [2, 7]
    assert experiment.phases[0].schedule == Cosine()
    table = {"data": {"name": "shapes"}, "phase": ({"epochs": 1}, {"epochs": 2})}
    assert load_experiment(table, ["phase[0].epochs=5"]).phase[0].epochs == 5
    assert table["phase"] == ({"epochs": 1}, {"epochs": 2})


def test_the_plan_numbers_the_phases_if_there_are_any(file: Path) -> None:
    plan = tlkit.check(file)
    assert [(s.phase, s.first_epoch, s.stage.epochs) for s in plan.stages] == [(1, 1, 2), (2, 3, 1)]
    assert (plan.epochs, plan.phases) == (3, 2)
    assert "stage 2 of 2 (phase 2), 1 epoch of 2 steps" in plan_text(plan)
    record = PlanRecord.from_json(json.loads(json.dumps(plan.as_json())))
    assert [stage.phase for stage in record.stages] == [1, 2]
    for without in (["phase=[]"], ["phase=[{epochs=2}]"]):
        table = tlkit.check(file, without).as_json()
        assert not [stage for stage in table["stages"] if "phase" in stage]
        assert PlanRecord.from_json(table).as_json().keys() == table.keys()


def test_phases_end_like_the_policy_with_the_same_stages(file: Path, tmp_path: Path) -> None:
    """`head_then` is two phases with one optimizer each; so are the bytes."""
    common = ["augmentation={name='affine', views=2}", "head.dropout=0.5", "phase=[]"]
    policy = "freeze={name='head_then', head_epochs=2, train=['block5_conv3'], rate=1.0}"
    one = tlkit.run(file, tmp_path / "one", overrides=[*common, "fit.epochs=3", policy])
    second = "{epochs=1, freeze={name='layer_names', train=['block5_conv3', 'head']}}"
    phases = [*common[:2], f"phase=[{{epochs=2}}, {second}]"]
    two = tlkit.run(file, tmp_path / "two", overrides=phases)
    results = ("history.csv", "metrics.json", "predictions.csv", "weights.safetensors")
    assert contents(one.folder, results) == contents(two.folder, results)


CHANGED: dict[str, str] = {
    "freeze": "{name='layer_names', train=['head']}",
    "epochs": "2",
    "optimizer": "{name='sgd', learning_rate=0.2}",
    "schedule": "{name='cosine', warmup_epochs=1}",
    "augmentation": "{name='affine'}",
    "ema": "0.5",
}


@pytest.mark.slow
def test_every_key_of_a_phase_changes_what_training_ends_with(file: Path, tmp_path: Path) -> None:
    assert {*CHANGED, "early_stop_patience"} == {key.name for key in Phase.__attrs_attrs__}
    unchanged = "phase[1].epochs=3", "phase[1].optimizer.learning_rate=5.0"
    ended = []
    for number, change in enumerate([None, *CHANGED]):
        overrides = list(unchanged)
        if change is not None:
            overrides = [text for text in unchanged if not text.startswith(f"phase[1].{change}")]
            overrides.append(f"phase[1].{change}={CHANGED[change]}")
        folder = tlkit.run(file, tmp_path / str(number), overrides=overrides).folder
        ended.append((folder / "weights.safetensors").read_bytes())
    assert len(set(ended)) == len(ended)


class KillIn(tlkit.Callback):
    """Asks the process to stop in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.now = epoch, 0

    def on_epoch_begin(self, epoch: int, epochs: int, images: int) -> None:
        self.now = epoch

    def on_batch_end(self, images: int, loss: float, accuracy: float, rate: float) -> None:
        if self.now == self.epoch and images == 4:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_run_stopped_in_each_phase_goes_on_to_the_same_bytes(
    keep: str, file: Path, tmp_path: Path
) -> None:
    overrides = [
        f"fit.keep='{keep}'", "optimizer.learning_rate=0.1", "phase[1].epochs=2", "fit.ema=0.8",
        "phase[1].optimizer.clip_norm=0.5", "phase[1].schedule.name='one_cycle'",
    ]  # fmt: skip
    done = tlkit.run(file, tmp_path / "straight", overrides=overrides)
    folder = tmp_path / "run"
    with pytest.raises(tlkit.Interrupted, match="after epoch 1 of 4"):
        tlkit.run(file, folder, overrides=overrides, callback=KillIn(2))
    for epoch in (3, 4):
        with pytest.raises(tlkit.Interrupted, match=f"after epoch {epoch - 1} of 4"):
            tlkit.resume(folder, callback=KillIn(epoch))
    tlkit.resume(folder)
    assert contents(folder) == contents(done.folder)


@frozen(kw_only=True)
class Times(tlkit.Schedule):
    """The base rate times one factor an epoch."""

    factors: tuple[float, ...]

    def learning_rate(
        self, base: float, epochs: int, history: Sequence[Mapping[str, float]]
    ) -> float:
        return base * self.factors[len(history)]


STILL = SGD(learning_rate=1e-30)  # a step that changes nothing


@pytest.mark.parametrize(("keep", "start"), [("best", 1), ("last", 2)])
def test_a_phase_starts_from_the_best_weights_so_far_if_they_are_to_be_kept(
    keep: Any, start: int
) -> None:
    listener = Listener()
    first, second = Stage(3, SCORES), Stage(1, FROM_SECOND)
    found = Trained(
        first, second, schedule=Times(factors=(1.0, 1.0, 900.0)), keep=keep, callback=listener,
        optimizers=(Adam(learning_rate=0.01), STILL),
    ).fitted  # fmt: skip
    assert found.best.epoch == 2
    assert found.history[3].val_loss == found.history[start].val_loss
    note = "phase 2 starts from epoch 2, the best so far"
    assert listener.notes == ([note] if keep == "best" else [])


def test_each_phase_stops_early_by_itself(file: Path, tmp_path: Path) -> None:
    overrides = ["optimizer={name='sgd', learning_rate=1e-30}", "phase[0].epochs=4",
                 "phase[0].early_stop_patience=1", "phase[1].epochs=3"]  # fmt: skip
    history = tlkit.run(file, tmp_path / "run", overrides=overrides).history
    assert [epoch.epoch for epoch in history] == [1, 2, 5, 6, 7]


def test_a_run_with_phases_is_loaded_without_their_parts(file: Path, tmp_path: Path) -> None:
    folder = tlkit.run(file, tmp_path / "run").folder
    path = folder / "experiment.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    assert table["phase"][1]["optimizer"]["name"] == "sgd"
    table["phase"][1]["optimizer"]["name"] = "of_a_package_that_is_gone"
    unseal(folder)
    path.write_text(json.dumps(table), encoding="utf-8")
    loaded = tlkit.load(RunFolder(folder).path).experiment
    with pytest.raises(tlkit.PartError, match=r"optimizer 'of_a_package_that_is_gone', which is"):
        loaded.phases[1].optimizer.build([1.0])


@pytest.mark.parametrize("head", ["{name='probe', depths=2}", "{name='pooled', standardize=true}"])
def test_fine_tuning_starts_from_exactly_the_solved_head(
    head: str, file: Path, tmp_path: Path
) -> None:
    common = [f"head={head}", "fit.keep='best'"]
    solved = "{epochs=3, optimizer={name='lbfgs'}}"
    freeze = "{name='layer_decay', steps=1}"
    still = f"{{epochs=1, freeze={freeze}, optimizer={{name='sgd', learning_rate=1e-30}}}}"
    probe = tlkit.run(file, tmp_path / "1", overrides=[*common, f"phase=[{solved}]"])
    tuned = tlkit.run(file, tmp_path / "2", overrides=[*common, f"phase=[{solved}, {still}]"])
    assert len(tuned.history) == 4
    last = [epoch.val_loss for epoch in tuned.history][-1]
    assert last == pytest.approx(probe.history[probe.best.epoch - 1].val_loss, rel=1e-4)
    names = ["weights.safetensors"]
    assert contents(probe.folder, names) == contents(tuned.folder, names)


def test_layer_decay_gives_a_probe_s_head_the_full_rate_and_each_block_below_its_own(
    file: Path,
) -> None:
    decay = "phase[1].freeze={name='layer_decay', factor=0.25, steps=2}"
    plan = tlkit.check(file, ["head={name='probe', depths=3}", decay])
    rates: dict[str, set[float]] = {}
    for (_, layer), rate in zip(plan.layers, plan.stages[1].stage.lr_multipliers, strict=True):
        rates.setdefault(layer.block, set()).add(rate)
    assert rates == {"block1": {0.0}, "block2": {0.0}, "block3": {0.0}, "block4": {0.0625},
                     "block5": {0.25}, "head": {1.0}}  # fmt: skip
