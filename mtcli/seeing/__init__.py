"""What happens inside a translator, as plain data and as pictures of it."""

from __future__ import annotations

from typing import Any

from ..decoding import translator
from . import trace as tracing


class Translator(translator.Translator):
    __doc__ = translator.Translator.__doc__

    def trace(self, text: str, **options: Any) -> tracing.Trace:
        """What happens when one sentence is translated; `options` as of `seeing.trace.trace`."""
        return tracing.trace(self, text, **options)
