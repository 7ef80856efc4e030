"""The part of a page about experts: load, what their choice says, which tokens go where."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from vitruvius.report.inspect_words import chip, coloured, number, tokens_of, visible
from vitruvius.report.sheet import table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LABELS = {"token": "the token", "position": "its place in the row", "previous_token": "the token before"}
_MOST_LAYERS = 12
_MOST_EXPERTS = 32


def experts_section(document: Mapping[str, Any]) -> list[str]:
    """HTML blocks; none without experts."""
    every: Sequence[Mapping[str, Any]] = document["experts"]
    if not every:
        return []
    sample = document["sample"]
    shown = (
        every if len(every) <= _MOST_LAYERS else [every[i * len(every) // _MOST_LAYERS] for i in range(_MOST_LAYERS)]
    )
    left_out = f" {len(every) - len(shown)} more layers of experts are in the data, not on this page." * (
        shown != every
    )
    return [
        "<h2>What experts are chosen for</h2>",
        (
            f"<p>Measured on {sample['rows']:,} rows of {sample['row_tokens']:,} tokens of {escape(sample['origin'])}."
            f"{left_out}</p>"
        ),
        _information_table(every, document["settings"]["shuffles"]),
        *(_overlap(document) if document["overlap"] else ()),
        *(block for facts in shown for block in _layer(document, facts)),
    ]


def _information_table(every: Sequence[Mapping[str, Any]], shuffles: int) -> str:
    rows: list[list[str]] = []
    for facts in every:
        for what, said in facts["information"].items():
            if said is None:
                continue
            rows.append(
                [
                    escape(facts["path"]),
                    escape(LABELS[what]),
                    number(said["bits"], ".3f"),
                    number(said["of_choice"], ".3f"),
                    "–" if said["share"] is None else f"{said['share']:.1%}",
                    number(said["by_chance"], ".3f"),
                    _p(said["p"], shuffles),
                ]
            )
    head = ["layer", "what the choice says about", "bits", "of", "share", "taken off as chance", "p"]
    note = (
        f"<p class='soft'>Bits of mutual information of the choice of experts with a label of each token, less what "
        f"{shuffles} random permutations of the labels give on average (which understates a strong relation a little); "
        "p is the share of permutations that reach the measured value. They treat tokens as exchangeable.</p>"
    )
    return table(head, rows, align="<<>>>>>") + note


def _p(p: float, shuffles: int) -> str:
    return f"≤ {p:.3f}" if p <= 1.01 / (shuffles + 1) else f"{p:.2f}"


def _overlap(document: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            escape(f"{pair['first']} and {pair['second']}"),
            number(pair["information"]["bits"], ".3f"),
            "–" if pair["information"]["share"] is None else f"{pair['information']['share']:.1%}",
            _p(pair["information"]["p"], document["settings"]["overlap_shuffles"]),
        ]
        for pair in document["overlap"][:24]
    ]
    head = ["layers", "bits that they share", "of the smaller entropy", "p"]
    return ["<h3>What one layer's choice says about another's</h3>", table(head, rows, align="<>>>")]


def _layer(document: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    tokens = tokens_of(document, facts["text"])
    chosen: Sequence[Sequence[int]] = facts["shown"]
    groups = [row[0] if row else None for row in chosen]
    titles = [
        f"{visible(token)}: experts {', '.join(map(str, row)) or 'none'}"
        for token, row in zip(tokens, chosen, strict=True)
    ]
    busiest, spread = number(facts["load_max_over_mean"]), number(facts["load_cv"])
    load = f"Busiest expert: {busiest} times the mean load; variation {spread}"
    dead = f"; never chosen: {', '.join(map(str, facts['dead']))}" if facts["dead"] else ""
    many = facts["experts"] > _MOST_EXPERTS
    first = sorted(facts["tables"], key=lambda row: -row["load"])[:_MOST_EXPERTS] if many else facts["tables"]
    rows = [_expert(expert, facts) for expert in first]
    cut = f"<p class='soft'>The {_MOST_EXPERTS} busiest of {facts['experts']} experts.</p>" if many else ""
    head = ["expert", "load", "most frequent tokens", "most specific tokens"]
    return [
        f"<h3>{escape(facts['path'])}: {facts['experts']} experts, {facts['per_token']:.3g} for each token</h3>",
        (
            f"<p>{load}{dead}. The text below has the colour of the expert with the lowest number that each token goes "
            "to; the pointer shows all of them.</p>"
        ),
        coloured(tokens, groups, titles),
        table(head, rows, align="<><<"),
        cut,
    ]


def _expert(expert: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    share = facts["load_share"][expert["expert"]]
    colour = f'<span class="swatch" style="background:var(--s{expert["expert"] % 8})"></span>'
    frequent = " ".join(chip(row["text"], f"{row['count']:,} times") for row in expert["frequent"])
    specific = " ".join(
        chip(row["text"], f"{row['share_of_token']:.0%} of its {_times(row)}, z = {row['z']:.1f}")
        for row in expert["specific"]
    )
    return [f"{colour}{expert['expert']}", f"{share:.1%}", frequent or "–", specific or "–"]


def _times(row: Mapping[str, Any]) -> str:
    share = row["share_of_token"]
    return f"{round(row['count'] / share) if share else 0:,} uses"
