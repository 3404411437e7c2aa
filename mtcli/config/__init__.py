"""What a user asks for, in YAML, checked and explained. Imports no torch."""

from .compare import changes, free_on_resume
from .load import dump, load, loads, replace
from .schema import (
    TSV,
    Adam,
    AdamW,
    Characters,
    Config,
    Constant,
    Corpus,
    Cosine,
    Data,
    Decoding,
    Evaluation,
    InverseSquareRoot,
    LengthPenalty,
    Linear,
    Muon,
    Plain,
    Plateau,
    Recurrent,
    Sampling,
    Section,
    Subwords,
    Training,
    Transformer,
    Words,
    files_of,
    name_of,
    schema,
)

__all__ = [name for name in dir() if not name.startswith("_")]
