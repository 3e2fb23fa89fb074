"""Pages from the templates beside this module: self-contained, and harmless whatever names say."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tlkit.escapes import printable

TEMPLATES = Path(__file__).parent / "templates"


def page(template: str, **values: Any) -> str:
    """Return a template's page with our style, which is the only thing its policy allows.

    Args:
        template: The template's file.
        values: What it shows; every text is made printable and escaped.
    """
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup(style),  # noqa: S704  # our own file
            style_hash=f"sha256-{digest}",
            version=importlib.metadata.version("tlkit"),
            **values,
        )
    )


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        keep_trailing_newline=True,
    )


def _harmless(value: object) -> object:
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)
