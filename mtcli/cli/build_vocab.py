"""``mtcli build-vocab``."""

from __future__ import annotations

from ..support.errors import log
from .loading import load_config, run_path
from .options import ConfigOption, NewRunOption, SetOption
from .tables import command, print_table


def build_vocab(config: ConfigOption, run: NewRunOption = None, settings: SetOption = None) -> None:
    """Train the tokenizers, count the vocabularies, and say how well they cover the text."""
    from ..run.directory import Run
    from ..text import codec, corpus
    from ..training import data

    path = run_path(config, run)
    loaded = load_config(config, settings, path)
    prepared = Run.create(path, config.read_text(encoding="utf-8"), loaded)
    with prepared.lock():
        codecs = data.prepare(prepared.config, prepared)
        rows = [("", "size", "tokens", "tokens/line", "UNK", "coverage", "used")]
        sources, references = corpus.read_evaluation(prepared.config.data.validation)
        validation = sources, [each[0] for each in references]
        for side, name in enumerate(("source", "target")):
            train = (pair[side] for pair in data.training_pairs(prepared.config))
            for part, lines in (("train", train), ("validation", validation[side])):
                found = codec.coverage(codecs[side], lines)
                counts = f"{found.size:,}", f"{found.tokens:,}", f"{found.tokens_per_line:.1f}"
                unknown = found.unknown_rate
                shares = f"{unknown:.2%}", f"{1 - unknown:.2%}", f"{found.used:.1%}"
                rows.append((f"{name}, {part}", *counts, *shares))
    print_table(rows)
    words = ["--run", str(run)] if run else []
    words += [word for setting in settings or [] for word in ("--set", setting)]
    following = command("train", "--config", config, *words)
    log.info(f"written to {prepared.path / 'tokenizer'}\nnext: {following}")
