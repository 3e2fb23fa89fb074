"""How often the tests of many tries try; the page `docs/reliability.md` says so too."""

from __future__ import annotations

# Bits flipped in finished runs, in unfinished ones, in sweeps and in caches.
FINISHED, UNFINISHED, SWEEPS, CACHES = 1_200, 120, 400, 280
FOLDERS = 1_000  # strange folders
FUZZED = 5_000  # damaged images, DICOM, safetensors and h5 files
KILLS, KILLS_OF_SWEEPS = 200, 60  # processes killed, and how many of them in sweeps
READ = 681  # attacks on files that `report`, `compare` and `verify` read
USED = 1_259  # attacks on files that the other verbs read
ROWS = (
    (
        "bits flipped in the files of runs, sweeps and caches",
        FINISHED + UNFINISHED + SWEEPS + CACHES,
        "noticed by name, or without effect on what is printed and written",
    ),
    (
        "attacks on one file (link, pipe, device, cut, huge, deep, NaN, …), by verb and file read",
        READ + USED,
        "refused with 3 to 8 and the file's name; what a link points to stays unread and as it was",
    ),
    ("strange folders of runs", FOLDERS, "no traceback, each under 10 s, under 1 GB more memory"),
    (
        "damaged images, DICOM, safetensors and h5 files",
        FUZZED,
        "read or refused in one line; ONNX files are never read, but the one just written",
    ),
    (
        "processes killed at random moments, in runs, sweeps and their workers",
        KILLS,
        "gone on with until done: all files that do not name the machine are byte-equal",
    ),
)
