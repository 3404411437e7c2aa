"""``mtcli translate``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from typer import Argument, BadParameter, Option

from ..support.errors import log
from .options import (
    BeamOption,
    CheckpointOption,
    DeviceOption,
    JSONOption,
    OutputOption,
    RunsOption,
    ThreadsOption,
)

Ready = Callable[[], bool]  # whether the next line is here already

if TYPE_CHECKING:
    from ..config import Decoding
    from ..decoding.translator import Translation, Translator

    Stream = Callable[..., Iterator[Translation]]


def translate(
    text: list[str] | None = Argument(None, help="Sentences, quoted; else --input or stdin."),
    run: RunsOption = None,
    checkpoint: CheckpointOption = "best",
    input_path: Path | None = Option(
        None, "--input", "-i", help="File, one sentence a line; .gz too."
    ),
    output: OutputOption = None,
    resume: bool = Option(False, "--resume", help="Continue an --output that was interrupted."),
    beam_size: BeamOption = None,
    n_best: int = Option(1, min=1, help="Hypotheses to print for each line."),
    alignment: bool = Option(
        False, "--alignment", help="Say which words belong together: 0-0 1-2."
    ),
    as_json: JSONOption = False,
    prefix: str = Option("", help="Text with which every translation begins."),
    replace_unknown: bool = Option(
        False, "--replace-unknown", help="For a word it cannot write: the attended source word."
    ),
    length_penalty: float | None = Option(None, min=0, help="Alpha of length penalty; 0: none."),
    max_length_ratio: float | None = Option(None, min=0, help="Most target tokens per source one."),
    no_repeat_ngram: int | None = Option(None, min=0, help="Longest n-gram that may not repeat."),
    sample: bool = Option(False, "--sample", help="Draw translations at random: no search."),
    temperature: float | None = Option(None, help="With --sample: below 1 safer, above wilder."),
    top_k: int | None = Option(None, min=1, help="With --sample: from the k best tokens only."),
    top_p: float | None = Option(None, help="With --sample: from the best tokens that sum to p."),
    seed: int | None = Option(None, min=0, help="With --sample: another seed, other translations."),
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Translate sentences from the command line, a file, or stdin; one line in, one line out."""
    if resume and not output:
        raise BadParameter("--resume goes with --output, the file to continue")
    sampling = _sampling(sample, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    from ..decoding.translator import Translator

    lines, ready = given_lines(text, input_path)
    few = bool(text) or not input_path and sys.stdin.isatty()
    threads = threads or 1 if few else threads  # cores would mostly wait for each other
    translator = Translator.load(run, device, threads, 1 if few else None, checkpoint)
    searched = dict(max_length_ratio=max_length_ratio, no_repeat_ngram=no_repeat_ngram)
    decoding = _decoding(translator, beam_size, n_best, length_penalty, sampling, **searched)
    options: dict[str, Any] = dict(n_best=n_best, prefix=prefix, replace_unknown=replace_unknown)
    options["alignment"] = alignment or as_json
    if alignment:
        _tell_of_head(translator)
    stream: Stream = partial(translator.stream, decoding=decoding, attention=as_json, **options)
    task: dict[str, Any] = {
        "model": translator.name,
        "input": str(input_path.resolve()) if input_path else text or "stdin",
        "input_bytes": input_path.stat().st_size if input_path else None,
        "json": as_json,
        **options,
    }
    task |= {f"decoding.{key}": each for key, each in decoding.model_dump(mode="json").items()}
    _translate_lines(stream, lines, ready, task, input_path, output, resume)


def _sampling(sample: bool, **options: float | None) -> dict[str, float] | None:
    """Values of the config's decoding.sampling; None: search instead."""
    given = {key: value for key, value in options.items() if value is not None}
    if given and not sample:
        raise BadParameter(f"--{next(iter(given)).replace('_', '-')} goes with --sample")
    return given if sample else None


def _decoding(
    translator: Translator,
    beam_size: int | None,
    n_best: int,
    alpha: float | None,
    sampling: dict[str, float] | None,
    **changes: float | None,
) -> Decoding:
    """The config's decoding section with what was given on the command line."""
    own = translator.config.decoding
    given: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    if sampling is not None:
        given["sampling"] = sampling
    if alpha is not None:
        given["length_penalty"] = {"type": own.length_penalty.type, "alpha": alpha}
    return translator.decoding(beam_size=beam_size or max(n_best, own.beam_size), **given)


def _tell_of_head(translator: Translator) -> None:
    """Say where alignments come from, if not from the head that aligns best."""
    from ..decoding.alignment import UNKNOWN

    if translator.alignment_head is None:
        log.warning(UNKNOWN)


def given_lines(text: list[str] | None, path: Path | None) -> tuple[Iterable[str], Ready | None]:
    """The lines to translate, as they come; `Ready` where somebody may wait for an answer."""
    from ..text import corpus

    if text and path:
        raise BadParameter("give sentences or --input, not both")
    if text:
        return "\n".join(text).split("\n"), None
    if path:
        return corpus.read_lines(path), None
    if sys.stdin.isatty():
        return _prompt(), lambda: False
    arriving = corpus.Arriving(sys.stdin.buffer, "stdin")
    return arriving, arriving.ready


def _translate_lines(
    stream: Stream,
    lines: Iterable[str],
    ready: Ready | None,
    task: dict[str, Any],
    input_path: Path | None,
    output: Path | None,
    resume: bool,
) -> None:
    """Translate to a file or to stdout. ``task``: what a later --resume must ask for as well."""
    from ..decoding.translator import POOL_LINES
    from .output import is_complete, progress, resumable

    if resume and output and is_complete(output):
        log.info(f"{output} is complete already; without --resume it is made again.")
        return
    grouped = task["n_best"] > 1 and not task["json"]
    with resumable(output, task, resume, grouped) as (out, done):
        if resume:
            after = f"continuing after line {done:,}" if done else "nothing is there yet; beginning"
            log.info(f"{output}: {after}")
        # Translated again, so that the rest is in the batches in which it would have been.
        repeated = done % POOL_LINES
        first, ready = done - repeated, None if output else ready
        found = stream(islice(lines, first, None), first_line=first + 1, ready=ready)
        found = islice(found, repeated, None)
        with progress(found, input_path, not output, done) as results:
            for number, translation in enumerate(results, done + 1):
                _write(out, number, translation, task)


def _write(out: TextIO, number: int, translation: Translation, task: dict[str, Any]) -> None:
    """Print a line of text, or n-best lines ``number ||| text ||| score``, with pairs of words behind
    where they are asked for, or a JSON object."""
    from .output import DIGITS, to_json

    hypotheses = translation.hypotheses
    if task["json"]:
        keys = ("text", "score", "log_probability", "tokens", "attention", "alignment")
        found = [{key: getattr(each, key) for key in keys} for each in hypotheses]
        line = {"line": number, "source": translation.source, "hypotheses": found}
        print(to_json(line), file=out)
    else:
        for each in hypotheses:
            several = task["n_best"] > 1
            parts = [str(number), each.text, f"{each.score:.{DIGITS}f}"] if several else [each.text]
            if task["alignment"]:
                parts.append(" ".join(f"{one}-{other}" for one, other in each.alignment or []))
            print(" ||| ".join(parts), file=out)
    out.flush()


def _prompt() -> Iterator[str]:
    """Lines that a person types, with editing and history where the platform has readline."""
    remember: Callable[[], object] = lambda: None  # noqa: E731
    with suppress(ImportError, OSError):
        import readline

        state = Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local/state"))
        history = state / "mtcli_history"
        state.mkdir(parents=True, exist_ok=True)
        history.touch()
        readline.read_history_file(history)
        remember = partial(readline.write_history_file, history)
    print("Type a sentence; an empty line or Ctrl-D ends.", file=sys.stderr)
    try:
        while (line := input("> ")).strip():
            with suppress(OSError):
                remember()
            yield line
    except EOFError:
        print(file=sys.stderr)
