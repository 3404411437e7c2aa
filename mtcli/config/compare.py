"""How two configurations differ, and which differences let a run continue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .messages import Path, dotted, show
from .schema import Config


def changes(old: Config, new: Config, ignore: Sequence[str] = ()) -> list[str]:
    """What differs, such as ``training.batch_tokens: 2000 -> 4000``; keys in and below ``ignore`` do not count."""
    return [
        f"{dotted(path)}: {show(was)} -> {show(now)}"
        for path, was, now in _differences(old.model_dump(mode="json"), new.model_dump(mode="json"))
        if not any(f"{dotted(path)}.".startswith(f"{key}.") for key in ignore)
    ]


def _differences(old: Any, new: Any, path: Path = ()) -> Iterator[tuple[Path, Any, Any]]:
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old != new:
            yield path, old, new
    elif old.get("type") != new.get("type"):  # their other keys are not the same ones
        yield (*path, "type"), old.get("type"), new.get("type")
    else:
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key), new.get(key), (*path, key))


LENGTHS = ("training.max_updates:", "training.max_epochs:")  # how `changes` begins to tell of one


def free_on_resume(config: Config, recorded: bool = False) -> list[str]:
    """The keys that may change when a run is continued: the weights after a given update do not depend on them.

    Two exceptions: with ``max_minutes`` a schedule is meant to fall within the new time, and ``micro_batch_tokens``,
    which changes rounding and dropout noise, lets a run go on that was out of memory. Where it is ``recorded`` what was
    in its files, they may have other paths.
    """
    training = config.training
    keys = ["log_every", "patience", "examples", "keep_checkpoints", "save_minutes", "tensorboard"]
    keys += ["traces", "micro_batch_tokens", "non_finite", "max_minutes"]
    if training.schedule.type not in ("linear", "cosine"):  # which fall until the end
        keys += ["max_updates", "max_epochs"]
    if training.schedule.type != "plateau":
        keys += ["validate_every"]
    free = ["data.test", *(f"training.{key}" for key in keys)]
    if training.best_by in ("loss", "perplexity"):  # nothing that is decoded decides
        free += ["training.validation_metrics", "training.validation_beam_size"]
        free += ["data.target_language", "decoding", "evaluation"]
    if recorded:
        corpora = ["validation", *(f"train.{number}" for number in range(len(config.data.train)))]
        free += [f"data.{name}.{key}" for name in corpora for key in ("path", "source", "target")]
    return free
