"""The one renderer of pages: every HTML page and the model card come from its templates."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import re
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from tlkit.metrics.intervals import format_interval, format_value
from tlkit.reports.svg import STYLE
from tlkit.system.text import printable

TEMPLATES = STYLE.parent
MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+!|~&$])")  # what Markdown or HTML would interpret


def page(template: str, **values: Any) -> str:
    """Return an HTML page; its policy allows its own style sheet and nothing else."""
    style = "".join(path.read_text("utf-8") for path in (STYLE, TEMPLATES / "report.css"))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return render(
        template,
        style=Markup(style),  # noqa: S704  # our own file
        style_hash=f"sha256-{digest}",
        **{"banners": [], **values},
    )


def render(template: str, **values: Any) -> str:
    """Return a template filled in."""
    version = importlib.metadata.version("tlkit")
    return _environment().get_template(template).render(version=version, **values)


def markdown(text: object) -> str:
    r"""Return a text as one line of Markdown that shows it as it is.

    >>> print(markdown("<b>*x*</b>"))
    \<b\>\*x\*\</b\>
    """
    return MARKDOWN.sub(r"\\\1", printable(text))


def data_element(value: float | None, percent: bool = True) -> Markup:
    """Return a number rounded for people and in full for programs.

    >>> print(data_element(0.5), data_element(None))
    <data value="0.5">50.0 %</data> undefined
    """
    text = format_value(value, percent=percent)
    if value is None:
        return Markup(text)  # noqa: S704  # our own word
    return Markup('<data value="{}">{}</data>').format(repr(value), text)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name is None or ".html" in name,  # noqa: S701  # Markdown: see `md`
        undefined=jinja2.StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "data": data_element,
        "interval": format_interval,
        "md": markdown,
        "percent": format_value,
    }
    return environment


def _harmless(value: object) -> object:
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)
