"""What a sweep's pictures share: SVG that brings its own colours, for a page or a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.sax.saxutils import quoteattr

from tlkit.sweeps.summary import VariantSummary

STYLE = """<style>
svg.sweep { font: 13px system-ui, sans-serif; --ink: #1d2329; --soft: #66707a; --line: #dde2e6;
  --mark: #3b6fb6; background: var(--back, #fff); }
@media (prefers-color-scheme: dark) { svg.sweep { --ink: #e4e8eb; --soft: #98a2ab; --line: #333b42;
  --mark: #7aa7e6; background: var(--back, #15191d); } }
svg.sweep text { fill: var(--ink); } svg.sweep .tick { fill: var(--soft); }
svg.sweep .axis { stroke: var(--line); } svg.sweep .run { fill: var(--mark); opacity: .45; }
svg.sweep .bar, svg.sweep .path { stroke: var(--mark); stroke-width: 2; fill: none; }
svg.sweep .mean { fill: var(--mark); }
</style>"""


def svg(width: int, height: int, title: str, content: Iterable[str]) -> str:
    """Return a whole picture."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="sweep" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label={quoteattr(title)}>{STYLE}{"".join(content)}</svg>'
    )


def dots_of(summary: VariantSummary) -> list[float]:
    """Return what gets a dot: every fold's accuracy, or every seed's."""
    found = summary.fold_accuracy or summary.figures["accuracy"].values
    return [value for value in found if value is not None]


def lowest(summaries: Sequence[VariantSummary]) -> float:
    """Return where the axis of accuracy begins: the tenth below all that is shown."""
    lows = [s.figures["accuracy"].low for s in summaries]
    shown = [value for s in summaries for value in dots_of(s)]
    return max(0, int(10 * min([*shown, *(low for low in lows if low is not None)]))) / 10
