"""A tiny translation task and configs for it: sentences of nonsense words, translated letter by letter and backwards."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from mtcli import Translator

MODELS: dict[str, dict[str, Any]] = {
    "gru": {"type": "gru", "embedding_size": 12, "hidden_size": 16, "dropout": 0.1},
    "transformer": {
        "type": "transformer", "hidden_size": 16, "feed_forward_size": 32, "heads": 2, "encoder_layers": 1,
        "decoder_layers": 1, "dropout": 0.1,
    },
}  # fmt: skip


def pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    generator = random.Random(seed)
    sources = [
        "".join(generator.choices("abcdef ", k=generator.randint(3, 9))).strip() or "a"
        for _ in range(count)
    ]
    return [(source, source[::-1].upper()) for source in sources]


def write(folder: Path, train: int = 60, validation: int = 8) -> None:
    """train.tsv and validation.tsv."""
    for name, count, seed in [("train", train, 0), ("validation", validation, 1)]:
        lines = ("\t".join(pair) + "\n" for pair in pairs(count, seed))
        (folder / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")


def config(folder: Path, model: str = "transformer", **sections: dict[str, Any]) -> dict[str, Any]:
    """A config for the files in ``folder``; ``sections`` are put over its own."""
    whole: dict[str, Any] = {
        "data": {
            "train": str(folder / "train.tsv"),
            "validation": str(folder / "validation.tsv"),
            "test": str(folder / "validation.tsv"),
        },
        "tokenizer": {"type": "char"},
        "model": MODELS[model],
        "training": {
            "batch_tokens": 80, "max_updates": 20, "log_every": 4, "validate_every": 7, "examples": 1,
            "validation_metrics": ["chrf"], "optimizer": {"type": "adam", "learning_rate": 0.01}, "schedule": "inverse_sqrt",
        },
    }  # fmt: skip
    for name, values in sections.items():
        whole[name] = {**whole.get(name, {}), **values} if values.get("type") is None else values
    return whole


def write_config(folder: Path, name: str = "tiny.yaml", **options: Any) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(config(folder, **options)), encoding="utf-8")
    return path


def translator(folder: Path, model: str) -> Translator:
    """One in float64, from a run in ``folder`` that this trains."""
    import torch

    from mtcli import Translator, config as configs
    from mtcli.run.directory import Run
    from mtcli.training.trainer import Trainer

    write(folder)
    path = write_config(folder, model=model)
    run = Run.create(folder / "run", path.read_text(), configs.load(path))
    Trainer(run, torch.device("cpu")).train()
    loaded = Translator.load(folder / "run", device="cpu")
    loaded.engine.model.double()
    return loaded
