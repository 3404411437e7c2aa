"""A trace's attention as a picture, by matplotlib: SVG or PNG."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..support.errors import UserError, require
from .trace import Trace
from .view import Choice, Grid, grid, label

INCH = 0.32  # of a cell, and of a line of text
# Fonts of many scripts, tried before all others: part of the name of their files.
PREFERRED = ("NotoSansCJK", "NotoSans", "msyh", "Hiragino", "PingFang", "ArialUnicode", "unifont")


def draw(traces: Sequence[Trace], choice: Choice, form: Literal["svg", "png"]) -> bytes:
    """Heatmaps of traces, side by side. Raises UserError where there is nothing to draw, or no font
    for a PNG; in an SVG, text stays text, and who looks at it needs the font."""
    matplotlib = require("matplotlib", "plot")
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    figures = require("matplotlib.figure", "plot")
    grids = []
    for trace in traces:
        head = choice.of(trace)
        if head is None:
            raise UserError(f"{trace.model} has no attention; there is nothing to draw.")
        grids.append(grid(trace, head))
    texts = [text for trace in traces for text in (trace.source.text, trace.target.text)]
    settings: dict[str, Any] = {"svg.fonttype": "none", "svg.hashsalt": "mtcli", "font.size": 10}
    settings["font.family"], missing = _fonts(set("".join(map(label, texts))))
    if missing and form == "png":
        raise UserError(
            f"No font on this machine has {' '.join(sorted(missing)[:10])}. Install one, such as Noto "
            "Sans (Debian, Ubuntu: fonts-noto-core, fonts-noto-cjk), or write --svg or --html."
        )
    widths = [len(each.columns) for each in grids]
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # in an SVG
        height = (max(len(each.rows) for each in grids) + 8) * INCH
        figure = figures.Figure(
            (sum(widths) * INCH + 2.5 * len(grids), height), layout="constrained"
        )
        axes = figure.subplots(1, len(grids), squeeze=False, width_ratios=widths)[0]
        for axis, trace, each in zip(axes, traces, grids):
            _heatmap(axis, trace, each)
        output = io.BytesIO()
        metadata = {"Date": None} if form == "svg" else None
        figure.savefig(output, format=form, dpi=160, metadata=metadata)
    return output.getvalue()


def _heatmap(axis: Any, trace: Trace, shown: Grid) -> None:
    axis.imshow(shown.weights, cmap="Blues", vmin=0, vmax=1)
    for start in ("top", "bottom", "left", "right"):
        axis.spines[start].set_color("#cccccc")
    edges = (np.arange(len(words) + 1) - 0.5 for words in (shown.columns, shown.rows))
    axis.set_xticks(next(edges), minor=True)
    axis.set_yticks(next(edges), minor=True)
    axis.grid(which="minor", color="#e4e4e4", linewidth=0.5)
    axis.set_xticks(range(len(shown.columns)), _plain(shown.columns), rotation=90)
    axis.set_yticks(range(len(shown.rows)), _plain(shown.rows))
    axis.tick_params(which="both", length=0, labeltop=True, labelbottom=False)
    axis.set_title(f"{_plain([Path(trace.model).name])[0]}\n{shown.title}", fontsize=8)
    for row, weights in enumerate(shown.weights):
        for column, weight in enumerate(weights):
            if weight >= 0.05:
                colour = "white" if weight > 0.5 else "black"
                number = f"{weight:.0%}".rstrip("%")
                axis.text(column, row, number, color=colour, ha="center", va="center", fontsize=7)


def _plain(words: Iterable[str]) -> list[str]:
    """Words in which matplotlib finds no formula."""
    return [label(word).replace("$", r"\$") for word in words]


def _fonts(characters: set[str]) -> tuple[list[str], set[str]]:
    """Families that have these characters, matplotlib's own first, and the characters that none has.
    Fonts are looked for again: matplotlib's list of them may be older than they are."""
    manager = require("matplotlib.font_manager", "plot")
    families = ["DejaVu Sans"]
    missing = (
        characters - _characters(manager, manager.findfont(families[0])) - {"\u200c", "\u200d"}
    )
    paths = manager.findSystemFonts() if missing else []
    for path in sorted(paths, key=lambda path: (not any(p in path for p in PREFERRED), path)):
        if missing and (has := missing & _characters(manager, path)):
            manager.fontManager.addfont(path)
            families.append(manager.get_font(path).family_name)
            missing -= has
    return [*families, "sans-serif"], missing


def _characters(manager: Any, path: str) -> set[str]:
    try:
        return set(map(chr, manager.get_font(path).get_charmap()))
    except (OSError, RuntimeError):  # a font that it cannot read
        return set()
