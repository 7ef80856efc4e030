"""Small prepared folders, made with the writers themselves."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from vitruvius.data.cleaning.recipe import recipe_from_text
from vitruvius.data.options import PrepareOptions
from vitruvius.data.packing.index import DATA_SCHEMA, dtype_for, fingerprint_of
from vitruvius.data.packing.writing import SplitWriter
from vitruvius.data.prepare import prepare
from vitruvius.data.tokenization.tokenizer import Tokenizer, train_bpe
from vitruvius.runs.files import write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEYS = ("id", "text", "source", "url")
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "the",
    "lazy",
    "dog",
    "while",
    "seven",
    "wizards",
    "vex",
    "a",
    "jumbled",
    "sphinx",
    "of",
    "black",
    "quartz",
]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A document to be packed."""

    id: str
    text: str
    source: str = "all"
    url: str | None = None


@dataclass(kw_only=True)
class Folder:
    """What a prepared folder is made of."""

    train: list[Kept] = field(default_factory=list)
    validation: list[Kept] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    changed: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    shard_tokens: int = 200

    def write(self, directory: Path, tokenizer: Tokenizer) -> Path:
        """Write all of it, and return the folder."""
        directory.mkdir(parents=True)
        tokenizer.save(directory / "tokenizer.json")
        size = {"vocab_size": tokenizer.vocab_size, "shard_tokens": self.shard_tokens}
        splits: dict[str, Any] = {}
        for name, documents in (("train", self.train), ("validation", self.validation)):
            writer = SplitWriter(directory, name, **size)
            for one in documents:
                writer.add(
                    [*tokenizer.encode(one.text), tokenizer.eos_id],
                    text_bytes=len(one.text.encode()),
                    source=one.source,
                    origin={"id": one.id, "url": one.url},
                )
            splits[name] = writer.close()
        (directory / "quarantine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.dropped))
        reasons = [row["reason"] for row in self.dropped]
        kept = len(self.train) + len(self.validation)
        counts = {
            "schema": "vitruvius.counts/2",
            "documents_in": kept + len(reasons),
            "documents_out": kept,
            "dropped": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
            "changed": self.changed,
            "sources": {},
        }
        write_json(directory / "counts.json", counts)
        index = {
            "schema": DATA_SCHEMA,
            "vocab_size": tokenizer.vocab_size,
            "dtype": dtype_for(tokenizer.vocab_size),
            "eos": tokenizer.eos,
            "eos_id": tokenizer.eos_id,
            "tokenizer": {"file": "tokenizer.json", "sha256": hashlib.sha256(tokenizer.text.encode()).hexdigest()},
            "splits": splits,
            "settings": self.settings,
        }
        write_json(directory / "index.json", index | {"fingerprint": fingerprint_of(index)})
        return directory


def words(count: int, start: int = 0) -> str:
    """A text of so many words."""
    return " ".join(WORDS[(start + i * (1 + start % 3)) % len(WORDS)] for i in range(count))


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A small one."""
    return train_bpe([words(500)], 300)


@pytest.fixture(scope="session")
def dropped() -> list[dict[str, Any]]:
    """A row of each sort."""
    place = {"file": "a.jsonl", "byte_offset": 0}
    return [
        {"id": None, **place, "line": 1, "reason": "invalid_json", "detail": "the line is not JSON"},
        {"id": None, **place, "line": 2, "reason": "blank_line", "detail": ""},
        *(
            {
                "id": f"a.jsonl:{line}",
                **place,
                "line": line,
                "reason": "near_duplicate",
                "detail": "",
                "keeper": keeper,
                "jaccard": jaccard,
            }
            for line, keeper, jaccard in ((3, "k1", 0.81), (4, "k1", 0.99), (5, "k2", 1.0))
        ),
        *(
            {
                "id": f"a.jsonl:{line}",
                **place,
                "line": line,
                "reason": "exact_duplicate",
                "keeper": "k3",
                "jaccard": 1.0,
            }
            for line in range(6, 10)
        ),
    ]


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer, dropped: list[dict[str, Any]]) -> Path:
    """Twenty-four documents of two sources, six held out, one of which shares most of its text with training."""
    train = [
        Kept(id=f"web/{i}.txt", text=words(5 + 3 * i, i), source="web", url=f"https://www.site{i % 3}.org/{i}")
        for i in range(12)
    ]
    train += [Kept(id=f"code/{i}.py", text=words(2**i, 50 + i), source="code") for i in range(6)]
    validation = [
        Kept(id=f"web/held-{i}.txt", text=f"unseen {i} {i * i} " * 20, source="web", url="not an address")
        for i in range(5)
    ]
    validation.append(Kept(id="code/leaked.py", text=words(2**5, 55), source="code"))
    made = Folder(train=train, validation=validation, dropped=dropped, changed={"whitespace.trailing": 3})
    return made.write(tmp_path / "data", tokenizer)


@pytest.fixture
def make(tmp_path: Path, tokenizer: Tokenizer) -> Callable[..., Path]:
    """Write a folder of documents that are (id, text) or (id, text, source, url), and of whatever else it has."""

    def made(name: str = "made", *, train: Any = (), validation: Any = (), **others: Any) -> Path:
        kept = [[Kept(**dict(zip(KEYS, one, strict=False))) for one in split] for split in (train, validation)]
        return Folder(train=kept[0], validation=kept[1], **others).write(tmp_path / name, tokenizer)

    return made


RECIPE = """
name: mine
steps:
- html
- whitespace
- {kind: gopher_quality, least_words: 12, least_alphabetic_words: 0.5}
duplicates:
  exact: text
  near: {threshold: 0.7, ngram: 3}
"""
TEXTS = {
    "kept": "the first of the texts\nthat have of what it takes to stay with the others and is long enough for it",
    "spaced": "  a text that \r has   trailing blanks, which the recipe takes away   \nand of words enough to stay  ",
    "short": "the few of",
    "twin": "the first of the texts\nthat have of what it takes to stay with the others and is long enough for it",
    "near": "the first of the texts that have of what it takes to stay with the others and is LONG enough now for it",
    "escape": "the \x1b[2J of a terminal and \u202e the other way, with \u200b no width, and be it long enough to stay",
    "page": "https://www.pages.org/ is the address of the place that this text is from, and it is to stay as it was",
}


def unlike(number: int) -> str:
    """A text that is like no other one."""
    letters = hashlib.sha256(str(number).encode()).hexdigest().translate(str.maketrans("0123456789", "ghijklmnop"))
    return "the of to and that " + " ".join(letters[i : i + 4] for i in range(0, 60, 3))


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with inputs, and in it `data`, which `prepare` made of them: a text file, lines of JSON, a gzip file."""
    here = tmp_path_factory.mktemp("real")
    rows = [json.dumps({"text": text, "url": f"https://{name}.org/x"}) for name, text in TEXTS.items()]
    lines = [*rows[:3], '{"text": broken \x00', "", *rows[3:], '{"text": "cut']
    (here / "lines.jsonl").write_text("\n".join(lines))
    (here / "deep" / "\x1b[31mred").mkdir(parents=True)
    (here / "deep" / "\x1b[31mred" / "a.txt").write_text(unlike(99))
    (here / "packed.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps({"text": unlike(i)}) + "\n" for i in range(30)).encode(), mtime=0)
    )
    page = f"<html><head><title>x</title></head><body><p>{unlike(77)}</p><script>no</script></body></html>"
    (here / "deep" / "page.html").write_text(page)
    inputs = ["lines.jsonl", "deep", "packed.jsonl.gz"]
    with contextlib.chdir(here):
        options = PrepareOptions(vocab=300, recipe=recipe_from_text(RECIPE), held_out=0.2, max_bad_rate=1)
        prepare(inputs, "data", options)
    return here
