"""What all sections of a configuration share, and two marks for their fields."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Annotated, Any, Union, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, model_validator
from pydantic_core import PydanticCustomError

Contradictions = Iterator[tuple[str, str]]


class Section(BaseModel):
    """What all sections share: no unknown keys, no silent conversion, no change after reading."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def contradictions(self) -> Contradictions:
        """Values that are fine alone but not together: (key, what to do)."""
        yield from ()

    @model_validator(mode="after")
    def _no_contradictions(self) -> Section:
        found = [
            (key, reduce(getattr, key.split("."), self), advice)
            for key, advice in self.contradictions()
        ]
        if found:
            raise PydanticCustomError("contradiction", "{found}", {"found": found})
        return self


def by_size(default: Any) -> Any:
    """A field that training/defaults.py chooses by the size of the corpus where a config leaves it open.

    ``default`` is its value without a corpus, in Python; the JSON Schema names none.
    """
    return Field(default_factory=lambda: default)  # a factory is not in the JSON Schema


class ByType:
    """Marks sections that differ in ``type``: ``gru`` is short for ``{type: gru}``; without a type, it is ``default``."""

    def __init__(self, default: str | None = None):
        self.default = default

    def complete(self, value: Any) -> Any:
        if isinstance(value, str):
            return {"type": value}
        if isinstance(value, dict) and self.default:
            return {"type": self.default, **value}
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        kinds = get_args(source) or [source]
        names: Any = Union[tuple(kind.model_fields["type"].annotation for kind in kinds)]
        before = BeforeValidator(self.complete, json_schema_input_type=names | source)
        one: Any = Annotated[source, Discriminator("type")] if len(kinds) > 1 else source
        return before.__get_pydantic_core_schema__(one, handler)
