"""CTranslate2: writes a Transformer in its format, and runs one without torch."""

# H hidden, S source, T target

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config, Transformer
from ..support.errors import UserError, require
from ..text.codec import Codec
from ..text.vocab import BOS, EOS, PAD, SPECIAL
from .engine import Hypothesis, Request

if TYPE_CHECKING:
    from torch import Tensor

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


class CTranslate2Engine:
    """A Transformer run by CTranslate2.

    Its beam search is not ours: it ends when `beam_size` hypotheses are finished. What it finds is
    ranked by our length penalty; scores are then computed by the model's own softmax.
    """

    parallel = 1  # it has threads of its own

    def __init__(
        self,
        path: Path,
        config: Config,
        codecs: tuple[Codec, Codec],
        quantization: str,
        device: str,
        threads: int | None,
    ):
        ctranslate2 = require("ctranslate2", "export")
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
        self.source_tokens, self.target_tokens = (side.vocabulary.tokens for side in codecs)
        self.target_ids = {token: id for id, token in enumerate(self.target_tokens)}

    def search(self, request: Request) -> list[list[Hypothesis]]:
        """As `Engine.search`. Raises UserError for sampling.

        CTranslate2 takes one length limit for a batch: sentences that come as far as their own
        are searched again with that.
        """
        if request.decoding.sampling is not None:
            raise UserError(
                "CTranslate2 draws translations with random numbers that depend on the batch, so "
                "that --sample cannot keep its word there. Sample with the run itself, or with an "
                "export to onnx."
            )
        self._check(request.sources, "source")
        limits = request.lengths(self.max_positions)
        longest = max(most for _, most in limits)
        found = self._find(
            request, {row: (least, longest) for row, (least, _) in enumerate(limits)}
        )
        cut = {
            row: (least, most)
            for row, (least, most) in enumerate(limits)
            if most < longest and any(len(tokens) >= most for tokens in found[row].hypotheses)
        }
        found |= self._find(request, cut)
        ranked = [self._ranked(found[row], most, request) for row, (_, most) in enumerate(limits)]

        rows = [row for row, targets in enumerate(ranked) for _ in targets]
        sources = [request.sources[row] for row in rows]
        targets = [target for each in ranked for target in each]
        scores = self.score(sources, targets)
        attention = self._attention(sources, targets) if request.attention else [None] * len(rows)
        hypotheses: list[list[Hypothesis]] = [[] for _ in ranked]
        for row, target, each, weights in zip(rows, targets, scores, attention):
            score = sum(each) / request.decoding.length_penalty.divisor(len(target))
            hypotheses[row].append(Hypothesis(target, sum(each), score, weights))
        return [sorted(each, key=lambda one: -one.score) for each in hypotheses]

    def search_all(self, requests: Iterable[Request]) -> Iterator[list[list[Hypothesis]]]:
        """As `Engine.search_all`."""
        return map(self.search, requests)

    def score(
        self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """As `Engine.score`."""
        self._check(sources, "source")
        self._check(targets, "target")
        results = self.translator.score_batch(
            [self._source(source) for source in sources],
            [self._target(target[:-1]) for target in targets],
            max_batch_size=PAIRS_AT_ONCE,
            max_input_length=0,
        )
        return [list(result.log_probs) for result in results]

    def _check(self, sentences: Sequence[Sequence[int]], name: str) -> None:
        longest = max(map(len, sentences))
        if self.max_positions is not None and longest > self.max_positions:
            raise UserError(
                f"A {name} sentence has {longest - 1} tokens; the exported model has positions for "
                f"{self.max_positions - 1}. Split it."
            )

    def _find(self, request: Request, limits: dict[int, tuple[int, int]]) -> dict[int, Any]:
        """CTranslate2's result for some rows of a request; limits: their least and most tokens."""
        decoding = request.decoding
        found: dict[int, Any] = {}
        for least, most in set(limits.values()):
            rows = [row for row, limit in limits.items() if limit == (least, most)]
            results = self.translator.translate_batch(
                [self._source(request.sources[row]) for row in rows],
                [self._target(request.prefix)] * len(rows) if request.prefix else None,
                beam_size=decoding.beam_size,
                num_hypotheses=decoding.beam_size,
                length_penalty=_alpha(request),
                no_repeat_ngram_size=decoding.no_repeat_ngram,
                disable_unk=not decoding.generate_unknown,
                suppress_sequences=[[SPECIAL[PAD]], [SPECIAL[BOS]]],
                min_decoding_length=min(least, most),
                max_decoding_length=max(1, most),  # it refuses 0
                max_input_length=0,
                return_end_token=True,
                return_scores=True,
            )
            found |= zip(rows, results)
        return found

    def _ranked(self, result: Any, most: int, request: Request) -> list[list[int]]:
        """The `n_best` different hypotheses of a result, as ids that end in EOS."""
        penalty = request.decoding.length_penalty
        ranks: dict[tuple[int, ...], float] = {}
        for tokens, score in zip(result.hypotheses, result.scores):
            ids = [id for token in tokens if (id := self.target_ids[token]) != EOS][:most] + [EOS]
            log_probability = score * max(1, len(tokens)) ** _alpha(request)
            ranks.setdefault(tuple(ids), log_probability / penalty.divisor(len(ids)))
        best = sorted(ranks, key=lambda ids: -ranks[ids])
        return [list(ids) for ids in best[: request.n_best]]

    def _attention(
        self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[list[list[float]]]:
        """Of each pair, a row for each target id and a column for each source id, EOS included."""
        results = self.translator.translate_batch(
            [self._source(source) for source in sources],
            [self._target(target[:-1]) for target in targets],
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

    def _source(self, ids: Sequence[int]) -> list[str]:
        """Without EOS, which CTranslate2 adds."""
        return [self.source_tokens[id] for id in ids[:-1]]

    def _target(self, ids: Sequence[int]) -> list[str]:
        return [self.target_tokens[id] for id in ids]


def _alpha(request: Request) -> float:
    """The exponent of CTranslate2's length penalty, which is our `average`."""
    penalty = request.decoding.length_penalty
    return 0.0 if penalty.type == "none" else penalty.alpha


# ------------------------------------------------------------------------------------------ writing


def write(
    model: Seq2Seq, config: Config, codecs: Sequence[Codec], quantization: str, folder: Path
) -> None:
    """A Transformer as the files of CTranslate2's format."""
    from ..models.transformer import TransformerSeq2Seq

    specs, form = require("ctranslate2.specs", "export"), config.model
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

    encoder.embeddings[0].weight = _array(model.source_embedding.weight)
    decoder.embeddings.weight = _array(model.target_embedding.weight)
    rows = table_positions(config) or 0
    table = model.positions.table(0, rows, model.source_embedding.weight)
    if table is not None:
        for part in (encoder, decoder):
            part.position_encodings.encodings = _array(table)
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
    _put_linear(decoder.projection, model.projection.weight, model.projection.bias)

    spec.register_source_vocabulary(codecs[0].vocabulary.tokens)
    spec.register_target_vocabulary(codecs[1].vocabulary.tokens)
    spec.config.unk_token, spec.config.bos_token, spec.config.eos_token = SPECIAL[1:]
    spec.config.decoder_start_token = spec.config.bos_token
    spec.config.add_source_eos = True
    spec.config.layer_norm_epsilon = ours.around_feed_forward.norm.eps
    spec.validate()
    spec.optimize(None if quantization == "none" else quantization)
    spec.save(str(folder))


def _array(tensor: Tensor) -> Any:
    """A copy as a NumPy array: quantization writes into it."""
    return tensor.detach().float().cpu().numpy().copy()


def _put_linear(spec: Any, weight: Tensor, bias: Tensor) -> None:
    spec.weight, spec.bias = _array(weight), _array(bias)


def _put_norm(spec: Any, norm: Any) -> None:
    spec.gamma = _array(norm.weight)
    if getattr(norm, "bias", None) is not None:  # an RMSNorm has none
        spec.beta = _array(norm.bias)


def _put_attention(spec: Any, ours: Any, norm: Any) -> None:
    _put_norm(spec.layer_norm, norm)
    packed = hasattr(ours, "query_key_value")
    inputs = [ours.query_key_value] if packed else [ours.query, ours.key_value]
    for linear, layer in zip(spec.linear, [*inputs, ours.output], strict=True):
        _put_linear(linear, layer.weight, layer.bias)


def _put_feed_forward(spec: Any, ours: Any, norm: Any) -> None:
    _put_norm(spec.layer_norm, norm)
    parts = [spec.linear_0, spec.linear_0_noact] if ours.gated else [spec.linear_0]
    weights, biases = (each.chunk(len(parts)) for each in (ours.inner.weight, ours.inner.bias))
    for part, weight, bias in zip(parts, weights, biases):
        _put_linear(part, weight, bias)
    _put_linear(spec.linear_1, ours.outer.weight, ours.outer.bias)


# ------------------------------------------------------------------------------------------- README

# How text is cut and tokens are joined in Python, by kind of tokenizer. The pattern for words does
# what tokenizers.WordTokenizer does, but for scripts without spaces between words.
CUT = {
    "char": "list(text)",
    "word": r're.sub(r"(?<=[^\w\s])(?=\w)", "￭ ", re.sub(r"(?<=\S)(?=[^\w\s])", " ￭", text)).split()',
    "subword": "source.encode(text, out_type=str)",
}
JOIN = {
    "char": '"".join(tokens)',
    "word": '" ".join(tokens).replace(" ￭", "").replace("￭ ", "").replace("￭", "")',
    "subword": "target.decode(tokens)",
}


def usage(config: Config) -> str:
    """How an exported directory is used without mtcli, in Markdown."""
    source, target = config.tokenizers
    imports, prepare = {"import ctranslate2"}, ['text = "A sentence."']
    if source.type == "word":
        imports.add("import re")
    if source.normalization == "nfkc":
        imports.add("import unicodedata")
        prepare.append('text = unicodedata.normalize("NFKC", text)')
    if source.lowercase:
        prepare.append("text = text.lower()")
    for side, tokenizer in (("source", source), ("target", target)):
        if tokenizer.type == "subword":
            imports.add("import sentencepiece")
            file = f"tokenizer/{'shared' if config.shared_vocabulary else side}.model"
            prepare.append(f'{side} = sentencepiece.SentencePieceProcessor(model_file="{file}")')
    program = (
        "\n".join(sorted(imports) + prepare)
        + f"""
translator = ctranslate2.Translator(".")
tokens = {CUT[source.type]}
never = [["<pad>"], ["<s>"]]
options = dict(beam_size={config.decoding.beam_size}, disable_unk=True, suppress_sequences=never)
tokens = translator.translate_batch([tokens], **options)[0].hypotheses[0]
print({JOIN[target.type]})
"""
    )
    return f"Without mtcli, in this directory:\n\n```python\n{program}```\n"
