"""`tlkit doctor`: what this machine has of what tlkit needs."""

from __future__ import annotations

import json
import textwrap
from itertools import groupby

import typer

from tlkit.cli.app import AsJson, app
from tlkit.errors import ResourceError

MARKS = {"ok": "  ", "note": "- ", "problem": "! "}
WIDTH = 110


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look at versions, processor, disk, weights and extras; exit 8 if something does not work.

    Changes and downloads nothing. A line with - is a note, one with ! a problem.
    """
    from tlkit import doctor as doctors

    findings = doctors.doctor()
    problems = [one for one in findings if one.state == "problem"]
    notes = [one for one in findings if one.state == "note"]
    if as_json:
        typer.echo(json.dumps(doctors.as_json(findings), indent=2))
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
