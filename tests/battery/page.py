"""The page `docs/reliability.md`: `python -m tests.battery.page` writes it from the table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.battery.case import Case
from tests.battery.counts import ROWS
from tests.battery.table import CASES, GROUPS

PAGE = Path(__file__).parent.parent.parent / "docs" / "reliability.md"
HEAD = """# Reliability

What can go wrong, what tlkit does then, and whether a test makes it happen. {counts}

A mistake ends with one message per problem, `where: rule, got value; the way out`, and the
[exit code](reference/runs.md#exit-codes) given below; no half-written file remains. Hostile files
are opened in a process with 2 GiB of memory that detects any access to other files, modules,
processes and connections.

This page is generated from the table in `tests/battery`, which the tests run.
"""


def page() -> str:
    """Return the page's text."""
    counted = Counter(case.status for case in CASES)
    counts = f"Of {len(CASES)} cases {counted['tested']} are tested and "
    counts += f"{counted['not applicable']} cannot happen."
    parts = [HEAD.format(counts=counts)]
    for title, cases, _ in GROUPS.values():
        rows = [f"| {case.id} | {_cell(case.what)} | {_cell(case.expected)} | {_status(case)} |"
                for case in cases]  # fmt: skip
        parts.append(
            "\n".join(
                [f"## {title}\n", "| | case | result | status |", "|---|---|---|---|", *rows, ""]
            )
        )
    rows = [f"| {what} | {count:,} | {result} |" for what, count, result in ROWS]
    head = ["## Many at random\n", "| what | tries | result |", "|---|---:|---|"]
    return "\n".join([*parts, *head, *rows, ""])


def _status(case: Case) -> str:
    return f"{case.status}: {_cell(case.moot)}" if case.moot else case.status


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
