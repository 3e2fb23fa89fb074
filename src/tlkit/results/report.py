"""`report.html`: one page with everything, from the files of a run's folder."""

from __future__ import annotations

from tlkit.files import write_text
from tlkit.results.figure_rows import ends
from tlkit.results.finished import Finished
from tlkit.results.folder import RunFolder
from tlkit.results.gallery import Gallery
from tlkit.results.rendering import page
from tlkit.results.sections import how_good_it_is, how_it_went, how_to_repeat_it, what_was_run

REPORT = "report.html"
SECTIONS = {
    "results": "How good it is",
    "references": "Beside published results",
    "looks": "What it looks at",
    "training": "How it went",
    "run": "What was run",
    "use": "What it is for",
    "repeat": "How to repeat it",
}


def write_report(folder: RunFolder, run: Finished, gallery: Gallery) -> None:
    """Write a run's report."""
    write_text(folder.path / REPORT, report(run, gallery))


def report(run: Finished, gallery: Gallery) -> str:
    """Return a run's report as a page that needs nothing else."""
    return page(
        "report.html.j2",
        sections=[(k, v) for k, v in SECTIONS.items() if k != "references" or run.reference],
        ends=ends,
        gallery=gallery,
        **what_was_run(run),
        **how_it_went(run),
        **how_good_it_is(run),
        **how_to_repeat_it(run),
    )
