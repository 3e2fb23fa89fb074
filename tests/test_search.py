"""A search: what is drawn and dropped depends on results alone, whoever makes the runs and when."""

from __future__ import annotations

import itertools
import json
import math
import random
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.finished_runs import metrics_table, write_pretended

import tlkit
from tlkit.config.sweep import Range, SearchTable, parse_budget
from tlkit.sweeps.board import Board
from tlkit.sweeps.draws import Tried, draw, next_batch
from tlkit.sweeps.folder import Command, SweepFolder
from tlkit.sweeps.halving import WORST, Value, standing
from tlkit.sweeps.joining import finish, open_board, work_off
from tlkit.sweeps.results import Sweep

RATES = Range(1e-5, 1e-2, log=True)


@given(st.integers(0, 9), st.integers(1, 40))
def test_draws_differ_stay_in_range_and_repeat(seed: int, count: int) -> None:
    swept = {"rate": RATES, "units": Range(1, 20), "name": ["a", "b"]}
    search = SearchTable(draws=count, seed=seed)
    drawn = draw(search, swept, count)
    assert drawn == draw(search, swept, count)
    assert len({json.dumps(one) for one in drawn}) == len(drawn) == count
    assert all(1e-5 <= one["rate"] <= 1e-2 and 1 <= one["units"] <= 20 for one in drawn)
    assert drawn != draw(SearchTable(draws=count, seed=seed + 1), swept, count)
    more = draw(search, swept, 5, drawn)
    assert not [one for one in more if one in drawn]


@given(st.integers(0, 9))
def test_a_table_that_is_drawn_out_gives_each_combination_once(seed: int) -> None:
    swept = {"a": [1, 2, 3], "b": [[1], [2, 3]], "c": 4}
    drawn = draw(SearchTable(draws=99, seed=seed), swept, 99)
    assert sorted(map(str, drawn)) == sorted(
        str({"a": a, "b": b, "c": 4}) for a, b in itertools.product([1, 2, 3], [[1], [2, 3]])
    )
    assert len(draw(SearchTable(draws=9), {"n": Range(1, 3)}, 9)) == 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"low": 2, "high": 1}, "low below high, got"),
        ({"low": 0, "high": 1, "log": True}, "needs numbers above 0, got"),
        ({"low": True, "high": 2}, "needs two numbers"),
        (
            {"low": 1, "high": 2},
            r"is a range, from which only a search draws; add \[sweep.search\]",
        ),
    ],
)
def test_ranges_that_are_none(value: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    log = ", log = true" if "log" in value else ""
    low, high = (str(value[end]).lower() for end in ("low", "high"))
    file.write_text(f"[sweep.set]\nfit.epochs = {{ low = {low}, high = {high}{log} }}\n")
    with pytest.raises(tlkit.ConfigError, match=message):
        tlkit.plan_trials(file)


@pytest.mark.parametrize("text", ["2", "", "h", "-1h", "0s", "2h 30m", "nan"])
def test_a_budget_is_a_time(text: str) -> None:
    with pytest.raises(tlkit.ConfigError, match="--budget: expected such as 2h"):
        parse_budget(text)


def pretended(count: int, factor: int, batch: int, seeds: int = 1) -> tlkit.Trials:
    """Return the trials of a search of nine epochs, compared after 1, `factor`, …."""
    runs: Any = tuple(
        SimpleNamespace(name=f"{n}-{seed}", variant=n, batch=n // batch,
                        plan=SimpleNamespace(epochs=9))
        for n in range(count) for seed in range(seeds)
    )  # fmt: skip
    search = SearchTable(draws=count, factor=factor, min_epochs=1)
    return tlkit.Trials(file=Path("a"), trials=runs, swept=(), notes=(), search=search)


@given(
    st.lists(st.integers(0, 3), min_size=2, max_size=14),
    st.integers(2, 4),
    st.integers(2, 14),
    st.integers(1, 2),
    st.randoms(use_true_random=False),
)
def test_what_is_decided_early_is_what_all_results_decide(
    accuracies: list[int], factor: int, batch: int, seeds: int, rng: random.Random
) -> None:
    trials = pretended(len(accuracies), factor, batch, seeds)
    reached: dict[str, int] = {}

    def value_at(trial: Any, epochs: int) -> Value | None:
        if reached.get(trial.name, 0) < epochs:
            return None
        accuracy = accuracies[trial.variant] + epochs * (trial.variant % 2)
        return WORST if accuracies[trial.variant] == 3 else (accuracy, 0.0)

    final = {trial.name: 9 for trial in trials.trials}
    reached |= final
    known = standing(trials, value_at)
    reached.clear()
    while True:
        now = standing(trials, value_at)
        assert now.dropped.items() <= known.dropped.items()
        assert sum(now.epochs.values()) == pytest.approx(sum(known.epochs.values()))
        going = {name for name, until in now.until.items() if until is None}
        assert not going & known.dropped.keys()
        free = [name for name, until in now.until.items() if reached.get(name, 0) < (until or 9)]
        if not free:
            break
        name = rng.choice(sorted(free))
        reached[name] = now.until[name] or 9
    assert now == known
    assert now.epochs == {name: now.dropped.get(name, 9) for name in final}
    sizes = [min(batch, len(accuracies) - at) for at in range(0, len(accuracies), batch)]
    assert len({name.split("-")[0] for name in going}) == sum(
        survivors(size, factor) for size in sizes
    )


def survivors(size: int, factor: int) -> int:
    epochs = 1
    while epochs < 9:
        size, epochs = math.ceil(size / factor), epochs * factor
    return size


def test_optuna_learns_from_what_was_tried() -> None:
    pytest.importorskip("optuna", reason="needs the extra search")
    swept = {"rate": RATES, "name": ["a", "b"], "units": Range(1, 9)}
    search = SearchTable(draws=60, sampler="tpe", batch=10)

    def is_good(one: Any) -> bool:
        return bool(one["name"] == "b" and one["rate"] > 1e-3)

    tried = [Tried(one, 1.0) if is_good(one) else Tried(one, 0.5, epochs=1)
             for one in draw(search, swept, 30)]  # fmt: skip
    tried.append(Tried({"rate": 1e-4, "name": "a", "units": 3}, None))
    drawn = next_batch(search, swept, tried)
    assert drawn == next_batch(search, swept, tried)
    assert len(drawn) == 10
    assert sum(map(is_good, drawn)) > 5  # 1.7 by chance
    assert not [one for one in drawn if one in [t.settings for t in tried]]


STUDY = """
data = {{ name = "shapes", train = 6, val = 3, test = 3, image_px = 32 }}
backbone = {{ weights = "none", image_size = 32 }}
head = {{ name = "pooled" }}
fit = {{ epochs = 9 }}
[sweep.search]
draws = 9
min_epochs = 1
{search}
[sweep.set]
optimizer.learning_rate = {{ low = 1e-5, high = 1e-2, log = true }}
"""
METRICS = metrics_table([[3, 1], [0, 2]], "ab")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that begins a search; what is planned once is not planned again."""
    known: dict[str, tlkit.Trials] = {}

    def planned(*args: Any, drawn: Any = (), **_: Any) -> tlkit.Trials:
        key = str([args, *drawn])
        if key not in known:
            known[key] = tlkit.plan_trials(*args, drawn=drawn)
        return known[key]

    monkeypatch.setattr("tlkit.sweeps.joining.plan_trials", planned)
    monkeypatch.setattr("tlkit.sweeps.board.plan_trials", planned)

    def begin(name: str, search: str = "", seeds: str | None = None) -> Path:
        (tmp_path / "s.toml").write_text(STUDY.format(search=search))
        command = Command(tmp_path / "s.toml", (), seeds)
        trials = planned(command.file, (), command.seeds)
        return SweepFolder.create(tmp_path / name, command, trials).path

    return begin


def make(job: Any, epochs: int | None = None) -> dict[str, Any]:
    """Pretend to train: the greater the learning rate, the better, from the first epoch on."""
    out, until = Path(job["out"]), epochs or job["until"] or 9
    rate = next(o for o in job["overrides"] if o.startswith("optimizer")).partition("=")[2]
    out.mkdir(exist_ok=True)
    (out / "unfinished.json").write_text("{}")
    head = "epoch,stage,learning_rate,loss,loss_unweighted,accuracy,val_loss,val_accuracy\n"
    value = 0.5 + 50 * float(rate)
    rows = [f"{e},1,0.1,1.0,1.0,0.5,{1 - value},{value}\n" for e in range(1, until + 1)]
    (out / "history.csv").write_text(head + "".join(rows))
    if job["until"] is not None:
        return {"paused": True}
    hits = round(100 * value)
    write_pretended(out, METRICS | metrics_table([[hits, 100 - hits], [0, 2]], "ab"))
    (out / "unfinished.json").unlink()
    return {}


def search_with(folder: Path, work: Any = make, threads: int = 1, **settings: Any) -> Sweep:
    board = open_board(folder, (), retries=False, **settings)
    begun = [
        threading.Thread(target=work_off, args=(board, work, threading.Event()))
        for _ in range(threads)
    ]
    for thread in begun:
        thread.start()
    for thread in begun:
        thread.join()
    list(board.news())
    return finish(board)


def tables(folder: Path) -> dict[str, bytes]:
    return {n: (folder / n).read_bytes() for n in ("sweep.csv", "summary.csv", "sweep.html")}


def rates(done: Sweep, status: str) -> list[float]:
    return [o.trial.variant.settings["optimizer.learning_rate"]
            for o in done.outcomes if o.status == status]  # fmt: skip


@pytest.mark.parametrize("search", ["", "batch = 3", 'sampler = "tpe"\nbatch = 3'])
def test_a_search_drops_the_weak_and_is_the_same_for_any_number_of_workers(
    search: str, study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "tpe" in search:
        pytest.importorskip("optuna", reason="needs the extra search")
    monkeypatch.setattr("tlkit.sweeps.joining.POLL_S", 0.001)
    one = search_with(study("one", search, "0-1"))
    assert len(one.outcomes) == 18
    many = search_with(study("many", search, "0-1"), threads=4)
    assert tables(many.folder) == tables(one.folder)
    if not search:
        assert {(o.epochs, o.status) for o in one.outcomes} == {
            (1, "dropped"), (3, "dropped"), (0, "done"),
        }  # fmt: skip
        assert min(rates(one, "done")) > max(rates(one, "dropped"))
        assert [s.dropped for s in one.summaries].count(1) == 6
        text = "9 variants drawn, random, 6 dropped after epoch 1, 2 dropped after epoch 3, 1 made"
        assert text in (one.folder / "sweep.html").read_text()
    else:
        assert [s.dropped for s in one.summaries].count(0) == 3  # one of each batch


def test_a_search_that_is_stopped_anywhere_goes_on_to_the_same(study: Any) -> None:
    whole = search_with(study("whole"))
    folder, count = study("stopped"), 0
    while True:  # the process ends after each run, the second time in the middle of one
        board = open_board(folder, (), retries=False)
        lease, _ = board.take()
        if lease is None:
            break
        count += 1
        job = board.job(lease)
        answer = make(job)
        if count % 2:
            board.settle(lease, answer)
        else:
            board.release()
    assert count > 13
    assert tables(search_with(folder).folder) == tables(whole.folder)


def test_a_budget_hands_out_no_more_and_the_rest_can_be_made(study: Any) -> None:
    folder, made = study("out"), []

    def slow(job: Any) -> dict[str, Any]:
        made.append(job)
        time.sleep(0.5)
        return make(job)

    done = search_with(study("spent"), slow, budget_s=0.4)
    assert 0 < len(made) < len(done.outcomes)  # time passes: the first runs use up the budget
    made.clear()
    done = search_with(folder, slow, budget_s=0.0)
    assert not made
    assert {o.status for o in done.outcomes} == {"waiting"}
    assert not (folder / "seal.json").read_text().count("sweep.csv")
    assert {o.status for o in search_with(folder, make).outcomes} == {"done", "dropped"}


@pytest.mark.parametrize(("search", "drawn"), [("", 9), ('sampler = "tpe"\nbatch = 3', 3)])
def test_status_counts_the_epochs_that_a_search_will_make(
    search: str, drawn: int, study: Any
) -> None:
    if "tpe" in search:
        pytest.importorskip("optuna", reason="needs the extra search")
    folder = study("out", search)
    board = open_board(folder, (), retries=False, budget_s=20.0)
    leases = [board.take()[0] for _ in range(3)]
    for lease in leases[:2]:
        assert lease is not None
        board.settle(lease, make(board.job(lease)))
        board.leases.settle(lease, "paused", 2.0)
    status = tlkit.sweep_status(folder)
    of_batch = (
        9 + 3 * 2 + 6 if drawn == 9 else 3 + 2 + 6
    )  # one epoch of all, two more of a third, …
    assert status.epochs_left == pytest.approx(of_batch * 9 / drawn - 2)
    assert status.remaining_s == pytest.approx(2 * status.epochs_left)
    assert status.not_drawn == 9 - drawn
    assert status.budget_s == pytest.approx(20, abs=5)
    assert "left, no run is begun after" in str(status)
    board.release()
    search_with(folder)
    assert tlkit.sweep_status(folder).epochs_left == 0


def test_a_run_that_fails_is_the_weakest(study: Any) -> None:
    def fail_best(job: Any) -> dict[str, Any]:
        return {"error": "no", "exit_code": 9} if "0.004" in str(job["overrides"]) else make(job)

    done = search_with(study("out"), fail_best)
    assert sum(o.status == "done" for o in done.outcomes) == 1


def test_a_process_that_dies_as_its_run_pauses_loses_nothing(study: Any) -> None:
    folder = study("out")
    board: Board = open_board(folder, (), retries=False)
    lease, _ = board.take()
    assert lease is not None
    make(board.job(lease))  # and is never heard of again
    board.leases.settle(lease, "stopped", 1.0)
    done = search_with(folder)
    assert all((folder / "runs" / o.trial.name).is_dir() for o in done.outcomes)
    assert not list(folder.glob("attempt-*"))


@pytest.mark.slow
def test_a_run_that_paused_ends_as_one_that_did_not(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(STUDY.format(search="").replace("draws = 9", "draws = 4"))
    done = tlkit.sweep(tmp_path / "s.toml", tmp_path / "out", in_process=True)
    (winner,) = [o for o in done.outcomes if o.status == "done"]
    assert [o.epochs for o in done.outcomes].count(1) == 2  # of four, two go on, then one
    run = done.folder / "runs" / winner.trial.name
    tlkit.run(tmp_path / "s.toml", tmp_path / "plain", overrides=winner.trial.overrides)
    for name in ("weights.safetensors", "history.csv", "predictions.csv", "metrics.json"):
        assert (run / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    assert done.nested is not None
    assert done.nested.label == f"chosen on val among 4 tried (variant {int(run.name[:3])})"
    hits = json.loads((run / "metrics.json").read_text())["test"]["confusion"]
    correct = sum(row[k] for k, row in enumerate(hits))
    assert done.nested.figures["accuracy"].mean == correct / sum(map(sum, hits))
