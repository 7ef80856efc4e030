"""The vocabulary report as text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.report.tables import columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WORDS = 10


def vocabulary_text(report: Mapping[str, Any]) -> str:
    """The tables of a report, as `vitruvius.data-tokenizer-report/1` holds it."""
    tokenizers: Sequence[Mapping[str, Any]] = report["tokenizers"]
    parts = [_domains(report, tokenizers), _vocabularies(tokenizers)]
    for found in tokenizers:
        words = found["usage"]["worst_words"][:_WORDS]
        if words:
            rows = [
                [f"{word['extra_tokens']:,}", f"{word['count']:,}", str(word["tokens"]), _pieces(word["pieces"])]
                for word in words
            ]
            title = f"words that cost most, {found['name']}"
            parts.append("\n".join([title, *columns([["extra", "uses", "tokens", "cut as"], *rows], align=">>><")]))
    return "\n\n".join(parts)


def _domains(report: Mapping[str, Any], tokenizers: Sequence[Mapping[str, Any]]) -> str:
    names = [found["name"] for found in tokenizers]
    head = ["bytes per token", "bytes", *names]
    rows: list[list[str]] = []
    for index, domain in enumerate(report["domains"]):
        cells = [found["usage"]["domains"][index] for found in tokenizers]
        marked = [_number(cell["bytes_per_token"]) + _mark(cell) for cell in cells]
        rows.append([domain["name"], f"{domain['bytes']:,}", *marked])
    first = "\n".join(columns([head, *rows], align="<" + ">" * (len(head) - 1)))
    rows = [
        [domain["name"], f"{domain['words']:,}"]
        + [_number(found["usage"]["domains"][index]["tokens_per_word"]) for found in tokenizers]
        for index, domain in enumerate(report["domains"])
    ]
    second = "\n".join(columns([["tokens per word", "words", *names], *rows], align="<" + ">" * (len(head) - 1)))
    lost = any(_mark(cell) == "*" for found in tokenizers for cell in found["usage"]["domains"])
    return first + ("\n* documents do not come back as they were" if lost else "") + "\n\n" + second


def _vocabularies(tokenizers: Sequence[Mapping[str, Any]]) -> str:
    def row(label: str, key: str, part: str = "vocabulary") -> list[str]:
        return [label, *(f"{found[part][key]:,}" for found in tokenizers)]

    rows = [
        ["", *(found["name"] for found in tokenizers)],
        ["kind", *(found["kind"] for found in tokenizers)],
        row("vocabulary", "vocab_size"),
        row("special tokens", "special_token_count"),
        row("tokens that start a word", "word_start_tokens"),
        row("parts of characters", "part_of_character_tokens"),
        row("bytes without a token", "utf8_bytes_without_token"),
        row("tokens nothing can reach", "unreachable_count"),
        row("tokens not used here", "unused_count", "usage"),
        ["unknown tokens", *(_sum(found, "unknown_tokens") for found in tokenizers)],
        ["documents that do not come back", *(_sum(found, "round_trip_failures") for found in tokenizers)],
    ]
    return "\n".join(columns(rows, align="<" + ">" * len(tokenizers)))


def _sum(found: Mapping[str, Any], key: str) -> str:
    return f"{sum(domain[key] for domain in found['usage']['domains']):,}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _mark(cell: Mapping[str, Any]) -> str:
    """Marks where fewer tokens may only mean that something was left out."""
    return "*" if cell["unknown_tokens"] or cell["round_trip_failures"] else " "


def _pieces(pieces: Sequence[str]) -> str:
    return "|".join(pieces)
