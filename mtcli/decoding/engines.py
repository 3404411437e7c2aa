"""Exported models: the engines that run them, CTranslate2 (without torch) and ONNX. Knows no text and no search.

An exported directory holds config.yaml and tokenizer/ as a run does, export.json, which makes it one, and the files of
its engine. An engine has `search` and `score`, as ModelEngine in inference.py; ONNX stands behind that one, as a model.
"""

# B sentences, K hypotheses of each, R = B·K rows, S source, T target, V vocabulary

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config, Decoding
from ..support.errors import UserError
from ..text.codec import Codec
from ..text.vocab import BOS, EOS, PAD, SPECIAL

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.base import Memory, State, Step

MANIFEST = "export.json"
FORMATS = ("ctranslate2", "onnx")
LARGEST_MANIFEST = 1 << 20  # bytes
SCORED_AT_ONCE = 32  # sentences, by CTranslate2: 4 times as fast as 500, whose logits are fresh memory at every batch


@dataclass(frozen=True)
class Found:
    """A hypothesis as ids, EOS included; attention has a row for each of them and a column for each source id."""

    tokens: list[int]
    log_probability: float
    score: float
    attention: list[list[float]] | None


# ------------------------------------------------------------------------------------------------ exported directories


def is_exported(path: Path) -> bool:
    """Whether a directory was made by `mtcli export`."""
    return (path / MANIFEST).is_file()


def read_manifest(path: Path) -> dict[str, Any]:
    """What export.json says of an exported directory. Raises UserError where that is no such thing."""
    file = path / MANIFEST
    try:
        with open(file, "rb") as stream:
            manifest = json.loads(stream.read(LARGEST_MANIFEST))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON: {error}.") from None
    if not isinstance(manifest, dict) or manifest.get("format") not in FORMATS:
        raise UserError(f"{file} does not name its format, which is one of {', '.join(FORMATS)}.")
    return manifest


def require(package: str) -> Any:
    """A package that the core does without. Raises UserError where it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"This needs the package {package} ({error}): pip install 'mtcli[export]'"
        ) from None


def learned_positions(config: Config) -> int | None:
    """Tokens of the longest sentence for which a model has learned positions, EOS included; None: no limit."""
    model = config.model
    return (
        model.max_positions
        if model.type == "transformer" and model.positions == "learned"
        else None
    )


# --------------------------------------------------------------------------------------------------------- CTranslate2


def table_positions(config: Config) -> int | None:
    """Tokens of the longest sentence, EOS included, that an exported Transformer can read or write; None: no limit.

    The positions in its table: learned ones, or sinusoids for more than translations of sentences like those of the
    training need.
    """
    if config.model.positions == "rotary":
        return None
    return learned_positions(config) or max(1024, 4 * config.data.max_length)


@dataclass
class Draft:
    """A hypothesis of CTranslate2: ids without EOS; ``log_probability`` is of what it was allowed to write."""

    tokens: list[int]
    steps: int  # in which it was written, EOS's too
    log_probability: float
    attention: Any  # lists of numbers, or None


class CTranslate2Engine:
    """A Transformer run by CTranslate2.

    Its beam search is not ours: it ends when ``beam_size`` hypotheses are finished. Those are ranked by our length
    penalty; their log-probabilities are then computed anew, by the model's own softmax over all tokens.
    """

    processes = 1  # it has threads of its own

    def __init__(
        self,
        path: Path,
        config: Config,
        codecs: tuple[Codec, Codec],
        device: str,
        threads: int | None,
    ):
        ctranslate2 = require("ctranslate2")
        if device == "mps":
            raise UserError("CTranslate2 has no device mps; choose auto, cpu or cuda.")
        if device == "auto":
            device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        quantization = read_manifest(path).get("quantization")
        # Where the processor lacks a type, the weights keep what it rounded off, and float32 adds no error of its own.
        supported = (
            ctranslate2.get_supported_compute_types(device) if device == "cpu" else {quantization}
        )
        self.compute_type = quantization if quantization in supported else "float32"
        try:
            self.translator = ctranslate2.Translator(
                str(path), device=device, compute_type=self.compute_type, intra_threads=threads or 0
            )
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{path}: CTranslate2 cannot load this: {error}") from None
        self.positions = table_positions(config)
        self.source_tokens, self.target_tokens = (side.vocabulary.tokens for side in codecs)
        self.target_ids = {token: id for id, token in enumerate(self.target_tokens)}

    def search(
        self,
        sources: Sequence[Sequence[int]],
        decoding: Decoding,
        *,
        n_best: int = 1,
        attention: bool = False,
        keys: Sequence[int] | None = None,
        prefix: Sequence[int] = (),
    ) -> list[list[Found]]:
        """The best hypotheses of each source, as `ModelEngine.search`. Raises UserError for sampling.

        The engine knows one length limit for all: sentences that came as far as their own are done again with that.
        """
        if decoding.sampling is not None:
            raise UserError(
                "CTranslate2 draws translations with random numbers that depend on the batch, so that --sample cannot "
                "keep its word there. Sample with the run itself, or with an export to onnx."
            )
        bounds = [self._bounds(len(source), len(prefix), decoding) for source in sources]
        drafts: dict[int, list[Draft]] = {}
        again: list[int] = []
        for rows in _grouped(range(len(sources)), lambda row: bounds[row][0]):
            most = max(bounds[row][1] for row in rows)
            drafts |= self._translate(
                rows, sources, bounds[rows[0]][0], most, decoding, attention, prefix
            )
            shorter = [row for row in rows if bounds[row][1] < most]
            again += [
                row
                for row in shorter
                if any(draft.steps >= bounds[row][1] for draft in drafts[row])
            ]
        for rows in _grouped(again, bounds.__getitem__):
            drafts |= self._translate(rows, sources, *bounds[rows[0]], decoding, attention, prefix)

        divisor = decoding.length_penalty.divisor
        chosen: list[tuple[int, Draft]] = []
        for row in range(len(sources)):
            ranked = sorted(
                drafts[row],
                key=lambda draft: -draft.log_probability / divisor(len(draft.tokens) + 1),
            )
            different: dict[tuple[int, ...], Draft] = {}
            for draft in ranked:
                different.setdefault(tuple(draft.tokens), draft)
            chosen += [(row, draft) for draft in list(different.values())[:n_best]]
        targets = [[*draft.tokens, EOS] for _, draft in chosen]
        found: list[list[Found]] = [[] for _ in sources]
        scores = self.score([sources[row] for row, _ in chosen], targets)
        for (row, draft), tokens, each in zip(chosen, targets, scores):
            found[row].append(
                Found(tokens, sum(each), sum(each) / divisor(len(tokens)), draft.attention)
            )
        return [sorted(best, key=lambda each: -each.score) for best in found]

    def search_all(self, batches: Sequence[dict[str, Any]]) -> Iterator[list[list[Found]]]:
        """`search` with each of several sets of arguments."""
        return (self.search(**arguments) for arguments in batches)

    def _bounds(self, source: int, prefix: int, decoding: Decoding) -> tuple[int, int]:
        """Least and most tokens, EOS not counted, of what translates a source of so many ids, EOS counted."""
        self._check(source, "source")
        least, most = decoding.lengths(source - 1)
        if self.positions is not None:
            most = min(most, self.positions - 1)
            if prefix >= self.positions:
                raise UserError(
                    f"The prefix has {prefix} tokens; the model writes {self.positions - 1}."
                )
        return min(least, most), max(most, prefix)

    def _check(self, ids: int, name: str) -> None:
        if self.positions is not None and ids > self.positions:
            raise UserError(
                f"A {name} sentence has {ids - 1} tokens; the exported model has positions for {self.positions - 1}. "
                "Split it."
            )

    def _translate(
        self,
        rows: list[int],
        sources: Sequence[Sequence[int]],
        least: int,
        most: int,
        decoding: Decoding,
        attention: bool,
        prefix: Sequence[int],
    ) -> dict[int, list[Draft]]:
        """What CTranslate2 finds for some of the sources; what is longer than ``most`` is cut there."""
        penalty = decoding.length_penalty
        alpha = 0.0 if penalty.type == "none" else penalty.alpha
        begin = [self.target_tokens[id] for id in prefix]
        results = self.translator.translate_batch(
            [self._source(sources[row]) for row in rows],
            [begin] * len(rows) if prefix else None,
            beam_size=decoding.beam_size,
            num_hypotheses=decoding.beam_size,
            length_penalty=alpha,
            no_repeat_ngram_size=decoding.no_repeat_ngram,
            disable_unk=not decoding.generate_unknown,
            suppress_sequences=[[SPECIAL[PAD]], [SPECIAL[BOS]]],
            min_decoding_length=least,
            max_decoding_length=max(1, most),  # 0 is refused
            max_input_length=0,
            return_end_token=True,
            return_scores=True,
            return_attention=attention,
        )
        drafts: dict[int, list[Draft]] = {row: [] for row in rows}
        for row, result in zip(rows, results):
            for index, (tokens, score) in enumerate(zip(result.hypotheses, result.scores)):
                log_probability = score * max(1, len(tokens)) ** alpha
                ids = [self.target_ids[token] for token in tokens]
                weights = result.attention[index] if attention else None
                written = [id for id in ids if id != EOS][:most]
                drafts[row].append(Draft(written, len(tokens), log_probability, weights))
        if attention:
            self._complete(drafts, sources)
        return drafts

    def _complete(self, drafts: dict[int, list[Draft]], sources: Sequence[Sequence[int]]) -> None:
        """Attention with a row for EOS, also where a hypothesis was cut before it, and with EOS's own column."""
        pairs = [(row, draft) for row, each in drafts.items() for draft in each]
        cut = [(row, draft) for row, draft in pairs if len(draft.attention) <= len(draft.tokens)]
        if cut:
            results = self.translator.translate_batch(
                [self._source(sources[row]) for row, _ in cut],
                [[self.target_tokens[id] for id in draft.tokens] for _, draft in cut],
                beam_size=1,
                max_decoding_length=1 + max(len(draft.tokens) for _, draft in cut),
                max_input_length=0,
                return_end_token=True,
                return_attention=True,
            )
            for (_, draft), result in zip(cut, results):
                draft.attention = result.attention[0]
        for _, draft in pairs:
            rows = draft.attention[: len(draft.tokens) + 1]
            draft.attention = [[*row, max(0.0, 1.0 - sum(row))] for row in rows]

    def score(
        self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Log-probability of every id of each target, which ends in EOS (forced decoding), all as one batch."""
        for source, target in zip(sources, targets):
            self._check(len(source), "source")
            self._check(len(target), "target")
        results = self.translator.score_batch(
            [self._source(source) for source in sources],
            [[self.target_tokens[id] for id in target[:-1]] for target in targets],
            max_batch_size=SCORED_AT_ONCE,
            max_input_length=0,
        )
        return [list(result.log_probs) for result in results]

    def _source(self, ids: Sequence[int]) -> list[str]:
        """Tokens as CTranslate2 wants them, which adds EOS itself."""
        return [self.source_tokens[id] for id in ids[:-1]]


def _grouped(rows: Sequence[int], key: Callable[[int], Any]) -> Iterator[list[int]]:
    for _, group in groupby(sorted(rows, key=key), key=key):
        yield list(group)


# ---------------------------------------------------------------------------------------------------------------- ONNX


class OnnxModel:
    """A model run by onnxruntime, to the contract of models/base.py as far as search and scores need it.

    encoder.onnx: ``source``, ``mask`` -> ``memory.*``, ``state.*`` (before the first step). decoder.onnx: ``tokens``
    (B, K), ``memory.*``, ``state.*`` (B, K, …) -> ``logits`` (R, V), ``next.*`` (R, …) and, where there is any,
    ``attention`` (R, S). Memory carries the first state along under its names.
    """

    def __init__(self, path: Path, config: Config, threads: int | None):
        self.encoder, self.decoder = (
            _session(path / f"{part}.onnx", threads) for part in ("encoder", "decoder")
        )
        self.inputs = {each.name for each in self.decoder.get_inputs()}
        self.max_positions = learned_positions(config)

    def encode(self, source: Tensor, source_mask: Tensor) -> Memory:
        return _run(self.encoder, {"source": source, "mask": source_mask})

    def init_state(self, memory: Memory) -> State:
        return {name: tensor for name, tensor in memory.items() if name.startswith("state.")}

    def decode_step(
        self, tokens: Tensor, state: State, memory: Memory, attention: bool = False
    ) -> tuple[Tensor, State, Tensor | None]:
        sentences = len(next(iter(memory.values())))
        given = {
            name: tensor.unflatten(0, (sentences, -1))
            for name, tensor in {"tokens": tokens, **state}.items()
        }
        values = _run(
            self.decoder,
            {name: each for name, each in {**memory, **given}.items() if name in self.inputs},
        )
        logits, weights = values.pop("logits"), values.pop("attention", None)
        state = {name.replace("next.", "state.", 1): tensor for name, tensor in values.items()}
        return logits, state, weights if attention else None

    def stepper(self) -> Step:
        return self.decode_step

    def reorder(self, state: State, rows: Tensor, sentences: Tensor | None = None) -> State:
        from ..models.base import select_rows

        return select_rows(state, rows)

    def __call__(self, source: Tensor, source_mask: Tensor, target_in: Tensor) -> Tensor:
        """Teacher forcing, step by step: logits (B, T, V) take the place of states."""
        import torch

        memory = self.encode(source, source_mask)
        state = self.init_state(memory)
        steps = []
        for tokens in target_in.unbind(1):
            logits, state, _ = self.decode_step(tokens, state, memory)
            steps.append(logits)
        return torch.stack(steps, 1)

    def project(self, states: Tensor) -> Tensor:
        return states


def _session(path: Path, threads: int | None) -> Any:
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of its many own types
        raise UserError(f"{path}: onnxruntime cannot load this: {error}") from None


def _run(session: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    import torch

    outputs = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return {
        each.name: torch.from_numpy(value) for each, value in zip(session.get_outputs(), outputs)
    }
