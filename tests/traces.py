"""Traces and reports made up for tests of what shows them."""

from __future__ import annotations

import math
import random
from typing import Any


def side(text: str, end: bool = True) -> dict[str, Any]:
    """A text's words, each of two tokens if it is long."""
    words = text.split()
    tokens, word_of = [], []
    for index, word in enumerate(words):
        parts = [word[:3], word[3:]] if len(word) > 5 else [word]
        tokens += ["▁" + parts[0], *parts[1:]]
        word_of += [index] * len(parts)
    return {"text": text, "tokens": [*tokens, "</s>"], "words": words, "word_of": [*word_of, None]}


def rows(
    draw: random.Random, height: int, width: int, sharp: float, back: bool
) -> list[list[float]]:
    """Attention that follows the diagonal, more or less."""
    matrix = []
    for row in range(height):
        centre = row * width / height
        centre = width - 1 - centre if back else centre
        weights = [
            math.exp(-sharp * abs(column - centre)) + 0.05 * draw.random()
            for column in range(width)
        ]
        matrix.append([round(weight / sum(weights), 4) for weight in weights])
    return matrix


def trace(
    source: str, target: str, sharp: float = 1.0, layers: int = 2, heads: int = 2, seed: int = 0
) -> dict[str, Any]:
    """A trace of a model whose attention is the sharper, and whose probabilities higher, the larger ``sharp`` is."""
    draw = random.Random(f"{source} {seed}")
    sides = {"source": side(source), "target": side(target)}
    height, width = (len(sides[name]["tokens"]) for name in ("target", "source"))
    shapes = {"cross": (height, width), "encoder": (width, width), "decoder": (height, height)}
    steps, node, tree = [], 0, [{"parent": -1, "step": 0, "token": "<s>", "end": None}]
    for number, token in enumerate(sides["target"]["tokens"], start=1):
        chance = 1 - 0.8 * draw.random() ** (1 + sharp)
        others = [
            {"token": f"▁other{place}", "log_probability": math.log((1 - chance) / 2**place)}
            for place in (1, 2, 3)
        ]
        chosen = {"token": token, "log_probability": math.log(chance)}
        ranked = sorted([chosen, *others], key=lambda one: -one["log_probability"])
        steps.append(
            {
                **chosen,
                "rank": 1 + ranked.index(chosen),
                "entropy": round(2 * (1 - chance), 3),
                "alternatives": ranked,
            }
        )
        tree += [{"parent": node, "step": number, "token": other["token"], "end": "width"} for other in others[:2]]  # fmt: skip
        tree.append(
            {
                "parent": node,
                "step": number,
                "token": token,
                "end": "finished" if token == "</s>" else None,
            }
        )
        node = len(tree) - 1
    for place, one in enumerate(tree):
        one |= {"log_probability": round(-0.3 * one["step"] - 0.01 * place, 3)}
        one |= {"score": round(one["log_probability"] / max(1, one["step"]), 3)}
    total = sum(step["log_probability"] for step in steps)
    words = [len(sides[name]["words"]) for name in ("source", "target")]
    return {
        "format": 1,
        "model": "runs/toy, checkpoint 300",
        **sides,
        "forced": False,
        "log_probability": total,
        "score": total / height,
        "steps": steps,
        "hypotheses": [
            {
                "text": text,
                "tokens": [],
                "log_probability": total - place,
                "score": total / height - place / 9,
            }
            for place, text in enumerate([target, target + " …", "…"])
        ],
        "tree": tree,
        "attention": {
            f"{kind}.{layer}": [
                rows(draw, *shape, sharp * (1 + head), back=head == 1 and kind != "cross")
                for head in range(heads)
            ]
            for kind, shape in shapes.items()
            for layer in range(layers)
        },
        "alignment": [[min(word, words[0] - 1), word] for word in range(words[1])],
        "alignment_from": {"map": f"cross.{layers - 1}", "head": heads - 1, "shifted": True},
    }


def report(runs: int = 1, sentences: int = 20, checkpoints: int = 5) -> dict[str, Any]:
    """A report of a few runs, from the sentences' pairs below over and over."""
    return {
        "format": 1,
        "runs": [run(index, sentences, checkpoints) for index in range(runs)],
        "significance": [
            {"runs": [0, 1], "metric": "bleu", "difference": 1.4, "p": 0.013}
        ] * (runs > 1),
    }  # fmt: skip


PAIRS = [
    ("the small dog sleeps under the table", "der kleine Hund schläft unter dem Tisch"),
    ("she translated three sentences yesterday", "ترجمت ثلاث جمل أمس"),
    ("a red apple", "一个 红色 的 苹果"),
    ("אני אוהב לקרוא ספרים", "I like reading books"),
]


def run(index: int, sentences: int, checkpoints: int) -> dict[str, Any]:
    draw = random.Random(index)
    bins = [5, 10, 15, 20, 25, 30, 40, 50]
    updates = [100 * number for number in range(1, checkpoints + 1)]
    log: list[dict[str, Any]] = []
    for update in range(20, updates[-1] + 1, 20):
        loss = (5 + index) * math.exp(-update / 250) + 0.8 + 0.05 * draw.random()
        numbers = {"loss": loss, "perplexity": math.exp(loss), "learning_rate": 0.002 * min(1, update / 200)}  # fmt: skip
        clock = {"seconds": update / 9, "tokens_per_second": 9000 + draw.randrange(900)}
        log.append({"update": update, "epoch": update / 50, **numbers, "gradient_norm": 0.4 + draw.random() / 5, "clock": clock})  # fmt: skip
        if update in updates:
            scores = {"loss": loss + 0.1, "perplexity": math.exp(loss + 0.1), "bleu": 40 - 6 * loss, "chrf": 60 - 5 * loss}  # fmt: skip
            log.append({"update": update, "validation": scores, "best": True, "examples": []})
    return {
        "name": f"runs/toy_{'gru transformer lstm'.split()[index]}",
        "facts": [
            ["model", f"{'gru transformer lstm'.split()[index]}, 1.2 M parameters"],
            ["vocabulary", "4,000 source, 4,000 target"],
            ["trained", f"{updates[-1]} updates, 3 minutes"],
        ],  # fmt: skip
        "data": [
            {
                "name": name,
                "pairs": pairs,
                "source_tokens": 9 * pairs,
                "target_tokens": 8 * pairs,
                "duplicates": pairs // 90,
                "in_train": None if name == "train" else pairs // 300,
                "unknown": 0.012 if name == "test" else 0.0,
                "lengths": {
                    key: [
                        [end, round(pairs * math.exp(-(((end - peak) / 11) ** 2)) / 4)]
                        for end in bins
                    ]
                    for key, peak in (("source", 14), ("target", 11))
                },
            }
            for name, pairs in (("train", 30000), ("test", 1000))
        ],
        "log": log,
        "scores": [
            {
                "metric": "bleu",
                "value": 31.2 + index,
                "low": 29.9 + index,
                "high": 32.6 + index,
                "signature": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.5.1",
            },
            {
                "metric": "chrf",
                "value": 55.3 + index,
                "low": 54.1 + index,
                "high": 56.2 + index,
                "signature": "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.5.1",
            },
        ],  # fmt: skip
        "buckets": [
            {
                "by": by,
                "label": label,
                "sentences": 120 + 30 * place,
                "score": 45.1 - 6 * place + index,
            }
            for by, labels in (
                ("source length", ("1–5", "6–10", "11–20", "over 20")),
                ("unseen words", ("none", "some")),
            )
            for place, label in enumerate(labels)
        ],  # fmt: skip
        "sentences": [
            {
                "source": f"{source} {number}",
                "reference": target,
                "hypothesis": target,
                "score": round(100 * draw.random(), 1),
                "trace": trace(f"{source} {number}", target, 1.5, 1, 1, index),
            }
            for number, (source, target) in (
                (number, PAIRS[number % 4]) for number in range(sentences)
            )
        ],  # fmt: skip
        "history": [
            {
                "update": update,
                "traces": [
                    trace(source, " ".join(target.split()[: 1 + place]), 0.3 + place / 2)
                    for source, target in PAIRS
                ],
            }
            for place, update in enumerate(updates)
        ],  # fmt: skip
    }
