"""The vocabulary report: one tokenizer, or several side by side, on texts of several sorts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitruvius.data.tokenization.samples import Domain, built_in
from vitruvius.data.tokenization.usage import domain_facts, usage_facts
from vitruvius.data.tokenization.vocabulary import vocabulary_facts
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vitruvius.data.tokenization.tokenizer import Tokenizer

REPORT_SCHEMA = "vitruvius.data-tokenizer-report/1"
DOMAIN_CHARACTERS = 16_000_000
"""Of each sort of text, about; what is beyond is not read."""


def vocabulary_report(
    tokenizers: Sequence[tuple[str, Tokenizer]],
    domains: Sequence[Domain],
    *,
    progress: Callable[[str], None] = lambda stage: None,  # noqa: ARG005 (a listener who does not listen)
) -> dict[str, Any]:
    """What a page or a table shows about tokenizers, `(name, tokenizer)`: plain data, the same for the same input."""
    found: list[dict[str, Any]] = []
    for name, tokenizer in tokenizers:
        progress(name)
        found.append(
            {
                "name": name,
                "kind": tokenizer.kind,
                "eos": tokenizer.eos,
                "eos_id": tokenizer.eos_id,
                "fingerprint": tokenizer.fingerprint,
                "vocabulary": vocabulary_facts(tokenizer),
                "usage": usage_facts(tokenizer, domains),
            }
        )
    return {"schema": REPORT_SCHEMA, "domains": [domain_facts(domain) for domain in domains], "tokenizers": found}


def domains_of(arguments: Sequence[str | Path], *, characters: int = DOMAIN_CHARACTERS) -> tuple[list[Domain], int]:
    """The texts to measure with, and how many records could not be read.

    Without arguments the samples of every machine. A folder of prepared data gives its validation split, or its
    training split where nothing is held out; other arguments are read as `data prepare` reads them, and files with
    different suffixes are domains of their own.

    Raises:
        DataError: an argument is missing or holds no text.
    """
    if not arguments:
        return list(built_in()), 0
    domains: list[Domain] = []
    refused = 0
    for argument in arguments:
        folder = Path(argument)
        if (folder / "index.json").is_file():
            domains.append(_prepared(folder, characters))
            continue
        parts, bad = _read(argument, characters)
        refused += bad
        if not parts:
            raise DataError("there is no text", where=str(argument), fix="name files or folders with text")
        domains += parts
    return domains, refused


def read_texts(arguments: Sequence[str | Path], tell: Callable[[str], None]) -> Iterator[str]:
    """The text of every record that can be read, in the order of `data prepare`; `tell` gets a word on each other."""
    for name, text in _records(arguments):
        if text is None:
            tell(name)
        else:
            yield text


def _records(arguments: Sequence[str | Path]) -> Iterator[tuple[str, str | None]]:
    """The suffix of each record's file and its text, None where it cannot be used."""
    from vitruvius.data.cleaning.pages import html_text
    from vitruvius.data.ledger import Refusal
    from vitruvius.data.reading.documents import ReadOptions, read_file
    from vitruvius.data.reading.inputs import find_inputs

    for file in find_inputs(arguments).files:
        suffix = Path(file.name).suffix or Path(file.name).name
        for document in read_file(file, ReadOptions()):
            if isinstance(document, Refusal):
                yield suffix, None
            elif document.markup == "html":
                yield suffix, html_text(document.text)
            else:
                yield suffix, document.text


def _read(argument: str | Path, characters: int) -> tuple[list[Domain], int]:
    texts: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    refused = 0
    for suffix, text in _records([argument]):
        if text is None:
            refused += 1
        elif not text.strip():
            continue
        elif sizes.get(suffix, 0) < characters:
            texts.setdefault(suffix, []).append(text)
            sizes[suffix] = sizes.get(suffix, 0) + len(text)
        else:
            sizes[suffix] = characters + 1
    name = str(argument)
    return [
        Domain(
            name=name if len(texts) == 1 else f"{name} {suffix}",
            source=f"the files {suffix} of {name}" if Path(argument).is_dir() else f"the file {name}",
            texts=tuple(found),
            whole=sizes[suffix] <= characters,
        )
        for suffix, found in sorted(texts.items())
    ], refused


def _prepared(folder: Path, characters: int) -> Domain:
    """The documents of prepared data, decoded by its own tokenizer."""
    import numpy as np

    from vitruvius.data.packing.shards import TokenShards

    split = "validation"
    shards = TokenShards.open(folder, split)
    if len(shards.document_starts) < 2:
        split = "train"
        shards = TokenShards.open(folder, split)
    tokenizer = shards.tokenizer()
    texts: list[str] = []
    size = number = 0
    total = len(shards.document_starts) - 1
    while number < total and size < characters:
        texts.append(tokenizer.decode(np.asarray(shards.document(number)).tolist()))
        size += len(texts[-1])
        number += 1
    if not texts:
        raise DataError("there is no document in it", where=str(folder), fix="prepare the data again")
    return Domain(name=str(folder), source=f"the {split} split of {folder}", texts=tuple(texts), whole=number == total)
