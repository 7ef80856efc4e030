"""The part of a page about depth: the stream from layer to layer, and what each of them would predict."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from vitruvius.report.inspect_words import number, tokens_of, visible
from vitruvius.report.sheet import table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MOST_ROWS = 24
_MOST_COLUMNS = 64


def depth_section(document: Mapping[str, Any]) -> list[str]:
    """HTML blocks."""
    lens = document["lens"]
    nats = {row["path"]: row for row in lens["layers"]}
    rows = [
        [
            escape(row["path"]),
            number(row["rms"], ".3g"),
            number(row["rms_first_token"], ".3g"),
            number(row["largest"], ".3g"),
            number(row["relative_change"], ".2f"),
            number(nats[row["path"]]["nats"], ".3f") if row["path"] in nats else "–",
            f"{nats[row['path']]['agrees_with_last']:.0%}" if row["path"] in nats else "–",
        ]
        for row in document["stream"]
    ]
    head = ["after", "size", "at the first token", "largest", "change", "nats", "agrees with the last"]
    return [
        "<h2>From layer to layer</h2>",
        (
            "<p class='soft'>Size is the root mean square of the residual stream's channels over the shown text; "
            "change is how far a layer moves the stream, over its length before. Nats and agreement are those of the "
            f"head put on the stream at once, about {escape(lens['target'])} (logit lens, nostalgebraist, 2020): "
            "early layers were never trained to be read so.</p>"
        ),
        table(head, rows, align="<>>>>>>"),
        *_lens(document),
    ]


def _lens(document: Mapping[str, Any]) -> list[str]:
    every: Sequence[Mapping[str, Any]] = document["lens"]["layers"]
    tokens = tokens_of(document, "tokens")[:_MOST_COLUMNS]
    step = max(1, -(-len(every) // _MOST_ROWS))
    kept = [row for index, row in enumerate(reversed(every)) if index % step == 0]
    head = "".join(f"<th>{escape(visible(token, most=12))}</th>" for token in tokens)
    lines = [f"<tr><th></th>{head}</tr>"]
    for row in kept:
        cells = "".join(_cell(top) for top in row["top"][: len(tokens)])
        lines.append(f"<tr><th>{escape(row['path'])}</th>{cells}</tr>")
    said = [f"the last layer on top{'' if step == 1 else f', every {step}th layer'}"]
    if len(document["lens"]["layers"][0]["top"]) > len(tokens):
        said.append(f"the first {len(tokens)} tokens")
    return [
        "<h3>Likeliest token after each layer</h3>",
        f"<p class='soft'>Columns are the tokens read; {', '.join(said)}. The ground is the probability.</p>",
        f'<div class="scroll"><table class="lens">{"".join(lines)}</table></div>',
    ]


def _cell(top: Mapping[str, Any]) -> str:
    share = top["p"] or 0.0
    look = f"background:color-mix(in srgb, var(--s0) {85 * share:.0f}%, transparent)"
    text = escape(visible(top["text"], most=12))
    return f'<td style="{look}" title="{escape(visible(top["text"]))}: {number(top["p"], ".3f")}">{text}</td>'
