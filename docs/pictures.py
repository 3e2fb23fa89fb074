"""Draw the docs' pictures from the code: `python docs/pictures.py` writes `docs/img/*.svg`.

`tests/house/test_pictures.py` holds that the committed pictures are what this script draws today.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path

from markupsafe import Markup

from tlkit.model.layers import LayerRange, LayerTable
from tlkit.parts.backbones.vgg import VGG16
from tlkit.parts.freezes import (
    Gradual,
    HeadOnly,
    HeadThen,
    LayerDecay,
    TrainAll,
    TrainNames,
    TrainRange,
)
from tlkit.parts.heads import FlattenDense
from tlkit.parts.kinds import FreezePolicy
from tlkit.reports.svg import Frame, chart, standalone, tag

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "img"
SOURCE = ROOT / "src" / "tlkit"
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #3c4257; }
.small { font-size: 11px; fill: #6b7285; }
.code { font: 12px ui-monospace, monospace; }
.bold { font-weight: 600; }
.mid { text-anchor: middle; }
.end { text-anchor: end; }
.frozen { fill: #c5cad6; }
.trained { fill: #5c6bc0; }
.box { fill: #eef0f6; stroke: #b4bac9; }
.disk { fill: #fdf3dc; stroke: #d3b25e; }
.line { fill: none; stroke: #8a93a8; stroke-width: 1.5; }
.head { fill: #8a93a8; }
.on { fill: #fff; }
@media (prefers-color-scheme: dark) {
  text { fill: #d6dae6; }
  .small { fill: #a4abbe; }
  .frozen { fill: #4d5466; }
  .trained { fill: #7986cb; }
  .box { fill: #2b303d; stroke: #565e73; }
  .disk { fill: #3d3523; stroke: #8d7638; }
  .on { fill: #fff; }
}
"""
EPOCHS = 12
POLICIES: tuple[tuple[str, FreezePolicy], ...] = (
    ('name = "head_only"', HeadOnly()),
    ('name = "layer_range", train = "19-22"', TrainRange(train=LayerRange(19, 22))),
    ('name = "layer_names", train = ["block5", "head"]', TrainNames(train=("block5", "head"))),
    ('name = "all_layers"', TrainAll()),
    (
        'name = "head_then", head_epochs = 4, train = ["block5"], rate = 0.1',
        HeadThen(head_epochs=4, train=("block5",), rate=0.1),
    ),
    ('name = "gradual", every = 3, blocks = 3', Gradual(every=3, blocks=3)),
    ('name = "layer_decay"', LayerDecay()),
)


def picture(width: float, height: float, label: str, *children: Markup) -> str:
    """Return a whole SVG file."""
    root = tag(
        "svg",
        tag("style", Markup(STYLE)),  # noqa: S704  # ours
        *children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=label,
    )
    return f"{root}\n"


def text(x: float, y: float, words: str, kind: str = "") -> Markup:
    """Return a line of text."""
    return tag("text", words, x=x, y=y, class_=kind or None)


def box(x: float, y: float, width: float, height: float, kind: str = "box") -> Markup:
    """Return a box with rounded corners."""
    return tag("rect", x=x, y=y, width=width, height=height, rx=4, class_=kind)


def arrow(x: float, y: float, to_x: float, to_y: float) -> Iterable[Markup]:
    """Yield a horizontal or vertical arrow."""
    dx, dy = (to_x > x) - (to_x < x), (to_y > y) - (to_y < y)
    yield tag("path", d=f"M{x:g} {y:g}L{to_x - 5 * dx:g} {to_y - 5 * dy:g}", class_="line")
    left = f"{to_x - 8 * dx - 4 * dy:g} {to_y - 8 * dy + 4 * dx:g}"
    right = f"{to_x - 8 * dx + 4 * dy:g} {to_y - 8 * dy - 4 * dx:g}"
    yield tag("path", d=f"M{to_x:g} {to_y:g}L{left}L{right}Z", class_="head")


def study_layers() -> LayerTable:
    """Return the layers of VGG-16 with the study's head for three classes."""
    backbone = VGG16(weights="none").layers()
    return backbone + FlattenDense().layers(backbone[len(backbone)].output_shape, 3)


def layers_picture() -> str:
    """Draw VGG-16 and its head; experiment 3 trains layers 19 to 22."""
    layers = study_layers()
    rates = TrainRange(train=LayerRange(19, 22)).planned(layers, EPOCHS)[0].lr_multipliers
    marks: list[Markup] = []
    x, block, begins = 20.0, "", {}
    for (number, layer), rate in zip(layers, rates, strict=True):
        if layer.block != block:
            x, block = x + (10 if block else 0), layer.block
            begins[block] = x
        side = layer.output_shape[0] if len(layer.output_shape) == 3 else 7
        height = 60 + 90 * side / 224
        top = 90 - height / 2
        title = tag("title", f"layer {number}: {layer.name}")
        kind = "trained" if rate else "frozen"
        marks.append(tag("rect", title, x=x, y=top, width=26, height=height, rx=3, class_=kind))
        marks.append(text(x + 13, 190, str(number), "mid bold"))
        x += 31
    for name, start in begins.items():
        marks.append(text(start, 210, name, "small"))
    half = begins["head"]
    marks += [
        text(20, 238, "frozen: computed once per image and view, then read from the cache"),
        text(half, 238, "trained in every epoch", "bold"),
    ]
    return picture(x + 60, 250, "Layers 1 to 18 are frozen; layers 19 to 22 are trained", *marks)


def freezes_picture() -> str:
    """Draw every freeze policy: a column per layer, a band per stage, darker means faster."""
    layers = study_layers()
    cell, left, y = 22, 20.0, 30.0
    marks = [
        text(
            left, 16, f"layer 1 to {len(layers)}, left to right; {EPOCHS} epochs, top down", "small"
        )
    ]
    for words, policy in POLICIES:
        marks.append(text(left, y + 6, words, "code"))
        y += 14
        for stage in policy.planned(layers, EPOCHS):
            height = 4.5 * stage.epochs
            for place, rate in enumerate(stage.lr_multipliers):
                shade = None if rate in {0, 1} else round(0.25 + 0.65 * rate, 3)
                marks.append(
                    tag(
                        "rect",
                        tag("title", f"layer {place + 1}: × {rate:g}"),
                        x=left + place * cell,
                        y=y,
                        width=cell - 2,
                        height=height - 1,
                        fill_opacity=shade,
                        class_="trained" if rate else "frozen",
                    )
                )
            rates = sorted({rate for rate in stage.lr_multipliers if rate})
            shown = f"× {rates[0]:g}" if len(rates) == 1 else f"× {rates[0]:.2g} to {rates[-1]:.2g}"
            plural = "s" if stage.epochs > 1 else ""
            where = left + len(layers) * cell + 8
            marks.append(
                text(where, y + height / 2 + 4, f"{stage.epochs} epoch{plural}, {shown}", "small")
            )
            y += height
        y += 24
    return picture(
        left + len(layers) * cell + 170, y, "Learning-rate multipliers by layer and stage", *marks
    )


def prefix_picture() -> str:
    """Draw what runs once and what runs in every epoch."""
    steps = (
        ("images", "decoded, resized"),
        ("augmentation", "from seed, view, image"),
        ("frozen layers", "1 to 18, once per view"),
    )
    marks: list[Markup] = []
    x = 20.0
    for name, below in steps:
        marks += [
            box(x, 40, 150, 56),
            text(x + 75, 64, name, "mid bold"),
            text(x + 75, 82, below, "mid small"),
        ]
        marks += arrow(x + 150, 68, x + 178, 68)
        x += 178
    marks += [
        box(x, 40, 170, 56, "disk"),
        text(x + 85, 64, "feature cache", "mid bold"),
        text(x + 85, 82, "by content, on disk", "mid small"),
    ]
    marks += arrow(x + 170, 68, x + 198, 68)
    x += 198
    marks += [
        box(x, 40, 170, 56, "trained"),
        text(x + 85, 64, "trained layers", "mid bold on"),
        text(x + 85, 82, "19 to 22, every epoch", "mid on"),
    ]
    loop = f"M{x + 150:g} 96v26h-130v-20"
    marks += [
        tag("path", d=loop, class_="line"),
        text(x + 85, 140, "each epoch", "mid small"),
        tag("path", d=f"M{x + 20:g} 98l-4 8h8Z", class_="head"),
        text(20, 24, "once per image and view", "small"),
        text(x, 24, "once per epoch", "small"),
    ]
    return picture(x + 190, 152, "Frozen layers run once; their features are cached", *marks)


def flow_picture() -> str:
    """Draw the way from an experiment file to a run folder."""
    rows = (
        ("study.toml", "config/toml, config/structure", "Experiment: typed, every problem at once"),
        ("labeled images", "data/sources, data/checks", "Splits: paths, labels, patients; checked"),
        ("Experiment + Splits", "train/plan", "Plan: layers, stages, rates, weights; no Keras"),
        ("Plan", "train/assemble", "keras.Model: one flat graph"),
        ("Model + images", "train/features", "features of the frozen layers, cached"),
        ("features", "train/fit", "epochs, stage by stage, checkpointed"),
        ("probabilities", "metrics", "scores with intervals"),
        ("all of it", "runner, runfolder, reports", "run folder, report, model card"),
    )
    marks: list[Markup] = []
    for number, (given, module, result) in enumerate(rows):
        y = 14.0 + 44 * number
        marks += [box(10, y, 170, 30), text(95, y + 20, given, "mid")]
        marks += [*arrow(180, y + 15, 420, y + 15), text(300, y + 10, module, "mid code")]
        marks += [box(420, y, 330, 30), text(432, y + 20, result)]
    return picture(760, 14 + 44 * len(rows), "From an experiment file to a run folder", *marks)


def rooms() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the rooms level by level, as the architecture page lists them."""
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    listed = (
        page.partition("## Imports go one way")[2].partition("```text\n")[2].partition("```")[0]
    )
    levels = []
    for line in listed.splitlines():
        what, _, names = re.sub(r"\s{2,}", "\t", line).partition("\t")
        levels.append((what, tuple(names.split(" ▸ "))))
    return tuple(levels)


def summary(room: str) -> str:
    """Return the first line of a room's docstring."""
    folder = SOURCE / room
    path = folder / "__init__.py" if folder.is_dir() else SOURCE / f"{room}.py"
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.partition("\n")[0].replace("`", "")


def house_picture() -> str:
    """Draw the rooms of `src/tlkit`; imports go down only."""
    marks: list[Markup] = []
    y = 12.0
    for what, names in rooms():
        marks.append(text(10, y + 19, what, "small"))
        for room in names:
            marks += [box(140, y, 110, 28), text(195, y + 19, room, "mid bold")]
            marks.append(text(262, y + 19, summary(room), "small"))
            y += 32
        y += 8
    return picture(800, y, "The rooms of src/tlkit; a room imports rooms below it only", *marks)


def short(count: int) -> str:
    """Return a count of images that fits under the end of an axis: 100k, 1M."""
    millions, thousands = count / 1e6, count / 1e3
    return f"{millions:g}M" if millions >= 1 else f"{thousands:g}k"


def scale_picture() -> str:
    """Draw the processor seconds of commands over the number of images, as measured."""
    costs = {int(n): rows for n, rows in json.loads((IMAGES / "scale.json").read_text()).items()}
    counts = sorted(costs)
    lines = {name: [(n, costs[n][name][1]) for n in counts] for name in costs[counts[0]]}
    seconds = [y for points in lines.values() for _, y in points]
    bounds = 10 ** math.floor(math.log10(min(seconds))), 10 ** math.ceil(math.log10(max(seconds)))
    frame = Frame.of((counts[0], counts[-1]), bounds, 260, log_x=True, log_y=True)
    powers = [bounds[0] * 10**n for n in range(round(math.log10(bounds[1] / bounds[0])) + 1)]
    columns, rows = [(n, short(n)) for n in counts], [(y, f"{y:g}") for y in powers]
    parts = [frame.axes("images", columns, rows, "processor seconds")]
    for series, (name, points) in enumerate(lines.items()):
        parts += [frame.line(points, series), frame.dots(points, series)]
        x, y = (axis(value) for axis, value in zip((frame.x, frame.y), points[-2], strict=True))
        highest = points[-2][1] == max(row[-2][1] for row in lines.values())
        dx, dy, anchor = (-8, -10, "end") if highest else (8, 22, None)
        parts.append(tag("text", name, class_="tick", x=x + dx, y=y + dy, text_anchor=anchor))
    told = "; ".join(
        f"{name}: {points[0][1]:.3g} s for {points[0][0]:,}, {points[-1][1]:.3g} s for "
        f"{points[-1][0]:,}"
        for name, points in lines.items()
    )
    title = "Processor seconds by number of images"
    return standalone(chart("scale", title, told, 260, *parts))


PICTURES = {
    "layers.svg": layers_picture,
    "freezes.svg": freezes_picture,
    "frozen-prefix.svg": prefix_picture,
    "flow.svg": flow_picture,
    "house.svg": house_picture,
    "scale.svg": scale_picture,
}


def main() -> None:
    """Write every picture."""
    for name, draw in PICTURES.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
