"""Corpora as a configuration names them: their files, columns and references."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Strict,
    Tag,
    ValidationInfo,
)

from .section import Section

Count = Annotated[int, Field(ge=1)]
Passes = Annotated[int, Field(ge=1, le=1000)]


def _locate(path: str, info: ValidationInfo) -> str:
    """A path that a config names: beside the config, in the folder ``info.context``, if it is only there."""
    if info.context is None:
        return path
    path = os.path.expanduser(path)
    beside = os.path.join(info.context, path)
    return beside if not os.path.lexists(path) and os.path.lexists(beside) else path


File = Annotated[
    str, Field(min_length=1, json_schema_extra={"format": "file"}), AfterValidator(_locate)
]


class TSV(Section):
    """One tab-separated file that holds both sides."""

    path: File
    """The file; may be gzipped (.gz)."""
    columns: Annotated[tuple[Count, Count], Strict(False)] = (1, 2)
    """Which columns hold source and target, counted from 1. Further columns are ignored."""
    weight: Passes = 1
    """Passes over this corpus in one epoch."""


class Plain(Section):
    """Two line-aligned files."""

    source: File
    """One source sentence a line; may be gzipped (.gz)."""
    target: File | Annotated[list[File], Field(min_length=1)]
    """Line N translates line N of the source. A list, or a .tsv file, gives several references (for scores)."""
    weight: Passes = 1
    """Passes over this corpus in one epoch."""


def files_of(corpus: TSV | Plain) -> list[str]:
    """The files of a corpus: one that holds both sides, or the source's and the targets'."""
    if isinstance(corpus, TSV):
        return [corpus.path]
    return [corpus.source, *([corpus.target] if isinstance(corpus.target, str) else corpus.target)]


def name_of(corpus: TSV | Plain) -> str:
    """The files of a corpus, for messages."""
    return " + ".join(files_of(corpus))


def has_sides(value: Any) -> bool:
    """Whether a section has the keys source and target."""
    keys = value if isinstance(value, dict) else getattr(type(value), "model_fields", {})
    return "source" in keys or "target" in keys


# a.tsv  is short for  {path: a.tsv}
Corpus = Annotated[
    Annotated[TSV, Tag("TSV")] | Annotated[Plain, Tag("Plain")],
    Discriminator(lambda value: "Plain" if has_sides(value) else "TSV"),
    BeforeValidator(
        lambda value: {"path": value} if isinstance(value, str) else value,
        json_schema_input_type=File | TSV | Plain,
    ),
]
# train: X  is short for  train: [X]
Corpora = Annotated[
    list[Corpus],
    Field(min_length=1),
    BeforeValidator(
        lambda value: value if isinstance(value, list) else [value],
        json_schema_input_type=Corpus | Annotated[list[Corpus], Field(min_length=1)],
    ),
]
