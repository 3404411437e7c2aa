"""Text: corpora, tokenizers, vocabularies and metrics. Knows no tensors."""
