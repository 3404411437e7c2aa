"""What a user asks for, in YAML, checked and explained. Imports no torch."""

from .compare import LENGTHS, changes, free_on_resume
from .corpora import TSV, Corpus, Plain, files_of, name_of
from .load import dump, load, loads, replace
from .schema import (
    Adam,
    AdamW,
    Characters,
    Config,
    Constant,
    Cosine,
    Data,
    Decoding,
    Evaluation,
    InverseSquareRoot,
    LengthPenalty,
    Linear,
    Muon,
    Plateau,
    Recurrent,
    Sampling,
    Subwords,
    Training,
    Transformer,
    Words,
    schema,
)
from .section import Section

__all__ = [name for name in dir() if not name.startswith("_")]
