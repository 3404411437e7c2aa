"""Tokens to ids and back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..support.errors import UserError

PAD, UNK, BOS, EOS = 0, 1, 2, 3
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
# What no token holds: control characters and lone surrogates.
IMPOSSIBLE = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")


class Vocabulary:
    """Distinct tokens, the special ones first; an index is an id. A text that spells a special token gets UNK."""

    def __init__(self, tokens: Iterable[str]):
        self.tokens = list(tokens)
        self._ids = {token: id for id, token in enumerate(self.tokens) if id >= len(SPECIAL)}
        assert tuple(self.tokens[: len(SPECIAL)]) == SPECIAL, "the special tokens must come first"
        assert len(self._ids) == len(self.tokens) - len(SPECIAL), "a token comes twice"

    @classmethod
    def build(
        cls, counts: Mapping[str, int], min_count: int = 1, max_size: int | None = None
    ) -> Vocabulary:
        """The tokens seen at least ``min_count`` times, at most ``max_size`` of them (special ones not counted), without
        those that hold control characters: a translation never does.

        The most frequent come first, equally frequent ones in alphabetical order.
        """
        possible = (token for token in counts.keys() - SPECIAL if not IMPOSSIBLE.search(token))
        kept = [token for token in possible if counts[token] >= min_count]
        return cls([*SPECIAL, *sorted(kept, key=lambda token: (-counts[token], token))[:max_size]])

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Ids of a text's tokens, UNK for those not in the vocabulary; without BOS and EOS."""
        return [self._ids.get(token, UNK) for token in tokens]

    def decode(self, ids: Sequence[int]) -> list[str]:
        """Tokens of ids, without PAD, BOS and EOS; UNK is ``<unk>``."""
        return [self.tokens[id] for id in ids if id not in (PAD, BOS, EOS)]

    def save(self, path: Path) -> None:
        """Write a JSON list, one token a line."""
        lines = ",\n".join(json.dumps(token, ensure_ascii=False) for token in self.tokens)
        Path(path).write_text(f"[\n{lines}\n]\n", encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what `save` wrote. Raises UserError for anything else, naming the file."""
        try:
            tokens = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: the vocabulary cannot be read: {error.strerror}.") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: not a vocabulary, which is JSON: {error}.") from None
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise UserError(f"{path}: not a vocabulary, which is a JSON list of strings.")
        if tuple(tokens[: len(SPECIAL)]) != SPECIAL:
            raise UserError(
                f"{path}: a vocabulary begins with {', '.join(SPECIAL)}; this begins with {tokens[:4]}."
            )
        seen: set[str] = set()
        for number, token in enumerate(tokens):
            if not token or IMPOSSIBLE.search(token):
                raise UserError(
                    f"{path}: entry {number} is {token!r}; a token is not empty and holds no control character."
                )
            if token in seen:
                raise UserError(f"{path}: entry {number} is {token!r}, which came before.")
            seen.add(token)
        return cls(tokens)
