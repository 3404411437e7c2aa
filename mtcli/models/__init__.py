"""The models that a config can name. Each keeps the contract in base.py; nothing outside knows one from another."""

from __future__ import annotations

from ..config import Recurrent, Transformer
from ..support.errors import UserError
from .base import Seq2Seq
from .gru import RecurrentSeq2Seq
from .transformer import TransformerSeq2Seq

MODELS: dict[str, type[Seq2Seq]] = {"gru": RecurrentSeq2Seq, "transformer": TransformerSeq2Seq}


def build_model(config: Recurrent | Transformer, source_size: int, target_size: int) -> Seq2Seq:
    """A model with fresh weights for vocabularies of these sizes. UserError where they cannot share a table."""
    if config.tied_embeddings == "all" and source_size != target_size:
        raise UserError(
            f"model.tied_embeddings is 'all', but the source vocabulary has {source_size} tokens and the "
            f"target vocabulary {target_size}: share one (tokenizer.shared: true), or choose 'target'."
        )
    return MODELS[config.type](config, source_size, target_size)
