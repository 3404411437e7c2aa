"""From YAML to a checked configuration, with the place of everything that is wrong, and back.

The part of YAML 1.2 that holds no surprise is read: ``5e-3`` is a number and ``no``, ``on`` and dates are text; a key
is given once; anchors, aliases and tags are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import reduce
from operator import getitem
from pathlib import Path as FilePath
from typing import Any, Literal, TypeVar

import yaml
from pydantic import ValidationError

from ..support.errors import UserError, warn_once
from ..support.files import reason
from .messages import Path, Problem, dotted, explain, show
from .schema import Config
from .section import Section

LARGEST_FILE = 2**17  # bytes
DEEPEST = 20  # levels of nesting
MOST_PROBLEMS = 50  # in one report
UNREADABLE = yaml.reader.Reader.NON_PRINTABLE  # control characters and lone surrogates
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "True": True,
         "TRUE": True, "false": False, "False": False, "FALSE": False}  # fmt: skip

NEWER = ("clean", "copy_symbols")  # keys that runs of version 0.1 lack

Name = str | os.PathLike[str]  # of a file
Unknown = Literal["error", "ignore"]  # what unknown keys are
SomeSection = TypeVar("SomeSection", bound=Section)
Places = dict[Path, str]  # where each value is: "configs/toy.yaml:12", in the order of the text


# -------------------------------------------------------------------------------- configurations


def load(path: Name, overrides: Sequence[str] = (), unknown: Unknown = "error") -> Config:
    """The configuration in a YAML file, with ``overrides`` such as ``training.max_updates=100`` put in.

    A relative path in it is one in the current directory or, where there is nothing of that name, beside this file; ~ is
    the home directory. ``unknown`` keys are an error, or ignored with a warning, for a file that another version wrote: a
    run's or an export's, whose paths are left as they are. Raises UserError, which lists everything that is wrong.
    """
    beside = os.path.dirname(path) if unknown == "error" else None
    return loads(_read(path), os.fspath(path), overrides, unknown, beside)


def loads(
    text: str,
    name: str,
    overrides: Sequence[str] = (),
    unknown: Unknown = "error",
    beside: str | None = None,
) -> Config:
    """As `load`, from text; ``name`` is the file's in messages, ``beside`` the folder where paths are looked for too."""
    values, places = parse(text, lambda line: f"{name}:{line}")
    if not isinstance(values, dict):
        what = "this is empty" if values is None else f"this is {show(values)}"
        keys = ", ".join(Config.model_fields)
        raise UserError(f"{name}:1: a configuration holds the sections {keys}; {what}.")
    for override in overrides:
        values = _override(values, places, override)
    config = _checked(values, places, name, unknown, beside)
    return _as_trained(config) if unknown == "ignore" else config


def _as_trained(section: SomeSection) -> SomeSection:
    """Of a run: what did not exist yet when it was trained is not done."""
    absent = {key for key in NEWER if key in type(section).model_fields} - section.model_fields_set
    below = {name: _as_trained(part) for name, part in section if isinstance(part, Section)}
    return section.model_copy(update={**below, **dict.fromkeys(absent, False)})


def _checked(
    values: Any, places: Places, name: str, unknown: Unknown, beside: str | None
) -> Config:
    try:
        return Config.model_validate(values, context=beside)
    except ValidationError as error:
        problems = explain(error, Config, values)
    ignored = [problem.path for problem in problems if problem.unknown_key]
    if unknown == "error" or not ignored:
        raise UserError(_report(problems, places))
    for *above, key in ignored:
        reduce(getitem, above, values).pop(key)
    keys = ", ".join(map(dotted, ignored[:MOST_PROBLEMS]))
    warn_once(f"{name}: ignored unknown keys: {keys}.")
    return _checked(values, places, name, "error", beside)


def _report(problems: list[Problem], places: Places) -> str:
    """A line for each problem, in the order of the text; a missing key is reported at its section."""
    order = {path: number for number, path in enumerate(places)}
    lines = []
    for path, text, _ in problems:
        while path not in places:
            path = path[:-1]
        lines.append((order[path], f"{places[path]}: {text}"))
    shown = [line for _, line in sorted(lines)[:MOST_PROBLEMS]]
    more = [f"… and {len(lines) - MOST_PROBLEMS} more."] if len(lines) > MOST_PROBLEMS else []
    return "\n".join(shown + more)


def replace(section: SomeSection, **changes: Any) -> SomeSection:
    """A section with some values changed. Raises UserError, which lists every impossible one."""
    values = {**section.model_dump(mode="json"), **changes}
    try:
        return type(section).model_validate(values)
    except ValidationError as error:
        problems = explain(error, type(section), values)
        raise UserError("\n".join(problem.text for problem in problems)) from None


# ------------------------------------------------------------------------------------- overrides


def _override(values: dict[str, Any], places: Places, override: str) -> dict[str, Any]:
    """``values`` with ``KEY=VALUE`` put in, where VALUE is YAML; ``places`` is updated."""
    place = f"--set {show(override)[1:-1]}"
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    path = tuple(int(part) if re.fullmatch("[0-9]{1,9}", part) else part for part in parts)
    if not equals or "" in path or len(path) > DEEPEST:
        raise UserError(f"{place}: write KEY=VALUE, such as --set training.max_updates=100.")
    new, _ = parse(text, lambda line: place)
    try:
        values = _put(values, path, new, "path" if path[0] == "data" else "type")
    except LookupError as error:
        raise UserError(f"{place}: {dotted(path)} cannot be set: {error.args[0]}.") from None
    for old in [old for old in places if old[: len(path)] == path]:
        del places[old]
    for end in range(1, len(path) + 1):
        places.setdefault(path[:end], place)
    return values


def _put(value: Any, path: Path, new: Any, short: str) -> Any:
    """``value`` with ``new`` at ``path``; a text on the way is short for a section with the key ``short``.

    Raises LookupError where the path leads nowhere.
    """
    if not path:
        return new
    part, rest = path[0], path[1:]
    if isinstance(part, int):
        items = [] if value is None else value if isinstance(value, list) else [value]
        if part > len(items):
            raise LookupError(f"{show(items)} has no item {part}, counted from 0")
        old = items[part] if part < len(items) else None
        return [*items[:part], _put(old, rest, new, short), *items[part + 1 :]]
    if not isinstance(value, dict | str | None):
        raise LookupError(f"{show(value)} has no keys; the items of a list are numbered from 0")
    section = {short: value} if isinstance(value, str) else value or {}
    return {**section, part: _put(section.get(part), rest, new, short)}


# ------------------------------------------------------------------------------------------ YAML


def _read(path: Name) -> str:
    """The text of a file. Raises UserError for one that is missing, too large or not UTF-8."""
    name, file = os.fspath(path), FilePath(path)
    try:
        with open(path, "rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise UserError(f"{name}: larger than {LARGEST_FILE >> 10} KiB; no configuration is.")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        names = [other.name for other in file.parent.glob("*.y*ml")]
        close = get_close_matches(file.name, names, 1)
        hint = f"; did you mean {file.parent / close[0]}?" if close else "."
        raise UserError(f"{name}: there is no such file{hint}") from None
    except IsADirectoryError:
        raise UserError(f"{name}: this is a folder; name a YAML file in it.") from None
    except UnicodeDecodeError as error:
        line, byte = data.count(b"\n", 0, error.start) + 1, f"byte {data[error.start]:#04x}"
        raise UserError(f"{name}:{line}: {byte} is not UTF-8; save it as UTF-8.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{name!r} cannot be read: {reason(error)}.") from None


def parse(text: str, place: Callable[[int], str]) -> tuple[Any, Places]:
    """The plain values of a YAML document, None for an empty one, and where they are.

    ``place`` names a line, counted from 1. Raises UserError for what is not valid.
    """
    if bad := UNREADABLE.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        raise UserError(f"{place(line)}: U+{ord(bad[0]):04X} is not allowed in YAML.")
    loader = yaml.SafeLoader(text)
    try:
        _refuse_anchors_and_tags(loader)
        node = yaml.compose(text, yaml.SafeLoader)
    except (yaml.MarkedYAMLError, ValueError, OverflowError) as error:
        mark, problem = loader.get_mark(), "an impossible number"  # in \U or %YAML
        if isinstance(error, yaml.MarkedYAMLError):
            mark, problem = error.problem_mark or mark, _in_words(error)
        raise UserError(f"{place(mark.line + 1)}: not valid YAML: {problem}.") from None
    places: Places = {(): place(1)}
    return (None if node is None else _value(node, (), places, place)), places


def _refuse_anchors_and_tags(loader: yaml.SafeLoader) -> None:
    """And what is nested too deep. Raises MarkedYAMLError."""
    depth = 0
    while loader.check_event():
        event, problem = loader.get_event(), None
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            problem = f"nested more than {DEEPEST} levels deep"
        elif getattr(event, "anchor", None):
            problem = "anchors and aliases (& and *) are not supported; write the value out, or put it in quotes"
        elif getattr(event, "tag", None) is not None:
            problem = "tags (!) are not supported; leave it out, or put the value in quotes"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def _in_words(error: yaml.MarkedYAMLError) -> str:
    problem, context = error.problem or "", error.context or ""
    if "'\\t'" in problem:
        return "a tab; indent with spaces"
    if "expected a single document" in context:
        return "a second document begins (---); a file holds one"
    if "escape" in problem:
        problem += (
            r"; in double quotes \ begins an escape: write 'C:\data' in single quotes, or C:/data"
        )
    if problem and context and error.context_mark:
        return f"{problem} ({context} that began in line {error.context_mark.line + 1})"
    return problem or context


def _value(node: yaml.Node, path: Path, places: Places, place: Callable[[int], str]) -> Any:
    """The plain value of a node; its places are added to ``places``."""
    here = places.setdefault(path, place(node.start_mark.line + 1))
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, n), places, place) for n, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        if UNREADABLE.search(node.value):
            raise UserError(
                f"{here}: {dotted(path)} holds a control character or half of a character."
            )
        return node.value if node.style else _scalar(node.value)
    values: dict[str, Any] = {}
    for key, value in node.value:
        at, inner = place(key.start_mark.line + 1), (*path, key.value)
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{at}: a key must be one word, not a list or section.")
        if key.value in values:
            first = places[inner]
            raise UserError(f"{at}: {dotted(inner)} is given twice, first at {first}; keep one.")
        places[inner] = at
        values[key.value] = _value(value, inner, places, place)
    return values


def _scalar(text: str) -> Any:
    """The value of a word without quotes. All that is nothing else is text, such as a number of 19 digits."""
    if text in WORDS:
        return WORDS[text]
    if re.fullmatch("[-+]?[0-9]{1,18}", text):
        return int(text)
    return float(text) if NUMBER.fullmatch(text) else text


class _Dumper(yaml.SafeDumper):
    """Quotes what any reader of YAML could take for something else than text."""

    def represent_text(self, text: str) -> yaml.Node:
        plain = text.isprintable() and _scalar(text) is text  # only "…" keeps all line ends
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')

    def represent_items(self, items: list[Any]) -> yaml.Node:
        flow = not any(isinstance(item, dict | list) for item in items)
        return self.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flow)


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_representer(list, _Dumper.represent_items)


def write(value: Any) -> str:
    """YAML that `parse` reads back as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf"))


def dump(config: Config) -> str:
    """YAML of every value, defaults too: ``loads(dump(config), …) == config``."""
    return write(config.model_dump(mode="json"))
