"""What is wrong with a configuration, in words: pydantic says where, the JSON Schema says what is allowed there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, NamedTuple

from pydantic import ValidationError

from .schema import schema
from .section import Section

Node = dict[str, Any]  # of a JSON Schema, without $ref, anyOf and oneOf
Path = tuple[str | int, ...]  # how a value is reached: ("data", "train", 0, "path")

LONGEST = 60  # characters of a value that are shown
FEW = 6  # keys of a section: they are listed beside a suggestion
NAMES = {"integer": "an integer", "number": "a number", "boolean": "true or false",
         "string": "text", "file": "a file name", "null": "null"}  # fmt: skip
SIGNS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


class Problem(NamedTuple):
    path: Path
    text: str
    """Begins with the dotted path and ends as a sentence."""
    unknown_key: bool = False


class _Spot(NamedTuple):
    """Where an error is, in the data as written and in the schema."""

    path: Path
    value: Any
    allowed: list[Node]
    chosen: list[Node]
    """Those of ``allowed`` that the value's type or keys have chosen."""


def explain(error: ValidationError, section: type[Section], data: Any) -> list[Problem]:
    """Everything that is wrong with ``data``, which was validated as ``section``, each problem once."""
    root = [schema()["$defs"].get(section.__name__, schema())]
    problems, wrong = [], []
    for one in error.errors(include_url=False, include_input=False):
        kind, loc = one["type"], one["loc"]
        if kind in ("union_tag_invalid", "union_tag_not_found"):
            loc = (*loc, "type")
        spot = _find(loc, root, data)
        if kind == "contradiction":
            for keys, value, advice in one["ctx"]["found"]:
                path = (*spot.path, *keys.split("."))
                problems.append(Problem(path, f"{dotted(path)} is {show(value)}; {advice}."))
        elif kind == "extra_forbidden":
            problems.append(_unknown(spot, str(loc[-1]), root))
        elif kind in ("missing", "union_tag_not_found") and isinstance(loc[-1], str):
            path, allowed = (*spot.path, loc[-1]), _allowed(_below(spot.chosen, loc[-1]))
            problems.append(Problem(path, f"{dotted(path)} is missing; {allowed}."))
            if kind == "union_tag_not_found":  # then pydantic looks at no other key
                unknown = spot.value.keys() - set(_keys(spot.allowed))
                problems += [_unknown(spot, key, root) for key in unknown]
        elif kind != "default_factory_not_called":
            wrong.append(spot)
    # of the alternatives that all failed, the one that came furthest knows best
    above = {spot.path[:length] for spot in wrong for length in range(len(spot.path))}
    problems += [_wrong(spot) for spot in wrong if spot.path not in above]
    return list(dict.fromkeys(problems))


def _find(loc: tuple[str | int, ...], root: list[Node], data: Any) -> _Spot:
    """Follow pydantic's ``loc``, which also names alternatives, and keys and items that are not in ``data``."""
    spot = _Spot((), data, root, root)
    for part in loc:
        known, value = _below(spot.chosen, part), spot.value
        items = dict(enumerate(value)) if isinstance(value, list) else value
        if known and isinstance(items, dict) and part in items:
            spot = _Spot((*spot.path, part), items[part], known, known)
        else:
            chosen = [node for node in spot.chosen if part in (node.get("title"), *_types(node))]
            spot = spot._replace(chosen=chosen or spot.chosen)
    return spot


def _unknown(spot: _Spot, key: str, root: list[Node]) -> Problem:
    path, keys = (*spot.path, key), _keys(spot.chosen)
    if owners := [_name(node) for node in spot.allowed if key in _keys([node])]:
        here = [_name(node) for node in spot.chosen if _keys([node])]
        hint = f" of {', '.join(here)}; it is one of {', '.join(owners)}."
    elif elsewhere := [found for found in _all_paths(root) if found[-1] == key != "type"]:
        hint = f" here. Did you mean {dotted(elsewhere[0])}?"
    else:
        meant = _closest(key, keys)
        hint = f" here. Did you mean '{meant}'?" if meant else " here."
        if not meant or len(keys) <= FEW:
            hint += f" Keys: {', '.join(keys)}."
    return Problem(path, f"{dotted(path)} is not a key{hint}", unknown_key=True)


def _wrong(spot: _Spot) -> Problem:
    nodes, value, name = spot.allowed, spot.value, dotted(spot.path)
    if value is None and _keys(nodes):
        return Problem(spot.path, f"{name} is empty; write its keys below it, or leave it out.")
    text = f"{name} is {show(value)}; {_allowed(nodes)}."
    choices = [choice for node in nodes for choice in _choices(node)]
    if meant := _closest(value, choices):
        text += f" Did you mean '{meant}'?"
    elif isinstance(value, int | float) and not choices:
        if any(node.get("type") == "string" for node in nodes):
            text += f" As text it needs quotes: '{show(value)}'."
    return Problem(spot.path, text)


# ----------------------------------------------------------------------------------- the schema


def _alternatives(node: Node) -> list[Node]:
    """What a node may be."""
    if "$ref" in node:
        return [schema()["$defs"][node["$ref"].rpartition("/")[2]]]
    choices = node.get("anyOf") or node.get("oneOf")
    return [leaf for choice in choices for leaf in _alternatives(choice)] if choices else [node]


def _below(nodes: list[Node], part: str | int) -> list[Node]:
    """What a key, or an item of a list, may be; nothing where there is no such key."""
    if isinstance(part, int):
        arrays = [node for node in nodes if node.get("type") == "array"]
        children = [node.get("items") or node["prefixItems"][0] for node in arrays]
    else:
        children = [node["properties"][part] for node in nodes if part in _keys([node])]
    return [leaf for child in children for leaf in _alternatives(child)]


def _keys(nodes: list[Node]) -> list[str]:
    """The keys of every section among ``nodes``, each once."""
    return list(dict.fromkeys(key for node in nodes for key in node.get("properties", {})))


def _all_paths(nodes: list[Node], above: Path = ()) -> Iterator[Path]:
    """The paths of all keys in ``nodes`` and below; those of a list's items without its index."""
    for key in _keys(nodes):
        yield (*above, key)
        below = _below(nodes, key)
        yield from _all_paths(below + _below(below, 0), (*above, key))


def _choices(node: Node) -> list[str]:
    return node.get("enum") or ([node["const"]] if "const" in node else [])


def _types(section: Node) -> list[str]:
    """What ``type`` may be in a section, such as gru."""
    return _choices(section.get("properties", {}).get("type", {}))


def _name(section: Node) -> str:
    return ", ".join(_types(section)) or f"a section with {' and '.join(section['required'])}"


# ---------------------------------------------------------------------------------------- words


def _allowed(nodes: list[Node]) -> str:
    """'choose none, dot', 'it must be an integer >= 1, or null' …: the alternatives in words."""
    choices = [choice for node in nodes for choice in _choices(node)]
    others = [node for node in nodes if not _choices(node) and not _types(node)]
    words = [_in_words(node, nodes) for node in others]
    if choices and words in ([], ["null"]):
        return "choose " + ", ".join(choices + words)
    return "it must be " + ", or ".join(dict.fromkeys(words + [f"'{text}'" for text in choices]))


def _in_words(node: Node, beside: list[Node]) -> str:
    if "properties" in node:
        return "a section with " + ", ".join(node.get("required") or [*_keys([node])[:4], "…"])
    if node["type"] == "array":
        if len(beside) > 1:
            return "a list of these"
        items = _below([node], 0)
        each = ", ".join(_choices(items[0])) or _in_words(items[0], items)
        number = f"{node['maxItems']} values, each " if "prefixItems" in node else ""
        return f"a list of {number}{each}"
    limits = [f"{sign} {node[limit]:.15g}" for limit, sign in SIGNS.items() if limit in node]
    kind: str = node.get("format") or node["type"]
    return f"{NAMES[kind]} {' and '.join(limits)}".strip()


def _closest(word: Any, words: list[str]) -> str | None:
    """The one of ``words`` that was probably meant."""
    word = word[:LONGEST].lower() if isinstance(word, str) else ""
    return next(iter(get_close_matches(word, words, 1)), None)


def dotted(path: Path) -> str:
    """``data.train.0.path``; a part that could be mistaken is quoted."""
    plain = re.compile(r"[\w.-]{1,60}")
    parts = (str(part) if plain.fullmatch(str(part)) else repr(part)[:LONGEST] for part in path)
    return ".".join(parts) or "the configuration"


def show(value: Any) -> str:
    """A value on one line, cut where it is long."""
    plain = isinstance(value, str)
    text = repr(value) if plain else json.dumps(value, ensure_ascii=False, default=str)
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return text if len(text) <= LONGEST + 2 else text[:LONGEST] + "…"
