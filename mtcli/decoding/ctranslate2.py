"""CTranslate2: writes a Transformer in its format, and runs one without torch."""

# H hidden, S source, T target

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import Config, Transformer
from ..support.errors import UserError, require
from ..text.codec import Codec
from ..text.vocab import BOS, EOS, PAD, SPECIAL, Vocabulary
from ..text.writing import DROPPED, is_turkic
from .engine import Engine, Hypothesis, Ids, Maps, Request

if TYPE_CHECKING:
    from ..models.base import Seq2Seq

PAIRS_AT_ONCE = 32  # scored at once: the logits of more do not fit into a processor's caches


def table_positions(config: Config) -> int | None:
    """Rows of an exported table of positions: tokens of the longest sentence, EOS included. None:
    there is no table."""
    assert isinstance(config.model, Transformer)
    if config.model.positions == "learned":
        return config.model.max_positions
    # Sinusoids for more than translations of sentences like those of the training need.
    return max(1024, 4 * config.data.max_length) if config.model.positions == "sinusoidal" else None


# ------------------------------------------------------------------------------------------ running


class CTranslate2Engine(Engine):
    """A Transformer run by CTranslate2.

    Its beam search is not ours: it ends when `beam_size` hypotheses are finished. What it finds is
    ranked by our length penalty; scores are then computed by the model's own softmax.
    """

    batch_tokens = 4000
    parallel = 1  # its own threads share the work

    def __init__(
        self,
        path: Path,
        config: Config,
        codecs: Sequence[Codec],
        quantization: str,
        device: str,
        threads: int | None,
    ):
        ctranslate2 = require("ctranslate2", "export")
        _check(path, config, codecs)
        if device == "mps":
            raise UserError("CTranslate2 has no device mps; choose auto, cpu or cuda.")
        if device == "auto":
            device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        try:
            # Without the type, float32 adds no error to what the rounding of the weights lost.
            supported = ctranslate2.get_supported_compute_types(device)
            self.compute_type = quantization if quantization in supported else "float32"
            self.translator = ctranslate2.Translator(
                str(path), device=device, compute_type=self.compute_type, intra_threads=threads or 0
            )
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{path}: CTranslate2 cannot load this: {error}") from None
        self.name = str(path.resolve())
        self.max_positions = table_positions(config)
        self.source, self.target = (side.vocabulary for side in codecs)

    def search(self, request: Request, trail: list[Any] | None = None) -> list[list[Hypothesis]]:
        """As `Engine.search`. Raises UserError for sampling.

        CTranslate2 takes one length limit for a batch: sentences that reach their own limit are
        searched again with that.
        """
        if trail is not None:
            raise UserError(
                "CTranslate2 does not show its search. Look at the tree of the run itself, or of an "
                "export to onnx."
            )
        if request.decoding.sampling is not None:
            raise UserError(
                "CTranslate2 draws random numbers that depend on the batch, so --sample cannot be "
                "repeated there. Sample with the run itself, or with an export to onnx."
            )
        limits = dict(enumerate(request.lengths(self.max_positions)))
        longest = max(most for _, most in limits.values())
        found = self._find(request, {row: (least, longest) for row, (least, _) in limits.items()})
        reached = {
            row: (least, most)
            for row, (least, most) in limits.items()
            if most < longest and any(len(tokens) >= most for tokens, _ in found[row])
        }
        found |= self._find(request, reached)

        penalty = request.decoding.length_penalty
        pairs: list[tuple[int, list[int]]] = []  # row, target
        for row, (_, most) in limits.items():
            ranks: dict[tuple[int, ...], float] = {}
            for tokens, log_probability in found[row]:
                ids = self.target.encode(token for token in tokens if token != SPECIAL[EOS])
                ids = [*ids[:most], EOS]
                ranks.setdefault(tuple(ids), log_probability / penalty.divisor(len(ids)))
            best = sorted(ranks, key=ranks.__getitem__, reverse=True)[: request.n_best]
            pairs += [(row, list(ids)) for ids in best]

        sources, targets = [request.sources[row] for row, _ in pairs], [ids for _, ids in pairs]
        scores = self.score(sources, targets)
        tables = self._attention(sources, targets) if request.attention else [None] * len(pairs)
        hypotheses: list[list[Hypothesis]] = [[] for _ in limits]
        for (row, ids), each, weights in zip(pairs, scores, tables):
            score = sum(each) / penalty.divisor(len(ids))
            hypotheses[row].append(Hypothesis(ids, sum(each), score, weights))
        return [sorted(each, key=lambda one: -one.score) for each in hypotheses]

    def _find(
        self, request: Request, limits: dict[int, tuple[int, int]]
    ) -> dict[int, list[tuple[list[str], float]]]:
        """Tokens and log-probability of the hypotheses of some rows; limits: their least and most
        tokens."""
        decoding, penalty = request.decoding, request.decoding.length_penalty
        alpha = 0.0 if penalty.type == "none" else penalty.alpha  # scores are over length ** alpha
        found = {}
        for least, most in set(limits.values()):
            rows = [row for row, limit in limits.items() if limit == (least, most)]
            prefix = self.target.decode(request.prefix)
            results = self.translator.translate_batch(
                [self.source.decode(request.sources[row]) for row in rows],
                [prefix] * len(rows) if prefix else None,
                beam_size=decoding.beam_size,
                num_hypotheses=decoding.beam_size,
                length_penalty=alpha,
                no_repeat_ngram_size=decoding.no_repeat_ngram,
                disable_unk=not decoding.generate_unknown,
                suppress_sequences=[[SPECIAL[PAD]], [SPECIAL[BOS]]],
                min_decoding_length=min(least, most),
                max_decoding_length=max(1, most),  # it refuses 0
                max_input_length=0,
                return_end_token=True,
                return_scores=True,
            )
            for row, result in zip(rows, results):
                found[row] = [
                    (tokens, score * max(1, len(tokens)) ** alpha)
                    for tokens, score in zip(result.hypotheses, result.scores)
                ]
        return found

    def score(self, sources: Ids, targets: Ids) -> list[list[float]]:
        results = self.translator.score_batch(
            list(map(self.source.decode, sources)),
            list(map(self.target.decode, targets)),
            max_batch_size=PAIRS_AT_ONCE,
            max_input_length=0,
        )
        return [list(result.log_probs) for result in results]

    def _attention(self, sources: Ids, targets: Ids) -> list[list[list[float]]]:
        """Of each pair, a row for each target id and a column for each source id, EOS included."""
        results = self.translator.translate_batch(
            list(map(self.source.decode, sources)),
            list(map(self.target.decode, targets)),
            beam_size=1,
            max_decoding_length=max(map(len, targets)),
            max_input_length=0,
            return_end_token=True,
            return_attention=True,
        )
        return [  # it leaves out the column of the source's EOS
            [[*row, max(0.0, 1.0 - sum(row))] for row in result.attention[0][: len(target)]]
            for result, target in zip(results, targets)
        ]

    def maps(self, sources: Ids, targets: Ids) -> list[Maps]:
        tables = self._attention(sources, targets)
        return [{"cross.mean": np.array(table)[None]} for table in tables]


def _check(path: Path, config: Config, codecs: Sequence[Codec]) -> None:
    """Raises UserError unless the vocabularies beside the model are ours."""
    if not isinstance(config.model, Transformer):
        raise UserError(f"{path}: CTranslate2 runs Transformers; the config is of another model.")
    one = (path / "shared_vocabulary.json").exists()
    for name, side in zip(("source", "target"), codecs):
        file = path / f"{'shared' if one else name}_vocabulary.json"
        if Vocabulary.load(file).tokens != side.vocabulary.tokens:
            raise UserError(f"{file} is not the vocabulary in {path / 'tokenizer'}.")


# ------------------------------------------------------------------------------------------ writing


def write(
    model: Seq2Seq, config: Config, codecs: Sequence[Codec], quantization: str, folder: Path
) -> None:
    """A Transformer as the files of CTranslate2's format."""
    from ..models.transformer import TransformerSeq2Seq

    specs, form = require("ctranslate2.specs", "export"), config.model
    model = copy.deepcopy(model)  # quantization writes into the tensors
    assert isinstance(model, TransformerSeq2Seq) and isinstance(form, Transformer)
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
    stacks = specs.transformer_spec
    encoder = stacks.TransformerEncoderSpec(form.encoder_layers, form.heads, **options)
    # The attention it reports: the mean over all heads of the last layer.
    options |= {"alignment_layer": -1, "alignment_heads": form.heads}
    decoder = stacks.TransformerDecoderSpec(form.decoder_layers, form.heads, **options)
    spec = specs.TransformerSpec(encoder, decoder)

    encoder.embeddings[0].weight = model.source_embedding.weight
    decoder.embeddings.weight = model.target_embedding.weight
    rows = table_positions(config) or 0
    table = model.positions.table(0, rows, model.source_embedding.weight)
    if table is not None:
        for part in (encoder, decoder):
            part.position_encodings.encodings = table
    ours: Any
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
    _put_linear(decoder.projection, model.projection)

    spec.register_source_vocabulary(codecs[0].vocabulary.tokens)
    spec.register_target_vocabulary(codecs[1].vocabulary.tokens)
    spec.config.unk_token, spec.config.bos_token, spec.config.eos_token = SPECIAL[1:]
    spec.config.decoder_start_token = spec.config.bos_token
    spec.config.add_source_eos = True
    spec.config.layer_norm_epsilon = ours.around_feed_forward.norm.eps
    spec.validate()
    spec.optimize(None if quantization == "none" else quantization)
    spec.save(str(folder))


def _put_linear(spec: Any, ours: Any) -> None:
    spec.weight, spec.bias = ours.weight, ours.bias


def _put_norm(spec: Any, norm: Any) -> None:
    spec.gamma = norm.weight
    if getattr(norm, "bias", None) is not None:  # an RMSNorm has none
        spec.beta = norm.bias


def _put_attention(spec: Any, ours: Any, norm: Any) -> None:
    _put_norm(spec.layer_norm, norm)
    packed = hasattr(ours, "query_key_value")
    inputs = [ours.query_key_value] if packed else [ours.query, ours.key_value]
    for linear, layer in zip(spec.linear, [*inputs, ours.output], strict=True):
        _put_linear(linear, layer)


def _put_feed_forward(spec: Any, ours: Any, norm: Any) -> None:
    _put_norm(spec.layer_norm, norm)
    parts = [spec.linear_0, spec.linear_0_noact] if ours.gated else [spec.linear_0]
    weights, biases = (each.chunk(len(parts)) for each in (ours.inner.weight, ours.inner.bias))
    for part, weight, bias in zip(parts, weights, biases):
        part.weight, part.bias = weight, bias
    _put_linear(spec.linear_1, ours.outer)


# ------------------------------------------------------------------------------------------- README

PROGRAM = """
text = {text}
tokens = {cut}
translator = ctranslate2.Translator(".")
never = [["<pad>"], ["<s>"]]
options = dict(beam_size={beam_size}, disable_unk=True, suppress_sequences=never)
tokens = translator.translate_batch([tokens], **options)[0].hypotheses[0]
print({join})
"""
SUBWORDS = 'sentencepiece.SentencePieceProcessor(model_file="tokenizer/{}.model")'
# How text is cut and tokens are joined in Python, by kind of tokenizer. The pattern for words does
# what tokenizers.WordTokenizer does, but for scripts without spaces between words.
CUT = {
    "char": "list(text)",
    "word": r're.sub(r"(?<=[^\w\s])(?=\w)", "￭ ", re.sub(r"(?<=\S)(?=[^\w\s])", " ￭", text)).split()',
    "subword": SUBWORDS + ".encode(text, out_type=str)",
}
JOIN = {
    "char": '"".join(tokens)',
    "word": '" ".join(tokens).replace(" ￭", "").replace("￭ ", "").replace("￭", "")',
    "subword": SUBWORDS + ".decode(tokens)",
}


def usage(config: Config) -> str:
    """How an exported directory is used without mtcli, in Markdown."""
    source, target = config.tokenizers
    names = ["shared"] * 2 if config.shared_vocabulary else ["source", "target"]
    text = '"A sentence."'
    if source.clean:
        text = f'" ".join(unicodedata.normalize("NFC", re.sub(r"[{DROPPED}]", "", {text})).split())'
        if source.lowercase and is_turkic(config.data.source_language):
            text += '.replace("İ", "i").replace("I", "ı")'
    if source.normalization == "nfkc":
        text = f'unicodedata.normalize("NFKC", {text})'
    program = PROGRAM.format(
        text=text + ".lower()" * source.lowercase,
        cut=CUT[source.type].format(names[0]),
        join=JOIN[target.type].format(names[1]),
        beam_size=config.decoding.beam_size,
    )
    modules = ("ctranslate2", "re", "sentencepiece", "unicodedata")
    imports = "".join(f"import {name}\n" for name in modules if f"{name}." in program)
    return f"\nWithout mtcli, in this directory:\n\n```python\n{imports}{program}```\n"
