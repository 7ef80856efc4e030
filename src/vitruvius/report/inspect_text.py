"""A look into a model on the terminal: roles of heads, experts, gates, layers, from the JSON document."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from vitruvius.report.inspect_experts import LABELS
from vitruvius.report.inspect_gates import telling_line
from vitruvius.report.inspect_page import heads_in
from vitruvius.report.inspect_words import head_name, number, visible
from vitruvius.report.tables import columns
from vitruvius.units import format_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Document = Mapping[str, Any]

_MOST_HEADS = 64
_MOST_EXPERTS = 16
_MOST_ROWS = 32
_WORDS = 5
_BLOCKS = " ▁▂▃▄▅▆▇█"
_WIDTH = 64


def inspect_text(document: Document) -> str:
    """Everything that fits on a screen or two; the page and `--json` have the maps."""
    where = "fresh weights" if document["step"] is None else f"step {document['step']:,}"
    sample = document["sample"]
    lines = [
        f"{document['name']}: {format_count(document['parameters'])} parameters, {where}",
        (
            f"reads {len(document['text']['tokens'])} tokens: {document['text']['origin']}; heads and experts judged "
            f"on up to {sample['rows']:,} rows of {sample['row_tokens']:,} tokens"
        ),
    ]
    blocks = [
        "\n".join(lines),
        "\n".join(_heads(document)),
        "\n".join(_without_maps(document)),
        "\n".join(_experts(document)),
        "\n".join(_gates(document)),
        "\n".join(_layers(document)),
        "\n".join(f"note: {note}" for note in document["notes"]),
    ]
    return "\n\n".join(block for block in blocks if block)


def _heads(document: Document) -> Iterator[str]:
    every = list(heads_in(document))
    if not every:
        return
    counts = Counter(head["role"] or "no role" for _, head in every)
    yield f"heads: {', '.join(f'{count} {name}' for name, count in counts.most_common())}"
    told = every if len(every) <= _MOST_HEADS else [item for item in every if item[1]["role"] not in {None, "broad"}]
    rows = [("layer", "head", "role", "score", "also", "nearest to", "keys", "distance", "sink")]
    rows += [_head(document, layer, head) for layer, head in told[:_MOST_HEADS]]
    if len(rows) > 1:
        yield from columns(rows, align="<<<><<>>>")
    if len(told) > _MOST_HEADS or len(told) < len(every):
        yield f"  ({len(every) - min(len(told), _MOST_HEADS)} more heads in --html and --json)"


def _head(document: Document, layer: Mapping[str, Any], head: Mapping[str, Any]) -> tuple[str, ...]:
    role = head["role"]
    return (
        layer["path"],
        head_name(head),
        role or "-",
        number(head["scores"][role]) if role else "",
        ", ".join(head["roles"][1:]),
        "" if role else _nearest(document, head),
        number(head["keys"], ".1f"),
        number(head["distance"], ".1f"),
        number(head["sink"]),
    )


def _nearest(document: Document, head: Mapping[str, Any]) -> str:
    """The role that a head without one comes nearest to."""
    shares = [
        (head["scores"][role["name"]] / role["threshold"], role["name"])
        for role in document["roles"]
        if role["side"] == "at least" and role["name"] != "broad" and head["scores"][role["name"]] is not None
    ]
    if not shares:
        return ""
    _, name = max(shares)
    return f"{name} {number(head['scores'][name])}"


def _without_maps(document: Document) -> Iterator[str]:
    for layer in document["layers"]:
        if layer["keeps"] == "influence":
            facts = layer["facts"]
            yield (
                f"{layer['path']} ({layer['kind']}) keeps no map; by gradients it looks "
                f"{number(facts['distance'], '.1f')} tokens away on average, {number(facts['own'])} at the token itself"
            )
        elif layer["keeps"] == "nothing":
            yield f"{layer['path']} ({layer['kind']}) keeps no map, and no gradient tells of one"


def _experts(document: Document) -> Iterator[str]:
    for facts in document["experts"]:
        yield (
            f"{facts['path']}: {facts['experts']} experts, {facts['per_token']:.3g} a token, busiest "
            f"{number(facts['load_max_over_mean'])} x the mean"
            + (f", never chosen: {facts['dead']}" if facts["dead"] else "")
        )
        for what, said in facts["information"].items():
            if said is not None:
                share = "" if said["share"] is None else f" ({said['share']:.0%})"
                yield (
                    f"  says {number(said['bits'], '.3f')} of {number(said['of_choice'])} bits{share} about "
                    f"{LABELS[what]}, p {said['p']:.3f}"
                )
        busiest = sorted(facts["tables"], key=lambda row: (-row["load"], row["expert"]))[:_MOST_EXPERTS]
        rows = [("  expert", "load", "most specific tokens")]
        rows += [(f"  {row['expert']}", f"{facts['load_share'][row['expert']]:.1%}", _words(row)) for row in busiest]
        yield from columns(rows, align="<><")
        if len(facts["tables"]) > len(busiest):
            yield f"  ({len(facts['tables']) - len(busiest)} more experts in --html and --json)"


def _words(row: Mapping[str, Any]) -> str:
    return "  ".join(visible(word["text"], most=12) for word in row["specific"][:_WORDS]) or "-"


def _gates(document: Document) -> Iterator[str]:
    for gate in document["gates"][:_MOST_ROWS]:
        name, line = telling_line(gate)
        real = [value for value in line if value is not None]
        if real:
            bars = _spark(line, gate["most"] or max(map(abs, real)) or 1.0)
            yield f"{gate['path']} {gate['name']}, {name}: {min(real):.3f} to {max(real):.3f}  {bars}"
    if len(document["gates"]) > _MOST_ROWS:
        yield f"({len(document['gates']) - _MOST_ROWS} more gates in --html and --json)"


def _spark(values: Sequence[float | None], top: float) -> str:
    """The first tokens as bars of eight heights."""
    return "".join("?" if value is None else _BLOCKS[min(8, round(8 * abs(value) / top))] for value in values[:_WIDTH])


def _layers(document: Document) -> Iterator[str]:
    lens = {row["path"]: row for row in document["lens"]["layers"]}
    rows = [("after", "size", "first token", "change", f"nats ({document['lens']['target']})", "agrees with the last")]
    every: Sequence[Mapping[str, Any]] = document["stream"]
    step = max(1, -(-len(every) // _MOST_ROWS))
    for index, row in enumerate(every):
        if index % step and index != len(every) - 1:
            continue
        read = lens.get(row["path"])
        rows.append(
            (
                row["path"],
                number(row["rms"], ".3g"),
                number(row["rms_first_token"], ".3g"),
                number(row["relative_change"], ".2f"),
                "" if read is None else number(read["nats"], ".3f"),
                "" if read is None else f"{read['agrees_with_last']:.0%}",
            )
        )
    yield from columns(rows, align="<>>>>>")
