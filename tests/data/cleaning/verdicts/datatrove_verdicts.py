"""Writes `verdicts.jsonl.gz`: what datatrove's own filters say about real and made-up texts.

Run it where datatrove (0.9) and spaCy are installed, with a folder of SQLite's documentation (in the public domain;
Debian's package sqlite3-doc has it) and this repository's `src` on the path:

    PYTHONPATH=src python tests/data/cleaning/verdicts/datatrove_verdicts.py /usr/share/doc/sqlite3

A row is {"text", "words", "sentences" (of its lines, summed), "verdicts": {filter: true, or the reason}, "c4_text"}.
Numbers are made by a seeded generator, so another run on the same pages gives the same bytes.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.utils.text import split_into_sentences, split_into_words

from vitruvius.data.cleaning.boilerplate import main_text

PAGES = 180
RANDOM_TEXTS = 60
LONGEST = 2_500
FILTERS = {
    "gopher_repetition": GopherRepetitionFilter(),
    "gopher_quality": GopherQualityFilter(),
    "fineweb": FineWebQualityFilter(),
    "c4": C4QualityFilter(),
    "c4_as_fineweb": C4QualityFilter(filter_no_terminal_punct=False),
}


def main() -> None:
    """Write the rows."""
    generator = random.Random(20240617)
    pages = sorted(Path(sys.argv[1]).rglob("*.html"))
    generator.shuffle(pages)
    texts: list[str] = []
    for page in pages:
        text = main_text(page.read_text(encoding="utf-8", errors="replace"))
        if text is not None:
            texts.append(cut(text, generator))
        if len(texts) == PAGES:
            break
    texts += [perturbed(text, generator) for text in texts[: PAGES // 2]]
    texts += [made_up(generator) for _ in range(RANDOM_TEXTS)]
    out = Path(__file__).parent / "verdicts.jsonl.gz"
    rows = "".join(json.dumps(row(text), ensure_ascii=False) + "\n" for text in texts)
    out.write_bytes(gzip.compress(rows.encode(), 9, mtime=0))
    print(f"{len(texts)} texts, {out.stat().st_size:,} bytes")


def cut(text: str, generator: random.Random) -> str:
    """Some lines from anywhere in a text."""
    start = generator.randrange(max(1, len(text) - LONGEST))
    piece = text[start : start + generator.randrange(300, LONGEST)]
    return piece.split(" ", 1)[-1].strip() or text[:LONGEST].strip()


def perturbed(text: str, generator: random.Random) -> str:
    """A text with one of the faults that the rules look for, more or less of it."""
    lines = text.split("\n")
    some = generator.random()
    faults = (
        lambda: "\n".join(line for line in lines for _ in range(1 + (generator.random() < some / 2))),
        lambda: "\n\n".join(lines[:3] * generator.randrange(1, 4) + lines),
        lambda: "\n".join("- " + line if generator.random() < some else line for line in lines),
        lambda: "\n".join(line + "..." if generator.random() < some / 2 else line for line in lines),
        lambda: "".join(word + " # " if generator.random() < some / 4 else word + " " for word in text.split()),
        lambda: "".join(word + " 12 " if generator.random() < some / 2 else word + " " for word in text.split()),
        lambda: text.replace(" ", "\n") if some < 1 / 2 else text.replace(". ", ".\n"),
        lambda: text.replace(".", "") if some < 1 / 2 else text.replace("the ", "").replace("of ", ""),
        lambda: " ".join(text.split()[:12] * generator.randrange(1, 5)) + " " + text,
        lambda: (
            text
            + "\nPlease read our privacy policy.\nUse JavaScript { here.\nLorem ipsum dolor sit amet."[
                : 20 + int(some * 90)
            ]
        ),
        lambda: text.replace(" ", "") if some < 1 / 4 else text[: 60 + int(some * 500)],
        lambda: text.replace(" ", " a ") if some < 1 / 2 else text.replace(" ", "-very-long-compound-"),
    )
    return generator.choice(faults)().strip()


def made_up(generator: random.Random) -> str:
    """Words from a small vocabulary, in lines."""
    vocabulary = ["the", "of", "and", "that", "with", "house", "river", "seven", "walked", "green", "quickly", "a", "3"]
    size = generator.randrange(3, len(vocabulary))
    words = [
        generator.choice(vocabulary[:size]) + generator.choice(["", "", "", "", ",", ".", "...", "!", "\n", "\n\n"])
        for _ in range(generator.randrange(20, 300))
    ]
    return " ".join(words)


def row(text: str) -> dict[str, object]:
    """What datatrove says about a text."""
    verdicts: dict[str, object] = {}
    c4_text = ""
    for name, rule in FILTERS.items():
        document = Document(text=text, id="0")
        said = rule.filter(document)
        verdicts[name] = True if said is True else said[1]
        if name == "c4":
            c4_text = document.text
    return {
        "text": text,
        "words": len(split_into_words(text)),
        "sentences": sum(len(split_into_sentences(line)) for line in text.splitlines() if line.strip()),
        "verdicts": verdicts,
        "c4_text": c4_text,
    }


if __name__ == "__main__":
    main()
