"""YAML to plain values with the place of each, and back. Knows no key of any configuration.

What is read is the part of YAML 1.2 that holds no surprise: ``5e-3`` is a number and ``no``, ``on`` and dates are text;
a key stands once; anchors, aliases and tags are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import yaml

from ..support.errors import UserError

Path = tuple[str | int, ...]  # how a value is reached: ("data", "train", 0, "path")
Place = tuple[
    int, str
]  # where it stands: a number to sort by, and the text, such as "configs/toy.yaml:12"

LARGEST_FILE = 1 << 17  # bytes
DEEPEST = 20  # levels of nesting
LONGEST_NUMBER = 18  # digits of a whole number: fits 64 bits

SCALARS = (  # tag, what is read as it, how it can begin
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
)
UNREADABLE = yaml.reader.Reader.NON_PRINTABLE  # control characters and lone surrogates


@dataclass
class Document:
    """Plain values (dict, list, str, int, float, bool, None), where they stand, and what was wrong on the way."""

    value: Any
    places: dict[Path, Place] = field(default_factory=dict)
    problems: list[tuple[Place, str]] = field(default_factory=list)

    def place(self, path: Path) -> Place:
        """Where ``path`` stands, or else the section that it would stand in."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places[path]


def read(path: str | os.PathLike) -> str:
    """The text of a file. Raises UserError for one that is missing, too large or not UTF-8."""
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise UserError(f"{name}: there is no such file{_nearest(FilePath(name))}") from None
    except IsADirectoryError:
        raise UserError(f"{name}: this is a folder; name a YAML file in it.") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name!r} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from None
    if len(data) > LARGEST_FILE:
        raise UserError(f"{name}: larger than {LARGEST_FILE >> 10} KiB; this is no configuration.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{name}:{line}: byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8."
        ) from None


def _nearest(missing: FilePath) -> str:
    """The end of that sentence: a YAML file beside it with nearly the same name, if there is one."""
    from difflib import get_close_matches

    try:
        names = [
            entry.name for entry in missing.parent.iterdir() if entry.suffix in (".yaml", ".yml")
        ]
    except OSError:
        return "."
    close = get_close_matches(missing.name, names, 1)
    return f"; did you mean {missing.parent / close[0]}?" if close else "."


def parse(text: str, place: Callable[[int], Place]) -> Document:
    """Read one YAML document; ``place`` makes a Place of a line number, counted from 1.

    Raises UserError where the syntax ends all reading. What can be read on from, such as a key that stands twice, is
    collected in ``problems``. An empty text is None.
    """
    loader = _Loader("")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"{place(line)[1]}: U+{ord(text[error.position]):04X} may not stand in YAML."
        ) from None
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark or loader.get_mark()).line + 1
        raise UserError(f"{place(line)[1]}: not valid YAML: {_in_words(error)}.") from None
    except (ValueError, OverflowError):  # from \U and %YAML with absurd numbers
        raise UserError(
            f"{place(loader.get_mark().line + 1)[1]}: not valid YAML: an impossible number."
        ) from None
    document = Document(None, {(): place(1)})
    if node is not None:
        document.value = _value(node, (), document, place)
    return document


class _Loader(yaml.SafeLoader):
    """PyYAML with the scalars above and nothing that points elsewhere."""

    yaml_implicit_resolvers: dict = {}
    depth = 0

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases (& and *) are not supported; write the value out, or put it in quotes",
                problem_mark=event.start_mark,
            )
        if event.tag is not None:
            raise yaml.MarkedYAMLError(
                problem="tags (!) are not supported; leave it out, or put the value in quotes",
                problem_mark=event.start_mark,
            )
        if self.depth == DEEPEST:
            raise yaml.MarkedYAMLError(
                problem=f"nested more than {DEEPEST} levels deep", problem_mark=event.start_mark
            )
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes what any reader of YAML could take for something else than text."""

    def ignore_aliases(self, data):
        return True


for _tag, _pattern, _first in SCALARS:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first
    )
    _Dumper.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first
    )
_Dumper.add_representer(  # the other styles fold or normalise line ends
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"'
    ),
)
_Dumper.add_representer(
    list,
    lambda dumper, value: dumper.represent_sequence(
        "tag:yaml.org,2002:seq",
        value,
        flow_style=not any(isinstance(item, (dict, list)) for item in value),
    ),
)


def _in_words(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context
    if "'\\t'" in problem:
        return "a tab; indent with spaces"
    if "expected a single document" in (error.context or ""):
        return "a second document begins (---); a file holds one"
    began = error.context_mark
    return problem + (
        f" ({error.context} that began in line {began.line + 1})" if error.context and began else ""
    )


def _value(node: yaml.Node, path: Path, document: Document, place: Callable[[int], Place]) -> Any:
    """The plain value of a node; places and problems go into ``document``."""
    here = place(node.start_mark.line + 1)
    document.places.setdefault(path, here)
    if isinstance(node, yaml.SequenceNode):
        return [
            _value(item, (*path, number), document, place) for number, item in enumerate(node.value)
        ]
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key, value in node.value:
            at, name = place(key.start_mark.line + 1), key.value
            if not isinstance(key, yaml.ScalarNode):
                document.problems.append((at, "a key must be one word, not a list or section."))
            elif name in values:
                first = document.places[(*path, name)][1]
                document.problems.append(
                    (at, f"{dotted((*path, name))} is given twice, first at {first}; keep one.")
                )
            else:
                document.places[(*path, name)] = at
                values[name] = _value(value, (*path, name), document, place)
        return values
    kind, text = node.tag.rpartition(":")[2], node.value
    if UNREADABLE.search(text):
        document.problems.append(
            (here, f"{dotted(path)} holds a control character or half of a character.")
        )
        text = UNREADABLE.sub("?", text)
    if kind == "int" and len(text) > LONGEST_NUMBER:
        document.problems.append(
            (here, f"{dotted(path)} is a number of more than {LONGEST_NUMBER} digits.")
        )
        text = text[:LONGEST_NUMBER]
    convert = {
        "null": lambda _: None,
        "bool": lambda word: word.lower() == "true",
        "int": int,
        "float": float,
    }
    return convert.get(kind, str)(text)


def dotted(path: Path) -> str:
    """``data.train.0.path``; a part that could be mistaken is quoted."""
    parts = (
        str(part) if re.fullmatch(r"[\w.-]{1,60}", str(part)) else repr(part)[:60] for part in path
    )
    return ".".join(parts) or "the configuration"


def write(value: Any) -> str:
    """YAML that `parse` reads back as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf"))
