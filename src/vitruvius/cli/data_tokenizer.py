"""`vitruvius data tokenizer`: train one, look at one, compare several."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import click

from vitruvius.cli.arguments import json_option
from vitruvius.cli.output import clean, clean_line, emit, emit_json, next_step, say
from vitruvius.cli.verbs import ExampleGroup

TRAIN_SCHEMA = "vitruvius.data-tokenizer-train/1"
SHOW_SCHEMA = "vitruvius.data-tokenizer-show/1"
KINDS = ("bpe", "unigram", "wordpiece")
WORDS = ("llama3", "gpt2")
DIGITS = ("triples", "single", "runs")
CASES = ("kept", "lowered")
_LISTED = 12


@click.group(
    "tokenizer",
    cls=ExampleGroup,
    help="Train a tokenizer, look at one, compare several.",
    examples=[
        "vitruvius data tokenizer train articles/*.txt --vocab 32000 --out tokenizer.json",
        "vitruvius data tokenizer show model.gguf --text 'Grüße, 12345!'",
        "vitruvius data tokenizer report tokenizer.json --against model.gguf --html vocabulary.html",
    ],
)
def command() -> None:
    """Hold the verbs about tokenizers."""


def _file(**kwargs: Any) -> Any:
    return click.Path(path_type=Path, **kwargs)


def _eos_option() -> Any:
    return click.option("--eos", metavar="TOKEN", help="The document separator, if its name is unusual.")


@command.command(
    "train",
    help="""Train a tokenizer on TEXTS: files, folders, or python-stdlib, read as `data prepare` reads them.

    The same texts give the same file, in any order, on any machine and any number of cores.""",
    examples=[
        "vitruvius data tokenizer train python-stdlib --vocab 1024 --out tokenizer.json",
        "vitruvius data tokenizer train books/ --kind unigram --vocab 16000 --digits single --out tokenizer.json",
        "vitruvius data tokenizer train chats.jsonl --special '<|endoftext|>' --special '<|user|>' --out chat.json",
    ],
)
@click.argument("texts", metavar="TEXTS...", nargs=-1, required=True)
@click.option("--out", required=True, type=_file(), metavar="FILE", help="The tokenizer.json to write.")
@click.option("--kind", type=click.Choice(KINDS), default="bpe", show_default=True, help="The algorithm.")
@click.option("--vocab", default=8192, show_default=True, help="Most tokens, special ones included.")
@click.option(
    "--special",
    multiple=True,
    metavar="TOKEN",
    help="A special token; the first separates documents. May be given again. [default: <|endoftext|>]",
)
@click.option(
    "--words", type=click.Choice(WORDS), default="llama3", show_default=True, help="How text is cut in words."
)
@click.option(
    "--digits", type=click.Choice(DIGITS), default="triples", show_default=True, help="How digits are grouped."
)
@click.option("--case", type=click.Choice(CASES), default="kept", show_default=True, help="WordPiece: keep capitals?")
@json_option
def train_command(
    texts: tuple[str, ...],
    *,
    out: Path,
    kind: str,
    vocab: int,
    special: tuple[str, ...],
    words: str,
    digits: str,
    case: str,
    as_json: bool,
) -> None:
    """Read, train, write."""
    from vitruvius.cli.data_account import refuse_folders
    from vitruvius.data.tokenization.comparing import read_texts
    from vitruvius.data.tokenization.tokenizer import END_OF_TEXT, TrainOptions, train
    from vitruvius.errors import DataError

    refuse_folders({"--out": out})
    options = TrainOptions(
        kind=next(known for known in KINDS if known == kind),
        vocab_size=vocab,
        specials=special or (END_OF_TEXT,),
        words=words,
        digits=digits,
        case="lowered" if case == "lowered" else "kept",
    )
    refused: Counter[str] = Counter()
    read = Counter[str]()

    def counted() -> Any:
        for text in read_texts(texts, lambda suffix: refused.update([suffix])):
            read["documents"] += 1
            read["bytes"] += len(text.encode())
            yield text

    tokenizer = train(counted(), options)
    if not read["documents"]:
        raise DataError("there is no text to train on", where=", ".join(texts), fix="name files or folders with text")
    tokenizer.save(out)
    found = {
        "schema": TRAIN_SCHEMA,
        "out": str(out),
        "kind": kind,
        "vocab_size": tokenizer.vocab_size,
        "vocab_asked": vocab,
        "eos": tokenizer.eos,
        "eos_id": tokenizer.eos_id,
        "documents": read["documents"],
        "text_bytes": read["bytes"],
        "records_not_used": sum(refused.values()),
        "fingerprint": tokenizer.fingerprint,
    }
    if as_json:
        emit_json(found)
    else:
        _tell_trained(found, tokenizer.kind)


def _tell_trained(found: dict[str, Any], kind: str) -> None:
    """What was trained, on standard error."""
    out = clean_line(found["out"])
    say(f"{kind}, {found['vocab_size']:,} tokens from {found['documents']:,} documents ({found['text_bytes']:,} bytes)")
    if found["vocab_size"] < found["vocab_asked"]:
        say(f"asked for {found['vocab_asked']:,}: the text has no more")
    if found["records_not_used"]:
        say(f"{found['records_not_used']:,} records could not be used; `data prepare` names them in its quarantine")
    say(f"wrote {out}, fingerprint {found['fingerprint'][:16]}")
    next_step(f"vitruvius data tokenizer report {shlex.quote(out)}")


@command.command(
    "show",
    help="""Say what TOKENIZER is: a tokenizer.json, a folder that holds one, or a GGUF file.

    With --text, show how it is cut. Text that spells a special token is cut as the characters it is.""",
    examples=[
        "vitruvius data tokenizer show tokenizer.json",
        "vitruvius data tokenizer show model.gguf --text 'Grüße, 12345!'",
        "vitruvius data tokenizer show data/ --json",
    ],
)
@click.argument("tokenizer", metavar="TOKENIZER", type=_file())
@click.option("--text", metavar="TEXT", help="A text to cut.")
@_eos_option()
@json_option
def show_command(tokenizer: Path, *, text: str | None, eos: str | None, as_json: bool) -> None:
    """Load, count, print."""
    from vitruvius.data.tokenization.tokenizer import load_tokenizer
    from vitruvius.data.tokenization.vocabulary import vocabulary_facts

    loaded = load_tokenizer(tokenizer, eos=eos)
    facts = vocabulary_facts(loaded)
    cut: dict[str, Any] | None = None
    if text is not None:
        ids = loaded.encode(text)
        pieces = [loaded.token_bytes[token].decode("utf-8", "backslashreplace") for token in ids]
        cut = {"text": text, "ids": ids, "pieces": pieces, "comes_back": loaded.decode(ids) == text}
    if as_json:
        document = {"kind": loaded.kind, "eos": loaded.eos, "eos_id": loaded.eos_id, "long_texts_cut_at": loaded.cuts}
        head = {"schema": SHOW_SCHEMA, "tokenizer": str(tokenizer), "fingerprint": loaded.fingerprint}
        emit_json(head | document | {"vocabulary": facts, "encoded": cut})
        return
    special = [f"{token['text']} {token['id']}" for token in facts["special_tokens"][:_LISTED]]
    more = facts["special_token_count"] - len(special)
    lines = [
        ("kind", loaded.kind),
        ("vocabulary", f"{facts['vocab_size']:,}"),
        ("separator", f"{loaded.eos} {loaded.eos_id}"),
        ("special tokens", ", ".join(special) + (f", {more:,} more" if more > 0 else "")),
        ("word starts", f"{facts['word_start_tokens']:,}"),
        ("parts of characters", f"{facts['part_of_character_tokens']:,}"),
        ("longest digits", f"{facts['longest_digits']:,}"),
        ("nothing reaches", f"{facts['unreachable_count']:,}"),
        ("fingerprint", loaded.fingerprint[:16]),
    ]
    for label, value in lines:
        emit(f"{label:22}{clean_line(value)}")
    if cut is not None:
        emit("")
        emit(" ".join(f"{token}:'{clean_line(piece)}'" for token, piece in zip(cut["ids"], cut["pieces"], strict=True)))
        emit(f"{len(cut['ids'])} tokens; the text comes back {'as it was' if cut['comes_back'] else 'changed'}")
    next_step(f"vitruvius data tokenizer report {shlex.quote(clean_line(str(tokenizer)))}")


@command.command(
    "report",
    help="""Measure TOKENIZER on TEXTS: bytes per token, tokens per word, what is lost, and the words it cuts worst.

    TEXTS are files, folders or prepared data; files with different suffixes are measured apart. Without any, on samples
    that are on every machine: Python, C, English documentation, numbers, and a sentence in sixteen languages.""",
    examples=[
        "vitruvius data tokenizer report tokenizer.json",
        "vitruvius data tokenizer report tokenizer.json articles/ data/ --against model.gguf --html vocabulary.html",
        "vitruvius data tokenizer report tokenizer.json --json > vocabulary.json",
    ],
)
@click.argument("tokenizer", metavar="TOKENIZER", type=_file())
@click.argument("texts", metavar="[TEXTS]...", nargs=-1)
@click.option("--against", multiple=True, type=_file(), metavar="OTHER", help="Compare with it. May be given again.")
@click.option("--html", type=_file(), metavar="FILE", help="Write a page with pictures.")
@click.option("--title", help="What the page is called. [default: the tokenizer's name]")
@click.option("--characters", default=16_000_000, show_default=True, help="Characters to read of each sort of text.")
@_eos_option()
@json_option
def report_command(
    tokenizer: Path,
    texts: tuple[str, ...],
    *,
    against: tuple[Path, ...],
    html: Path | None,
    title: str | None,
    characters: int,
    eos: str | None,
    as_json: bool,
) -> None:
    """Measure, print, draw."""
    from vitruvius.cli.data_account import refuse_folders, write_pages
    from vitruvius.data.tokenization.comparing import domains_of, vocabulary_report
    from vitruvius.data.tokenization.tokenizer import load_tokenizer

    refuse_folders({"--html": html})
    if characters < 1:
        raise click.UsageError("--characters must be at least 1")
    paths = [tokenizer, *against]
    loaded = [load_tokenizer(path, eos=eos if index == 0 else None) for index, path in enumerate(paths)]
    domains, refused = domains_of(texts, characters=characters)
    names = _names(paths)
    found = vocabulary_report(
        list(zip(names, loaded, strict=True)),
        domains,
        progress=lambda name: None if as_json else say(f"measuring {clean_line(name)} ..."),
    )
    found["records_not_used"] = refused
    if html is not None:
        from vitruvius.report.vocabulary_page import vocabulary_page

        write_pages({html: vocabulary_page(found, title=title or f"Vocabulary of {names[0]}")})
    if as_json:
        emit_json(found)
        return
    from vitruvius.report.vocabulary_text import vocabulary_text

    emit(clean(vocabulary_text(found)))
    if refused:
        say(f"{refused:,} records could not be used")
    next_step(f"vitruvius data prepare IN --tokenizer {shlex.quote(clean_line(str(tokenizer)))} --out data")


def _names(paths: list[Path]) -> list[str]:
    """A short name for each that is no other's."""
    short = [
        path.parent.name or path.name if path.name == "tokenizer.json" else path.name or str(path) for path in paths
    ]
    return [name if short.count(name) == 1 else str(path) for name, path in zip(short, paths, strict=True)]
