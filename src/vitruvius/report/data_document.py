"""One document's story, and documents that were drawn, in words for the terminal, from their JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.spec.reporting import printable
from vitruvius.units import exact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Story = Mapping[str, Any]

_LONG = 200
_TABLES = ("parquet", "arrow", "hf")
_HOLDS = {"at least": ">=", "at most": "<=", "is": "=", "one of": "one of", "none of": "none of"}
_OF = {
    "shard": "text as it was packed",
    "source": "text as it was read",
    "rule": "text as the rule saw it",
    "steps": "text as the steps left it",
    "bytes": "what is there, bytes that are no text escaped",
}


def explanation_text(story: Story) -> str:
    """Where a document lay, what was measured, and where it ended."""
    blocks = [
        _head(story),
        _place(story),
        *_steps(story),
        _duplicate(story),
        _twins(story),
        _start(story),
        [f"note: {note}" for note in story["notes"]],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _head(story: Story) -> list[str]:
    end = story["end"]
    name = printable(story["id"], _LONG)
    if story["kept"]:
        told = f"kept: document {exact(end['document'])} of {end['split']}, {exact(end['document_in_shard'])} of "
        size = "" if end["tokens"] is None else f", {exact(end['tokens'])} tokens with the separator"
        return [name, f"{told}{end['shard']}{size}"]
    lines = [name, f"dropped: {printable(end['reason'], _LONG)}" + (f", {end['detail']}" if end["detail"] else "")]
    if end["relation"] is not None:
        lines.append(f"  {_measured(end)}")
    return lines


def _place(story: Story) -> list[str]:
    place = story["place"]
    rows = [
        ("file", None if place["file"] is None else printable(place["file"], _LONG)),
        *((name, exact(number)) for name, number in _numbers(place)),
        ("source", place["source"]),
        ("url", None if not story["kept"] or story["end"]["url"] is None else printable(story["end"]["url"], _LONG)),
    ]
    return [f"{name:8}{value}" for name, value in rows if value is not None]


def _numbers(place: Mapping[str, Any]) -> list[tuple[str, int]]:
    """What places are called: rows in tables, lines and bytes elsewhere."""
    if place["kind"] in _TABLES:
        return [] if place["line"] is None else [("row", place["line"])]
    known = (("line", place["line"]), ("byte", place["byte_offset"]))
    return [(name, number) for name, number in known if number is not None]


def value_text(value: object) -> str:
    """A measured value or a limit as people read it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return printable(str(value), 100)
    if abs(value) < 1e15 and value == int(value):
        return f"{int(value):,}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.1f}"


def _measured(measure: Mapping[str, Any]) -> str:
    """`0.32, must be <= 0.3`."""
    value, limit = value_text(measure["value"]), value_text(measure["limit"])
    return f"{value}, must be {_HOLDS.get(measure['relation'], measure['relation'])} {limit}"


def _steps(story: Story) -> Iterator[list[str]]:
    if story["steps"] is None:
        return
    if not story["steps"]:
        yield [f"recipe {story['recipe']}: it has no steps"]
        return
    yield [f"recipe {story['recipe']}, every step, also after one that drops the document:"]
    for step in story["steps"]:
        sign = "✓" if step["passed"] else "✗"
        source = f"  ({step['source']})" if step["source"] and step["measures"] else ""
        lines = [f"{sign} {step['index'] + 1}. {step['step']}{source}"]
        lines += [
            f"    {'✓' if measure['passed'] else '✗'} {measure['reason']}: {_measured(measure)}"
            for measure in step["measures"]
        ]
        if step["changes"]:
            changed = ", ".join(f"{name} {exact(count)}" for name, count in step["changes"].items())
            sizes = f"{exact(step['characters_before'])} -> {exact(step['characters_after'])} characters"
            lines.append(f"    changed: {changed}; {sizes}")
        lines += _difference(step["difference"])
        yield lines
    if story["agrees"]:
        yield ["run again just now: it ends as the data says"]


def _difference(difference: Mapping[str, Any] | None) -> list[str]:
    if difference is None:
        return []
    lines = [f"      {line}" for line in difference["lines"]]
    unit = next(unit for unit in ("line", "word") if f"from_{unit}" in difference)
    first = f"    from {unit} {exact(difference[f'from_{unit}'])}:"
    return [first, *lines, *(["      ... and more"] if difference["more"] else [])]


def _duplicate(story: Story) -> list[str]:
    twin = story["duplicate"]
    if twin is None:
        return []
    lines = [f"the document that was kept: {printable(twin['keeper'], _LONG)}"]
    if twin["jaccard"] is not None:
        of = "" if twin["ngram_words"] is None else f" of {twin['ngram_words']}-word shingles"
        limit = "" if twin["threshold"] is None else f", near duplicates from {twin['threshold']:g}"
        again = "" if twin["jaccard_again"] is None else f"; computed again: {twin['jaccard_again']:.6f}"
        lines.append(f"  Jaccard similarity{of} {twin['jaccard']:.6f}{limit}{again}")
    if twin["difference"]:
        lines += ["  from the kept one (-) to this one (+):", *_difference(twin["difference"])]
    return lines


def _twins(story: Story) -> list[str]:
    twins = story["duplicates_dropped"]
    if not twins or not twins["count"]:
        return []
    lines = [f"{exact(twins['count'])} duplicates were dropped because this document stays:"]
    for row in twins["first"]:
        near = row["jaccard"] is not None and row["reason"] == "near_duplicate"
        alike = f", Jaccard {row['jaccard']:.4f}" if near else ""
        lines.append(f"  {printable(row['id'] or '(no id)', _LONG)} ({row['reason']}{alike})")
    if twins["count"] > len(twins["first"]):
        lines.append(f"  and {exact(twins['count'] - len(twins['first']))} more")
    return lines


def _start(story: Story) -> list[str]:
    text = story["text"]
    if text["start"] is None:
        return []
    if text["characters"] is None:
        return [f"{_OF[text['of']]}:", *_indented(text["start"])]
    size = f"{exact(text['characters'])} characters, {exact(text['bytes'])} bytes"
    more = "" if len(text["start"]) == text["characters"] else "\n..."
    return [f"{_OF[text['of']]} ({size}):", *_indented(text["start"] + more)]


def _indented(text: str) -> list[str]:
    return [f"  | {line}" for line in text.split("\n")]


# ------------------------------------------------------------------------------------------------------------- sample


def sample_text(drawn: Story) -> str:
    """The documents that were drawn, one after the other."""
    documents = drawn["documents"]
    kind = "kept" if drawn["dropped_by"] is None else "dropped"
    reason = "" if drawn["dropped_by"] in {None, "any"} else f" for {drawn['dropped_by']}"
    some = f" in {drawn['split']}" if drawn["split"] else ""
    some += f" of source {drawn['source']}" if drawn["source"] else ""
    head = f"{len(documents):,} of {exact(drawn['population'])} documents {kind}{reason}{some}, seed {drawn['seed']}"
    return "\n\n".join([head, *("\n".join(_drawn(one)) for one in documents)])


def _drawn(one: Mapping[str, Any]) -> list[str]:
    lines = [f"── {printable(one['id'] or '(no id)', _LONG)}"]
    if "reason" in one:
        lines.append(f"   {_why(one)}")
    else:
        size = "" if one["text_bytes"] is None else f", {exact(one['text_bytes'])} bytes"
        url = "" if one["url"] is None else f", {printable(one['url'], _LONG)}"
        lines.append(
            f"   {one['split']} {exact(one['document'])}, {one['source']}, {exact(one['tokens'])} tokens{size}{url}"
        )
    if one.get("note"):
        lines.append(f"   note: {one['note']}")
    if one["text"] is not None:
        more = "" if one["text_is_whole"] else "\n..."
        if one.get("text_from_byte") is not None:
            lines.append(f"   bytes from {exact(one['text_from_byte'])} on, those that are no text escaped:")
        lines += _indented(one["text"] + more)
    return lines


def _why(one: Mapping[str, Any]) -> str:
    place = "".join(f", {name} {exact(number)}" for name, number in _numbers(one))
    why = str(one["reason"])
    if one["relation"] is not None:
        why += f": {_measured(one)}"
    elif one["keeper"] is not None:
        near = isinstance(one["jaccard"], float) and one["reason"] == "near_duplicate"
        alike = f", Jaccard {one['jaccard']:.4f}" if near else ""
        why += f": like {printable(str(one['keeper']), _LONG)}{alike}"
    elif one["detail"]:
        why += f": {printable(str(one['detail']), _LONG)}"
    return f"{why} ({printable(one['file'] or '', _LONG)}{place})"
