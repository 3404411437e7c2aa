"""What a configuration may ask for: every section, every key with its default and limits, and the JSON Schema of it."""

from __future__ import annotations

import math
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Strict, Tag

from .corpora import Corpora, Corpus, Count, File, has_sides
from .section import ByType, Contradictions, Section, by_size

CountOrZero = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Beam = Annotated[int, Field(ge=1, le=1000)]
Layers = Annotated[int, Field(ge=1, le=1000)]
Width = Annotated[int, Field(ge=1, le=2**17)]
Positive = Annotated[float, Field(gt=0)]
PositiveOrZero = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Ratio = Annotated[float, Field(ge=0, le=100)]
Metric = Literal["bleu", "chrf", "ter", "exact_match"]


class Data(Section):
    """Which files are read."""

    source_language: str | None = None
    """Code of the source language, such as en."""
    target_language: str | None = None
    """Code of the target language, such as zh: decides how BLEU cuts words."""
    train: Corpora
    """The training corpus, or a list of several."""
    validation: Corpus
    """Decides which checkpoint is best and when to stop."""
    test: Corpus | None = None
    """What `mtcli eval` scores when it is given no files."""
    max_length: Count = 256
    """Training pairs with more tokens on either side are skipped, and counted."""


class Tokenizer(Section):
    """What all tokenizers share."""

    type: str
    shared: bool = False
    """One tokenizer and one vocabulary for both sides."""
    clean: bool = True
    """Texts that look the same are the same: NFC, one space for each run of white space, none at the ends, and in the
    source no invisible characters."""
    lowercase: bool = False
    """Lower-case the text first; with `clean`, Turkish and Azerbaijani by their own rule."""
    normalization: Literal["none", "nfkc"] = "none"
    """Further Unicode normalisation, of what need not look the same."""


class CountedTokens(Tokenizer):
    """A vocabulary of the tokens that a text is cut into."""

    min_count: Count = 1
    """Rarer tokens become UNK."""
    max_size: Count | None = None
    """Most frequent tokens to keep, special ones not counted."""


class Characters(CountedTokens):
    """Every character is a token."""

    type: Literal["char"] = "char"


class Words(CountedTokens):
    """Words and punctuation marks are tokens."""

    type: Literal["word"] = "word"


class Subwords(Tokenizer):
    """Frequent words are one token, rare ones are cut into pieces, unknown characters into bytes (sentencepiece)."""

    type: Literal["subword"] = "subword"
    algorithm: Literal["bpe", "unigram"] = "bpe"
    vocabulary_size: Annotated[int, Field(ge=300)] = by_size(4000)
    """Pieces, special tokens and the 256 bytes included. Default: by the size of the corpus."""
    dropout: Fraction = 0.0
    """In training. bpe: share of merges left out (Provilkov et al. 2020). unigram: smoothing alpha of sampled
    segmentations (Kudo 2018). 0: always the best segmentation."""
    character_coverage: Annotated[float, Field(ge=0.98, le=1)] = 0.9999
    """Share of the text's characters that have their own piece; the rest is spelt in bytes."""


OneTokenizer = Characters | Words | Subwords


class TokenizerPair(Section):
    """A tokenizer for each side."""

    source: Annotated[OneTokenizer, ByType()]
    target: Annotated[OneTokenizer, ByType()]

    def contradictions(self) -> Contradictions:
        for side in ("source", "target"):
            if getattr(self, side).shared:
                yield f"{side}.shared", "a shared tokenizer is given once, for both sides"


class Recurrent(Section):
    """Recurrent encoder-decoder, with attention or without."""

    type: Literal["gru"] = "gru"
    cell: Literal["gru", "lstm"] = "gru"
    embedding_size: Width = by_size(256)
    """Default: as `hidden_size`."""
    hidden_size: Width = by_size(256)
    """Of a decoder layer, and of both directions of an encoder layer together. Default: by the size of the corpus."""
    encoder_layers: Layers = 1
    decoder_layers: Layers = 1
    bidirectional: bool = True
    """Read the source in both directions."""
    dropout: Fraction = by_size(0.2)
    """On embeddings, between layers and on the readout. Default: by the size of the corpus."""
    attention: Literal["none", "additive", "dot", "general"] = "additive"
    """additive: Bahdanau et al. 2015; dot and general: Luong et al. 2015; none: only the encoder's final state."""
    attention_at: Literal["before", "after"] = "after"
    """before: from the previous state, into the cell (Bahdanau). after: from the new state, into the output (Luong)."""
    context: Literal["init", "every_step"] = "init"
    """Without attention: the encoder's final state starts the decoder (Sutskever et al. 2014), or is also an input of
    every step (Cho et al. 2014)."""
    bridge: bool = True
    """A learned layer from the encoder's final state to the decoder's first; else it is passed on unchanged."""
    tied_embeddings: Literal["none", "target", "all"] = "none"
    """target: the decoder's input and output share one table (Press and Wolf 2017); all: the encoder's too."""

    def contradictions(self) -> Contradictions:
        if self.bidirectional and self.hidden_size % 2:
            yield "hidden_size", "two directions share it: choose an even number"


class Transformer(Section):
    """Transformer encoder-decoder (Vaswani et al. 2017)."""

    type: Literal["transformer"] = "transformer"
    hidden_size: Width = by_size(256)
    """Width of the model; a multiple of `heads`. Default: by the size of the corpus."""
    feed_forward_size: Width = by_size(1024)
    """Default: four times `hidden_size`."""
    heads: Width = by_size(4)
    """Default: one for each 64 units, at least 4."""
    key_value_heads: Width | None = None
    """Fewer than `heads`: groups of heads share keys and values (Ainslie et al. 2023)."""
    encoder_layers: Layers = by_size(4)
    """Default: by the size of the corpus."""
    decoder_layers: Layers = by_size(4)
    """Default: by the size of the corpus."""
    dropout: Fraction = by_size(0.1)
    """On embeddings and on the output of every sub-layer. Default: by the size of the corpus."""
    attention_dropout: Fraction = 0.0
    """On attention weights."""
    activation_dropout: Fraction = 0.0
    """Inside the feed-forward layers."""
    norm: Literal["layer", "rms"] = "layer"
    norm_position: Literal["pre", "post"] = "pre"
    activation: Literal["relu", "gelu", "swiglu"] = "relu"
    positions: Literal["sinusoidal", "learned", "rotary"] = "sinusoidal"
    max_positions: Width = 1024
    """Rows of a learned position table: the longest sentence in tokens that can be read or written."""
    tied_embeddings: Literal["none", "target", "all"] = by_size("target")
    """As in a recurrent model. Default: all where the tokenizer is shared, else target."""

    def contradictions(self) -> Contradictions:
        size, heads, pairs = self.hidden_size, self.heads, self.key_value_heads
        if size % heads:
            yield "hidden_size", f"it must be a multiple of heads, which is {heads}"
        elif self.positions == "rotary" and size // heads % 2:
            yield "positions", f"it needs an even hidden_size / heads, which is {size // heads}"
        if pairs and heads % pairs:
            yield "key_value_heads", f"heads, {heads}, must be a multiple of it"


class Optimizer(Section):
    """What all optimizers share."""

    type: str
    learning_rate: Positive = 1e-3
    betas: Annotated[tuple[Fraction, Fraction], Strict(False)] = (0.9, 0.98)
    epsilon: Positive = 1e-9


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015)."""

    type: Literal["adam"] = "adam"


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    type: Literal["adamw"] = "adamw"
    weight_decay: PositiveOrZero = 0.01


class Muon(Optimizer):
    """Muon (Jordan et al. 2024) for the matrices inside the layers, Adam for embeddings, norms and biases."""

    type: Literal["muon"] = "muon"
    learning_rate: Positive = 4e-3
    """Of Adam's share."""
    matrix_learning_rate: Positive = 8e-3
    """Of Muon's share, scaled to match Adam's update size."""
    momentum: Fraction = 0.95
    weight_decay: PositiveOrZero = 0.0


class Constant(Section):
    """The same learning rate after warm-up."""

    type: Literal["constant"] = "constant"
    warmup_updates: CountOrZero = 0


class InverseSquareRoot(Section):
    """Falls with the square root of the updates after warm-up (Vaswani et al. 2017, eq. 3)."""

    type: Literal["inverse_sqrt"] = "inverse_sqrt"
    warmup_updates: Count = 400


class Linear(Section):
    """Falls in a straight line from the end of warm-up to the end of training."""

    type: Literal["linear"] = "linear"
    warmup_updates: CountOrZero = 200
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of the peak, at the end."""


class Cosine(Section):
    """Falls along half a cosine from the end of warm-up to the end of training (Loshchilov and Hutter 2017, eq. 5)."""

    type: Literal["cosine"] = "cosine"
    warmup_updates: CountOrZero = 100
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of the peak, at the end."""


class Plateau(Section):
    """Falls by a factor whenever validation stops getting better."""

    type: Literal["plateau"] = "plateau"
    warmup_updates: CountOrZero = 0
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    patience: CountOrZero = 2
    """Validations without a new best before the rate falls."""
    min_fraction: Fraction = 0.01
    """Of the peak: the rate never falls below."""


class Training(Section):
    """How the model learns."""

    seed: Seed = 1
    """Decides initial weights, order of data and dropout."""
    batch_sentences: Count | None = None
    """Sentence pairs of one update; instead of `batch_tokens`."""
    batch_tokens: Count | None = Field(
        default_factory=lambda given: None if given.get("batch_sentences") else 2000
    )
    """Target tokens of one update, without padding. Default: by the size of the corpus; with `batch_sentences`, null."""
    micro_batch_tokens: Count | None = None
    """An update is cut to fit this many padded tokens at once; same result. Default: all, on a GPU what is found to fit."""
    max_updates: Count | None = None
    """Stop after this many updates."""
    max_epochs: Positive | None = by_size(None)
    """Stop after this many passes over the data. Default: by the size of the corpus, unless another limit is given."""
    max_minutes: Positive | None = None
    """Stop after this many minutes of training; schedules then follow the clock."""
    optimizer: Annotated[Adam | AdamW | Muon, ByType("muon")] = Muon()
    schedule: Annotated[
        Constant | InverseSquareRoot | Linear | Cosine | Plateau, ByType("linear")
    ] = Linear()
    label_smoothing: Fraction = 0.1
    """Share of probability spread over the vocabulary (Szegedy et al. 2016, section 7)."""
    max_gradient_norm: Positive | None = 1.0
    """Gradients are scaled down to this norm; null: never."""
    precision: Literal["auto", "float32", "tf32", "bf16", "fp16"] = "auto"
    """Of the forward pass; weights stay float32. auto: bf16 on a GPU that has it, else float32. tf32: a GPU's faster products."""
    log_every: Count = 50
    """Updates between two lines of the log."""
    validate_every: Count | Literal["epoch"] = by_size("epoch")
    """Updates between two validations. Default: a fiftieth of training if its length is left open, else `epoch`."""
    validation_metrics: list[Metric] = ["bleu", "chrf"]
    """Metrics on decoded validation text, beside loss and perplexity. Empty: nothing is decoded."""
    validation_beam_size: Beam = 1
    """Beam of the decoding at validation; 1 is greedy search, which is fast."""
    best_by: Literal["loss", "perplexity", "bleu", "chrf", "ter", "exact_match"] = by_size("loss")
    """What decides which checkpoint is best. Default: chrf for a small corpus, else loss."""
    patience: Count | None = by_size(None)
    """Validations without a new best until training ends; linear and cosine schedules first fall to their end, within a
    tenth of the updates done. null: any number. Default: 10 if the length of training is left open, else null."""
    examples: CountOrZero = 3
    """Translations shown at each validation."""
    traces: bool = True
    """Keep, of the same translations, what the model looked at: `mtcli report` shows how that developed."""
    keep_checkpoints: Count = 2
    """Newest checkpoints to keep; the best is always kept."""
    save_minutes: Positive | None = 15
    """Save also between validations, so that a kill loses no more than this many minutes; null: only at validations."""
    non_finite: Literal["stop", "skip"] = "stop"
    """At a gradient that is not finite: stop and say where it comes from, or skip the update (fp16 always skips some)."""
    deterministic: bool = False
    """On a GPU, use only operations that give the same bits every time. Slower; the CPU always does."""
    tensorboard: bool = False
    """Write TensorBoard files too (needs mtcli[tensorboard])."""

    @property
    def has_end(self) -> bool:
        """Whether a limit is given; without one the length of training is chosen by the size of the corpus."""
        return any((self.max_updates, self.max_epochs, self.max_minutes))

    def contradictions(self) -> Contradictions:
        tokens, sentences = self.batch_tokens, self.batch_sentences
        if tokens and sentences:
            yield "batch_sentences", f"batch_tokens is {tokens}: set one of them to null"
        if not tokens and not sentences:
            yield "batch_tokens", "it must be an integer >= 1, unless batch_sentences is given"
        if self.best_by not in ("loss", "perplexity", *self.validation_metrics):
            yield "best_by", "it must be loss or one of training.validation_metrics: add it there"


class LengthPenalty(Section):
    """What a hypothesis's log-probability is divided by."""

    type: Literal["none", "average", "gnmt"] = "gnmt"
    """average: length^alpha. gnmt: ((5 + length) / 6)^alpha (Wu et al. 2016, eq. 14)."""
    alpha: Annotated[float, Field(ge=0, le=50)] = 1.0

    def divisor(self, length: int) -> float:
        """For a hypothesis of ``length`` tokens, EOS included."""
        if self.type == "none":
            return 1.0
        return (length if self.type == "average" else (5 + length) / 6) ** self.alpha


class Sampling(Section):
    """Draw translations at random."""

    temperature: Annotated[float, Field(ge=0.001)] = 1.0
    top_k: Count | None = None
    """Only the most probable tokens."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the fewest tokens that together have this probability (Holtzman et al. 2020)."""
    seed: Seed = 1


class Decoding(Section):
    """How translations are searched for."""

    beam_size: Beam = 5
    """1 is greedy search."""
    length_penalty: Annotated[LengthPenalty, ByType()] = LengthPenalty()
    look_ahead: CountOrZero | None = 3
    """Search ends when no unfinished hypothesis could win with this many more certain tokens. null: exact, but slower."""
    min_length_ratio: Ratio = 0.0
    """A translation has at least this many tokens for each source token."""
    max_length_ratio: Ratio = 2.0
    """A translation has at most this many tokens for each source token, and `max_length_offset` more."""
    max_length_offset: Annotated[int, Field(ge=0, le=10_000)] = 20
    no_repeat_ngram: CountOrZero = 0
    """No sequence of this many tokens appears twice; 0: no limit."""
    generate_unknown: bool = False
    """Whether UNK may be written."""
    copy_symbols: bool = by_size(True)
    """A line without a letter of any script is copied. Default: unless such lines are translated in the corpus."""
    sampling: Sampling | None = None
    """Draw from the model instead of searching for the best."""
    batch_tokens: Count | None = None
    """Padded source tokens that are translated at once. Default: by the device, 4,000 on a CPU and 16,000 elsewhere."""

    def lengths(self, source: int) -> tuple[int, int]:
        """Least and most target tokens for ``source`` tokens, EOS not counted on either side."""
        least = math.ceil(
            round(source * self.min_length_ratio, 6)
        )  # 1.1 * 100 is 110.00000000000001
        most = math.floor(round(source * self.max_length_ratio, 6)) + self.max_length_offset
        return min(least, most), most

    def contradictions(self) -> Contradictions:
        if self.min_length_ratio > (most := self.max_length_ratio):
            yield "min_length_ratio", f"it must not be above max_length_ratio, which is {most}"


class Evaluation(Section):
    """How translations are scored."""

    metrics: list[Metric] = ["bleu", "chrf", "ter", "exact_match"]
    bleu_tokenizer: (
        Literal["13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none", "flores200"] | None
    ) = None
    """How sacreBLEU cuts words. Default: by the target language."""
    lowercase: bool = False
    """Score without regard to case."""


class Config(Section):
    """Everything that decides a run."""

    data: Data
    tokenizer: Annotated[
        Annotated[OneTokenizer, ByType("subword"), Tag("one")]
        | Annotated[TokenizerPair, Tag("TokenizerPair")],
        Discriminator(lambda value: "TokenizerPair" if has_sides(value) else "one"),
    ] = Subwords()
    model: Annotated[Recurrent | Transformer, ByType("transformer")] = Transformer()
    training: Training = Training()
    decoding: Decoding = Decoding()
    evaluation: Evaluation = Evaluation()
    init_from: File | None = None
    """Run directory to start from: its tokenizers, vocabularies, model and best weights. Only dropout may differ."""

    @property
    def tokenizers(self) -> tuple[OneTokenizer, OneTokenizer]:
        """Of the source and of the target; the same one twice where one is given."""
        one = self.tokenizer
        return (one.source, one.target) if isinstance(one, TokenizerPair) else (one, one)

    @property
    def shared_vocabulary(self) -> bool:
        """Whether both sides share a tokenizer and a vocabulary."""
        return self.tokenizers[0].shared

    def contradictions(self) -> Contradictions:
        if self.model.tied_embeddings == "all" and not self.shared_vocabulary:
            way = "set tokenizer.shared to true, or choose none, target"
            yield "model.tied_embeddings", f"one table for both sides needs one vocabulary: {way}"


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a configuration, short forms included: editors complete and check by it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
