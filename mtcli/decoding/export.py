"""Writes a trained model for other engines, CTranslate2 and ONNX, and checks that they compute the same.

Knows how the models are built; what then runs them stands in engines.py.
"""

# B sentences, K hypotheses of each, R = B·K rows, S source, C target positions so far, V vocabulary, H hidden

from __future__ import annotations

import json
import logging
import math
import os
import random
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import config as configs
from ..config import Config
from ..models.base import Memory, Seq2Seq, State
from ..models.transformer import FeedForward, MultiHeadAttention, TransformerSeq2Seq
from ..run.directory import Run
from ..support.errors import UserError
from ..text import codec, corpus
from ..text.codec import Codec
from ..text.vocab import EOS, SPECIAL, UNK
from . import engines
from .engines import FORMATS, MANIFEST
from .torch_engine import ModelEngine
from .translator import Translator

log = logging.getLogger("mtcli")

QUANTIZATIONS = ("none", "int8", "int16", "float16", "bfloat16")
# How far a token's log-probability may be from our model's: at most without quantization, else on average.
TOLERANCE = {"none": 1e-4, "int8": 0.03, "int16": 0.005, "float16": 0.005, "bfloat16": 0.03}
SAMPLE_SENTENCES = 100  # that are scored with both
COMPARED_AT_ONCE = 20


@dataclass(frozen=True)
class Parity:
    """How an exported model compares with ours on a sample."""

    sentences: int
    tokens: int
    mean_difference: float
    """Of a token's log-probability."""
    largest_difference: float
    greedy_equal: int
    """Sentences that greedy search translates alike."""
    computed_in: str
    """The number type in which the engine computed, since processors lack some."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    bytes: int
    parity: Parity


def export(
    run: Run, output: Path, format: str, quantization: str = "none", threads: int | None = None
) -> Exported:
    """Write the best checkpoint of a run to the directory ``output``; an export that is there is replaced.

    Raises UserError where the engine cannot run such a model or computes something else: then nothing is written.
    """
    config = run.config
    _refuse(config, format, quantization, output)
    codecs = codec.load(run.path / "tokenizer", config)
    ours = ModelEngine.load([run], [len(side.vocabulary) for side in codecs], torch.device("cpu"))
    aside = output.with_name(f".{output.name}.{os.getpid()}.aside")
    try:
        (aside / "tokenizer").mkdir(parents=True)
        (aside / "config.yaml").write_text(configs.dump(config), encoding="utf-8")
        codec.save(aside / "tokenizer", *codecs)
        if format == "ctranslate2":
            _write_ctranslate2(
                ours.model, config, codecs, None if quantization == "none" else quantization, aside
            )
        else:
            _write_onnx(ours.model, aside)
        (aside / "README.md").write_text(_readme(config, format), encoding="utf-8")
        about: dict[str, Any] = {
            "format": format,
            "quantization": quantization,
            "run": run.path.resolve().name,
        }
        _write_manifest(aside, about)
        theirs = Translator.load(aside, "cpu", threads).engine
        parity = _compare(ours, theirs, _sample(config, codecs))
        _write_manifest(aside, {**about, "parity": asdict(parity)})
        _judge(parity, quantization)
        size = sum(file.stat().st_size for file in aside.rglob("*") if file.is_file())
        _put_in_place(aside, output)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Exported(output, size, parity)


def _refuse(config: Config, format: str, quantization: str, output: Path) -> None:
    """Raises UserError for what cannot be done, before anything is."""
    if format not in FORMATS:
        raise UserError(f"--format is '{format}'; choose {', '.join(FORMATS)}.")
    if quantization not in QUANTIZATIONS:
        raise UserError(f"--quantization is '{quantization}'; choose {', '.join(QUANTIZATIONS)}.")
    if format == "ctranslate2" and config.model.type != "transformer":
        kind = config.model.type
        raise UserError(
            f"CTranslate2 runs Transformers only, and this model is a {kind}: use --format onnx."
        )
    if format == "onnx" and quantization != "none":
        raise UserError(
            f"--quantization {quantization} goes with --format ctranslate2; ONNX is written in float32."
        )
    if (
        os.path.lexists(output)
        and not (output.is_dir() and not os.listdir(output))
        and not engines.is_exported(output)
    ):
        raise UserError(
            f"{output} is there and was not made by mtcli export; it is left alone. Name another --output."
        )
    for package in (
        ("ctranslate2",) if format == "ctranslate2" else ("onnx", "onnxscript", "onnxruntime")
    ):
        engines.require(package)


def _write_manifest(folder: Path, about: dict[str, Any]) -> None:
    (folder / MANIFEST).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _put_in_place(aside: Path, output: Path) -> None:
    if os.path.lexists(output):
        old = output.with_name(f"{aside.name}.old")
        os.rename(output, old)
        os.rename(aside, output)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(aside, output)


# --------------------------------------------------------------------------------------------------------- CTranslate2


def _write_ctranslate2(
    model: TransformerSeq2Seq,
    config: Config,
    codecs: Sequence[Codec],
    quantization: str | None,
    folder: Path,
) -> None:
    specs = engines.require("ctranslate2.specs")
    form = config.model
    activations = {"relu": "RELU", "gelu": "GELU", "swiglu": "SWISH"}
    options = {
        "pre_norm": form.norm_position == "pre",
        "activation": getattr(specs.common_spec.Activation, activations[form.activation]),
        "ffn_glu": form.activation == "swiglu",
        "rms_norm": form.norm == "rms",
        "num_heads_kv": form.key_value_heads,
        "rotary_dim": form.hidden_size // form.heads if form.positions == "rotary" else None,
        "rotary_interleave": False,
    }
    # The attention it reports is then the mean over all heads of the last layer.
    encoder = specs.transformer_spec.TransformerEncoderSpec(
        form.encoder_layers, form.heads, **options
    )
    decoder = specs.transformer_spec.TransformerDecoderSpec(
        form.decoder_layers, form.heads, alignment_layer=-1, alignment_heads=form.heads, **options
    )
    spec = specs.TransformerSpec(encoder, decoder)

    encoder.embeddings[0].weight = _array(model.source_embedding.weight)
    decoder.embeddings.weight = _array(model.target_embedding.weight)
    rows = engines.table_positions(config)
    if rows is not None:
        table = _array(model.positions.table(0, rows, model.source_embedding.weight))
        encoder.position_encodings.encodings = decoder.position_encodings.encodings = table
    for layer, ours in zip(encoder.layer, model.encoder):
        _put_attention(layer.self_attention, ours.self_attention, ours.around_attention.norm)
        _put_feed_forward(layer.ffn, ours.feed_forward, ours.around_feed_forward.norm)
    for layer, ours in zip(decoder.layer, model.decoder):
        _put_attention(layer.self_attention, ours.self_attention, ours.around_self_attention.norm)
        _put_attention(layer.attention, ours.cross_attention, ours.around_cross_attention.norm)
        _put_feed_forward(layer.ffn, ours.feed_forward, ours.around_feed_forward.norm)
    if form.norm_position == "pre":
        _put_norm(encoder.layer_norm, model.encoder_norm)
        _put_norm(decoder.layer_norm, model.decoder_norm)
    _put_linear(decoder.projection, model.projection.weight, model.projection.bias)

    spec.register_source_vocabulary(codecs[0].vocabulary.tokens)
    spec.register_target_vocabulary(codecs[1].vocabulary.tokens)
    spec.config.unk_token, spec.config.bos_token, spec.config.eos_token = SPECIAL[1:]
    spec.config.decoder_start_token = spec.config.bos_token
    spec.config.add_source_eos = True
    spec.config.layer_norm_epsilon = model.decoder[0].around_feed_forward.norm.eps
    spec.validate()
    spec.optimize(quantization)
    spec.save(str(folder))


def _array(tensor: Tensor) -> Any:
    """A copy, as a NumPy array: quantization writes into what it is given."""
    return tensor.detach().float().cpu().numpy().copy()


def _put_linear(spec: Any, weight: Tensor, bias: Tensor) -> None:
    spec.weight, spec.bias = _array(weight), _array(bias)


def _put_norm(spec: Any, norm: nn.LayerNorm | nn.RMSNorm) -> None:
    spec.gamma = _array(norm.weight)
    if isinstance(norm, nn.LayerNorm):
        spec.beta = _array(norm.bias)


def _put_attention(spec: Any, ours: MultiHeadAttention, norm: nn.Module) -> None:
    _put_norm(spec.layer_norm, norm)
    inputs = (
        [ours.query_key_value] if hasattr(ours, "query_key_value") else [ours.query, ours.key_value]
    )
    for linear, layer in zip(spec.linear, [*inputs, ours.output], strict=True):
        _put_linear(linear, layer.weight, layer.bias)


def _put_feed_forward(spec: Any, ours: FeedForward, norm: nn.Module) -> None:
    _put_norm(spec.layer_norm, norm)
    parts = [spec.linear_0, spec.linear_0_noact] if ours.gated else [spec.linear_0]
    for part, weight, bias in zip(
        parts, ours.inner.weight.chunk(len(parts)), ours.inner.bias.chunk(len(parts))
    ):
        _put_linear(part, weight, bias)
    _put_linear(spec.linear_1, ours.outer.weight, ours.outer.bias)


# ---------------------------------------------------------------------------------------------------------------- ONNX


class EncoderGraph(nn.Module):
    """source, mask (B, S) -> the tensors of Memory and of the first State."""

    def __init__(self, model: Seq2Seq):
        super().__init__()
        self.model = model

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        memory = self.model.encode(*tensors)
        return [*memory.values(), *_first_state(self.model, memory).values()]


class DecoderGraph(nn.Module):
    """tokens (B, K), the tensors of a State (B, K, …) and of Memory -> logits (R, V), the next State, attention.

    K is an axis of its own here, since a graph cannot be told that R is a multiple of B.
    """

    def __init__(self, model: Seq2Seq, state: Sequence[str], memory: Sequence[str]):
        super().__init__()
        self.model, self.state, self.memory = model, state, memory

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        rows = [tensor.flatten(0, 1) for tensor in tensors[: 1 + len(self.state)]]
        memory = dict(zip(self.memory, tensors[len(rows) :]))
        logits, state, weights = _step(self.model, rows[0], dict(zip(self.state, rows[1:])), memory)
        return [logits, *state.values(), *([] if weights is None else [weights])]


def _first_state(model: Seq2Seq, memory: Memory) -> State:
    """As `init_state`, but a Transformer's is the past of each hypothesis by itself: its length is the position."""
    state = model.init_state(memory)
    if not isinstance(model, TransformerSeq2Seq):
        return state
    return {name: tensor for name, tensor in state.items() if name.startswith("past_")}


def _step(
    model: Seq2Seq, tokens: Tensor, state: State, memory: Memory
) -> tuple[Tensor, State, Tensor | None]:
    """As `decode_step` with attention, over the State of `_first_state`."""
    if not isinstance(model, TransformerSeq2Seq):
        return model.decode_step(tokens, state, memory, attention=True)
    rows, _, position, _ = state["past_keys.0"].shape
    past = {name: F.pad(tensor, (0, 0, 0, 1)) for name, tensor in state.items()}
    unseen = past["past_keys.0"].new_zeros(rows, position + 1)
    states, weights = model.step_at()(position, position, tokens, past, unseen, memory, True)
    return model.project(states), past, weights


def _write_onnx(model: Seq2Seq, folder: Path) -> None:
    """encoder.onnx and decoder.onnx, as `engines.OnnxModel` describes them, for any B, K, S and C."""
    sentences, hypotheses, past = (
        3,
        2,
        4,
    )  # traced with sizes that differ, so that each is seen to be one of its own
    with torch.no_grad():
        source, memory = _example(model, sentences, 5)
        _, longer = _example(model, sentences, 7)
        state = _first_state(model, memory)
    memory_sizes = {name: {0: "B", **_varying(memory[name], longer[name], "S")} for name in memory}
    state_sizes = {name: {0: "B"} for name in state}
    _write_graph(
        EncoderGraph(model),
        {"source": source, "mask": torch.ones_like(source, dtype=torch.bool)},
        {"source": {0: "B", 1: "S"}, "mask": {0: "B", 1: "S"}},
        {**_named("memory", memory_sizes), **_named("state", state_sizes)},
        folder / "encoder.onnx",
    )
    for name in state:
        if name.startswith("past_"):
            state[name], state_sizes[name] = F.pad(state[name], (0, 0, 0, past)), {0: "B", 2: "C"}
    with torch.no_grad():
        attends = _step(model, source[:, 0], state, memory)[2] is not None
    outputs = {
        "logits": {},
        **_named("next", dict.fromkeys(state, {})),
        **({"attention": {}} if attends else {}),
    }
    many = {
        name: torch.stack([tensor] * hypotheses, 1) for name, tensor in state.items()
    }  # (B, K, …)
    many_sizes = {
        name: {0: "B", 1: "K", **{axis + 1: size for axis, size in sizes.items() if axis}}
        for name, sizes in state_sizes.items()
    }
    _write_graph(
        DecoderGraph(model, list(state), list(memory)),
        {
            "tokens": torch.stack([source[:, 0]] * hypotheses, 1),
            **_named("state", many),
            **_named("memory", memory),
        },
        {
            "tokens": {0: "B", 1: "K"},
            **_named("state", many_sizes),
            **_named("memory", memory_sizes),
        },
        outputs,
        folder / "decoder.onnx",
    )


def _example(model: Seq2Seq, sentences: int, length: int) -> tuple[Tensor, Memory]:
    source = torch.full((sentences, length), EOS)
    return source, model.encode(source, torch.ones_like(source, dtype=torch.bool))


def _varying(one: Tensor, other: Tensor, name: str) -> dict[int, str]:
    """The axes along which two tensors differ in size, under one name."""
    return {
        axis: name for axis, sizes in enumerate(zip(one.shape, other.shape)) if sizes[0] != sizes[1]
    }


def _named(group: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{group}.{name}": value for name, value in values.items()}


def _write_graph(
    module: nn.Module,
    inputs: dict[str, Tensor],
    sizes: dict[str, dict[int, str]],
    outputs: dict[str, dict[int, str]],
    path: Path,
) -> None:
    """Trace a module over named tensors; ``sizes`` and ``outputs`` name the axes whose sizes vary, and the outputs."""
    onnx = engines.require("onnx")
    logging.disable(logging.WARNING)  # the exporter talks about itself at length
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                dynamo=True,
                dynamic_shapes={"tensors": tuple(sizes.values())},
                input_names=list(inputs),
                output_names=list(outputs),
                verbose=False,
            )
    finally:
        logging.disable(logging.NOTSET)
    graph = program.model_proto
    del graph.graph.value_info[
        :
    ]  # sizes inferred within; those of a recurrent layer are wrong where they vary
    for output in graph.graph.output:
        for axis, name in outputs[output.name].items():
            output.type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(graph, str(path))


# -------------------------------------------------------------------------------------------------------------- parity


def _sample(config: Config, codecs: Sequence[Codec]) -> list[tuple[list[int], list[int]]]:
    """Sentence pairs as ids: the first of the validation set or, if its files are gone, nonsense of many lengths."""
    longest = min(config.data.max_length + 1, engines.learned_positions(config) or math.inf)
    try:
        sources, references = corpus.read_evaluation(config.data.validation)
    except UserError as error:
        log.warning(f"{error} The exported model is compared on random tokens instead.")
        sources, references = [], []
    lines = ((source, known[0]) for source, known in zip(sources, references) if source.strip())
    pairs = (tuple(side.encode(text) for side, text in zip(codecs, line)) for line in lines)
    sample = list(
        islice((pair for pair in pairs if max(map(len, pair)) <= longest), SAMPLE_SENTENCES)
    )
    return sample or _nonsense(codecs, min(40, longest - 1))


def _nonsense(codecs: Sequence[Codec], longest: int) -> list[tuple[list[int], list[int]]]:
    generator = random.Random(0)
    known = [range(len(SPECIAL), len(side.vocabulary)) or [UNK] for side in codecs]
    return [
        tuple([*generator.choices(ids, k=generator.randint(1, longest)), EOS] for ids in known)
        for _ in range(SAMPLE_SENTENCES)
    ]


def _compare(
    ours: ModelEngine, theirs: Any, sample: Sequence[tuple[list[int], list[int]]]
) -> Parity:
    """Score a sample with both, and translate it greedily."""
    pairs = sorted(sample, key=lambda pair: max(map(len, pair)))
    greedy = configs.Decoding(beam_size=1)
    differences: list[float] = []
    equal = 0
    for start in range(0, len(pairs), COMPARED_AT_ONCE):
        sources, targets = map(list, zip(*pairs[start : start + COMPARED_AT_ONCE]))
        for one, other in zip(
            ours.score(sources, targets), theirs.score(sources, targets), strict=True
        ):
            differences += [abs(a - b) for a, b in zip(one, other, strict=True)]
        found = zip(*(engine.search(sources, greedy) for engine in (ours, theirs)))
        equal += sum(one[0].tokens == other[0].tokens for one, other in found)
    mean, largest = sum(differences) / len(differences), max(differences)
    return Parity(
        len(pairs),
        len(differences),
        mean,
        largest,
        equal,
        getattr(theirs, "compute_type", "float32"),
    )


def _judge(parity: Parity, quantization: str) -> None:
    """Raises UserError where an exported model is not what was trained; also where it gives no number at all."""
    tolerance = TOLERANCE[quantization]
    name, found = "on average", parity.mean_difference
    if quantization == "none":
        name, found = "at most", parity.largest_difference
    if not found <= tolerance:
        other = "" if quantization == "none" else " Choose another --quantization: int16, or none."
        raise UserError(
            f"The exported model does not compute what the trained one does: log-probabilities of {parity.tokens:,} "
            f"tokens differ by {found:.2g} {name}, and {tolerance:g} is allowed. Nothing was written.{other}"
        )


# -------------------------------------------------------------------------------------------------------------- README

# By kind of tokenizer: what is needed to cut the source, how it is cut, what the target needs, how it is joined.
PLAIN = {
    "char": ([], "list(text)", [], '"".join(tokens)'),
    "word": (
        ["import re"],
        # As tokenizers.WordTokenizer does it, but for scripts without spaces between words.
        r're.sub(r"(?<=[^\w\s])(?=\w)", "￭ ", re.sub(r"(?<=\S)(?=[^\w\s])", " ￭", text)).split()',
        [],
        '" ".join(tokens).replace(" ￭", "").replace("￭ ", "").replace("￭", "")',
    ),
    "subword": (
        [
            "import sentencepiece",
            'source = sentencepiece.SentencePieceProcessor(model_file="tokenizer/{}.model")',
        ],
        "source.encode(text, out_type=str)",
        [
            "import sentencepiece",
            'target = sentencepiece.SentencePieceProcessor(model_file="tokenizer/{}.model")',
        ],
        "target.decode(tokens)",
    ),
}


def _readme(config: Config, format: str) -> str:
    """What the directory is, and how it is used without mtcli."""
    languages = (
        f"{config.data.source_language or 'source'} to {config.data.target_language or 'target'}"
    )
    text = f"A translator, {languages}, exported by mtcli, which runs it: `mtcli translate --run DIRECTORY`.\n\n"
    if format == "onnx":
        return text + (
            "Without mtcli: `encoder.onnx` maps `source` (sentences × tokens: ids, counted from 0 in the files\n"
            "tokenizer/*.vocabulary.json, 3 at the end) and `mask` (true where there is a token) to `memory.*` and the\n"
            "first `state.*`. `decoder.onnx` maps `tokens` (sentences × hypotheses: 2 at first, then what was written\n"
            "last), `state.*` (sentences × hypotheses × …) and `memory.*` to `logits` and `next.*`, which is the next\n"
            "step's `state.*`.\n"
        )
    source, target = config.tokenizers
    names = ("shared", "shared") if config.shared_vocabulary else ("source", "target")
    needed = [line.format(names[0]) for line in PLAIN[source.type][0]]
    needed += [line.format(names[1]) for line in PLAIN[target.type][2]]
    lines = ["import ctranslate2", *sorted({line for line in needed if line.startswith("import")})]
    if source.normalization == "nfkc":
        lines += ["import unicodedata"]
    lines += ['text = "A sentence."']
    if source.normalization == "nfkc":
        lines += ['text = unicodedata.normalize("NFKC", text)']
    if source.lowercase:
        lines += ["text = text.lower()"]
    lines += [
        *(line for line in needed if not line.startswith("import")),
        'translator = ctranslate2.Translator(".")',
        f"tokens = {PLAIN[source.type][1]}",
        'never = [["<pad>"], ["<s>"]]',
        f"options = dict(beam_size={config.decoding.beam_size}, disable_unk=True, suppress_sequences=never)",
        "tokens = translator.translate_batch([tokens], **options)[0].hypotheses[0]",
        f"print({PLAIN[target.type][3]})",
    ]
    return text + "Without mtcli, in this directory:\n\n```python\n" + "\n".join(lines) + "\n```\n"
