"""The command line: parse, call, print. What it calls is imported inside the commands, so that help is instant."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice, tee
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from .. import __version__
from ..support.errors import UserError

app = typer.Typer(
    name="mtcli",
    help="Train a translator from parallel text, use it, score it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

log = logging.getLogger("mtcli")


ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="YAML file that says what to train and how.")
]
SetOption = Annotated[
    Optional[list[str]],
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the config; repeatable."),
]
NewRunOption = Annotated[
    Optional[Path],
    typer.Option("--run", help="Directory of the run.  [default: runs/ and the config's name]"),
]
RunOption = Annotated[
    Optional[Path],
    typer.Option("--run", help="Directory of a run.  [default: the one trained last]"),
]
RunsOption = Annotated[
    Optional[list[Path]],
    typer.Option(
        "--run",
        help="Directory of a run; of several, an ensemble.  [default: the one trained last]",
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda|cuda:N|mps",
        help="Where to compute; auto takes a CUDA GPU if there is one.",
    ),
]
ThreadsOption = Annotated[
    Optional[int],
    typer.Option(min=1, help="Processor cores to use.  [default: PyTorch's choice, usually all]"),
]
BeamOption = Annotated[
    Optional[int], typer.Option(min=1, help="Hypotheses kept at each step; 1 is greedy.")
]
JSONOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Run the command line. Results go to stdout, all else to stderr; exits 0, 1 (failure) or 2 (wrong usage)."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.INFO)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(
            encoding="utf-8", errors="backslashreplace" if stream is sys.stderr else "strict"
        )
    try:
        app()
    except UserError as error:
        print(f"mtcli: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output has seen enough
        _drop_stdout()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:  # such as a full disk behind stdout
        print(
            f"mtcli: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}.",
            file=sys.stderr,
        )
        _drop_stdout()
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _drop_stdout() -> None:
    """What stdout still holds cannot be written; nobody need hear of it again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mtcli {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# ------------------------------------------------------------------------------------------------------------ training


@app.command("build-vocab")
def build_vocab(config: ConfigOption, run: NewRunOption = None, settings: SetOption = None) -> None:
    """Train the tokenizers, count the vocabularies, and say how well they cover the text."""
    from ..text import codec, corpus
    from ..training import data

    place = _prepare_run(config, run, _load_config(config, settings, run))
    with place.lock():
        codecs = data.prepare(place.config, place)
        rows = [("", "size", "tokens", "tokens/line", "UNK", "coverage", "used")]
        validation, references = corpus.read_evaluation(place.config.data.validation)
        for side, name in enumerate(("source", "target")):
            texts = {
                "train": (pair[side] for pair in data.training_pairs(place.config)),
                "validation": validation if side == 0 else (each[0] for each in references),
            }
            for part, lines in texts.items():
                found = codec.coverage(codecs[side], lines)
                rows.append((
                    f"{name}, {part}", f"{found.size:,}", f"{found.tokens:,}", f"{found.tokens_per_line:.1f}",
                    f"{found.unknown_rate:.2%}", f"{1 - found.unknown_rate:.2%}", f"{found.used:.1%}",
                ))  # fmt: skip
    _print_table(rows)
    log.info(f"written to {place.path / 'tokenizer'}\nnext: mtcli train --config {config}")


@app.command()
def train(
    config: ConfigOption,
    run: NewRunOption = None,
    settings: SetOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Train a model; the same command again continues a run where it stopped. torchrun starts it on several GPUs."""
    from ..support import distributed
    from ..support.signals import Signals

    if not distributed.is_main():
        log.setLevel(logging.ERROR)  # the main process speaks for all
    with Signals() as signals, _telling(KeyboardInterrupt, run or _place_for(config)):
        wanted = _load_config(config, settings, run)
        from ..support import devices
        from ..training import trainer

        chosen = devices.prepare(device, threads)
        distributed.init(chosen)
        with distributed.main_first():
            place = _prepare_run(config, run, wanted)
        with (
            place.lock() if distributed.is_main() else nullcontext(),
            _telling(UserError, place.path),
        ):
            if distributed.is_main():
                place.mark_latest()
            job = trainer.Trainer(place, chosen, signals)
            parameters = sum(parameter.numel() for parameter in job.model.parameters())
            several = (
                f", {distributed.world_size()} processes" if distributed.world_size() > 1 else ""
            )
            log.info(
                f"{place.path}: {place.config.model.type}, {parameters:,} parameters, on {job.device}{several}"
            )
            try:
                job.train()
            except KeyboardInterrupt:  # they all stop
                distributed.shutdown()
                raise
        distributed.shutdown()
    best, progress = place.best, job.progress
    scored = (
        f"best {best['metric']} {best['value']:.4g} at update {best['update']:,}"
        if best
        else "no finite score"
    )
    log.info(
        f"finished: {place.path}, {progress.update:,} updates in {progress.seconds / 60:.1f} minutes; {scored}\n"
        f'next: mtcli translate --run {place.path} "{job.sources[0]}"\n'
        f"      mtcli eval --run {place.path}"
    )


def _load_config(path: Path, settings: list[str] | None, run: Path | None):
    from .. import config as configs
    from ..training import defaults

    config = configs.load(path, settings or [])
    if config.init_from is None:
        return defaults.fit(config)
    from ..run.directory import Run

    place = run or _place_for(path)  # once it is made, it needs the other run no more
    return defaults.fit(
        config,
        (Run(place) if (place / "config.yaml").exists() else Run.open(config.init_from)).config,
    )


def _place_for(config_path: Path) -> Path:
    return Path("runs") / config_path.stem


def _prepare_run(config_path: Path, run: Path | None, config):
    """The run directory for a config: new, or the existing one if it was made with the same config."""
    from ..run.directory import Run
    from ..support import distributed

    if distributed.is_main():
        return Run.create(
            run or _place_for(config_path), config_path.read_text(encoding="utf-8"), config
        )
    place = Run(run or _place_for(config_path))
    place.config = config
    return place


@contextmanager
def _telling(kind: type[BaseException], path: Path) -> Iterator[None]:
    """Where ``kind`` ends training, say what is saved and how to go on. A signal exits with 128 + its number."""
    try:
        yield
    except kind as error:
        saved = [int(each.name) for each in path.glob("checkpoints/*") if each.name.isdigit()]
        if saved:
            log.info(f"saved up to update {max(saved):,}; to continue: {_same_command()}")
        elif kind is KeyboardInterrupt:
            log.info(f"stopped before anything was to be saved; to start again: {_same_command()}")
        if number := getattr(error, "signal", 0):
            sys.exit(128 + number)
        raise


def _same_command() -> str:
    import shlex

    from ..support import distributed

    command = shlex.join(["mtcli", *sys.argv[1:]])
    return command if distributed.world_size() == 1 else f"the same torchrun command ({command})"


# --------------------------------------------------------------------------------------------------------- translating


@app.command()
def translate(
    text: Annotated[
        Optional[list[str]],
        typer.Argument(help="Sentences, each quoted. Without any: --input or stdin."),
    ] = None,
    run: RunsOption = None,
    input: Annotated[
        Optional[Path],
        typer.Option("--input", "-i", help="File with one sentence a line; .gz too."),
    ] = None,
    output: Annotated[
        Optional[Path], typer.Option("--output", "-o", help="File to write instead of stdout.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an --output that was interrupted.")
    ] = False,
    beam_size: BeamOption = None,
    n_best: Annotated[int, typer.Option(min=1, help="Hypotheses to print for each line.")] = 1,
    as_json: JSONOption = False,
    prefix: Annotated[str, typer.Option(help="Text with which every translation begins.")] = "",
    replace_unknown: Annotated[
        bool,
        typer.Option(
            "--replace-unknown", help="For a word it cannot write: the source word it looked at."
        ),
    ] = False,
    length_penalty: Annotated[
        Optional[float], typer.Option(min=0, help="Alpha of the length penalty; 0: none.")
    ] = None,
    max_length_ratio: Annotated[
        Optional[float], typer.Option(min=0, help="Most target tokens per source token.")
    ] = None,
    no_repeat_ngram: Annotated[
        Optional[int], typer.Option(min=0, help="Longest n-gram that may not repeat.")
    ] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Draw translations at random instead of searching.")
    ] = False,
    temperature: Annotated[
        Optional[float], typer.Option(help="With --sample: below 1 is safer, above is wilder.")
    ] = None,
    top_k: Annotated[
        Optional[int], typer.Option(min=1, help="With --sample: from the k best tokens only.")
    ] = None,
    top_p: Annotated[
        Optional[float],
        typer.Option(help="With --sample: from the best tokens of this probability."),
    ] = None,
    seed: Annotated[
        Optional[int], typer.Option(min=0, help="With --sample: another seed, other translations.")
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Translate sentences from the command line, a file, or stdin; one line in, one line out."""
    if text and input:
        raise typer.BadParameter("give sentences or --input, not both")
    if resume and not output:
        raise typer.BadParameter("--resume goes with --output, the file to continue")
    chosen: dict[str, Any] = dict(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    sampling = {key: value for key, value in chosen.items() if value is not None}
    if sampling and not sample:
        raise typer.BadParameter(f"--{next(iter(sampling)).replace('_', '-')} goes with --sample")
    lines = _lines(text, input)
    if text or lines is None:
        threads = (
            threads or 1
        )  # cores that wait for each other at every step of a sentence or two only make it slow
    translator = _load_translator(run, device, threads, processes=threads)
    changes: dict[str, Any] = {}
    if sample:
        changes["sampling"] = sampling
    if beam_size is not None:
        changes["beam_size"] = beam_size
    elif n_best > translator.config.decoding.beam_size:
        changes["beam_size"] = n_best
    if length_penalty is not None:
        changes["length_penalty"] = {
            "type": translator.config.decoding.length_penalty.type,
            "alpha": length_penalty,
        }
    if max_length_ratio is not None:
        changes["max_length_ratio"] = max_length_ratio
    if no_repeat_ngram is not None:
        changes["no_repeat_ngram"] = no_repeat_ngram
    decoding = translator.decoding(**changes)
    wish = dict(n_best=n_best, prefix=prefix, replace_unknown=replace_unknown)
    options = dict(decoding=decoding, attention=as_json, **wish)
    if lines is None:
        for number, translation in enumerate(
            translator.stream(_prompt(), ready=lambda: False, **options), 1
        ):
            _write(sys.stdout, translation, number, n_best, as_json)
        return
    from ..decoding.translator import POOL_LINES
    from ..text import corpus
    from .output import progress, resume_point, writer

    if output is None and isinstance(
        lines, corpus.Arriving
    ):  # a program on the other side may wait for an answer
        options["ready"] = lines.ready

    task = {
        "model": translator.name,
        "input": str(input.resolve()) if input else text or "stdin",
        "input_bytes": input.stat().st_size if input else None,
        "json": as_json,
        **wish,
        **{f"decoding.{key}": value for key, value in decoding.model_dump(mode="json").items()},
    }
    done = keep = 0
    if resume and output:
        left = resume_point(output, task, grouped=n_best > 1 and not as_json)
        if left is None and output.exists():
            log.info(f"{output} is whole already; without --resume it is made anew.")
            return
        done, keep = left or (0, 0)
        log.info(
            f"{output}: continuing after line {done:,}"
            if done
            else f"{output}: nothing of it is there; beginning"
        )
    again = (
        done % POOL_LINES
    )  # translated once more, so that the others are in the very batches of an unbroken run
    lines = islice(lines, done - again, None)
    with writer(output, task, keep) as out:
        translations = islice(
            translator.stream(lines, first_line=done - again + 1, **options), again, None
        )
        with progress(
            translations, input, text is not None or output is None, done
        ) as translations:
            for number, translation in enumerate(translations, done + 1):
                _write(out, translation, number, n_best, as_json)


def _lines(text: list[str] | None, path: Path | None) -> Iterable[str] | None:
    """What is to be translated, a line at a time; None means that a person is to be asked."""
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


def _load_translator(
    run: Path | list[Path] | None, device: str, threads: int | None, processes: int | None = 1
):
    import gc

    gc.disable()  # imports keep nearly all they make; to look for garbage meanwhile is an eighth of PyTorch's
    try:
        from ..decoding.translator import Translator

        return Translator.load(run, device, threads, processes)
    finally:
        gc.freeze()
        gc.enable()


def _prompt() -> Iterator[str]:
    """Lines that a person types, with editing and history where the platform has readline."""
    try:
        import readline
    except ImportError:
        pass
    else:
        history = (
            Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local/state")) / "mtcli_history"
        )
        try:
            history.parent.mkdir(parents=True, exist_ok=True)
            history.touch()
            readline.read_history_file(history)
            import atexit

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


def _write(out, translation, number: int, n_best: int, as_json: bool) -> None:
    """One Translation as a line of text, as n-best lines ``number ||| text ||| score``, or as a JSON object."""
    if as_json:
        keys = ("text", "score", "log_probability", "tokens", "attention")
        hypotheses = [{key: getattr(each, key) for key in keys} for each in translation.hypotheses]
        line = {"line": number, "source": translation.source, "hypotheses": hypotheses}
        print(json.dumps(line, ensure_ascii=False), file=out)
    elif n_best == 1:
        print(translation.text, file=out)
    else:
        for hypothesis in translation.hypotheses:
            print(f"{number} ||| {hypothesis.text} ||| {hypothesis.score:.4f}", file=out)
    out.flush()


# ------------------------------------------------------------------------------------------------------------- scoring


@app.command("eval")
def evaluate(
    run: RunsOption = None,
    source: Annotated[
        Optional[Path], typer.Option(help="File to translate, one sentence a line.")
    ] = None,
    reference: Annotated[
        Optional[list[Path]],
        typer.Option(
            help="Its translations, line by line; repeatable, or a .tsv with several a line."
        ),
    ] = None,
    data: Annotated[
        Optional[Path], typer.Option(help="TSV of source and reference, instead of two files.")
    ] = None,
    metrics: Annotated[
        Optional[str], typer.Option(help="Comma-separated: bleu, chrf, ter, exact_match.")
    ] = None,
    against: Annotated[
        Optional[Path], typer.Option(help="Another run: is the difference significant?")
    ] = None,
    output: Annotated[
        Optional[Path], typer.Option("--output", "-o", help="Write the translations here.")
    ] = None,
    beam_size: BeamOption = None,
    as_json: JSONOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Translate a test set and score it. Without files: the test set that the run's config names."""
    if data and (source or reference):
        raise typer.BadParameter("give --data, or --source and --reference, not both")
    if bool(source) != bool(reference):
        raise typer.BadParameter("--source and --reference go together")
    from .. import config as configs
    from ..decoding import evaluation
    from ..text import corpus

    translator = _load_translator(run, device, threads, processes=threads)
    if data:
        part = configs.TSV(path=str(data))
    elif source:
        part = configs.Plain(source=str(source), target=[str(path) for path in reference or []])
    elif translator.config.data.test is not None:
        part = translator.config.data.test
        for path in configs.files_of(
            part
        ):  # a run may come from a stranger, who could name anything
            if os.path.lexists(path) and not os.path.isfile(path):
                raise UserError(
                    f"{path}, which the run's config names as data.test, is no plain file. It was not opened; give "
                    "--data, or --source and --reference."
                )
    else:
        raise UserError(
            "The run's config names no data.test; give --data, or --source and --reference."
        )
    names = list(translator.config.evaluation.metrics)
    if metrics is not None:
        names = [name.strip() for name in metrics.split(",")]
        configs.replace(translator.config.evaluation, metrics=names)  # only to check them
    sources, references = corpus.read_evaluation(part)
    decoding = translator.decoding(**({"beam_size": beam_size} if beam_size is not None else {}))
    result = evaluation.evaluate(translator, sources, references, names, decoding)
    if output:
        from .output import writer

        with writer(output) as out:
            out.writelines(f"{line}\n" for line in result.hypotheses)
    name = " + ".join(map(str, run or ["the run trained last"]))
    comparisons = []
    if against:
        other = _load_translator(against, device, threads, processes=threads)
        rival = evaluation.evaluate(
            other, sources, references, [], other.decoding(beam_size=decoding.beam_size)
        )
        systems = [(str(against), rival.hypotheses), (name, result.hypotheses)]
        options = evaluation.metric_options(translator)
        comparisons = evaluation.metrics.compare(systems, references, names, options)
    if as_json:
        summary: dict[str, Any] = {
            key: value for key, value in result.values().items() if key != "loss"
        }
        summary |= {
            "sentences": len(sources),
            "source": configs.name_of(part),
            "beam_size": decoding.beam_size,
            "signatures": {name: score.signature for name, score in result.scores.items()},
        }
        if comparisons:
            summary["comparison"] = [comparison._asdict() for comparison in comparisons]
        print(json.dumps(summary, ensure_ascii=False))
        return
    print(
        f"{name} on {configs.name_of(part)}: {len(sources):,} sentences, beam {decoding.beam_size}"
    )
    _print_table(
        [(score.name, f"{score.value:.2f}", score.signature) for score in result.scores.values()]
        + [
            (
                "perplexity",
                f"{result.perplexity:.3f}",
                "of a target token of the first references, end of sentence included",
            )
        ]
    )
    if comparisons:
        print("\nPaired bootstrap: could the difference to the first system be chance?")
        _print_table(
            [("system", "metric", "score", "mean ± 95 %", "p")]
            + [
                (
                    c.system,
                    c.name,
                    f"{c.value:.2f}",
                    f"{c.mean:.2f} ± {c.interval:.2f}",
                    "" if c.p_value is None else f"{c.p_value:.4f}",
                )
                for c in comparisons
            ]
        )


@app.command()
def export(
    format: Annotated[
        str,
        typer.Option("--format", help="ctranslate2 (Transformers, fast, without PyTorch) or onnx."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Directory to write; --run of other commands takes it."
        ),
    ],
    run: RunOption = None,
    quantization: Annotated[
        str,
        typer.Option(
            help="ctranslate2: none, int8, int16, float16 or bfloat16: smaller, and a little less exact."
        ),
    ] = "none",
    threads: ThreadsOption = None,
) -> None:
    """Write a trained model for another engine, and check that it computes the same."""
    from ..decoding.exported import export as write_export
    from ..run.directory import Run
    from ..support import devices

    devices.prepare("cpu", threads)
    place = Run.open(run) if run else Run.latest()
    written = write_export(place, output, format, quantization, threads)
    parity = written.parity
    print(
        f"{written.path}: {format}, {written.bytes / 1e6:.1f} MB. Log-probabilities of {parity.tokens:,} tokens, computed "
        f"in {parity.computed_in}, differ by {parity.mean_difference:.2g} on average, {parity.largest_difference:.2g} at "
        f"most; greedy translations of {parity.greedy_equal} of {parity.sentences} sentences are the same."
    )
    log.info(f"next: mtcli translate --run {written.path}")


@app.command()
def score(
    run: RunsOption = None,
    source: Annotated[Optional[Path], typer.Option(help="File with one sentence a line.")] = None,
    target: Annotated[
        Optional[Path], typer.Option(help="File with their translations, line by line.")
    ] = None,
    data: Annotated[
        Optional[Path], typer.Option(help="TSV of source and translation, instead of two files.")
    ] = None,
    output: Annotated[
        Optional[Path], typer.Option("--output", "-o", help="File to write instead of stdout.")
    ] = None,
    as_json: JSONOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """How probable given translations are: for each pair its log-probability, a tab, and its score (as translate's)."""
    if bool(data) == bool(source or target) or bool(source) != bool(target):
        raise typer.BadParameter("give --data, or --source and --target")
    from .. import config as configs
    from ..text import corpus
    from .output import progress, writer

    part = (
        configs.TSV(path=str(data))
        if data
        else configs.Plain(source=str(source), target=str(target))
    )
    translator = _load_translator(run, device, threads)
    pairs, scored = tee(corpus.read_pairs(part, skip_blank=False))
    with (
        writer(output) as out,
        progress(translator.score(scored), data or source, output is None) as results,
    ):
        for number, (pair, tokens) in enumerate(zip(pairs, results), 1):
            total = sum(tokens)
            penalised = total / translator.config.decoding.length_penalty.divisor(len(tokens))
            if as_json:
                line = {
                    "line": number, "source": pair.source, "target": pair.target, "score": penalised,
                    "log_probability": total, "tokens": translator.codecs[1].tokenizer.tokenize(pair.target),
                    "token_log_probabilities": tokens,
                }  # fmt: skip
                print(json.dumps(line, ensure_ascii=False), file=out, flush=True)
            else:
                print(f"{total:.6f}\t{penalised:.6f}", file=out, flush=True)


@app.command()
def average(
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the run to make.")],
    run: RunOption = None,
    last: Annotated[
        Optional[int], typer.Option(min=2, help="The newest so many checkpoints.  [default: all]")
    ] = None,
    best: Annotated[
        Optional[int], typer.Option(min=2, help="The best so many of those that the run has kept.")
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Average the weights of several checkpoints into a run of their own, and say what that does to validation."""
    if last and best:
        raise typer.BadParameter("give --last or --best, not both")
    from ..run.directory import Run
    from ..support import devices
    from ..training import average as averaging

    chosen = devices.prepare(device, threads)
    place = Run.open(run) if run else Run.latest()
    updates = averaging.choose(place, last, best)
    weights = averaging.average(place, updates)
    made = averaging.write(place, updates, weights, output)
    log.info(f"{output}: the average of checkpoints {', '.join(map(str, updates))} of {place.path}")
    try:
        before = place.load_checkpoint("best", training=False)
        values = (
            averaging.validate(place, before.model, chosen),
            averaging.validate(place, weights, chosen),
        )
    except UserError as error:
        log.warning(f"It was not compared with the best checkpoint: {error}")
        return
    measure = place.config.training.best_by
    made.set_best({"update": max(updates), "metric": measure, "value": values[1][measure]})
    _print_table(
        [("validation", *values[0])]
        + [
            (name, *(f"{value:.4g}" for value in row.values()))
            for name, row in zip((f"best checkpoint, {before.update}", "average"), values)
        ]
    )


@app.command()
def schema() -> None:
    """Print the JSON Schema of configs, for completion and checking in editors."""
    from .. import config as configs

    print(json.dumps(configs.schema(), indent=2))


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for first, *rest in rows:
        cells = [
            cell.rjust(width) if cell[:1].isdigit() else cell.ljust(width)
            for cell, width in zip(rest, widths[1:])
        ]
        print("  ".join([first.ljust(widths[0]), *cells]).rstrip())
