"""Neural machine translation from the command line and from Python. Imports nothing heavy until it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtcli.seeing import Translator

__version__ = "0.1.0"
__all__ = ["Translator", "__version__"]


def __getattr__(name: str) -> Any:
    """`Translator` is imported when it is first asked for."""
    if name == "Translator":
        from mtcli.seeing import Translator

        return Translator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
