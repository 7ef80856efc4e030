"""One HTML page about one look into a model: maps and roles of heads, experts, gates, depth. Works offline."""

from __future__ import annotations

import json
from collections import Counter
from html import escape
from typing import TYPE_CHECKING, Any

from vitruvius.report.inspect_depth import depth_section
from vitruvius.report.inspect_experts import experts_section
from vitruvius.report.inspect_gates import gates_section
from vitruvius.report.inspect_maps import axis, data_uri, large_map
from vitruvius.report.inspect_words import head_name, number, tinted, tokens_of, visible
from vitruvius.report.sheet import listed, page, table
from vitruvius.units import format_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Document = Mapping[str, Any]

_STYLE = """
p.text { font: 14px/2 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; border: 1px solid var(--line); border-radius: 6px; padding: .75rem 1rem; }
p.text span { padding: .15em 1px; border-radius: 3px; } code.token { background: var(--tint); padding: 0 .35em;
  border: 1px solid var(--line); border-radius: 4px; white-space: nowrap; line-height: 1.9; }
.heads { display: flex; flex-wrap: wrap; gap: .6rem; margin: .5rem 0 1.25rem; }
.heads figure { margin: 0; width: 7.2rem; }
.heads img { width: 7.2rem; height: 7.2rem; image-rendering: pixelated; display: block; border: 1px solid var(--line); }
.heads figcaption { font-size: .78rem; color: var(--soft); line-height: 1.3; } .heads b { color: var(--ink); }
.maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(30rem, 1fr)); gap: 1rem; }
.maps figure { margin: 0; } figure.paper svg { max-width: 100%; height: auto; } .heads-table td, .heads-table th {
  padding-right: .6rem; font-size: .86rem; } .heads-table td:last-child { min-width: 0; }
@media (max-width: 34rem) { .maps { grid-template-columns: 1fr; } }
body { max-width: 76rem; } table.lens td, table.lens th { font: 11px/1.4 ui-monospace, Menlo, monospace;
  padding: .2rem .4rem; border: 1px solid var(--line); white-space: nowrap; min-width: 0; }
.ramp { display: inline-block; width: 10rem; height: .8rem; vertical-align: middle; border: 1px solid var(--line);
  background: linear-gradient(90deg, #ffffff, #bfdbfe, #3b82f6, #1e3a8a, #0f172a); }
""".strip()
_MOST_THUMBNAILS = 256
_LARGE = 6
_NEAR = 0.4
"""A head is shown large for a role from this part of its threshold on; one head is shown in any case."""


def inspect_page(document: Document) -> str:
    """The page about a document of `vitruvius.inspect/1`."""
    where = "fresh weights" if document["step"] is None else f"step {document['step']:,}"
    lead = f"{format_count(document['parameters'])} parameters, {where}; {document['text']['origin']}"
    body = [
        f"<style>{_STYLE}</style>",
        f"<h1>Inside {escape(document['name'])}</h1>",
        f'<p class="lead">{escape(lead)}</p>',
        _notes(document),
        *_the_text(document),
        *_roles(document),
        '<div class="maps">',
        *_large_maps(document),
        "</div>",
        *_all_maps(document),
        *experts_section(document),
        *gates_section(document),
        *depth_section(document),
        *_definitions(document),
        *_record(document),
    ]
    return page(f"Inside {document['name']}", body)


def _notes(document: Document) -> str:
    return f'<div class="unsure">{listed(document["notes"])}</div>' if document["notes"] else ""


def _the_text(document: Document) -> Iterator[str]:
    for which, title in (("source", "What the encoder reads"), ("tokens", "What it reads")):
        tokens = tokens_of(document, which)
        if tokens:
            titles = [f"token {place}: {visible(token)}" for place, token in enumerate(tokens)]
            shares = [0.1 if place % 2 else 0.22 for place in range(len(tokens))]
            yield f"<h2>{title}</h2>"
            yield tinted(tokens, shares, titles, colour="s7")
    yield "<p class='soft'>Spaces, line breaks and tabs are shown as · ⏎ ⇥.</p>"


def heads_in(document: Document) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(sublayer, head) of every head of the document."""
    for layer in document["layers"]:
        for head in layer["heads"]:
            yield layer, head


def _roles(document: Document) -> Iterator[str]:
    every = list(heads_in(document))
    yield "<h2>What heads do</h2>"
    if not every:
        yield "<p>No layer that was looked at keeps an attention map.</p>"
        return
    counts = Counter(head["role"] or "no role" for _, head in every)
    yield f"<p>{len(every)} heads: {escape(', '.join(f'{count} {name}' for name, count in counts.most_common()))}.</p>"
    names = [role["name"] for role in document["roles"]]
    measured = [name for name in names if any(head["scores"][name] is not None for _, head in every)]
    rows: list[list[str]] = []
    for layer, head in every:
        also = ", ".join(head["roles"][1:])
        scores = [_score(head, name) for name in measured]
        rows.append(
            [
                escape(layer["path"]),
                escape(head_name(head)),
                f"<strong>{escape(head['role'])}</strong>" if head["role"] else "–",
                escape(also),
                *scores,
                number(head["keys"], ".1f"),
                number(head["distance"], ".1f"),
                number(head["sink"]),
            ]
        )
    columns = ["layer", "head", "role", "also", *map(escape, measured), "keys", "distance", "sink"]
    yield f'<div class="heads-table">{table(columns, rows, align="<<<<" + ">" * (len(columns) - 4))}</div>'
    yield (
        "<p class='soft'>Bold scores reach their threshold; a dash is what cannot be measured there. Keys: how many "
        "keys a head looks at in effect; distance in tokens; sink: weight that no key gets.</p>"
    )


def _score(head: Mapping[str, Any], name: str) -> str:
    text = number(head["scores"][name])
    return f"<strong>{text}</strong>" if name in head["roles"] else text


def _maps_by_head(document: Document) -> dict[tuple[str, int | None, str | None], Mapping[str, Any]]:
    return {(found["path"], found["head"], found["map"]): found for found in document["maps"]}


def clearest(document: Document) -> list[tuple[Mapping[str, Any], Mapping[str, Any], str]]:
    """(sublayer, head, role) of the head that scores highest in each role which looks somewhere, best first."""
    found: list[tuple[float, Mapping[str, Any], Mapping[str, Any], str]] = []
    for role in document["roles"]:
        if role["name"] in {"local", "broad", "positional"}:
            continue
        scored = [
            (head["scores"][role["name"]], layer, head)
            for layer, head in heads_in(document)
            if head["scores"][role["name"]] is not None
        ]
        if scored:
            score, layer, head = max(scored, key=lambda item: item[0])
            found.append((score / role["threshold"], layer, head, role["name"]))
    found.sort(key=lambda item: -item[0])
    return [(layer, head, name) for _, layer, head, name in found]


def _large_maps(document: Document) -> Iterator[str]:
    maps, shown = _maps_by_head(document), set[tuple[str, int | None, str | None]]()
    for layer, head, name in clearest(document):
        key = (layer["path"], head["head"], head["map"])
        role = next(role for role in document["roles"] if role["name"] == name)
        near = head["scores"][name] >= _NEAR * role["threshold"]
        if key in shown or key not in maps or len(shown) == _LARGE or (shown and not near):
            continue
        shown.add(key)
        said = f"{name} {number(head['scores'][name])}"
        if name not in head["roles"]:
            said += f", a head has the role from {role['threshold']:g}"
        title = f"{layer['path']}, head {head_name(head)}: {said}"
        drawn = _drawn(document, layer, maps[key], title)
        yield f'<div><h3>{escape(title)}</h3><figure class="paper">{drawn}</figure></div>'
    for layer, head in _sharpest_cross(document):
        key = (layer["path"], head["head"], head["map"])
        if key not in shown and key in maps:
            shown.add(key)
            title = f"{layer['path']}, head {head_name(head)}: where the decoder looks in its source"
            drawn = _drawn(document, layer, maps[key], title)
            yield f'<div><h3>{escape(title)}</h3><figure class="paper">{drawn}</figure></div>'
    if not shown and document["maps"]:
        first = document["maps"][0]
        layer = next(layer for layer in document["layers"] if layer["path"] == first["path"])
        title = f"{first['path']}: {first['kind']}"
        drawn = _drawn(document, layer, first, title)
        yield f'<div><h3>{escape(title)}</h3><figure class="paper">{drawn}</figure></div>'


def _sharpest_cross(document: Document) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The head of cross-attention that looks at the fewest keys; none without an encoder."""
    every = [
        (layer, head) for layer, head in heads_in(document) if layer["part"] == "cross" and head["keys"] is not None
    ]
    return [min(every, key=lambda item: item[1]["keys"])] if every else []


def _drawn(document: Document, layer: Mapping[str, Any], found: Mapping[str, Any], title: str) -> str:
    cells: Sequence[Sequence[float | None]] = found["cells"]
    runs = document["cell_tokens"]
    encoder = layer["stack"] == "encoder"
    of_queries = ("source", runs["encoder"]) if encoder else ("tokens", runs["decoder"])
    of_keys = ("source", runs["encoder"]) if encoder or layer["part"] == "cross" else of_queries
    queries = axis(tokens_of(document, of_queries[0]), of_queries[1], len(cells))
    if found["kind"] == "influence" and len(queries) != len(cells):
        queries = [str(place) for place in layer["facts"]["queries"]][: len(cells)]
    keys = axis(tokens_of(document, of_keys[0]), of_keys[1], len(cells[0]))
    return large_map(cells, queries=queries, keys=keys, title=title)


def _all_maps(document: Document) -> Iterator[str]:
    maps: Sequence[Mapping[str, Any]] = document["maps"]
    yield "<h2>Every map</h2>"
    run = max(value or 1 for value in document["cell_tokens"].values())
    binned = (
        f" Each cell is {run} tokens square: the weight of a run of keys, as a mean over queries." if run > 1 else ""
    )
    yield (
        '<p>Rows read columns. 0 <span class="ramp"></span> 1, by the square root; grey is not visible, red below zero.'
        f"{binned}</p>"
    )
    probes = next((layer["facts"]["probes"] for layer in document["layers"] if layer["keeps"] == "influence"), None)
    if probes is not None:
        yield (
            "<p>Influence is the size of the gradient of what a mixer makes of a token with respect to what it read at "
            "another (Frobenius norm of the Jacobian), as a share of its row. It is estimated with "
            f"{probes} random directions: the standard error of a value is at most {_off(probes):.0%} of it.</p>"
        )
    if len(maps) > _MOST_THUMBNAILS:
        said = f"The first {_MOST_THUMBNAILS} of {len(maps)} maps; --layer N shows those of a layer."
        yield f"<p class='unsure'>{said}</p>"
        maps = maps[:_MOST_THUMBNAILS]
    heads = {(layer["path"], head["head"], head["map"]): head for layer, head in heads_in(document)}
    for layer in document["layers"]:
        own = [found for found in maps if found["path"] == layer["path"]]
        sees = f", sees {layer['sees']}" if layer["sees"] else ""
        yield f"<h3>{escape(layer['path'])} <span class='soft'>{escape(layer['kind'] + sees)}</span></h3>"
        yield from _about(layer)
        if own:
            yield f'<div class="heads">{"".join(_thumbnail(found, heads) for found in own)}</div>'


def _about(layer: Mapping[str, Any]) -> Iterator[str]:
    facts = layer["facts"]
    if layer["keeps"] == "nothing":
        yield "<p class='soft'>It keeps no map, and no gradient tells of one.</p>"
    elif layer["keeps"] == "influence":
        yield (
            "<p class='soft'>It keeps no attention map; drawn is influence. Mean distance "
            f"{number(facts['distance'], '.1f')} tokens, {number(facts['own'])} on itself.</p>"
        )
    elif "lambda" in facts:
        yield (
            f"<p class='soft'>Each head is the first map less {number(facts['lambda'], '.3f')} times the second; roles "
            "are those of each map by itself.</p>"
        )


def _off(probes: int) -> float:
    """Largest relative standard error of the root of a mean square over so many random signs."""
    return (2 / probes) ** 0.5 / 2


def _thumbnail(found: Mapping[str, Any], heads: Mapping[Any, Mapping[str, Any]]) -> str:
    head = heads.get((found["path"], found["head"], found["map"]))
    role = "" if head is None else f" {escape(head['role'])}" if head["role"] else " no role"
    name = found["kind"] if found["head"] is None else head_name(found)
    alt = escape(f"{found['path']} head {name}")
    return (
        f'<figure><img src="{data_uri(found["cells"])}" alt="{alt}" title="{alt}">'
        f"<figcaption><b>{escape(name)}</b>{role}</figcaption></figure>"
    )


def _definitions(document: Document) -> Iterator[str]:
    rows = [
        [
            f"<strong>{escape(role['name'])}</strong>",
            escape(role["score"]),
            f"{'≥' if role['side'] == 'at least' else '≤'} {role['threshold']:g}",
            escape(role["source"]),
        ]
        for role in document["roles"]
    ]
    yield "<h2>What the roles mean</h2>"
    yield (
        "<p>Of several roles that fit, the first in this table is a head's role. A weight is a mean over queries, less "
        "that of uniform weights on the keys that they see, over the most that could be: 0 is as much as those give, 1 "
        "is all of it. Scores describe where a head looks, not what the model uses it for.</p>"
    )
    yield table(["role", "score", "from", "source"], rows, align="<<><")


def _record(document: Document) -> Iterator[str]:
    kept = {name: document[name] for name in ("schema", "name", "run", "step", "weights", "sample", "settings")}
    yield "<details><summary>Settings of this look, to repeat it</summary>"
    yield f"<pre>{escape(json.dumps(kept, indent=1))}</pre></details>"
