"""What is wrong with a configuration, in plain words. Knows no key: what it says comes from the JSON Schema.

pydantic says where something is wrong; the schema says what is allowed there.
"""

from __future__ import annotations

import copy
from difflib import get_close_matches
from typing import Any, NamedTuple

from pydantic import ValidationError

from .yamls import Path, dotted

Node = dict[str, Any]  # a JSON Schema without references

LONGEST = 60  # characters of a value that are shown
FEW_KEYS = 6  # so many keys of a section are listed in a message

# ------------------------------------------------------------------------------------------------------------- schemas


def inline(schema: Node) -> Node:
    """A schema with every ``$ref`` replaced by what it names (ours are trees, so this ends)."""
    definitions = schema.get("$defs", {})

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            named = definitions[node["$ref"].rpartition("/")[2]]
            return walk({**named, **{key: value for key, value in node.items() if key != "$ref"}})
        return {key: walk(value) for key, value in node.items() if key != "$defs"}

    return walk(copy.deepcopy(schema))


def alternatives(node: Node) -> list[Node]:
    """What a node may be, each without anyOf and oneOf."""
    choices = node.get("anyOf") or node.get("oneOf")
    return [leaf for choice in choices for leaf in alternatives(choice)] if choices else [node]


def below(nodes: list[Node], part: str | int) -> list[Node]:
    """The alternatives of a key or list item of ``nodes``; empty where there is no such key."""
    found = []
    for node in nodes:
        if isinstance(part, str) and part in node.get("properties", {}):
            found += alternatives(node["properties"][part])
        elif isinstance(part, int) and node.get("type") == "array":
            items = node.get("prefixItems") or [node["items"]]
            found += alternatives(items[min(part, len(items) - 1)])
    return found


def keys_of(nodes: list[Node]) -> list[str]:
    """The keys of every section among ``nodes``, each once."""
    return list(dict.fromkeys(key for node in nodes for key in node.get("properties", {})))


def _choices(node: Node) -> list[str]:
    return node["enum"] if "enum" in node else [node["const"]] if "const" in node else []


def _kinds(node: Node) -> list[str]:
    """What ``type`` may be in a section, such as gru."""
    return _choices(node.get("properties", {}).get("type", {}))


def _name(section: Node) -> str:
    return ", ".join(_kinds(section)) or f"a section with {' and '.join(section['required'])}"


def _all_paths(nodes: list[Node], above: Path = ()) -> list[Path]:
    """The paths of all keys in ``nodes`` and below; the items of a list stand for themselves."""
    paths = []
    for key in keys_of(nodes):
        deeper = below(nodes, key)
        paths += [(*above, key), *_all_paths(deeper + below(deeper, 0), (*above, key))]
    return paths


# --------------------------------------------------------------------------------------------------------------- words


def show(value: Any) -> str:
    """A value as a person would write it, on one line, cut where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        text = "[" + ", ".join(show(item) for item in value[:LONGEST]) + "]"
    elif isinstance(value, dict):
        text = (
            "{"
            + ", ".join(f"{key}: {show(item)}" for key, item in list(value.items())[:LONGEST])
            + "}"
        )
    else:
        text = repr(value[: LONGEST + 1] if isinstance(value, str) else value)
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= LONGEST + 2 else text[:LONGEST] + "…"


def allowed(nodes: list[Node]) -> str:
    """'choose none, dot', 'it must be a whole number >= 1, or null' …: the alternatives in words."""
    choices = list(dict.fromkeys(choice for node in nodes for choice in _choices(node)))
    others = [node for node in nodes if not _choices(node) and not _kinds(node)]
    others = [node for node in others if node.get("type") != "null"] + [
        n for n in others if n.get("type") == "null"
    ]
    if choices and all(node.get("type") == "null" for node in others):
        return "choose " + ", ".join(choices + ["null"] * bool(others))
    words = [_in_words(node, nodes) for node in others] + [f"'{choice}'" for choice in choices]
    return "it must be " + ", or ".join(dict.fromkeys(words))


def _in_words(node: Node, beside: list[Node]) -> str:
    if "properties" in node:
        keys = node.get("required") or [*list(node["properties"])[:4], "…"]
        return f"a section with {', '.join(keys)}"
    if node["type"] == "array":
        items = node.get("prefixItems") or [node["items"]]
        one = alternatives(items[0])
        if all(item in beside for item in one):
            return "a list of these"
        each = ", ".join(_choices(items[0])) or allowed(one).removeprefix("it must be ")
        return (
            f"a list of {len(items)} values, each {each}"
            if "prefixItems" in node
            else f"a list of {each}"
        )
    names = {
        "integer": "a whole number",
        "number": "a number",
        "boolean": "true or false",
        "string": "text",
    }
    text = "a file name" if node.get("format") == "file" else names.get(node["type"], node["type"])
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {node[name]:.15g}" for name, sign in signs.items() if name in node]
    return f"{text} {' and '.join(limits)}" if limits else text


def closest(word: Any, words: list[str]) -> str | None:
    """The one of ``words`` that was probably meant."""
    matches = (
        get_close_matches(str(word)[:LONGEST].lower(), words, 1) if isinstance(word, str) else []
    )
    return matches[0] if matches else None


# -------------------------------------------------------------------------------------------------------------- errors


class _Spot(NamedTuple):
    """Where an error is: in the data as it was written, and in the schema."""

    path: Path
    value: Any
    nodes: list[Node]  # what may stand there
    kinds: list[Node]  # the same, before ``type`` decided


def explain(error: ValidationError, schema: Node, data: Any) -> list[tuple[Path, str]]:
    """Every problem once, as (where it is, what to say about it); ``data`` is what was validated.

    ``schema`` is inlined. Texts begin with the key's whole path and end with a sentence.
    """
    problems: dict[tuple[Path, str], None] = {}
    wrong = []
    for one in error.errors(include_url=False, include_input=False):
        kind, loc = one["type"], one["loc"]
        if kind == "default_factory_not_called":
            continue
        if kind == "contradiction":
            section = _find(loc, schema, data).path
            for key, text in one["ctx"]["problems"]:
                path = (*section, *key.split("."))
                problems[path, f"{dotted(path)} {text}."] = None
        elif kind == "extra_forbidden":
            spot = _find(loc[:-1], schema, data)
            problems[(*spot.path, loc[-1]), _unknown(spot, loc[-1], schema)] = None
        elif kind == "missing" and isinstance(loc[-1], str):
            spot = _find(loc[:-1], schema, data)
            problems[spot.path, _missing(spot.path, loc[-1], below(spot.nodes, loc[-1]))] = None
        elif kind == "union_tag_not_found":
            spot = _find(loc, schema, data)
            problems[spot.path, _missing(spot.path, "type", below(spot.nodes, "type"))] = None
            for key in spot.value.keys() - set(keys_of(spot.nodes)):
                problems[(*spot.path, key), _unknown(spot, key, schema)] = None
        elif kind == "missing":  # a list that is too short
            wrong.append(_find(loc[:-1], schema, data))
        else:
            spot = _find(loc, schema, data)
            if kind == "union_tag_invalid" and isinstance(spot.value, dict):
                spot = _Spot(
                    (*spot.path, "type"), spot.value["type"], *[below(spot.nodes, "type")] * 2
                )
            wrong.append(spot)
    above = {spot.path[:length] for spot in wrong for length in range(len(spot.path))}
    for spot in wrong:
        if (
            spot.path not in above
        ):  # where a union failed, the alternative that came furthest knows best
            problems[spot.path, _wrong(spot)] = None
    return list(problems)


def _find(loc: tuple[str | int, ...], schema: Node, data: Any) -> _Spot:
    """Follow pydantic's ``loc``, which names the chosen alternatives of unions between the keys."""
    spot = _Spot((), data, [schema], [schema])
    for part in loc:
        known = below(spot.nodes, part)
        if isinstance(part, int):
            inside = isinstance(spot.value, list)
        else:
            inside = isinstance(spot.value, dict) and part in spot.value and bool(known)
        if inside:
            spot = _Spot((*spot.path, part), spot.value[part], known, known)
        elif isinstance(part, str):
            chosen = [
                node for node in spot.nodes if part == node.get("title") or part in _kinds(node)
            ]
            spot = spot._replace(nodes=chosen or spot.nodes)
    return spot


def _wrong(spot: _Spot) -> str:
    nodes, name = spot.kinds, dotted(spot.path)
    if spot.value is None and any("properties" in node for node in nodes):
        return f"{name} is empty; write its keys below it, or leave it out."
    text = f"{name} is {show(spot.value)}; {allowed(nodes)}."
    if isinstance(spot.value, (bool, int, float)) and any(
        node.get("type") == "string" for node in nodes
    ):
        text += (
            f" As text it needs quotes: '{show(spot.value)}'."
            if not any(map(_choices, nodes))
            else ""
        )
    meant = closest(spot.value, [choice for node in nodes for choice in _choices(node)])
    return f"{text} Did you mean '{meant}'?" if meant else text


def _missing(above: Path, key: str, nodes: list[Node]) -> str:
    return f"{dotted((*above, key))} is missing; {allowed(nodes)}."


def _unknown(spot: _Spot, key: str, schema: Node) -> str:
    keys = keys_of(spot.nodes)
    text = f"{dotted((*spot.path, key))} is not a key"
    owners = [_name(node) for node in spot.kinds if key in node.get("properties", {})]
    if owners:
        here = [_name(node) for node in spot.nodes if "properties" in node]
        return f"{text} of {', '.join(here)}; it is one of {', '.join(owners)}."
    elsewhere = [path for path in _all_paths([schema]) if path[-1] == key != "type"]
    if elsewhere:
        return f"{text} here. Did you mean {dotted(elsewhere[0])}?"
    meant = closest(key, keys)
    text += f" here. Did you mean '{meant}'?" if meant else " here."
    return f"{text} Keys: {', '.join(keys)}." if not meant or len(keys) <= FEW_KEYS else text
