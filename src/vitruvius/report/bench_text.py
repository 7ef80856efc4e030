"""A bench on the terminal and in Markdown, from its JSON document (`vitruvius.bench/1`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.report.tables import columns, markdown
from vitruvius.units import format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Document = Mapping[str, Any]

HEAD = ("phase", "tokens", "tokens/s", "quartiles", "a run", "warm-ups + runs", "of roofline", "of products", "memory")
_ALIGN = "<>>>>>>>>"
_BAR, _CELLS = "█", 30
_SHOWN = 0.005
"""The least share of the time that has a line."""


def bench_text(document: Document, *, bar: str = _BAR) -> str:
    """Everything that fits on a screen: rows, comparisons, breakdown, what they may be off by."""
    blocks = ["\n".join(facts(document)), *(_rows(document, contender) for contender in document["contenders"])]
    blocks += [
        "\n".join(comparison_lines(document)),
        "\n\n".join(_breakdowns(document, bar)),
        "\n".join(notes(document)),
    ]
    return "\n\n".join(block for block in blocks if block)


def facts(document: Document) -> tuple[str, str]:
    """What was run, and on what: a line each."""
    environment: dict[str, Any] = document["environment"]
    machine, first = document["machine"], document["contenders"][0]
    threads = f"{document['threads']} thread" + "s" * (document["threads"] != 1)
    what = f"{first['architecture']}: {format_count(first['parameters'])} parameters, {document['dtype']}"
    packages: dict[str, str] = environment["packages"]
    where = machine["title"] if machine else environment["cpu"] or environment["machine"]
    load: float | None = environment["load_average"]["before"]
    busy = "" if load is None else f", load {load:.1f} before"
    return (
        f"{what}, batch {document['batch']:,}, {threads}",
        f"on {where}, torch {packages.get('torch', 'unknown')}{busy}",
    )


def _rows(document: Document, contender: Mapping[str, Any]) -> str:
    rows = [cells(row) for row in document["rows"] if row["contender"] == contender["name"]]
    title = [contender["name"]] if len(document["contenders"]) > 1 else []
    marked = columns([HEAD, *rows], align=_ALIGN)
    return "\n".join([*title, *marked])


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One row of the table; predictions begin with `~` and end with how far off they may be."""
    first = (row["phase"], f"{row['length']:,}")
    if row["status"] == "measured":
        rate, seconds = row["tokens_per_second"], row["seconds"]
        return (
            *first,
            number(rate["median"]),
            f"{number(rate['q1'])} to {number(rate['q3'])}",
            duration(seconds["median"]),
            f"{row['warmups']} + {row['runs']}",
            share(row["share_of_bound"]),
            share(row["share_of_products"]),
            format_bytes(row["peak_memory_bytes"]),
        )
    if row["status"] == "predicted":
        guess = row["predicted"]
        rate = guess["tokens_per_second"]
        return (
            *first,
            f"~{number(rate)}",
            f"{number(rate / guess['off_by'])} to {number(rate * guess['off_by'])}",
            f"~{duration(guess['seconds'])}",
            "predicted",
            "",
            "",
            f"~{format_bytes(guess['peak_memory_bytes'])}",
        )
    return (*first, "", "", "", row["status"], "", "", "")


def comparison_lines(document: Document) -> list[str]:
    """What can be said of the first contender against the others, a line each."""
    lines: list[str] = []
    for versus in document["comparisons"]:
        verdict = "inconclusive against" if versus["verdict"] == "inconclusive" else f"{versus['verdict']} than"
        lines.append(
            f"{versus['phase']} at {versus['length']:,}: {versus['a']} is {verdict} {versus['b']}: "
            f"{versus['times_as_fast']:.3f} times as fast ({versus['ci_low']:.3f} to {versus['ci_high']:.3f}, "
            f"{versus['rounds']} rounds); {versus['reason']}"
        )
    return lines


def _breakdowns(document: Document, bar: str) -> list[str]:
    shown: list[str] = []
    for found in document["breakdown"]:
        if found["contender"] != document["name"]:
            continue
        rows = [
            (part["name"], f"{part['share']:.1%}", bar * round(part["share"] * _CELLS))
            for part in found["components"]
            if part["share"] >= _SHOWN
        ]
        shown.append("\n".join([f"where {breakdown_title(found)} spends its time", *columns(rows, align="<><")]))
    return shown


def breakdown_title(found: Mapping[str, Any]) -> str:
    """`prefill at 4,096`, and what of it was recorded."""
    covers = f", {found['covers']}," if found["covers"] else ""
    return f"{found['phase']} at {found['length']:,}{covers}"


def breakdown_note(found: Mapping[str, Any]) -> str:
    """How the parts add up, and what recording cost."""
    added = f"the parts add up to {found['sum_of_parts_seconds'] / found['seconds']:.2%} of the recorded run"
    many = found["recorded_runs"]
    recorded = f"{added}, the quickest of {many} that were" if many > 1 else added
    if found["kernels_only"]:
        return f"{recorded}, counted in kernels alone"
    if found["overhead"] is None:
        return recorded
    return f"{recorded}; it took {1 + found['overhead']:.2f} times the median of those that were not recorded"


def notes(document: Document) -> list[str]:
    """What is worth knowing before a number is quoted, a line each; rows of which the same is to be said share one."""
    many = len(document["contenders"]) > 1
    about: dict[tuple[str, str, str], list[int]] = {}
    for row in document["rows"]:
        said = [*row["notes"], *([_why(row)] if row["status"] != "measured" else [])]
        for note in said:
            whose = row["contender"] if many and note not in row["notes"] else ""
            lengths = about.setdefault((whose, row["phase"], note), [])
            if row["length"] not in lengths:
                lengths.append(row["length"])
    lines = [f"note: {note}" for note in document["notes"]]
    for (whose, phase, note), lengths in about.items():
        place = f"{phase} at {_joined([f'{length:,}' for length in lengths])}"
        lines.append(f"note: {f'{whose}, ' if whose else ''}{place}: {note}")
    mine = [found for found in document["breakdown"] if found["contender"] == document["name"]]
    lines += [f"note: {breakdown_title(found)}: {breakdown_note(found)}" for found in mine]
    if document["machine"]:
        lines += [f"note: machine: {note}" for note in document["machine"]["notes"]]
    return lines


def _why(row: Mapping[str, Any]) -> str:
    """Why a row has no measurement, and what stands in its place."""
    if row["status"] != "predicted":
        return row["reason"]
    guess = row["predicted"]
    return f"predicted from {guess['basis']}, off by up to {guess['off_by']:.1f} times either way; {row['reason']}"


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def bench_markdown(document: Document) -> str:
    """The rows as a Markdown table, predictions marked as such, and the notes."""
    rows: list[Sequence[str]] = []
    many = len(document["contenders"]) > 1
    for row in document["rows"]:
        shown = cells(row)
        rows.append([row["contender"], *shown] if many else list(shown))
    lines = [markdown([*(["contender"] if many else []), *HEAD], rows), ""]
    for found in document["breakdown"]:
        if found["contender"] == document["name"]:
            parts = [(part["name"], f"{part['share']:.1%}") for part in found["components"] if part["share"] >= _SHOWN]
            lines += [markdown((f"where {breakdown_title(found)} spends its time", ""), parts), ""]
    lines += [f"- {line}" for line in comparison_lines(document)]
    lines += [f"- {line.removeprefix('note: ')}" for line in notes(document)]
    return "\n".join(lines)


def number(value: float) -> str:
    """About four digits: `0.1234`, `12.34`, `1,234`."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds as people say them: `3.21 ms`, `12.3 s`, `5.6 min`."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def share(value: float | None) -> str:
    """A percentage; nothing where it is not known."""
    return "" if value is None else f"{value:.1%}"
