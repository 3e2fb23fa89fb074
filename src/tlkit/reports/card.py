"""`MODEL_CARD.md`: what a model is for, what it was made from, how good it is, where it fails."""

from __future__ import annotations

import importlib.metadata
import re
from functools import cache

import jinja2

from tlkit.metrics.calibration import calibration_text
from tlkit.reports.caveats import caveats
from tlkit.reports.page import TEMPLATES
from tlkit.reports.tables import class_rows, method_text, overall_rows
from tlkit.runfolder.folder import RunFolder
from tlkit.runfolder.run_record import RunRecord
from tlkit.system.files import write_text
from tlkit.system.text import printable

CARD = "MODEL_CARD.md"
NOT_PROVIDED = "not provided"
MEANT = re.compile(r"([\\`*_{}\[\]()<>#+!|~&$])")  # what Markdown or HTML would take for its own


def write_card(folder: RunFolder, run: RunRecord) -> None:
    """Write a run's model card."""
    write_text(folder.path / CARD, model_card(run))


def model_card(run: RunRecord) -> str:
    """Return a run's model card as Markdown; what nobody said is "not provided"."""
    train, scores, weights = run.manifest["train"], run.scores, run.metrics["weights"]
    return _template().render(
        name=run.name,
        version=importlib.metadata.version("tlkit"),
        stand_in=run.stand_in,
        said=run.said,
        given=lambda text: markdown(text) if text else NOT_PROVIDED,
        parts=" + ".join(str(run.experiment[kind]["name"]) for kind in ("backbone", "head")),
        image_size=run.experiment["backbone"]["image_size"],
        params=run.plan["params"],
        classes=run.classes,
        counts=run.plan["counts"],
        patients=any(example.patient for example in train),
        sources=any(example.source for example in train),
        weights=" ".join(str(weights[key]) for key in ("source", "sha256") if key in weights),
        split=run.split,
        scores=scores,
        method=method_text(scores.resampling),
        overall=overall_rows(scores),
        per_class=[(name, class_rows(one)) for name, one in scores.per_class.items()],
        confusion=list(zip(run.classes, scores.confusion, strict=True)),
        caveats=caveats(run),
        calibration=calibration_text(run.calibration, run.split, scores.calibration_error),
    )


def markdown(text: object) -> str:
    r"""Return a text as Markdown that shows it as it is, in one line.

    >>> print(markdown("<b>*x*</b>"))
    \<b\>\*x\*\</b\>
    """
    return MEANT.sub(r"\\\1", printable(text))


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(  # noqa: S701  # Markdown: `md` escapes what is not ours
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = markdown
    return environment.get_template("card.md.j2")
