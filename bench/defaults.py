"""Whether the defaults are as good as what an expert writes: sets × weights × methods × seeds.

Methods: the file that `tlkit init --from SET` writes (`default`), its recipe `fine_tune`, a
logistic regression on pooled features (`sklearn`) and a hand-written script in two phases (`keras`,
both in `bench/two_phase.py`). Validation is the test, for all alike: all choose on it but
`sklearn`, which cross-validates on `train`. In a set with `test/CLASS`, that is the test, and
`sklearn` learns `val` too. Every run is a process of its own with an empty feature cache. Seconds,
seconds of processor time and peak memory are the processes'. `default` and `sklearn` draw nothing
at random, so they run once. Results go to a file of JSON lines, runs in it are not repeated, and
the table is made from it.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import HERE, timed

from tlkit.metrics.intervals import wilson

METHODS = ("sklearn", "default", "fine_tune", "keras")
ONCE = {"sklearn", "default"}


def by_hand(method: str, data: Path, weights: str, seed: int, options: argparse.Namespace) -> Any:
    """Run a yardstick; return its peak memory and scores."""
    command = [sys.executable, str(HERE / "two_phase.py"), str(data), method, "--seed", str(seed)]
    command += ["--weights", weights, "--size", str(options.size)]
    command += ["--epochs", str(options.epochs), "--tune-epochs", str(options.tune_epochs)]
    _, memory, found = timed(command, dict(os.environ))
    return memory, found


def by_tlkit(method: str, data: Path, weights: str, seed: int, options: argparse.Namespace) -> Any:
    """Let `tlkit init` write a file and run it; return its peak memory and scores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**os.environ, "TLKIT_CACHE": str(folder / "cache")}
        program = [sys.executable, "-m", "tlkit"]
        recipe = [] if method == "default" else ["--recipe", method]
        file = str(folder / "experiment.toml")
        init = [*program, "init", "--from", str(data), *recipe, "--out", file]
        subprocess.run(init, env=environment, check=True, capture_output=True)
        backbone = ["backbone.name=vgg16", f"backbone.weights={json.dumps(weights)}"]
        if weights == "lite2":
            backbone = ["backbone.name=efficientnet_lite2", 'backbone.weights="imagenet"']
        settings = [*backbone, f"backbone.image_size={options.size}", f"seed={seed}"]
        command = [*program, "run", file, "--json", "--out", str(folder / "run")]
        command += [word for setting in settings for word in ("--set", setting)]
        _, memory, found = timed(command, environment)
        split = found["evaluated_on"]
        with Path(found["run"], "predictions.csv").open(newline="", encoding="utf-8") as lines:
            rows = [row for row in csv.DictReader(lines) if row["split"] == split]
    scores = found[split]
    wrong = [row["path"] for row in rows if row["predicted"] != row["label"]]
    return memory, {
        "accuracy": scores["accuracy"], "balanced": scores["balanced_accuracy"],
        "count": scores["images"], "wrong": ["/".join(path.split("/")[-2:]) for path in wrong],
    }  # fmt: skip


def processor_s() -> float:
    """Return the processor time of the processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table: mean over seeds, interval, seconds, memory."""
    columns = "set,weights,pixels,method,accuracy,95 %,balanced,seconds,of processor,peak GB"
    lines = [f"| {columns.replace(',', ' | ')} |", "|---" * 10 + "|"]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = row["set"], row["weights"], row["size"], row["method"]
        groups.setdefault(key, []).append(row)
    for key, group in sorted(groups.items(), key=lambda item: [str(part) for part in item[0]]):
        means = {
            name: statistics.fmean(row[name] for row in group)
            for name in ("accuracy", "balanced", "seconds", "processor_s", "peak_gb")
        }
        low, high = wilson(means["accuracy"], group[0]["count"])
        spread = [row["accuracy"] for row in group]
        accuracy = f"{means['accuracy']:.1%}"
        if len(group) > 1:
            accuracy += f" ({min(spread):.1%} to {max(spread):.1%}, {len(group)} seeds)"
        cells = [*map(str, key), accuracy, f"{low:.1%} to {high:.1%}", f"{means['balanced']:.1%}"]
        cells += [f"{means['seconds']:.0f}", f"{means['processor_s']:.0f}"]
        cells += [f"{means['peak_gb']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is not in the file yet, and print the table of all that is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="the file of JSON lines")
    parser.add_argument("sets", type=Path, nargs="*", help="folders with train/CLASS and val/CLASS")
    parser.add_argument(
        "--weights", nargs="+", default=["lite2"], help="bsds500, lite2, a VGG-16 .h5 file"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--epochs", type=int, default=20, help="by hand, frozen, at most")
    parser.add_argument("--tune-epochs", type=int, default=10, help="by hand, all layers, at most")
    options = parser.parse_args()
    file = options.results
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(row["set"], row["weights"], row["size"], row["method"], row["seed"]) for row in rows}
    runs = itertools.product(options.seeds, options.sets, options.weights, options.methods)
    for seed, data, weights, method in runs:
        seed = 0 if method in ONCE else seed
        key = data.name, Path(weights).name, options.size, method, seed
        if key in done:
            continue
        done.add(key)
        run = by_hand if method in ("sklearn", "keras") else by_tlkit
        began, processor_before = time.perf_counter(), processor_s()
        memory, found = run(method, data.resolve(), weights, seed, options)
        row = dict(zip(("set", "weights", "size", "method", "seed"), key, strict=True)) | found
        row["seconds"] = round(time.perf_counter() - began, 1)
        row["processor_s"] = round(processor_s() - processor_before, 1)
        row["peak_gb"] = round(memory, 2)
        with file.open("a") as out:
            out.write(json.dumps(row) + "\n")
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
