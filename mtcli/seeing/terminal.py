"""A trace on a terminal: tokens by probability, attention as a heatmap, hypotheses, the search's tree."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from .trace import Node, Step, Trace
from .view import Choice, Grid, grid, label

DOUBTFUL = 0.8  # a token of a lower probability is shown with what else could have come
SHOWN = 0.05  # a smaller weight has no colour and no number
LONGEST_LABEL = 16  # columns of a terminal
LOW, HIGH = (
    (78, 94, 122),
    (255, 166, 43),
)  # from grey blue to orange: also told apart without red or green
LESS = (
    "The engine of an exported model shows no ranks and no alternatives, and of attention the mean over "
    "heads of the last layer. Look at the run itself for the rest.\n"
)
LIKELY = 0.01  # a pruned branch of the tree less probable than that is counted, not shown


def console() -> Console:
    """stdout; with NO_COLOR, or where it is no terminal, without any escape sequence."""
    plain = bool(os.environ.get("NO_COLOR"))
    return Console(
        color_system=None if plain else "auto", highlight=False, markup=False, emoji=False
    )


def show(console: Console, traces: Sequence[Trace], choice: Choice) -> None:
    """Print traces of one sentence, side by side where there is room."""
    width = (console.width - 3 * (len(traces) - 1)) // len(traces)
    if len(traces) == 1 or width < 36:
        for trace in traces:
            console.print(Group(*_parts(trace, choice, console.width)))
        return
    table = Table.grid(padding=(0, 3, 0, 0), pad_edge=False)
    for _ in traces:
        table.add_column(width=width, no_wrap=False)
    table.add_row(*(Group(*_parts(trace, choice, width)) for trace in traces))
    console.print(table)


def _parts(trace: Trace, choice: Choice, width: int) -> Iterator[RenderableType]:
    yield Text(label(trace.model), style="dim")
    yield Text(label(trace.source.text))
    kind = "given: " if trace.forced else ""
    yield Text.assemble((kind, "dim"), (label(trace.target.text), "bold"))
    numbers = f"score {trace.score:.3f}, log-probability {trace.log_probability:.3f}"
    yield Text(numbers, style="dim")
    yield Text()
    yield from _tokens(trace.steps, width)
    if any(step.rank is None for step in trace.steps):
        yield Text(LESS, style="dim")
    if head := choice.of(trace):
        yield from _heatmap(grid(trace, head), width)
    else:
        yield Text("This model has no attention: the source is one vector to it.", style="dim")
    if len(trace.hypotheses) > 1 or trace.forced:
        yield _hypotheses(trace)
    if trace.tree:
        yield from _tree(trace.tree)


# ------------------------------------------------------------------------------------------ tokens


def _tokens(steps: Sequence[Step], width: int) -> Iterator[Text]:
    """Each token over its probability, by which it is coloured; below doubtful ones, what else could
    have come, and the rank if it was not the first. Blocks flow like words."""
    blocks = [_block(step) for step in steps]
    while blocks:
        row: list[tuple[int, list[Text]]] = []
        used = 0
        while blocks and (not row or used + blocks[0][0] <= width):
            row.append(blocks.pop(0))
            used += row[-1][0] + 2
        for line in range(max(len(lines) for _, lines in row)):
            text = Text(no_wrap=True, overflow="crop")
            for size, lines in row:
                cell = lines[line] if line < len(lines) else Text()
                text.append_text(cell).append(" " * (size + 2 - cell.cell_len))
            text.rstrip()
            yield text
        yield Text()


def _block(step: Step) -> tuple[int, list[Text]]:
    """The width and the lines of a token."""
    probability = math.exp(step.log_probability)
    lines = [Text(_fit(step.token), style=Style(bold=True) + _tint(1 - probability))]
    lines.append(Text(_percent(probability), style="dim"))
    if probability < DOUBTFUL and step.alternatives:
        if step.rank is not None and step.rank > 1:
            lines.append(Text(f"rank {step.rank}", style="bold"))
        for place, each in enumerate(step.alternatives[:4]):
            other = math.exp(each.log_probability)
            if each.token != step.token and (place == 0 or other >= 0.005):
                lines.append(Text(f"{_fit(each.token)} {_percent(other)}", style="dim italic"))
    return max(line.cell_len for line in lines), lines


# ------------------------------------------------------------------------------------------ attention


def _heatmap(shown: Grid, width: int) -> Iterator[Text]:
    """A row a word; the columns in as many panels as the width needs."""
    yield Text(f"{shown.title} (%)", style="dim")
    rows, columns = ([_fit(word) for word in words] for words in (shown.rows, shown.columns))
    margin = max(map(cell_len, rows), default=0)
    sizes = [max(cell_len(column), 3) for column in columns]
    start = 0
    while start < len(columns):
        end, used = start, margin
        while end < len(columns) and (end == start or used + sizes[end] + 1 <= width):
            used += sizes[end] + 1
            end += 1
        line = Text(" " * margin, no_wrap=True, overflow="crop")
        for column, size in zip(columns[start:end], sizes[start:end]):
            line.append(" ").append(_centred(column, size))
        yield line
        for row, weights in zip(rows, shown.weights):
            line = Text(" " * (margin - cell_len(row)) + row, no_wrap=True, overflow="crop")
            for weight, size in zip(weights[start:end], sizes[start:end]):
                line.append(" ").append(
                    _centred(_percent(weight, "") if weight >= SHOWN else "", size),
                    _background(weight),
                )
            yield line
        yield Text()
        start = end


def _background(weight: float) -> Style:
    if weight < SHOWN:
        return Style()
    red, green, blue = _mix(weight)
    light = 0.3 * red + 0.6 * green + 0.1 * blue > 125
    return Style(
        color="#101010" if light else "#ffffff", bgcolor=f"#{red:02x}{green:02x}{blue:02x}"
    )


def _tint(doubt: float) -> Style:
    """No colour for what is sure, orange for what is not."""
    if doubt < 1 - DOUBTFUL:
        return Style()
    return Style(color="#{:02x}{:02x}{:02x}".format(*_mix(0.4 + 0.6 * doubt)))


def _mix(share: float) -> tuple[int, ...]:
    return tuple(round(low + (high - low) * min(1.0, share)) for low, high in zip(LOW, HIGH))


# ------------------------------------------------------------------------------------------ hypotheses and tree


def _hypotheses(trace: Trace) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in ("#", "score", "log-prob."):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("what the search found" if trace.forced else "translation", overflow="fold")
    for number, each in enumerate(trace.hypotheses, 1):
        numbers = str(number), f"{each.score:.3f}", f"{each.log_probability:.3f}"
        table.add_row(*numbers, Text(label(each.text)))
    return table


def _tree(nodes: Sequence[Node]) -> Iterator[Text]:
    """The search. The left edge of every branch is its own best continuation: what leaves it is to the
    right. What was pruned and improbable is only counted."""
    best = [node.score if node.end == "finished" else -math.inf for node in nodes]
    below: dict[int, list[int]] = {}
    hidden = 0
    for place, node in reversed(list(enumerate(nodes))):  # children come after their parents
        if node.parent < 0:
            continue
        best[node.parent] = max(best[node.parent], best[place])
        share = math.exp(node.log_probability - nodes[node.parent].log_probability)
        if node.end != "width" or share >= LIKELY:
            below.setdefault(node.parent, []).append(place)
        else:
            hidden += 1

    def branch(place: int, first: str, rest: str) -> Iterator[Text]:
        words = []
        while True:
            words.append(nodes[place].token)
            order = sorted(below.get(place, []), key=lambda each: (-best[each], -nodes[each].score))
            if len(order) != 1:
                end = nodes[place].end or (None if order else "width")
                yield _branch_line(first, words, end, nodes[place].score)
                first, words = rest, []
            for each in order[1:]:
                yield from branch(each, rest + "├ ", rest + "│ ")
            if not order:
                return
            place = order[0]

    yield Text()
    key = "the search: ✓ finished, ✗ pruned, … still there when it ended; with scores"
    yield Text(key, style="dim")
    if nodes:
        yield from branch(0, "", "")
    if hidden:
        yield Text(f"and {hidden} pruned continuations of less than {LIKELY:.0%}", style="dim")


def _branch_line(first: str, words: list[str], end: str | None, score: float) -> Text:
    mark = {"finished": " ✓", "width": " ✗", "stop": " …", None: ""}[end]
    style = "bold" if end == "finished" else "dim" if end else ""
    text = Text.assemble((first, "dim"), (label(" ".join(words)) + mark, style), overflow="fold")
    return text.append(f" {score:.2f}", "dim italic")


# ------------------------------------------------------------------------------------------ cells


def _percent(share: float, sign: str = "%") -> str:
    return "<1" + sign if share < 0.005 else f"{share:.0%}".rstrip("%") + sign


def _fit(text: str) -> str:
    """A label, shortened to LONGEST_LABEL; a letter keeps its marks."""
    text = label(text)
    if cell_len(text) <= LONGEST_LABEL:
        return text
    while cell_len(text) >= LONGEST_LABEL:
        text = text[:-1]
    return text + "…"


def _centred(text: str, width: int) -> str:
    space = width - cell_len(text)
    return " " * (space // 2) + text + " " * (space - space // 2)
