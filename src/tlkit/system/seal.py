"""Seals: the hashes of a folder's files, so that what changes afterwards is noticed.

`seal.json` has the files that are the same on every machine, `seal-machine.json` the others. A
seal protects against bad disks and mix-ups, not against people: whoever can change a file can
change its hash too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Container, Iterable, Mapping
from functools import cache
from pathlib import Path, PurePath

from attrs import asdict, frozen

from tlkit.system.errors import RunFolderError, TlkitError
from tlkit.system.files import write_text
from tlkit.system.notebook import hint
from tlkit.system.untrusted import exists, opened, read_json, reason

log = logging.getLogger(__name__)

SEAL, MACHINE_SEAL = "seal.json", "seal-machine.json"
HASH = re.compile("[0-9a-f]{64}")
MAX_FILE_BYTES = 1 << 40


@frozen
class FileHash:
    """What a file was when it was sealed.

    Attributes:
        bytes: Its size.
        sha256: The SHA-256 of its content.
    """

    bytes: int
    sha256: str


def seal(folder: Path, hashes: Mapping[str, FileHash], name: str = SEAL) -> None:
    """Write one of a folder's seals: the hash of each file by its path in the folder."""
    files = {file: asdict(known) for file, known in sorted(hashes.items())}
    text = json.dumps({"files": files}, indent=2, ensure_ascii=False)
    write_text(folder / name, text + "\n")


def read_seal(folder: Path, name: str = SEAL) -> dict[str, FileHash]:
    """Return one of a folder's seals; empty if it has none."""
    path = folder / name
    if not exists(path):
        return {}
    try:
        table = read_json(path)
        hashes = {file: FileHash(**known) for file, known in table["files"].items()}
        if set(table) != {"files"} or not all(
            type(known.bytes) is int and HASH.fullmatch(known.sha256) for known in hashes.values()
        ):
            raise ValueError("is not as tlkit writes it")
        if outside := [key for key in hashes if PurePath(key).is_absolute() or ".." in key]:
            raise ValueError(f"{outside[0]!r} is not in the folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path}: cannot be read: {reason(error)}") from None
    return hashes


def seals(folder: Path) -> dict[str, FileHash]:
    """Return the hashes in both of a folder's seals; see `read_seal`."""
    return read_seal(folder) | read_seal(folder, MACHINE_SEAL)


def check_content(
    folder: Path,
    name: str,
    content: bytes | None = None,
    error: type[TlkitError] = RunFolderError,
) -> None:
    """Check that a file of a folder is as it was sealed; does nothing without a seal."""
    hashes = seals(folder)
    if not hashes:
        _note_no_seal(str(folder))
    elif problem := _problem(folder, name, hashes, content):
        raise error(
            f"{folder / name}: {problem}; restore it, {hint('verify', folder)} checks all files"
        )


def _problem(
    folder: Path, name: str, hashes: Mapping[str, FileHash], content: bytes | None = None
) -> str:
    """Return what is wrong with a file, or an empty string."""
    if name not in hashes:
        return f"is not among the files in {SEAL} and {MACHINE_SEAL}"
    known = hashes[name]
    if content is None:  # a file of another size is not read
        with opened(folder / name, MAX_FILE_BYTES) as (_, status):
            same = status.st_size == known.bytes and sha256_of(folder / name) == known.sha256
    else:
        same = hash_of_content(content) == known
    if same:
        return ""
    by = SEAL if name in read_seal(folder) else MACHINE_SEAL
    return f"has changed since it was written, by {by}"


def problems(folder: Path, but: Container[str] = ()) -> list[str]:
    """Return every difference between a folder's files and its seals, each with the path."""
    hashes = seals(folder)
    lines = []
    for name in (name for name in hashes if name not in but):
        try:
            problem = _problem(folder, name, hashes)
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        if problem:
            lines.append(f"{folder / name}: {problem}")
    return lines


def files_of(folder: Path) -> list[str]:
    """Return the names of the files in a folder that are no seals, hidden or links."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.name not in {SEAL, MACHINE_SEAL} and not path.name.startswith(".")
        if path.is_file() and not path.is_symlink()
    )


def seal_tree(folder: Path) -> None:
    """Seal all files of a folder that was just written, those in folders below it too."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    seal(folder, hashes_of(folder, (path.relative_to(folder).as_posix() for path in paths)))


def hashes_of(folder: Path, names: Iterable[str]) -> dict[str, FileHash]:
    """Return the hashes of those of a folder's files that are there."""
    present = [name for name in names if exists(folder / name)]
    return {name: hash_of(folder / name) for name in present}


def hash_of(path: Path) -> FileHash:
    """Return the size and hash of a regular file, read piece by piece; see `opened`."""
    with opened(path, MAX_FILE_BYTES) as (file, status):
        return FileHash(status.st_size, hashlib.file_digest(file, "sha256").hexdigest())


def hash_of_content(content: bytes) -> FileHash:
    """Return the size and hash of a file with this content."""
    return FileHash(len(content), hashlib.sha256(content).hexdigest())


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a regular file; see `hash_of`."""
    return hash_of(path).sha256


@cache
def _note_no_seal(folder: str) -> None:
    log.info("%s: has no seal, so damage may go unnoticed; it is of an earlier tlkit", folder)
