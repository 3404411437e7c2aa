"""A report on a terminal: tables, and small curves in braille. Fits the width that there is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..support.errors import visible
from .report import few

Points = list[tuple[float, float]]

COLOURS = ("cyan", "yellow", "magenta", "green", "blue", "red")  # of runs
HIDDEN = {"update", "epoch", "seconds", "validation_seconds", "target_tokens", "skipped"}
NAMES = {"tokens_per_second": "target tokens/s"}
HEIGHT, NARROWEST = 4, 34  # of a chart, in rows and columns
STEEP = 20  # a curve whose values differ by this factor is drawn on a logarithmic scale
BLOCKS = " ▏▎▍▌▋▊▉█"
BARS = "▁▂▃▄▅▆▇█"
DOTS = (
    (0x01, 0x08),
    (0x02, 0x10),
    (0x04, 0x20),
    (0x40, 0x80),
)  # of a braille cell, by row and column
SHOWN = 3  # worst and best sentences
STOPS = 8  # updates of a history


def show(report: dict[str, Any], console: Console) -> None:
    """Print a report."""
    runs = report["runs"]
    console.print(_facts(runs))
    for title, part in (
        ("Data", _data),
        ("Learning", _learning),
        ("Scores", _scores),
        ("Where it is good", _buckets),
        ("How it came to know", _history),
        ("Worst and best sentences", _sentences),
    ):
        found = list(part(report, console.width))
        if found:
            console.print()
            console.rule(Text(title, style="bold"), align="left", style="dim")
            console.print(*found, sep="\n")


def _table(*columns: str, right: str = "") -> Table:
    """A table; the columns in ``right`` (letters: l, r) are numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
    for column, side in zip(columns, right or "l" * len(columns)):
        number = side == "r"
        table.add_column(
            visible(column), justify="right" if number else "left", no_wrap=number, overflow="fold"
        )
    return table


def _text(value: Any, style: str = "") -> Text:
    return Text(visible(str(value)), style=style)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _name(runs: Sequence[dict[str, Any]], number: int) -> Text:
    """The name of a run in its colour; of several in different places, without the place."""
    names = [run["name"] for run in runs]
    short = [name.rsplit("/", 1)[-1] for name in names]
    chosen = short if len(set(short)) == len(set(names)) else names
    return _text(chosen[number], _colour(number))


def _heading(runs: Sequence[dict[str, Any]], number: int) -> list[Text]:
    """What is above a part of one of several runs."""
    return [Text(), _name(runs, number)][number == 0 :] if len(runs) > 1 else []


def _facts(runs: Sequence[dict[str, Any]]) -> Table:
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    for _ in runs:
        table.add_column(overflow="fold")
    table.add_row("run", *(_text(run["name"], _colour(n)) for n, run in enumerate(runs)))
    known = [dict(run["facts"]) for run in runs]
    for name in dict.fromkeys(name for facts in known for name in facts):
        table.add_row(name, *(_text(facts.get(name, "–")) for facts in known))
    return table


def _data(report: dict[str, Any], width: int) -> Iterator[RenderableType]:
    """A table of each run's data, or one where all have the same."""
    runs = [run for run in report["runs"] if run.get("data")]
    same = all(run["data"] == runs[0]["data"] for run in runs)
    for number, run in enumerate(runs[:1] if same else runs):
        columns = run["data"]
        table = _table("", *(entry["name"] for entry in columns), right="l" + "r" * len(columns))
        for what, key in (
            ("pairs", "pairs"),
            ("source tokens", "source_tokens"),
            ("target tokens", "target_tokens"),
            ("duplicates", "duplicates"),
            ("source is in training", "in_train"),
        ):
            values = [entry[key] for entry in columns]
            table.add_row(what, *("–" if value is None else f"{value:,}" for value in values))
        table.add_row("unknown tokens", *(f"{entry['unknown']:.2%}" for entry in columns))
        for name in ("source", "target"):
            shapes = [_shape(entry["lengths"][name]) for entry in columns]
            table.add_row(f"{name} lengths", *shapes)
        yield from [] if same else _heading(runs, number)
        yield table


def _shape(lengths: Sequence[tuple[int, int]]) -> Text:
    """How many sentences have which length, as bars."""
    most = max(sentences for _, sentences in lengths)
    bars = "".join(BARS[round(n / most * 7)] if n else " " for _, n in lengths)
    return Text.assemble((bars, "cyan"), (f" to {lengths[-1][0]}", "dim"))


# ------------------------------------------------------------------------------ curves


def _learning(report: dict[str, Any], width: int) -> Iterator[RenderableType]:
    curves: dict[str, list[Points]] = {}
    runs = report["runs"]
    for number, run in enumerate(runs):
        for line in run["log"]:
            clock, scores = line.get("clock", {}), line.get("validation", {})
            found = {
                NAMES.get(k, k.replace("_", " ")): v
                for k, v in {**line, **clock}.items()
                if k not in HIDDEN
            }
            found |= {f"validation {k.replace('_', ' ')}": v for k, v in scores.items()}
            for name, value in found.items():
                if isinstance(value, (int, float)):
                    each = curves.setdefault(name, [[] for _ in runs])
                    each[number].append((line["update"], value))
    across = max(1, width // NARROWEST)
    table = Table.grid(padding=(0, 2, 0, 0))
    wide = (width - 2 * (across - 1)) // across
    order = sorted(curves, key=lambda name: not name.startswith("validation"))
    charts = [_chart(name, curves[name], wide) for name in order]
    for start in range(0, len(charts), across):
        table.add_row(*charts[start : start + across])
    if charts:
        yield table


def _chart(name: str, series: Sequence[Points], width: int) -> Group:
    """Curves under their name and last values; of a single one, also the first."""
    values = [y for points in series for _, y in points]
    steep = min(values) > 0 and max(values) / min(values) > STEEP
    scale: Callable[[float], float] = math.log if steep else float
    title = _text(name, "bold")
    for number, points in enumerate(series):
        if points:
            start = f"{points[0][1]:.4g} → " if len(series) == 1 else ""
            title.append(f"  {start}{points[-1][1]:.4g}", style=_colour(number))
    title.append("  log" * steep, style="dim")
    title.truncate(width, overflow="ellipsis")
    low, high = scale(min(values)), scale(max(values))
    first, last = (end(x for points in series for x, _ in points) for end in (min, max))
    cells: dict[tuple[int, int], tuple[int, str]] = {}
    across, down = 2 * width - 1, 4 * HEIGHT - 1
    for number, points in enumerate(series):
        places = [
            (
                (x - first) / ((last - first) or 1) * across,
                (high - scale(y)) / ((high - low) or 1) * down,
            )
            for x, y in points
        ]
        for (x0, y0), (x1, y1) in zip(places, places[1:] or places):
            steps = max(1, round(max(abs(x1 - x0), abs(y1 - y0))))
            for step in range(steps + 1):
                column, row = (
                    round(x0 + (x1 - x0) * step / steps),
                    round(y0 + (y1 - y0) * step / steps),
                )
                cell = row // 4, column // 2
                dots = cells.get(cell, (0, ""))[0] | DOTS[row % 4][column % 2]
                cells[cell] = dots, _colour(number)
    lines = []
    for row in range(HEIGHT):
        line = Text()
        for column in range(width):
            dots, colour = cells.get((row, column), (0, ""))
            line.append(chr(0x2800 + dots) if dots else " ", style=colour)
        lines.append(line)
    return Group(title, *lines, Text())


# ------------------------------------------------------------------------------ scores


def _scores(report: dict[str, Any], width: int) -> Iterator[RenderableType]:
    runs = report["runs"]
    table = _table("metric", "run", "score", "95 % interval", right="llrr")
    signatures = Table.grid(padding=(0, 2, 0, 0))
    for name in dict.fromkeys(score["metric"] for run in runs for score in run.get("scores", [])):
        found = [
            (n, s)
            for n, run in enumerate(runs)
            for s in run.get("scores", [])
            if s["metric"] == name
        ]
        for number, score in found:
            interval = f"{score['low']:.2f} – {score['high']:.2f}"
            value = Text(f"{score['value']:.2f}", style="bold")
            table.add_row(
                "" if number > found[0][0] else name, _name(runs, number), value, interval
            )
        for signature in dict.fromkeys(score["signature"] for _, score in found):
            signatures.add_row(Text(name, "dim"), _text(signature, "dim"))
    if table.row_count:
        yield from (table, Text(), signatures)
    differences = _table("metric", "difference", "p", "", right="lrrl")
    for each in report["significance"]:
        one, two = each["runs"]
        pair = Text.assemble(_name(runs, one), " − ", _name(runs, two))
        differences.add_row(each["metric"], f"{each['difference']:+.2f}", f"{each['p']:.3f}", pair)
    if differences.row_count:
        yield Text()
        yield differences
        yield Text(
            "p: how often chance alone makes such a difference (paired bootstrap)", style="dim"
        )


def _buckets(report: dict[str, Any], width: int) -> Iterator[RenderableType]:
    runs = report["runs"]
    everything = [
        (number, each) for number, run in enumerate(runs) for each in run.get("buckets", [])
    ]
    for place, by in enumerate(dict.fromkeys(each["by"] for _, each in everything)):
        yield from [Text()] if place else []
        table = _table(by, "sentences", "score", "", right="lrrl")
        for label in dict.fromkeys(each["label"] for _, each in everything if each["by"] == by):
            rows = [
                (n, each) for n, each in everything if (each["by"], each["label"]) == (by, label)
            ]
            for number, each in rows:
                colour = _colour(number)
                bar = Text(_bar(each["score"], min(40, width // 3)), style=colour)
                first = label if number == rows[0][0] else ""
                table.add_row(first, f"{each['sentences']:,}", f"{each['score']:.1f}", bar)
        yield table


def _bar(score: float, width: int) -> str:
    """A bar for 0 to 100."""
    eighths = round(max(0.0, min(score, 100)) / 100 * width * 8)
    return "█" * (eighths // 8) + BLOCKS[eighths % 8].strip()


# ------------------------------------------------------------------------------ sentences


def _history(report: dict[str, Any], width: int) -> Iterator[RenderableType]:
    """What became of the first sentence that was kept, at a few updates."""
    runs = report["runs"]
    for number, run in enumerate(runs):
        stops = [(stop["update"], stop["traces"][0]) for stop in run["history"] if stop["traces"]]
        if not stops:
            yield Text.assemble(_name(runs, number), (" kept no traces.", "dim"))
            continue
        table = _table("update", "probability", stops[-1][1]["source"]["text"], right="rrl")
        for update, trace in few(stops, STOPS):
            probability = f"{math.exp(trace['log_probability']):.1%}"
            table.add_row(f"{update:,}", probability, _text(trace["target"]["text"]))
        yield from _heading(runs, number)
        yield table


def _sentences(report: dict[str, Any], width: int) -> Iterator[RenderableType]:
    runs = report["runs"]
    for number, run in enumerate(runs):
        rows = run.get("sentences", [])
        table = _table("chrF", "", "", right="rll")
        table.show_header = False
        for row in rows if len(rows) <= 2 * SHOWN else rows[:SHOWN] + rows[-SHOWN:]:
            same = row["hypothesis"] == row["reference"]
            texts = [
                ("source", row["source"], ""),
                ("", row["hypothesis"], "green" if same else "bold"),
            ]
            texts += [] if same else [("reference", row["reference"], "dim")]
            for place, (what, text, style) in enumerate(texts):
                score = "" if place else f"{row['score']:.1f}"
                table.add_row(
                    score,
                    Text(what, "dim"),
                    _text(text, style),
                    end_section=place == len(texts) - 1,
                )
        if rows:
            yield from _heading(runs, number)
            yield table
