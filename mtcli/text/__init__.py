"""Text: corpora, tokenizers, vocabularies and metrics."""
