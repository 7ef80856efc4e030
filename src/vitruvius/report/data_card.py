"""The dataset card, from its facts (`vitruvius.data-card/1`): Markdown with the front matter that hubs read, or a page.

The questions are those of Gebru et al., "Datasheets for Datasets", 2021, and of Bender and Friedman, "Data Statements
for Natural Language Processing", 2018. What the data knows of itself is told; what only people know is their answer, or
said to be not stated.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vitruvius.report import data_text as words
from vitruvius.report.data_blocks import (
    Block,
    Code,
    Heading,
    Items,
    Picture,
    Said,
    Table,
    Words,
    as_html,
    as_markdown,
    one_line,
)
from vitruvius.report.data_charts import PAGE
from vitruvius.report.data_funnel import funnel_chart, funnel_height
from vitruvius.report.sheet import page
from vitruvius.report.svg import Svg
from vitruvius.units import exact, format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Facts = Mapping[str, Any]

_PRINT = """<style>
figure { break-inside: avoid; } h2, h3 { break-after: avoid; } tr { break-inside: avoid; }
@media print { body { max-width: none; padding: 0; font-size: 11px; } table { font-size: 10px; }
  @page { margin: 14mm; } }
</style>"""
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_SIZES_ON = ((10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B"))
PII_LIMITS = (
    "Patterns find what has the form of an address or a number. Names, places and what a text says about people are "
    "not looked for, some addresses and numbers are missed, and some of what is masked was none."
)


def card_markdown(facts: Facts) -> str:
    """The card as Markdown."""
    return _front_matter(facts) + "\n" + as_markdown(list(_blocks(facts)))


def card_page(facts: Facts) -> str:
    """The card as a page: self-contained, in light and dark, and on paper."""
    return page(f"{one_line(facts['title'])}: dataset card", [_PRINT, *as_html(list(_blocks(facts)))])


def _front_matter(facts: Facts) -> str:
    """YAML in which every text is a JSON string, so that no answer can be anything else."""
    answers = facts["about"]
    documents = facts["statistics"]["whole"]["documents"]
    lines = [f"license: {_quoted(answers['license']['answer'] or 'unknown')}"]
    if languages := answers["languages"]["answer"]:
        lines += ["language:", *(f"- {_quoted(code)}" for code in languages)]
    size = next((name for limit, name in (*_SIZES, *_SIZES_ON) if documents < limit), "n>100B")
    lines += [
        f"pretty_name: {_quoted(facts['title'])}",
        "task_categories:",
        "- text-generation",
        "size_categories:",
        f"- {size}",
        "tags:",
        "- vitruvius",
    ]
    return "\n".join(["---", *lines, "---", ""])


def _quoted(text: str) -> str:
    """A text as YAML reads it: a JSON string of one line."""
    return json.dumps(one_line(text), ensure_ascii=False)


def _blocks(facts: Facts) -> Iterator[Block]:
    yield Heading(text=facts["title"], level=1)
    yield Words(text=words.lead(facts["statistics"]) + ".")
    yield from _motivation(facts)
    yield from _composition(facts)
    yield from _collection(facts)
    yield from _processing(facts)
    yield from _people(facts)
    yield from _use(facts)
    yield from _distribution(facts)
    yield from _again(facts)


def _said(facts: Facts, *keys: str) -> Iterator[Block]:
    for key in keys:
        entry = facts["about"][key]
        answer = entry["answer"]
        yield Said(question=entry["question"], answer=answer if isinstance(answer, str) else _joined(answer))


def _joined(answer: list[str] | None) -> str | None:
    return None if answer is None else ", ".join(answer)


def _motivation(facts: Facts) -> Iterator[Block]:
    yield Heading(text="Motivation")
    yield from _said(facts, "motivation", "creators")


def _composition(facts: Facts) -> Iterator[Block]:
    statistics = facts["statistics"]
    yield Heading(text="Composition")
    yield Words(text="An instance is a document of text, as tokens that end with a separator.")
    yield Table(head=words.COUNTS_HEAD, rows=tuple(words.count_rows(statistics)), align=words.COUNTS_ALIGN)
    head, rows = words.length_rows(statistics)
    if rows:
        yield Heading(text="How long the documents are", level=3)
        yield Table(head=head, rows=tuple(rows), align="<" + ">" * (len(head) - 1))
        yield Heading(text="Long documents", level=3)
        yield Table(head=words.LONGER_HEAD, rows=tuple(words.longer_rows(statistics)), align=words.LONGER_ALIGN)
    yield Heading(text="Splits", level=3)
    yield Words(text=_split_words(facts))
    yield from _said(facts, "languages", "speakers", "time_span")
    yield Heading(text="Known limits", level=3)
    yield Items(items=tuple(facts["limits"])) if facts["limits"] else Words(text="None that the data can tell.")


def _split_words(facts: Facts) -> str:
    share, seed = facts["splits"]["held_out"], facts["splits"]["seed"]
    if not share:
        return "Nothing is held out." if share == 0 else "How the splits were made is not in the index."
    return (
        f"{share:.2%} of the documents, by the hash of the seed {seed} and the text, are held out for validation. "
        "Equal texts are on one side."
    )


def _collection(facts: Facts) -> Iterator[Block]:
    yield Heading(text="Collection")
    yield from _said(facts, "collection")
    rows: list[tuple[str, ...]] = []
    for source in facts["sources"]:
        size = "-" if source["bytes"] is None else format_bytes(source["bytes"])
        weight = "as large as it is" if source["weight"] is None else f"{source['weight']:g}"
        rows.append((source["name"], exact(source["files"]), size, ", ".join(source["kinds"]), weight))
    yield Table(head=("source", "files", "size", "read as", "weight in training"), rows=tuple(rows), align="<>><<")
    for source in facts["sources"]:
        more = source["files"] - len(source["names"])
        yield Heading(text=f"Input files of {source['name']}", level=3)
        yield Items(items=tuple(source["names"]), kind="names")
        if more:
            yield Words(text=f"And {exact(more)} more, which index.json lists under settings.inputs.")


# --------------------------------------------------------------------------------------------------------- processing


def _processing(facts: Facts) -> Iterator[Block]:
    yield Heading(text="Processing")
    for names, recipe in _recipes(facts):
        several = f" of {' and '.join(names)}" if len(facts["sources"]) > 1 else ""
        if recipe is None:
            yield Words(text=f"The recipe{several} is not in the index, or this version cannot read it.")
            continue
        yield Heading(text=f"Steps{several}: recipe {recipe['name']}", level=3)
        if recipe["steps"]:
            rows = tuple(
                (str(number), step["kind"], _settings(step["settings"]), step["source"])
                for number, step in enumerate(recipe["steps"], 1)
            )
            head = ("", "step", "settings", "source of its limits")
            yield Table(head=head, rows=rows, align="><<<", mono=(1, 2))
        else:
            yield Words(text="No step: the text is as the reader found it.")
        yield Words(text=_duplicate_words(recipe))
    yield from _accounting(facts["statistics"])
    yield from _tokenizer(facts["tokenizer"])


def _recipes(facts: Facts) -> list[tuple[list[str], Mapping[str, Any] | None]]:
    """(names of sources, their recipe), each recipe once."""
    found: list[tuple[list[str], Mapping[str, Any] | None]] = []
    for source in facts["sources"]:
        names = next((names for names, recipe in found if recipe == source["recipe"]), None)
        if names is None:
            found.append(([source["name"]], source["recipe"]))
        else:
            names.append(source["name"])
    return found


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_value(value)}" for key, value in settings.items()) or "none"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text):,} characters)"


def _duplicate_words(recipe: Mapping[str, Any]) -> str:
    if recipe["duplicates"]["exact"] == "off":
        return "Duplicates were not looked for."
    exactly = "Of documents with the same text the first by name stays."
    if recipe["near_in_words"] is None:
        return f"{exactly} Near duplicates were not looked for."
    return (
        f"{exactly} Near duplicates: {recipe['near_in_words']}. Candidates are compared exactly; of near "
        "duplicates the longest stays, and each dropped one names it, with their similarity, in quarantine.jsonl."
    )


def _accounting(statistics: Mapping[str, Any]) -> Iterator[Block]:
    yield Heading(text="What became of the documents", level=3)
    if statistics["funnel"]["documents_in"]:
        svg = Svg()
        funnel_chart(svg, 0, -20, 860, statistics, PAGE)
        drawing = svg.inline(860, funnel_height(statistics) - 20, title="Documents in, kept and dropped by reason")
        yield Picture(svg=drawing)
    rows = tuple(words.funnel_rows(statistics))
    yield Table(head=("", "documents", "share", ""), rows=rows, align="<>><")
    if changed := words.changed_rows(statistics):
        yield Heading(text="What was rewritten in the kept ones", level=3)
        yield Table(head=("change", "times", ""), rows=tuple(changed), align="<><")


def _tokenizer(tokenizer: Mapping[str, Any]) -> Iterator[Block]:
    yield Heading(text="Tokenizer", level=3)
    if tokenizer["trained_here"]:
        kind = tokenizer["kind"] or "a tokenizer"
        asked = "" if tokenizer["asked_vocab_size"] is None else f", asked for {exact(tokenizer['asked_vocab_size'])}"
        origin = f"{kind}, trained on documents of the training split"
    else:
        asked, origin = "", f"loaded from {tokenizer['loaded_from']}"
    rows = (
        ("kind", origin),
        ("vocabulary", exact(tokenizer["vocab_size"]) + asked),
        ("separator", f"{tokenizer['separator']} (id {tokenizer['separator_id']})"),
        ("SHA-256", tokenizer["sha256"]),
    )
    yield Table(head=("", ""), rows=rows, align="<<")


# ------------------------------------------------------------------------------------------------------ people and use


def _people(facts: Facts) -> Iterator[Block]:
    yield Heading(text="People in the data")
    masks = [
        (source["name"], step)
        for source in facts["sources"]
        if source["recipe"]
        for step in source["recipe"]["steps"]
        if "pii" in step["kind"]
    ]
    if masks:
        names = sorted({what for _, step in masks for what in step["changes"].values()})
        yield Words(text=f"Masked by patterns: {', '.join(names)}. {PII_LIMITS}")
    else:
        yield Words(text="Personal data was neither looked for nor masked.")
    yield from _said(facts, "sensitive", "consent")


def _use(facts: Facts) -> Iterator[Block]:
    yield Heading(text="Uses")
    yield from _said(facts, "uses", "not_for")


def _distribution(facts: Facts) -> Iterator[Block]:
    yield Heading(text="Distribution and upkeep")
    yield from _said(facts, "license", "distribution", "maintenance", "homepage", "citation")
    yield Words(
        text=f"Fingerprint of the data (SHA-256 over what training reads): {facts['statistics']['fingerprint']}"
    )
    rows = tuple(
        (row["file"], row["source"], exact(row["documents"]), exact(row["tokens"]), row["sha256"])
        for row in facts["files"]
    )
    head = ("file", "source", "documents", "tokens", "SHA-256")
    yield Table(head=head, rows=rows[:_MOST_FILES], align="<<>><", mono=(4,))
    if len(rows) > _MOST_FILES:
        yield Words(text=f"And {exact(len(rows) - _MOST_FILES)} more files, which index.json lists with their hashes.")


_MOST_FILES = 20


def _again(facts: Facts) -> Iterator[Block]:
    repeat = facts["repeat"]
    yield Heading(text="How to make it again")
    yield Code(text=repeat["command"])
    yield (
        Items(items=tuple(repeat["notes"]))
        if repeat["notes"]
        else Words(text="The same inputs give the same bytes, for any number of processes.")
    )
    if repeat["recipe"] is not None:
        yield Code(text=json.dumps(repeat["recipe"], indent=2))
    versions = ", ".join(f"{name} {version or '(not installed)'}" for name, version in facts["versions"].items())
    yield Words(text=f"This card was written with {versions}.")
