"""YAML to a checked configuration and back. Knows what may be asked for, not how it is done; imports no torch."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from ..support.errors import UserError
from . import yamls
from .messages import Node, alternatives, below, explain, inline, keys_of, show
from .yamls import Path, dotted

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Beam = Annotated[int, Field(ge=1, le=1000)]
Ratio = Annotated[float, Field(ge=0, le=100)]
Layers = Annotated[int, Field(ge=1, le=1000)]
Width = Annotated[int, Field(ge=1, le=2**17)]
File = Annotated[str, Field(min_length=1, json_schema_extra={"format": "file"})]


class Section(BaseModel):
    """What all sections share: no unknown keys, no silent conversion, no change after reading."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Values that are fine alone but not together: (key, rest of the sentence that the key begins)."""
        yield from ()

    @model_validator(mode="after")
    def _no_contradictions(self) -> Section:
        if problems := list(self.contradictions()):
            text = "; ".join(f"{key} {rest}" for key, rest in problems)
            raise PydanticCustomError(
                "contradiction", "{text}", {"text": text, "problems": problems}
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _default_kind(cls, values: Any) -> Any:
        """``optimizer: {learning_rate: 1e-3}`` has no type: it is of the default's."""
        if not isinstance(values, dict):
            return values
        kinds = {
            key: getattr(field.default, "type", None) for key, field in cls.model_fields.items()
        }
        without = {
            key
            for key, value in values.items()
            if kinds.get(key)
            and isinstance(value, dict)
            and "type" not in value
            and not _is_pair(value)
        }
        return {
            key: {"type": kinds[key], **value} if key in without else value
            for key, value in values.items()
        }


def by_size(default: Any) -> Any:
    """A field that `defaults.fit` chooses by the size of the corpus where a config leaves it open.

    ``default`` is what it is without a corpus, in Python; the JSON Schema names none.
    """
    return Field(default, json_schema_extra=lambda node: node.pop("default", None))


class Short:
    """Lets a value be written shorter: ``whole`` completes it; ``schema`` makes the JSON Schema of the short form."""

    def __init__(self, whole: Callable[[Any], Any], schema: Callable[[Node], Node]):
        self.whole, self.schema = whole, schema

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable) -> Any:
        return core_schema.no_info_before_validator_function(self.whole, handler(source))

    def __get_pydantic_json_schema__(self, core: Any, handler: Callable) -> Node:
        node = handler(core)
        return {"anyOf": [self.schema(node), *alternatives(node)]}


# model: gru  is short for  model: {type: gru}
ByType = Short(
    lambda value: {"type": value} if isinstance(value, str) else value,
    lambda node: {"enum": list(node["discriminator"]["mapping"])},
)
# train: a.tsv  is short for  train: {path: a.tsv}
ByPath = Short(
    lambda value: {"path": value} if isinstance(value, str) else value,
    lambda node: {"type": "string", "minLength": 1, "format": "file"},
)
# train: X  is short for  train: [X]
OneOrMore = Short(
    lambda value: value if isinstance(value, list) else [value], lambda node: node["items"]
)


# ---------------------------------------------------------------------------------------------------------------- data


class TSV(Section):
    """One tab-separated file that holds both sides."""

    path: File
    """The file; .gz is read as it is."""
    columns: Annotated[tuple[Count, Count], Strict(False)] = (1, 2)
    """Which columns hold source and target, counted from 1. Further columns are ignored."""
    weight: Count = 1
    """Passes over this corpus in one epoch."""


class Plain(Section):
    """Two line-aligned files."""

    source: File
    """One source sentence a line; .gz is read as it is."""
    target: File | Annotated[list[File], Field(min_length=1)]
    """Line N translates line N of the source. A list, or a .tsv file, gives several references (for scores)."""
    weight: Count = 1
    """Passes over this corpus in one epoch."""


def _is_pair(value: Any) -> bool:
    """Whether a section speaks of two sides."""
    return (
        isinstance(value, (Plain, TokenizerPair))
        or isinstance(value, dict)
        and not value.keys().isdisjoint({"source", "target"})
    )


Corpus = Annotated[
    Annotated[TSV, Tag("TSV")] | Annotated[Plain, Tag("Plain")],
    Discriminator(lambda value: "Plain" if _is_pair(value) else "TSV"),
    ByPath,
]


class Data(Section):
    """Which files are read."""

    source_language: str | None = None
    """Code of the source language, such as en."""
    target_language: str | None = None
    """Code of the target language, such as zh: decides how BLEU cuts words."""
    train: Annotated[list[Corpus], Field(min_length=1), OneOrMore]
    """The training corpus, or a list of several."""
    validation: Corpus
    """Decides which checkpoint is best and when to stop."""
    test: Corpus | None = None
    """What `mtcli eval` scores when it is given no files."""
    max_length: Count = 256
    """Training pairs with more tokens on either side are skipped, and counted."""


# ----------------------------------------------------------------------------------------------------------- tokenizer


class Characters(Section):
    """Every character is a token."""

    type: Literal["char"] = "char"
    shared: bool = False
    """One vocabulary for both sides."""
    lowercase: bool = False
    """Lower-case the text first."""
    normalization: Literal["none", "nfkc"] = "none"
    """Unicode normalisation before everything else."""
    min_count: Count = 1
    """Rarer tokens become UNK."""
    max_size: Count | None = None
    """Most frequent tokens to keep, special ones not counted."""


class Words(Section):
    """Words and punctuation marks are tokens."""

    type: Literal["word"] = "word"
    shared: bool = False
    """One vocabulary for both sides."""
    lowercase: bool = False
    """Lower-case the text first."""
    normalization: Literal["none", "nfkc"] = "none"
    """Unicode normalisation before everything else."""
    min_count: Count = 1
    """Rarer tokens become UNK."""
    max_size: Count | None = None
    """Most frequent tokens to keep, special ones not counted."""


class Subwords(Section):
    """Frequent words stay whole, rare ones fall into pieces, unknown characters into bytes (sentencepiece)."""

    type: Literal["subword"] = "subword"
    algorithm: Literal["bpe", "unigram"] = "bpe"
    shared: bool = False
    """One model and one vocabulary for both sides."""
    lowercase: bool = False
    """Lower-case the text first."""
    normalization: Literal["none", "nfkc"] = "none"
    """Unicode normalisation before everything else."""
    vocabulary_size: Annotated[int, Field(ge=300)] = by_size(4000)
    """Pieces, special tokens and the 256 bytes included. Default: by the size of the corpus."""
    dropout: Fraction = 0.0
    """Training only. bpe: share of merges left out (BPE-dropout, Provilkov et al. 2020). unigram: the smoothing alpha
    of sampled segmentations (Kudo 2018). 0 always takes the best segmentation."""
    character_coverage: Annotated[float, Field(ge=0.98, le=1)] = 0.9999
    """Share of the text's characters that are pieces of their own; the rest is spelt in bytes."""


TokenizerConfig = Annotated[Characters | Words | Subwords, Field(discriminator="type"), ByType]


class TokenizerPair(Section):
    """A tokenizer for each side."""

    source: TokenizerConfig
    target: TokenizerConfig

    def contradictions(self) -> Iterator[tuple[str, str]]:
        for side in ("source", "target"):
            if getattr(self, side).shared:
                yield (
                    f"{side}.shared",
                    "is true; a shared tokenizer is written once, without source and target",
                )


# --------------------------------------------------------------------------------------------------------------- model


class Recurrent(Section):
    """Recurrent encoder-decoder, with attention or without."""

    type: Literal["gru"] = "gru"
    cell: Literal["gru", "lstm"] = "gru"
    embedding_size: Width = by_size(256)
    """Default: as `hidden_size`."""
    hidden_size: Width = by_size(256)
    """Units of a decoder layer, and of an encoder layer (both directions together). Default: by the size of the
    corpus."""
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
    """Without attention: whether the encoder's final state only starts the decoder (Sutskever et al. 2014) or is also
    an input of every step (Cho et al. 2014)."""
    bridge: bool = True
    """A learned layer from the encoder's final state to the decoder's first; else it is handed over as it is."""
    tied_embeddings: Literal["none", "target", "all"] = "none"
    """target: the decoder's input and output share one table (Press and Wolf 2017); all: the encoder's too."""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.bidirectional and self.hidden_size % 2:
            yield (
                "hidden_size",
                f"is {self.hidden_size}; two directions share it: choose an even number",
            )


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
    """target: the decoder's input and output share one table (Press and Wolf 2017); all: the encoder's too. Default: all
    where the tokenizer is shared, else target."""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.hidden_size % self.heads:
            yield (
                "hidden_size",
                f"is {self.hidden_size}; it must be a multiple of heads, which is {self.heads}",
            )
        elif self.positions == "rotary" and self.hidden_size // self.heads % 2:
            size = self.hidden_size // self.heads
            yield "positions", f"is 'rotary'; it needs an even hidden_size / heads, which is {size}"
        if self.key_value_heads and self.heads % self.key_value_heads:
            yield (
                "key_value_heads",
                f"is {self.key_value_heads}; heads, {self.heads}, must be a multiple of it",
            )


# ------------------------------------------------------------------------------------------------------------ training


class Adam(Section):
    """Adam (Kingma and Ba 2015)."""

    type: Literal["adam"] = "adam"
    learning_rate: Positive = 1e-3
    betas: Annotated[tuple[Fraction, Fraction], Strict(False)] = (0.9, 0.98)
    epsilon: Positive = 1e-9


class AdamW(Section):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    type: Literal["adamw"] = "adamw"
    learning_rate: Positive = 1e-3
    betas: Annotated[tuple[Fraction, Fraction], Strict(False)] = (0.9, 0.98)
    epsilon: Positive = 1e-9
    weight_decay: Annotated[float, Field(ge=0)] = 0.01


class Muon(Section):
    """Muon (Jordan et al. 2024) for the matrices inside the layers, Adam for embeddings, norms and biases."""

    type: Literal["muon"] = "muon"
    learning_rate: Positive = 4e-3
    """Of Adam's share."""
    betas: Annotated[tuple[Fraction, Fraction], Strict(False)] = (0.9, 0.98)
    epsilon: Positive = 1e-9
    matrix_learning_rate: Positive = 8e-3
    """Of Muon's share, scaled to match Adam's update size."""
    momentum: Fraction = 0.95
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


class Constant(Section):
    """The same learning rate after warm-up."""

    type: Literal["constant"] = "constant"
    warmup_updates: Annotated[int, Field(ge=0)] = 0


class InverseSquareRoot(Section):
    """Falls with the square root of the updates after warm-up (Vaswani et al. 2017, eq. 3)."""

    type: Literal["inverse_sqrt"] = "inverse_sqrt"
    warmup_updates: Count = 400


class Linear(Section):
    """Falls in a straight line from the end of warm-up to the end of training."""

    type: Literal["linear"] = "linear"
    warmup_updates: Annotated[int, Field(ge=0)] = 200
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of the peak, at the end."""


class Cosine(Section):
    """Falls along half a cosine from the end of warm-up to the end of training (Loshchilov and Hutter 2017, eq. 5)."""

    type: Literal["cosine"] = "cosine"
    warmup_updates: Annotated[int, Field(ge=0)] = 100
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of the peak, at the end."""


class Plateau(Section):
    """Falls by a factor whenever validation stops getting better."""

    type: Literal["plateau"] = "plateau"
    warmup_updates: Annotated[int, Field(ge=0)] = 0
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    patience: Annotated[int, Field(ge=0)] = 2
    """Validations without a new best before the rate falls."""
    min_fraction: Fraction = 0.01
    """Of the peak: the rate never falls below."""


class Training(Section):
    """How the model learns."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    """Decides initial weights, order of data and dropout."""
    batch_sentences: Count | None = None
    """Sentence pairs of one update; instead of `batch_tokens`."""
    batch_tokens: Count | None = Field(
        default_factory=lambda given: None if given.get("batch_sentences") else 2000
    )
    """Target tokens of one update, padding not counted. Default: by the size of the corpus, unless `batch_sentences` is
    given."""
    micro_batch_tokens: Count | None = None
    """Padded tokens that are on the device at once; an update is cut into micro-batches that fit. The result is the
    same. Default: everything at once on the CPU, as much as fits on a GPU."""
    max_updates: Count | None = None
    """Stop after so many updates."""
    max_epochs: Positive | None = by_size(None)
    """Stop after so many passes over the data. Default: by the size of the corpus, unless one of the three limits is
    given."""
    max_minutes: Positive | None = None
    """Stop after so many minutes of training; schedules then follow the clock."""
    optimizer: Annotated[Adam | AdamW | Muon, Field(discriminator="type"), ByType] = Muon()
    schedule: Annotated[
        Constant | InverseSquareRoot | Linear | Cosine | Plateau,
        Field(discriminator="type"),
        ByType,
    ] = Linear()
    label_smoothing: Fraction = 0.1
    """Share of probability spread over the whole vocabulary (Szegedy et al. 2016, section 7)."""
    max_gradient_norm: Positive | None = 1.0
    """Gradients are scaled down to this norm; null: never."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """Arithmetic of the forward pass (autocast), also when the model is used later; weights stay float32. auto: bf16 on
    a GPU that has it, float32 elsewhere."""
    log_every: Count = 50
    """Updates between two lines of the log."""
    validate_every: Count | Literal["epoch"] = by_size("epoch")
    """Updates between two validations, or `epoch`. Default: a fiftieth of a training whose length is chosen by the size
    of the corpus, else `epoch`."""
    validation_metrics: list[Literal["bleu", "chrf", "ter", "exact_match"]] = ["bleu", "chrf"]
    """Metrics on decoded validation text, beside loss and perplexity. Empty: nothing is decoded."""
    validation_beam_size: Beam = 1
    """Beam of the decoding at validation; 1 is greedy search, which is fast."""
    best_by: Literal["loss", "perplexity", "bleu", "chrf", "ter", "exact_match"] = by_size("loss")
    """What decides which checkpoint is best. Default: chrf for a small corpus, else loss."""
    patience: Count | None = by_size(None)
    """After so many validations without a new best training ends: linear and cosine schedules first fall to their end,
    within a tenth of the updates done. null: never. Default: 10 if the length of training is left open, else null."""
    examples: Annotated[int, Field(ge=0)] = 3
    """Translations shown at each validation."""
    keep_checkpoints: Count = 2
    """Newest checkpoints to keep; the best is always kept."""
    save_minutes: Positive | None = 15
    """Save also between validations, so that a kill loses no more than so many minutes; null: only at validations."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What becomes of an update whose gradient is not finite: training stops and says where it comes from, or the
    update is left out and counted. (Under fp16 such updates are part of finding the scale, and always left out.)"""
    deterministic: bool = False
    """On a GPU, use only operations that give the same bits every time. Slower; on the CPU it is so anyway."""
    tensorboard: bool = False
    """Write TensorBoard files too (needs mtcli[tensorboard])."""

    @property
    def has_end(self) -> bool:
        """Whether a limit is given; without one the length of training is chosen by the size of the corpus."""
        return any(
            limit is not None for limit in (self.max_updates, self.max_epochs, self.max_minutes)
        )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.batch_tokens and self.batch_sentences:
            yield (
                "batch_sentences",
                f"is {self.batch_sentences} and batch_tokens {self.batch_tokens}; set one to null",
            )
        if not self.batch_tokens and not self.batch_sentences:
            yield (
                "batch_tokens",
                "is null; it must be a whole number >= 1, unless batch_sentences is given",
            )
        if self.best_by not in ("loss", "perplexity", *self.validation_metrics):
            yield (
                "best_by",
                f"is '{self.best_by}'; it must be loss or one of training.validation_metrics: add it there",
            )


# ------------------------------------------------------------------------------------------------------------ decoding


class LengthPenalty(Section):
    """What a hypothesis's log-probability is divided by."""

    type: Literal["none", "average", "gnmt"] = "gnmt"
    """average: length^alpha. gnmt: ((5 + length) / 6)^alpha (Wu et al. 2016, eq. 14)."""
    alpha: Annotated[float, Field(ge=0, le=50)] = 1.0

    def divisor(self, length: int) -> float:
        """For a hypothesis of so many tokens, EOS included."""
        if self.type == "none":
            return 1.0
        return (length if self.type == "average" else (5 + length) / 6) ** self.alpha


class Sampling(Section):
    """Draw translations at random."""

    temperature: Positive = 1.0
    top_k: Count | None = None
    """Only the most probable tokens."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the fewest tokens that together have this probability (Holtzman et al. 2020)."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1


class Decoding(Section):
    """How translations are searched for."""

    beam_size: Beam = 5
    """1 is greedy search."""
    length_penalty: Annotated[
        LengthPenalty, Short(ByType.whole, lambda node: {"enum": ["none", "average", "gnmt"]})
    ] = LengthPenalty()
    look_ahead: Annotated[int, Field(ge=0)] | None = 3
    """A search ends when no unfinished hypothesis could come out best even if so many more tokens were certain.

    null: as many as its maximum length allows, which is exact and takes a third more time; of 1,000 sentences, none
    changed.
    """
    min_length_ratio: Ratio = 0.0
    """A translation has at least this many tokens for each of its own source's."""
    max_length_ratio: Ratio = 2.0
    """A translation has at most this many tokens for each of its own source's, and `max_length_offset` more."""
    max_length_offset: Annotated[int, Field(ge=0, le=10_000)] = 20
    no_repeat_ngram: Annotated[int, Field(ge=0)] = 0
    """No sequence of so many tokens appears twice; 0: no limit."""
    generate_unknown: bool = False
    """Whether UNK may be written."""
    sampling: Sampling | None = None
    """Draw from the model instead of searching for the best."""
    batch_tokens: Count = 4000
    """Padded source tokens that are translated at once."""

    def lengths(self, source: int) -> tuple[int, int]:
        """Least and most target tokens for so many source tokens, EOS not counted on either side."""
        most = int(source * self.max_length_ratio) + self.max_length_offset
        return min(math.ceil(source * self.min_length_ratio), most), most

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.min_length_ratio > self.max_length_ratio:
            yield (
                "min_length_ratio",
                (
                    f"is {self.min_length_ratio}; it must not be above max_length_ratio, which is {self.max_length_ratio}"
                ),
            )


class Evaluation(Section):
    """How translations are scored."""

    metrics: list[Literal["bleu", "chrf", "ter", "exact_match"]] = [
        "bleu",
        "chrf",
        "ter",
        "exact_match",
    ]
    bleu_tokenizer: (
        Literal["13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none", "flores200"] | None
    ) = None
    """How sacreBLEU cuts words. Default: by the target language."""
    lowercase: bool = False
    """Score without regard to case."""


# ---------------------------------------------------------------------------------------------------------- everything


class Config(Section):
    """Everything that decides a run."""

    data: Data
    tokenizer: Annotated[
        Annotated[TokenizerConfig, Tag("one")] | Annotated[TokenizerPair, Tag("TokenizerPair")],
        Discriminator(lambda value: "TokenizerPair" if _is_pair(value) else "one"),
    ] = Subwords()
    model: Annotated[Recurrent | Transformer, Field(discriminator="type"), ByType] = Transformer()
    training: Training = Training()
    decoding: Decoding = Decoding()
    evaluation: Evaluation = Evaluation()
    init_from: File | None = None
    """Run directory to start from: its tokenizers, vocabularies and best weights. Of `tokenizer` and `model`, what is
    not given here is as it was there; only dropout may differ."""

    @property
    def tokenizers(self) -> tuple[Characters | Words | Subwords, Characters | Words | Subwords]:
        """Of the source and of the target; the same one twice where one is given."""
        one = self.tokenizer
        return (one.source, one.target) if isinstance(one, TokenizerPair) else (one, one)

    @property
    def shared_vocabulary(self) -> bool:
        """Whether both sides share a tokenizer and a vocabulary."""
        return self.tokenizers[0].shared

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.model.tied_embeddings == "all" and not self.shared_vocabulary:
            yield (
                "model.tied_embeddings",
                (
                    "is 'all'; one table for both sides needs one vocabulary: set tokenizer.shared to true, or choose "
                    "none, target"
                ),
            )


def files_of(corpus: TSV | Plain) -> list[str]:
    """The file or files of a corpus."""
    if isinstance(corpus, TSV):
        return [corpus.path]
    return [corpus.source, *([corpus.target] if isinstance(corpus.target, str) else corpus.target)]


def name_of(corpus: TSV | Plain) -> str:
    """The file or files of a corpus, for messages."""
    return " + ".join(files_of(corpus))


# --------------------------------------------------------------------------------------------------- reading, writing

MOST_PROBLEMS = 50  # are listed in one report


def load(path: str | os.PathLike, overrides: Sequence[str] = ()) -> Config:
    """The configuration in a YAML file, with ``overrides`` such as ``training.max_updates=100`` put in.

    Paths in it are relative to the current directory. Raises UserError, which lists everything that is wrong.
    """
    return loads(yamls.read(path), os.fspath(path), overrides)


def loads(text: str, name: str, overrides: Sequence[str] = ()) -> Config:
    """As `load`, of a text; ``name`` stands for the file in messages."""
    document = yamls.parse(text, lambda line: (line, f"{name}:{line}"))
    if not isinstance(document.value, dict):
        what = "this is empty" if document.value is None else f"this is {show(document.value)}"
        raise UserError(
            f"{name}:1: a configuration holds the sections {', '.join(Config.model_fields)}; {what}."
        )
    for number, override in enumerate(overrides):
        _put(document, override, number)
    config = None
    try:
        config = Config.model_validate(document.value)
    except ValidationError as error:
        document.problems += [
            (document.place(path), text)
            for path, text in explain(error, _inlined_schema(), document.value)
        ]
    if document.problems or config is None:
        lines = [
            f"{place}: {problem}"
            for (_, place), problem in sorted(document.problems, key=lambda p: p[0][0])
        ]
        rest = [f"… and {len(lines) - MOST_PROBLEMS} more."] if len(lines) > MOST_PROBLEMS else []
        raise UserError("\n".join(lines[:MOST_PROBLEMS] + rest))
    return config


def _put(document: yamls.Document, override: str, number: int) -> None:
    """Put ``KEY=VALUE`` into a document as if it stood there; the value is YAML."""
    place = (yamls.LARGEST_FILE + number, f"--set {show(override)[1:-1]}")  # after every line
    key, equals, text = override.partition("=")
    path: Path = tuple(
        int(part) if re.fullmatch("[0-9]{1,9}", part) else part for part in key.strip().split(".")
    )
    if not equals or "" in path or len(path) > yamls.DEEPEST:
        raise UserError(f"{place[1]}: write KEY=VALUE, such as --set training.max_updates=100.")
    given = yamls.parse(text, lambda line: place)
    document.problems += given.problems
    try:
        document.value = _with(document.value, path, given.value, alternatives(_inlined_schema()))
    except LookupError as error:
        document.problems.append((place, f"{dotted(path)} cannot be set: {error.args[0]}."))
        return
    for old in [old for old in document.places if old[: len(path)] == path]:
        del document.places[old]
    for end in range(1, len(path) + 1):
        document.places.setdefault(path[:end], place)


def _with(value: Any, path: Path, new: Any, nodes: list[Node]) -> Any:
    """``value`` with ``new`` at ``path``; short forms on the way are completed. LookupError where there is no way."""
    if not path:
        return new
    part, keys = path[0], keys_of(nodes)
    if (
        isinstance(part, int)
        and not isinstance(value, list)
        and any(node.get("type") == "array" for node in nodes)
    ):
        value = [] if value is None else [value]
    elif isinstance(value, str) and keys:
        value = {"path" if "path" in keys else "type": value}
    if isinstance(value, list):
        if not isinstance(part, int):
            raise LookupError(
                f"{show(value)} is a list; say which item by its number, counted from 0"
            )
        if part > len(value):
            raise LookupError(f"{show(value)} has no item {part}, counted from 0")
        old = value[part] if part < len(value) else None
        return [*value[:part], _with(old, path[1:], new, below(nodes, part)), *value[part + 1 :]]
    if not isinstance(value, dict | None):
        raise LookupError(f"{show(value)} holds no keys")
    value = value or {}
    return {**value, str(part): _with(value.get(str(part)), path[1:], new, below(nodes, str(part)))}


SomeSection = TypeVar("SomeSection", bound=Section)


def replace(section: SomeSection, **changes: Any) -> SomeSection:
    """A section with some values changed. Raises UserError, which lists every impossible one."""
    values = {**section.model_dump(mode="json"), **changes}
    try:
        return type(section).model_validate(values)
    except ValidationError as error:
        problems = explain(error, inline(type(section).model_json_schema()), values)
        raise UserError("\n".join(text for _, text in problems)) from None


def dump(config: Config) -> str:
    """YAML of every value, defaults too: ``loads(dump(config), …) == config``."""
    return yamls.write(config.model_dump(mode="json"))


def schema() -> dict[str, Any]:
    """The JSON Schema of a configuration, short forms included: editors complete and check by it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}


@cache
def _inlined_schema() -> Node:
    return inline(schema())


# ----------------------------------------------------------------------------------------------------------- comparing


def changes(old: Config, new: Config, ignore: Sequence[str] = ()) -> list[str]:
    """What differs, such as ``training.batch_tokens: 2000 -> 4000``; keys in and below ``ignore`` do not count."""
    return [
        f"{dotted(path)}: {show(was)} -> {show(now)}"
        for path, was, now in _differences(old.model_dump(mode="json"), new.model_dump(mode="json"))
        if not any(f"{dotted(path)}.".startswith(f"{key}.") for key in ignore)
    ]


def free_on_resume(config: Config) -> list[str]:
    """The keys that a run may change when it is continued: the weights after any given update do not depend on them.

    - How long to train, when to look and what to keep; what becomes of an update that otherwise ends the run. But a
      falling schedule depends on the end (linear, cosine) or on validations (plateau). ``max_minutes`` is free all the
      same: who bounds a training that takes too long wants its schedule to fall within the bound.
    - ``micro_batch_tokens`` cuts the same update differently, so that a run that was out of memory can go on: equal but
      for rounding and dropout noise, as on another device.
    - How translations are searched for and scored, unless that decides which checkpoint is best.
    """
    training = config.training
    keys = [
        "log_every",
        "patience",
        "examples",
        "keep_checkpoints",
        "tensorboard",
        "micro_batch_tokens",
    ]
    keys += ["save_minutes", "non_finite", "max_minutes"]
    if training.schedule.type not in ("linear", "cosine"):
        keys += ["max_updates", "max_epochs"]
    if training.schedule.type != "plateau":
        keys += ["validate_every"]
    free = ["data.test", *(f"training.{key}" for key in keys)]
    if training.best_by in ("loss", "perplexity"):
        free += [
            "training.validation_metrics",
            "training.validation_beam_size",
            "data.target_language",
        ]
        free += ["decoding", "evaluation"]
    return free


def _differences(old: Any, new: Any, path: Path = ()) -> Iterator[tuple[Path, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        if old.get("type") != new.get(
            "type"
        ):  # another kind: its keys say nothing about the old one's
            yield (*path, "type"), old.get("type"), new.get("type")
            return
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key), new.get(key), (*path, key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (was, now) in enumerate(zip(old, new)):
            yield from _differences(was, now, (*path, number))
    elif old != new:
        yield path, old, new
