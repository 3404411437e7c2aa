"""``mtcli look``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, BadParameter, Option

from ..support.errors import UserError, log
from .options import BeamOption, DeviceOption, JSONOption, ThreadsOption
from .translate import given_lines

if TYPE_CHECKING:
    from ..decoding.translator import Translator
    from ..seeing.trace import Trace
    from ..seeing.view import Choice

Runs = Annotated[
    list[Path] | None,
    Option(help="Directory of a run; repeated: side by side.  [default: the last trained]"),
]
Checkpoints = Annotated[
    list[str] | None,
    Option(metavar="best|last|N", help="Which of a run; N is an update; repeated: side by side."),
]
File = Annotated[Path | None, Option(help="Write this instead of printing.")]


def look(
    text: list[str] | None = Argument(None, help="Sentences, quoted; else typed, or from stdin."),
    run: Runs = None,
    checkpoint: Checkpoints = None,
    reference: str | None = Option(None, help="A translation to look at instead of the best."),
    kind: str = Option("cross", help="Attention: cross (to the source), encoder or decoder."),
    layer: int | None = Option(None, min=0, help="Counted from 0.  [default: that aligns best]"),
    head: int | None = Option(None, min=0, help="Counted from 0.  [default: that aligns best]"),
    mean: bool = Option(False, "--mean", help="The mean over all heads of the layer."),
    shifted: bool | None = Option(
        None, "--shifted/--not-shifted", help="When a token is read, not when it is predicted."
    ),
    n_best: int = Option(3, min=1, help="Hypotheses to show."),
    beam_size: BeamOption = None,
    tree: bool = Option(False, "--tree", help="Show the search: what was pruned, and when."),
    as_json: JSONOption = False,
    svg: File = None,
    png: File = None,
    html: File = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Look into a translation: probabilities, alternatives, attention, the search."""
    if reference is not None and (not text or len(text) > 1):
        raise BadParameter("--reference goes with one sentence on the command line")
    if (svg or png or html) and not text:
        raise BadParameter("--svg, --png and --html go with sentences on the command line")
    from ..seeing.view import Choice

    choice = Choice(kind, layer, head, mean, shifted)
    translators = _load(run or [], checkpoint or [], device, threads or 1)
    found = (
        [
            _trace(each, line, reference, n_best, beam_size, tree or bool(html))
            for each in translators
        ]
        for line in _lines(text, reference, translators)
    )
    if svg or png or html:
        _write([trace for traces in found for trace in traces], choice, svg, png, html)
    elif as_json:
        for traces in found:
            for trace in traces:
                print(json.dumps(trace.as_dict(), ensure_ascii=False), flush=True)
    else:
        from ..seeing import terminal

        for traces in found:
            if choice == Choice():
                _tell(translators, traces)
            terminal.show(terminal.console(), traces, choice)


def _lines(
    text: list[str] | None, reference: str | None, translators: list[Translator]
) -> Iterator[str]:
    """The lines that are not blank. Says which of them `translate` would copy without a model."""
    from ..text.writing import has_letter, is_blank

    copied = not reference and any(each.config.decoding.copy_symbols for each in translators)
    for line in given_lines(text, None)[0]:
        if is_blank(line):
            continue
        if copied and not has_letter(line):
            log.info(
                f"{line}: translate copies what has no letter; this is the model's own search."
            )
        yield line


def _load(runs: list[Path], checkpoints: list[str], device: str, threads: int) -> list[Translator]:
    """Every run, or every checkpoint of every run."""
    from ..decoding.translator import Translator

    named: list[Path | None] = [*runs] or [None]
    return [
        Translator.load(run, device, threads, checkpoint=each)
        for run in named
        for each in checkpoints or ["best"]
    ]


def _trace(
    translator: Translator,
    text: str,
    reference: str | None,
    n_best: int,
    beam_size: int | None,
    tree: bool,
) -> Trace:
    from ..seeing.trace import trace

    beam_size = beam_size or translator.config.decoding.beam_size
    found = dict(n_best=min(n_best, beam_size), beam_size=beam_size)
    return trace(translator, text, reference=reference, tree=tree, **found)


def _tell(translators: list[Translator], traces: list[Trace]) -> None:
    """Say where attention is not that of the head that aligns best."""
    from ..decoding.alignment import UNKNOWN

    for translator, trace in zip(translators, traces):
        known = translator.alignment_head is not None or "cross.mean" in trace.attention
        if trace.attention and not known:
            log.warning(f"{translator.name}: {UNKNOWN}")


def _write(
    traces: Sequence[Trace], choice: Choice, svg: Path | None, png: Path | None, html: Path | None
) -> None:
    if not traces:
        raise UserError("There is nothing to show: the sentence is blank.")
    from ..seeing import picture
    from ..seeing.page import page
    from ..support import files

    if svg:
        files.write_output(svg, picture.draw(traces, choice, "svg"))
    if png:
        files.write_output(png, picture.draw(traces, choice, "png"))
    if html:
        asked = (choice.of(trace) for trace in traces)
        shown = [
            {**trace.as_dict(), "shown": head and asdict(head)}
            for trace, head in zip(traces, asked)
        ]
        files.write_output(html, page(traces[0].source.text, {"traces": shown}).encode())
    for path in filter(None, (svg, png, html)):
        log.info(f"written to {path}")
