"""``mtcli translate``."""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

from typer import Argument, BadParameter, Option

from ..support.errors import UserError
from .loading import load_translator
from .options import BeamOption, DeviceOption, JSONOption, OutputOption, RunsOption, ThreadsOption

if TYPE_CHECKING:
    from ..config import Decoding
    from ..decoding.translator import Translation, Translator

log = logging.getLogger("mtcli")

Text = Annotated[
    list[str] | None, Argument(help="Sentences, each quoted. Without any: --input or stdin.")
]
Input = Annotated[
    Path | None, Option("--input", "-i", help="File with one sentence a line; .gz too.")
]
Resume = Annotated[bool, Option("--resume", help="Continue an --output that was interrupted.")]
NBest = Annotated[int, Option(min=1, help="Hypotheses to print for each line.")]
Prefix = Annotated[str, Option(help="Text with which every translation begins.")]
ReplaceUnknown = Annotated[
    bool,
    Option("--replace-unknown", help="For a word it cannot write: the source word it looked at."),
]
LengthPenalty = Annotated[float | None, Option(min=0, help="Alpha of the length penalty; 0: none.")]
MaxLengthRatio = Annotated[float | None, Option(min=0, help="Most target tokens per source token.")]
NoRepeatNgram = Annotated[int | None, Option(min=0, help="Longest n-gram that may not repeat.")]
Sample = Annotated[
    bool, Option("--sample", help="Draw translations at random instead of searching.")
]
Temperature = Annotated[
    float | None, Option(help="With --sample: below 1 is safer, above is wilder.")
]
TopK = Annotated[int | None, Option(min=1, help="With --sample: from the k best tokens only.")]
TopP = Annotated[
    float | None, Option(help="With --sample: from the best tokens of this probability.")
]
Seed = Annotated[int | None, Option(min=0, help="With --sample: another seed, other translations.")]


def translate(
    text: Text = None,
    run: RunsOption = None,
    input_path: Input = None,
    output: OutputOption = None,
    resume: Resume = False,
    beam_size: BeamOption = None,
    n_best: NBest = 1,
    as_json: JSONOption = False,
    prefix: Prefix = "",
    replace_unknown: ReplaceUnknown = False,
    length_penalty: LengthPenalty = None,
    max_length_ratio: MaxLengthRatio = None,
    no_repeat_ngram: NoRepeatNgram = None,
    sample: Sample = False,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Translate sentences from the command line, a file, or stdin; one line in, one line out."""
    if text and input_path:
        raise BadParameter("give sentences or --input, not both")
    if resume and not output:
        raise BadParameter("--resume goes with --output, the file to continue")
    sampling = _sampling(sample, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    lines = _lines(text, input_path)
    many = not text and lines is not None
    if not many:
        threads = threads or 1  # for a sentence or two, cores would mostly wait for each other
    translator = load_translator(run, device, threads, parallel=many)
    changes = {
        "beam_size": beam_size,
        "max_length_ratio": max_length_ratio,
        "no_repeat_ngram": no_repeat_ngram,
        "sampling": sampling,
    }
    decoding = _decoding(translator, n_best, length_penalty, changes)
    stream = partial(translator.stream, decoding=decoding, n_best=n_best, attention=as_json)
    stream = partial(stream, prefix=prefix, replace_unknown=replace_unknown)
    write = partial(_write, n_best=n_best, as_json=as_json)
    if lines is None:
        for number, translation in enumerate(stream(_prompt(), ready=lambda: False), 1):
            write(sys.stdout, number, translation)
        return
    task: dict[str, Any] = {
        "model": translator.name,
        "input": str(input_path.resolve()) if input_path else text or "stdin",
        "input_bytes": input_path.stat().st_size if input_path else None,
        "json": as_json,
    }
    task |= {"n_best": n_best, "prefix": prefix, "replace_unknown": replace_unknown}
    task |= {f"decoding.{key}": each for key, each in decoding.model_dump(mode="json").items()}
    _translate_lines(stream, write, lines, task, input_path, output, resume)


def _sampling(sample: bool, **options: float | None) -> dict[str, float] | None:
    """Values of the config's decoding.sampling; None: search instead."""
    given = {key: value for key, value in options.items() if value is not None}
    if given and not sample:
        raise BadParameter(f"--{next(iter(given)).replace('_', '-')} goes with --sample")
    return given if sample else None


def _decoding(
    translator: Translator, n_best: int, length_penalty: float | None, options: dict[str, Any]
) -> Decoding:
    """The run's way of decoding, with the options that were given; the beam holds ``n_best``."""
    own = translator.config.decoding
    changes = {key: value for key, value in options.items() if value is not None}
    if n_best > own.beam_size:
        changes.setdefault("beam_size", n_best)
    if length_penalty is not None:
        changes["length_penalty"] = {"type": own.length_penalty.type, "alpha": length_penalty}
    return translator.decoding(**changes)


def _lines(text: list[str] | None, path: Path | None) -> Iterable[str] | None:
    """The lines to translate, as they come; None: ask the person at the terminal."""
    from ..text import corpus

    if text:
        for sentence in text:
            try:
                sentence.encode("utf-8")
            except UnicodeEncodeError:
                raise UserError(f"{sentence!r} on the command line is not UTF-8.") from None
        return [line for sentence in text for line in sentence.split("\n")]
    if path:
        return corpus.read_lines(path)
    if sys.stdin.isatty():
        return None
    return corpus.Arriving(sys.stdin.buffer, "stdin")


def _translate_lines(
    stream: Callable[..., Iterator[Translation]],
    write: Callable[[TextIO, int, Translation], None],
    lines: Iterable[str],
    task: dict[str, Any],
    input_path: Path | None,
    output: Path | None,
    resume: bool,
) -> None:
    """Translate to a file or to stdout. ``task``: what a later --resume must ask for as well."""
    from ..decoding.translator import POOL_LINES
    from ..text import corpus
    from .output import progress, resume_point, writer

    done = keep = 0
    if resume and output:
        left = resume_point(output, task, grouped=task["n_best"] > 1 and not task["json"])
        if left is None and output.exists():
            log.info(f"{output} is complete already; without --resume it is made again.")
            return
        done, keep = left or (0, 0)
        log.info(
            f"{output}: continuing after line {done:,}"
            if done
            else f"{output}: nothing is there yet; beginning"
        )
    ready = None
    if output is None and isinstance(lines, corpus.Arriving):
        ready = lines.ready  # a program at the other end may wait for an answer
    repeated = done % POOL_LINES  # translated again: the rest is in the batches it would have been
    first = done - repeated
    translations = stream(islice(lines, first, None), first_line=first + 1, ready=ready)
    to_stdout = output is None or isinstance(lines, list)  # a few sentences need no bar
    with (
        writer(output, task, keep) as out,
        progress(islice(translations, repeated, None), input_path, to_stdout, done) as results,
    ):
        for number, translation in enumerate(results, done + 1):
            write(out, number, translation)


def _write(out: TextIO, number: int, translation: Translation, n_best: int, as_json: bool) -> None:
    """Print a line of text, or n-best lines ``number ||| text ||| score``, or a JSON object."""
    if as_json:
        keys = ("text", "score", "log_probability", "tokens", "attention")
        hypotheses = [{key: getattr(h, key) for key in keys} for h in translation.hypotheses]
        line = {"line": number, "source": translation.source, "hypotheses": hypotheses}
        print(json.dumps(line, ensure_ascii=False), file=out)
    elif n_best == 1:
        print(translation.text, file=out)
    else:
        for hypothesis in translation.hypotheses:
            print(f"{number} ||| {hypothesis.text} ||| {hypothesis.score:.4f}", file=out)
    out.flush()


def _prompt() -> Iterator[str]:
    """Lines that a person types, with editing and history where the platform has readline."""
    try:
        import readline
    except ImportError:
        pass
    else:
        state = Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local/state"))
        history = state / "mtcli_history"
        try:
            history.parent.mkdir(parents=True, exist_ok=True)
            history.touch()
            readline.read_history_file(history)
            atexit.register(readline.write_history_file, history)
        except OSError:  # no history then
            pass
    print("Type a sentence; an empty line or Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            line = input("> ")
        except EOFError:
            print(file=sys.stderr)
            return
        if not line.strip():
            return
        yield line
