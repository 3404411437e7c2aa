"""How well attention aligns words on the toy corpus, whose lexicon says what belongs together.

    python benchmarks/alignment.py runs/toy_gru_attention runs/toy_transformer

Translations of data/toy/test.tsv are forced. A row a head, or mean over the heads of a layer, read when a token is
predicted or when it is read (shifted): precision, recall and alignment error rate (Och and Ney 2003, section 5.1), and
the regularity by which training chooses a head without knowing any alignment. * is what the run has chosen, on its
validation data.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "data/toy"))

from alignments import align  # noqa: E402

from mtcli import Translator  # noqa: E402
from mtcli.decoding.alignment import every_head, links, regularity, word_pairs  # noqa: E402

BATCH_PAIRS = 20


def main() -> None:
    text = (ROOT / "data/toy/test.tsv").read_text(encoding="utf-8")
    pairs = sorted((line.split("\t") for line in text.splitlines()), key=lambda pair: len(pair[1]))
    golds = [align(*pair) for pair in pairs]
    print("| run | attention | precision | recall | AER | regularity |\n|---|---|---|---|---|---|")
    for run in sys.argv[1:]:
        translator = Translator.load(run, device="cpu")
        sources, targets = (
            [translator.encode(side, pair[side], "a line") for pair in pairs] for side in (0, 1)
        )
        maps = [
            each
            for start in range(0, len(pairs), BATCH_PAIRS)
            for each in translator.engine.maps(
                sources[start : start + BATCH_PAIRS], targets[start : start + BATCH_PAIRS]
            )
        ]
        words = [
            [[*codec.tokenizer.words(codec.tokenizer.tokenize(pair[side])), None] for pair in pairs]
            for side, codec in enumerate(translator.codecs)
        ]
        rows = []
        for head in every_head(maps[0]):
            found = right = sure = possible = 0
            for each, gold, source, target in zip(maps, golds, *words):
                judged = {character for _, character in gold.possible}
                said = {
                    pair for pair in word_pairs(each, head, source, target) if pair[1] in judged
                }
                found, sure = found + len(said), sure + len(gold.sure)
                right += len(said & gold.sure)
                possible += len(said & gold.possible)
            linked = [link for pair in zip(maps, sources, targets) for link in links(head, *pair)]
            numbers = (
                possible / max(1, found),
                right / sure,
                1 - (right + possible) / (found + sure),
            )
            which = "mean" if head.head is None else f"head {head.head}"
            star = " *" if head == translator.alignment_head else ""
            name = f"{head.map}, {which}{', shifted' if head.shifted else ''}{star}"
            rows.append((numbers[2], [Path(run).name, name, *numbers, regularity(linked)]))
        for _, (*names, precision, recall, error, score) in sorted(rows):
            shown = f"{precision:.1%} | {recall:.1%} | {error:.3f} | {score:.2f}"
            print(f"| {' | '.join(names)} | {shown} |")


if __name__ == "__main__":
    main()
