"""A validation as one HTML page, from its JSON document (`vitruvius.validate/1`). Self-contained, light and dark."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Any

from vitruvius.report import validate_text as words
from vitruvius.report.bench_page import bench_sections
from vitruvius.report.bench_text import facts, notes
from vitruvius.report.sheet import inline, listed, page, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Document = Mapping[str, Any]

_KIND = {"✓": "good", "✗": "bad", "-": "soft", "yes": "good", "no": "bad", "not run": "soft"}


def validation_page(document: Document, *, drawing: str) -> str:
    """The page; `drawing` is the SVG of the architecture."""
    passed = "good" if document["passed"] else "bad"
    body = [
        f"<h1>{escape(document['name'])}</h1>",
        f'<p class="lead">{escape(document["description"])}</p>',
        f'<p class="{passed}"><b>{escape(words.verdict(document))}</b></p>',
        listed(document["notes"]),
        f'<figure class="paper">{inline(drawing)}</figure>',
        "<h2>Architecture tests</h2>",
        f'<p class="soft">{escape(document["checks"]["subject"])}</p>',
        _table(("question", "answer", "checks"), words.questions(document), align="<<<", marked=1),
        *_failures(document),
        f"<details><summary>Every check</summary>{_checks(document)}</details>",
        "<h2>Parameter counts</h2>",
        _table(("part", "parameters", ""), words.parameter_rows(document), align="<>>"),
        *_claims(document),
        "<h2>What it costs</h2>",
        _table(("", *document["bills"]), words.memory_rows(document), align="<>>"),
        _table(words.DEVICE_HEAD, words.device_rows(document), align="<<<>>>>", marked=2),
        *_bench(document),
        "<h2>Configuration</h2>",
        f"<pre>{escape(document['spec'])}</pre>",
        "<h2>The next experiment</h2>",
        *_experiment(document),
        "<details><summary>Record, to repeat it</summary>",
        f"<pre>{escape(json.dumps(words.record(document), indent=2))}</pre></details>",
    ]
    return page(f"{document['name']}: validation", body)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, align: str, marked: int | None = None) -> str:
    """A table of plain texts; the column `marked` is coloured by what it says."""
    cells = [[_cell(text, coloured=i == marked) for i, text in enumerate(row)] for row in rows]
    return table([escape(name) for name in head], cells, align=align)


def _cell(text: str, *, coloured: bool) -> str:
    kind = _KIND.get(text) if coloured else None
    return escape(text) if kind is None else f'<span class="{kind}">{escape(text)}</span>'


def _checks(document: Document) -> str:
    return _table(("", "check", "measured", "detail"), words.check_rows(document), align="<<<<", marked=0)


def _failures(document: Document) -> list[str]:
    return [
        f'<p><b class="bad">✗ {escape(one["name"])}</b>: {escape(one["detail"])}<br>{escape(one["means"])}.<br>'
        f'<span class="soft">Look at: {escape(one["look_at"])}.</span></p>'
        for one in words.failures(document)
    ]


def _claims(document: Document) -> list[str]:
    if not words.claims(document):
        return []
    rows = words.claim_rows(document)
    return [f"<p>{escape(words.claims_title())}</p>", _table(("", "about", "says", "is"), rows, align="<<<<", marked=0)]


def _bench(document: Document) -> list[str]:
    bench, of = document["bench"], document["bench_of"]
    what, where = facts(bench)
    sections = [
        "<h2>Benchmark</h2>",
        f'<p class="soft">{escape(what)}<br>{escape(where)} {escape(words.left_out(document))}</p>',
    ]
    if document["full_size"]:
        head = [escape(name) for name in words.FULL_HEAD]
        rows = [[escape(cell) for cell in row] for row in words.full_rows(document)]
        note = escape(words.full_note(document)).replace("**predicted**", '<span class="mark">predicted</span>')
        sections += [
            "<h3>At full size, predicted</h3>",
            f"<p>{note}</p>",
            table(head, rows, align="<>>>>>", marks=["predicted"] * len(rows)),
            f"<h3>{escape(of['name'])}, the prototype that was run</h3>",
        ]
    sections += [part.replace("<h2>", "<h3>").replace("</h2>", "</h3>") for part in bench_sections(bench)]
    if of["blind_spots"]:
        sections.append(f"<h3>What {escape(of['name'])} cannot show</h3>")
        sections.append(listed(f"{spot['what']}: {spot['because']}" for spot in of["blind_spots"]))
    said = listed(line.removeprefix("note: ") for line in notes(bench))
    sections.append(f"<details><summary>How far off</summary>{said}</details>")
    return sections


def _experiment(document: Document) -> list[str]:
    about, command, basis = (escape(line) for line in words.experiment_lines(document))
    return [f"<p>{about}</p><pre>{command}</pre>", f'<p class="soft">{basis}</p>']
