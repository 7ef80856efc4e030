"""One HTML page about tokenizers: how many bytes a token carries, what words cost, what the vocabulary is made of."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Any

from vitruvius.report.sheet import page, shares, table
from vitruvius.report.svg import Svg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_STYLE = """
.piece { display: inline-block; border-radius: 3px; padding: 0 .25em; margin: 0 1px 1px 0; white-space: pre;
  font: .85em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--tint);
  border: 1px solid var(--line); max-width: 100%; overflow: hidden; text-overflow: ellipsis; vertical-align: bottom; }
.best { font-weight: 600; color: var(--good); } figcaption { font-size: .85rem; color: var(--soft); }
figure.chart svg { color: var(--ink); } p.source { font-size: .85rem; }
table td:last-child:not(.number) { min-width: 18rem; width: 60%; } table td:first-child { min-width: 8rem; }
@media print { details { display: none; } }
""".strip()
_LEFT, _RIGHT, _BAR, _GAP, _TOP = 150, 60, 12, 12, 8
_WIDTH = 760
_WORDS, _TOKENS = 15, 20
_MARKS = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
_RUN = re.compile(r"(.)\1{5,}", re.DOTALL)
_SMALL = 1_000
"""Bytes; domains below are sentences, shown apart."""


def vocabulary_page(report: Mapping[str, Any], *, title: str) -> str:
    """The page about a report, as `vitruvius.data-tokenizer-report/1` holds it."""
    tokenizers: Sequence[Mapping[str, Any]] = report["tokenizers"]
    domains: Sequence[Mapping[str, Any]] = report["domains"]
    large = [index for index, domain in enumerate(domains) if domain["bytes"] >= _SMALL]
    small = [index for index, domain in enumerate(domains) if domain["bytes"] < _SMALL]
    body = [
        f"<style>{_STYLE}</style>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{_lead(tokenizers, domains)}</p>',
        _legend(tokenizers),
        *_efficiency(domains, tokenizers, large, "Bytes per token", "bytes_per_token", "more is shorter sequences"),
        *_efficiency(domains, tokenizers, large, "Tokens per word", "tokens_per_word", "fewer is shorter sequences"),
        *_sentences(domains, tokenizers, small),
        "<h2>What comes back</h2>",
        _losses(tokenizers, domains),
        "<h2>The vocabularies</h2>",
        _vocabularies(tokenizers),
        *(part for found in tokenizers for part in _one(found, len(tokenizers))),
        "<h2>What was measured</h2>",
        _sources(domains),
    ]
    return page(title, body)


def _lead(tokenizers: Sequence[Mapping[str, Any]], domains: Sequence[Mapping[str, Any]]) -> str:
    size = sum(domain["bytes"] for domain in domains)
    names = ", ".join(f"{found['name']} ({found['vocabulary']['vocab_size']:,} tokens)" for found in tokenizers)
    return escape(f"{names}, measured on {size / 1e6:,.2f} MB of text in {len(domains)} domains.")


def _legend(tokenizers: Sequence[Mapping[str, Any]]) -> str:
    items = "".join(
        f'<li><span class="swatch" style="background:var(--s{index % 8})"></span>{escape(found["name"])}: '
        f"{escape(found['kind'])}</li>"
        for index, found in enumerate(tokenizers)
    )
    return f'<ul class="legend">{items}</ul>'


def _efficiency(
    domains: Sequence[Mapping[str, Any]],
    tokenizers: Sequence[Mapping[str, Any]],
    chosen: Sequence[int],
    title: str,
    key: str,
    meaning: str,
) -> list[str]:
    """A chart with a bar for each tokenizer in each domain."""
    rows: list[tuple[str, list[tuple[float | None, str]]]] = []
    for index in chosen:
        cells = [found["usage"]["domains"][index] for found in tokenizers]
        if any(cell[key] is not None for cell in cells):
            rows.append((str(domains[index]["name"]), [(cell[key], "*" if _loses(cell) else "") for cell in cells]))
    if not rows:
        return []
    lost = "; * where documents do not come back as they were" if any(m for _, cs in rows for _, m in cs) else ""
    return [f"<h2>{title}</h2>", f'<p class="soft">{meaning}{lost}</p>', _bars(rows, title)]


def _loses(cell: Mapping[str, Any]) -> bool:
    """Whether fewer tokens may only mean that something was left out."""
    return cell["unknown_tokens"] > 0 or cell["round_trip_failures"] > 0


def _bars(rows: Sequence[tuple[str, Sequence[tuple[float | None, str]]]], title: str) -> str:
    most = max(value for _, values in rows for value, _ in values if value is not None)
    svg = Svg()
    y = _TOP
    for name, values in rows:
        height = _BAR * len(values)
        svg.text(_LEFT - 8, y + height / 2 + 4, _clipped(name, 22), size=12, fill="currentColor", anchor="end")
        for index, (value, mark) in enumerate(values):
            if value is not None:
                length = max(1.0, value / most * (_WIDTH - _LEFT - _RIGHT))
                svg.rect(_LEFT, y + index * _BAR + 1, length, _BAR - 2, fill=f"var(--s{index % 8})", stroke="none")
                svg.text(_LEFT + length + 5, y + index * _BAR + 10, f"{value:.2f}{mark}", size=10, fill="var(--soft)")
        y += height + _GAP
    return f'<figure class="chart">{svg.inline(_WIDTH, y, title=title)}</figure>'


def _sentences(
    domains: Sequence[Mapping[str, Any]], tokenizers: Sequence[Mapping[str, Any]], chosen: Sequence[int]
) -> list[str]:
    """Small domains as a table of tokens: what one sentence costs in each language."""
    if not chosen:
        return []
    rows: list[list[str]] = []
    for index in chosen:
        cells = [found["usage"]["domains"][index] for found in tokenizers]
        fewest = min((cell["tokens"] for cell in cells if not _loses(cell)), default=-1)
        rows.append(
            [
                escape(str(domains[index]["name"])),
                f"{domains[index]['characters']:,}",
                f"{domains[index]['bytes']:,}",
                *(_sentence_cell(cell, best=fewest if len(cells) > 1 else -1) for cell in cells),
            ]
        )
    head = ["", "characters", "bytes", *(escape(found["name"]) for found in tokenizers)]
    said = "Tokens, with bytes per token. " + str(domains[chosen[0]]["source"]) + "."
    return [
        "<h2>Sentences</h2>",
        f'<p class="soft">{escape(said)}</p>',
        table(head, rows, align="<" + ">" * (len(head) - 1)),
    ]


def _sentence_cell(cell: Mapping[str, Any], *, best: int) -> str:
    look = ' class="best"' if cell["tokens"] == best and not _loses(cell) else ""
    unknown = cell["unknown_tokens"]
    lost = f' <span class="bad">{unknown:,} unknown</span>' if unknown else ""
    return f'<span{look}>{cell["tokens"]:,}</span> <span class="soft">({cell["bytes_per_token"]:.2f})</span>{lost}'


def _losses(tokenizers: Sequence[Mapping[str, Any]], domains: Sequence[Mapping[str, Any]]) -> str:
    documents = sum(domain["documents"] for domain in domains)
    rows: list[list[str]] = []
    for found in tokenizers:
        parts = found["usage"]["domains"]
        failed = sum(part["round_trip_failures"] for part in parts)
        unknown = sum(part["unknown_tokens"] for part in parts)
        first = next((part["first_failure"] for part in parts if part["first_failure"]), None)
        share = unknown / max(1, found["usage"]["tokens"])
        rows.append(
            [
                escape(found["name"]),
                f'<span class="{"good" if not failed else "bad"}">{failed:,} of {documents:,}</span>',
                f"{unknown:,} ({share:.3%})",
                _piece(first["text"]) if first else "",
            ]
        )
    head = ["", "documents that differ", "unknown tokens", "around the first difference"]
    return table(head, rows, align="<>><")


def _vocabularies(tokenizers: Sequence[Mapping[str, Any]]) -> str:
    lines = (
        ("ids", "vocab_size"),
        ("ids without a token", "ids_without_token"),
        ("special tokens", "special_token_count"),
        ("tokens that start a word", "word_start_tokens"),
        ("tokens that are part of a character", "part_of_character_tokens"),
        ("tokens of white space", "white_space_tokens"),
        ("tokens with digits", "digit_tokens"),
        ("longest run of digits in a token", "longest_digits"),
        ("bytes without a token of their own", "utf8_bytes_without_token"),
        ("tokens that nothing can reach", "unreachable_count"),
    )
    rows = [[label, *(f"{found['vocabulary'][key]:,}" for found in tokenizers)] for label, key in lines]
    rows.append(["bytes of a token, mean", *(_number(found["vocabulary"]["mean_token_bytes"]) for found in tokenizers)])
    rows.append(
        [
            "tokens not used in these texts",
            *(
                f"{found['usage']['unused_count']:,} ({_percent(found['usage']['unused_share'])})"
                for found in tokenizers
            ),
        ]
    )
    rows.append(["used tokens with a digit", *(_percent(found["usage"]["digit_share"]) for found in tokenizers)])
    head = ["", *(escape(found["name"]) for found in tokenizers)]
    return table(head, rows, align="<" + ">" * len(tokenizers))


def _one(found: Mapping[str, Any], number: int) -> list[str]:
    """The parts about one tokenizer alone."""
    facts, usage = found["vocabulary"], found["usage"]
    name = f" of {escape(found['name'])}" if number > 1 else ""
    parts: list[str] = []
    if usage["worst_words"]:
        rows = [
            [
                f"{word['extra_tokens']:,}",
                f"{word['count']:,}",
                str(word["tokens"]),
                "".join(map(_piece, word["pieces"])),
            ]
            for word in usage["worst_words"][:_WORDS]
        ]
        parts += [
            f"<h2>Words that cost most{name}</h2>",
            '<p class="soft">Uses times the tokens beyond one, each word by itself after a space.</p>',
            table(["extra tokens", "uses", "tokens", "cut as"], rows, align=">>><"),
        ]
    scripts = sum(facts["scripts"].values())
    if scripts:
        parts += [
            f"<h2>Scripts{name}</h2>",
            '<p class="soft">Of the tokens with letters in them.</p>',
            shares([(script, count / scripts) for script, count in facts["scripts"].items()]),
        ]
    longest = "".join(_piece(token["text"]) for token in facts["longest_tokens"][:_TOKENS])
    parts += [f"<h3>Longest tokens{name}</h3>", f"<p>{longest}</p>"]
    if facts["special_tokens"]:
        special = "".join(_piece(f"{token['text']} {token['id']}") for token in facts["special_tokens"][:_TOKENS])
        more = facts["special_token_count"] - min(_TOKENS, len(facts["special_tokens"]))
        tail = f'<span class="soft"> and {more:,} more</span>' if more > 0 else ""
        parts += [f"<h3>Special tokens{name}</h3>", f"<p>{special}{tail}</p>"]
    if facts["unreachable"]:
        said = "".join(_piece(token["text"]) for token in facts["unreachable"])
        more = facts["unreachable_count"] - len(facts["unreachable"])
        tail = f'<span class="soft"> and {more:,} more</span>' if more > 0 else ""
        parts += [f"<h3>Tokens that nothing can reach{name}</h3>", f"<p>{said}{tail}</p>"]
    return parts


def _sources(domains: Sequence[Mapping[str, Any]]) -> str:
    rows: list[list[str]] = []
    seen: dict[str, int] = {}
    for domain in domains:
        seen[domain["source"]] = seen.get(domain["source"], 0) + 1
    done: set[str] = set()
    for domain in domains:
        source = str(domain["source"])
        if source in done:
            continue
        done.add(source)
        same = [other for other in domains if other["source"] == source]
        name = str(domain["name"]) if seen[source] == 1 else f"{seen[source]} languages"
        rows.append(
            [
                escape(name),
                f"{sum(other['documents'] for other in same):,}",
                f"{sum(other['words'] for other in same):,}",
                f"{sum(other['bytes'] for other in same):,}",
                escape(source + ("" if domain["whole"] else " (the first of them)")),
            ]
        )
    return table(["", "documents", "words", "bytes", "source"], rows, align="<>>><")


def _piece(text: str) -> str:
    return f'<span class="piece">{escape(_clipped(_visible(text), 60))}</span>'


def _visible(text: str) -> str:
    """Line breaks and other characters that would not be seen made visible, and long runs of one character counted."""
    seen = "".join(_MARKS.get(ch) or (ch if ch.isprintable() else ch.encode("unicode_escape").decode()) for ch in text)
    return _RUN.sub(lambda run: f"{run[1].replace(' ', '␣')}×{len(run[0])}", seen)


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
