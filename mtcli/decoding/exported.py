"""Directories that `mtcli export` writes: made, compared with the trained model, and loaded again."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import config as configs
from ..config import Config
from ..run import record
from ..support import files
from ..support.errors import UserError, log, require
from ..text import codec, corpus
from ..text.codec import Codec
from ..text.vocab import EOS, SPECIAL, UNK
from ..text.writing import is_blank
from . import ctranslate2
from .engine import Engine, Request

if TYPE_CHECKING:
    from ..run.directory import Run


MANIFEST = "export.json"
README = "README.md"  # may be changed
LARGEST = 1 << 40  # bytes of a file
PACKAGES = {"ctranslate2": ("ctranslate2",), "onnx": ("onnx", "onnxscript", "onnxruntime")}
# How far a token's log-probability may be from our model's, by quantization: at most without any,
# else on average.
TOLERANCE = {"none": 1e-4, "int8": 0.03, "int16": 0.005, "float16": 0.005, "bfloat16": 0.03}
SAMPLE_SENTENCES = 100  # that are scored with both
BATCH_SENTENCES = 20

IdPair = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Parity:
    """How an exported model compares with ours on a sample."""

    sentences: int
    tokens: int
    mean_difference: float  # of a token's log-probability
    largest_difference: float
    greedy_equal: int  # sentences that greedy search translates alike
    computed_in: str  # the number type that the engine used, since processors lack some


def is_exported(path: Path) -> bool:
    """Whether a directory was made by `mtcli export`."""
    return (path / MANIFEST).is_file()


def load(
    path: Path, device: str, threads: int | None
) -> tuple[Engine, tuple[Codec, Codec], Config]:
    """What runs an exported model (CTranslate2 does so without torch), its codecs and its config.

    Raises UserError unless the files are those that were written and fit together.
    """
    manifest = files.read_json(path / MANIFEST)
    if manifest.get("format") not in list(PACKAGES):
        known = ", ".join(PACKAGES)
        raise UserError(f"{path / MANIFEST} does not name its format, which is one of {known}.")
    _verify(path, manifest.get("files"))
    config = configs.load(path / "config.yaml", unknown="ignore")
    codecs = codec.load(path / "tokenizer", config)
    if manifest["format"] == "ctranslate2":
        quantization = str(manifest.get("quantization"))
        engine: Engine = ctranslate2.CTranslate2Engine(
            path, config, codecs, quantization, device, threads
        )
    else:
        from . import onnx

        engine = onnx.load_engine(path, config, codecs, device, threads)
    return engine, codecs, config


def _verify(path: Path, sums: Any) -> None:
    """Raises UserError for a link, and for a file that is not one that was written. The README and hidden files, which
    are not read, may be anything."""
    there = {file.relative_to(path).as_posix(): file for file in files.plain_files(path, LARGEST)}
    if sums is None:
        log.warning(
            f"{path} has no checksums: an earlier version exported it, and damage would not be noticed. Export it again."
        )
        return
    if not isinstance(sums, dict):
        raise UserError(f"{path / MANIFEST} does not list the files of the export.")
    for name, expected in sums.items():
        if name not in there:
            raise UserError(f"{path} is damaged: {name}, which {MANIFEST} lists, is missing.")
        files.verify(there[name], expected, MANIFEST)
    unread = {MANIFEST, README}
    if more := [name for name in there if name not in {*sums, *unread} and name[0] != "."]:
        raise UserError(f"{path} has a file that {MANIFEST} does not list: {more[0]}. Remove it.")


# ------------------------------------------------------------------------------------------ writing


def export(
    run: Run,
    output: Path,
    format: str,
    quantization: str = "none",
    threads: int | None = None,
    checkpoint: str | int = "best",
) -> Parity:
    """Write a checkpoint of a run to `output`; an export that is there is replaced.

    Raises UserError where the engine cannot run such a model or computes something else: then
    nothing is written.
    """
    import torch

    from . import onnx
    from .torch_engine import TorchEngine

    config, output = run.config, files.follow(output, "directory")
    _refuse(config, format, quantization, output)
    codecs = codec.load(run.path / "tokenizer", config)
    sizes = [len(side.vocabulary) for side in codecs]
    ours = TorchEngine.load([run], sizes, torch.device("cpu"), checkpoint=checkpoint)
    made = {"format": format, "quantization": quantization, "run": run.path.resolve().name}
    with files.user_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    with (
        files.user_errors(output),
        files.claim(output),
        files.new_directory(output, replace=True) as folder,
    ):
        (folder / "tokenizer").mkdir()
        (folder / "config.yaml").write_text(configs.dump(config), encoding="utf-8")
        record.write(folder, run.record)
        codec.save(folder / "tokenizer", *codecs)
        if format == "ctranslate2":
            ctranslate2.write(ours.model, config, codecs, quantization, folder)
            usage = ctranslate2.usage(config)
        else:
            onnx.write(ours.model, folder)
            usage = onnx.USAGE
        readme = (
            f"A translator, {config.data.source_language or 'source'} to "
            f"{config.data.target_language or 'target'}, exported by mtcli, which runs it: "
            f"`mtcli translate --run DIRECTORY`.\n{usage}"
        )
        (folder / README).write_text(readme, encoding="utf-8")
        names = [file.relative_to(folder).as_posix() for file in files.plain_files(folder, LARGEST)]
        sums = {name: files.checksum(folder / name) for name in sorted(names) if name != README}
        manifest = folder / MANIFEST
        manifest.write_text(json.dumps({**made, "files": sums}), encoding="utf-8")
        theirs, _, _ = load(folder, "cpu", threads)
        parity = _compare(ours, theirs, _sample(run.path, config, codecs, ours.max_positions))
        _judge(parity, quantization)
        text = json.dumps({**made, "parity": asdict(parity), "files": sums}, indent=1)
        manifest.write_text(f"{text}\n", encoding="utf-8")
    return parity


def _refuse(config: Config, format: str, quantization: str, output: Path) -> None:
    """Raises UserError for what cannot be done, before anything is."""
    if format not in PACKAGES:
        raise UserError(f"--format is '{format}'; choose {', '.join(PACKAGES)}.")
    if quantization not in TOLERANCE:
        raise UserError(f"--quantization is '{quantization}'; choose {', '.join(TOLERANCE)}.")
    if format == "ctranslate2" and config.model.type != "transformer":
        raise UserError(
            f"CTranslate2 runs Transformers, and this model is a {config.model.type}: use --format onnx."
        )
    if format == "onnx" and quantization != "none":
        raise UserError(
            f"--quantization {quantization} goes with --format ctranslate2; ONNX is written in float32."
        )
    empty = output.is_dir() and not os.listdir(output)
    if os.path.lexists(output) and not empty and not is_exported(output):
        raise UserError(
            f"{output} is there and was not made by mtcli export, so it is not replaced. Name "
            "another --output."
        )
    for package in PACKAGES[format]:
        require(package, "export")


# ------------------------------------------------------------------------------------------- parity


def _sample(
    folder: Path, config: Config, codecs: Sequence[Codec], max_positions: int | None
) -> list[IdPair]:
    """Pairs of the validation set or, if its files are gone or not what they were, random ids."""
    longest = min(config.data.max_length + 1, max_positions or math.inf)
    try:
        [validation] = record.find(folder, config.data, "validation")
        sources, references = corpus.read_evaluation(validation)
    except UserError as error:
        log.warning(f"{error} The exported model is compared on random tokens instead.")
        sources, references = [], []
    pairs = (
        (codecs[0].encode(source), codecs[1].encode(known[0]))
        for source, known in zip(sources, references)
        if not is_blank(source)
    )
    short = (pair for pair in pairs if max(map(len, pair)) <= longest)
    if sample := list(islice(short, SAMPLE_SENTENCES)):
        return sample
    generator = random.Random(0)

    def sentence(side: Codec) -> list[int]:
        ids = range(len(SPECIAL), len(side.vocabulary)) or [UNK]
        return [*generator.choices(ids, k=generator.randint(1, int(min(40, longest - 1)))), EOS]

    return [(sentence(codecs[0]), sentence(codecs[1])) for _ in range(SAMPLE_SENTENCES)]


def _compare(ours: Engine, theirs: Engine, sample: Sequence[IdPair]) -> Parity:
    """Score a sample with both, and translate it greedily."""
    pairs = sorted(sample, key=lambda pair: max(map(len, pair)))
    differences: list[float] = []
    equal = 0
    for start in range(0, len(pairs), BATCH_SENTENCES):
        sources, targets = map(list, zip(*pairs[start : start + BATCH_SENTENCES]))
        scores = [engine.score(sources, targets) for engine in (ours, theirs)]
        for one, other in zip(*scores, strict=True):
            differences += [abs(a - b) for a, b in zip(one, other, strict=True)]
        greedy = Request(sources, configs.Decoding(beam_size=1))
        found = [engine.search(greedy) for engine in (ours, theirs)]
        equal += sum(one[0].ids == other[0].ids for one, other in zip(*found))
    return Parity(
        sentences=len(pairs),
        tokens=len(differences),
        mean_difference=sum(differences) / len(differences),
        largest_difference=max(differences),
        greedy_equal=equal,
        computed_in=getattr(theirs, "compute_type", "float32"),
    )


def _judge(parity: Parity, quantization: str) -> None:
    """Raises UserError where an exported model is not what was trained, or gives no numbers."""
    exact, tolerance = quantization == "none", TOLERANCE[quantization]
    found = parity.largest_difference if exact else parity.mean_difference
    if not found <= tolerance:  # NaN too
        raise UserError(
            "The exported model does not compute what the trained one does: log-probabilities of "
            f"{parity.tokens:,} tokens differ by {found:.2g} {'at most' if exact else 'on average'}, "
            f"and {tolerance:g} is allowed. Nothing was written."
            + ("" if exact else " Choose another --quantization: int16, or none.")
        )
