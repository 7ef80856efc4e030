"""What our pages share: one look in light and dark, wide and narrow, without anything from elsewhere."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

STYLE = """
:root { color-scheme: light dark; --ink: #0f172a; --soft: #475569; --line: #e2e8f0; --paper: #ffffff; --tint: #f8fafc;
  --good: #047857; --bad: #b91c1c; --unsure: #92400e; --s0: #2563eb; --s1: #d97706; --s2: #059669; --s3: #db2777;
  --s4: #7c3aed; --s5: #0891b2; --s6: #65a30d; --s7: #94a3b8; }
@media (prefers-color-scheme: dark) { :root { --ink: #f1f5f9; --soft: #a3b1c6; --line: #334155; --paper: #0f172a;
  --tint: #1e293b; --good: #34d399; --bad: #f87171; --unsure: #fbbf24; --s0: #60a5fa; --s1: #fbbf24; --s2: #34d399;
  --s3: #f472b6; --s4: #a78bfa; --s5: #22d3ee; --s6: #a3e635; --s7: #64748b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 66rem; color: var(--ink); background: var(--paper);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .25rem; } h2 { margin: 2.5rem 0 .5rem; font-size: 1.25rem; }
h3 { margin: 1.5rem 0 .25rem; font-size: 1rem; } p { margin: .5rem 0; }
p.lead { color: var(--soft); margin: 0 0 1rem; font-size: 1.05rem; } .soft { color: var(--soft); }
.scroll { overflow-x: auto; } figure { margin: .5rem 0; } figure svg { max-width: 100%; height: auto; display: block; }
figure.wide { overflow-x: auto; } figure.wide svg { min-width: 44rem; }
figure.chart { overflow-x: auto; } figure.chart svg { min-width: 32rem; }
td:last-child:not(.number) { min-width: 14rem; }
figure.paper { background: #ffffff; border-radius: 6px; padding: .5rem; overflow-x: auto; }
table.wide { min-width: 36rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; } th { font-weight: 600; color: var(--soft); }
tr.predicted td { color: var(--soft); font-style: italic; }
.mark { border: 1px solid currentColor; border-radius: 4px; padding: 0 .35em; font-size: .8em; font-style: normal;
  white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); } .unsure { color: var(--unsure); }
pre { background: var(--tint); border: 1px solid var(--line); border-radius: 6px; padding: 1rem; overflow-x: auto;
  font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap; }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
details { margin-top: 1rem; } summary { cursor: pointer; color: var(--soft); }
ul { padding-left: 1.2rem; margin: .5rem 0; } ul.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap;
  gap: .25rem 1rem; font-size: .9rem; } .swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px;
  margin-right: .4em; } .bar { display: flex; height: 1.4rem; border-radius: 4px; overflow: hidden; margin: .25rem 0; }
.bar span { display: block; min-width: 1px; }
""".strip()
COLOURS = 8
"""Series colours in the style, `--s0` and on; the last is for the rest."""


def page(title: str, body: Iterable[str]) -> str:
    """A whole HTML document. `title` is plain text, `body` HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, align: str, marks: Sequence[str] = ()) -> str:
    """A table that scrolls where it is too wide. Cells are HTML; `align` has `<` or `>` for each column; `marks` are
    classes of the rows.
    """
    classes = ['class="number"' if side == ">" else "" for side in align]
    top = "".join(f"<th {of}>{cell}</th>".replace(" >", ">") for of, cell in zip(classes, head, strict=True))
    lines = [f"<tr>{top}</tr>"]
    for index, row in enumerate(rows):
        cells = "".join(f"<td {of}>{cell}</td>".replace(" >", ">", 1) for of, cell in zip(classes, row, strict=True))
        lines.append(
            f'<tr class="{marks[index]}">{cells}</tr>' if index < len(marks) and marks[index] else f"<tr>{cells}</tr>"
        )
    wide = ' class="wide"' if align.count("<") > 1 else ""
    return f'<div class="scroll"><table{wide}>{"".join(lines)}</table></div>'


def listed(items: Iterable[str]) -> str:
    """A list of plain texts; nothing without any."""
    found = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul>{found}</ul>" if found else ""


def shares(parts: Sequence[tuple[str, float]], *, most: int = COLOURS - 1) -> str:
    """Shares of a whole as one bar with its legend: the largest by name, the others together."""
    ordered = sorted(parts, key=lambda part: -part[1])
    shown = [*ordered[:most]]
    rest = sum(share for _, share in ordered[most:])
    if rest > 0:
        shown.append((f"{len(ordered) - most} more", rest))
    colours = [f"var(--s{min(i, COLOURS - 1)})" for i in range(len(shown))]
    bar = "".join(
        f'<span style="width:{100 * share:.2f}%;background:{colour}" title="{escape(name)}: {share:.1%}"></span>'
        for (name, share), colour in zip(shown, colours, strict=True)
    )
    legend = "".join(
        f'<li><span class="swatch" style="background:{colour}"></span>{escape(name)} {share:.1%}</li>'
        for (name, share), colour in zip(shown, colours, strict=True)
    )
    return f'<div class="bar">{bar}</div><ul class="legend">{legend}</ul>'


def inline(svg: str) -> str:
    """An SVG document without its XML declaration, as HTML wants it."""
    start = svg.find("<svg")
    return svg[start:] if start >= 0 else ""
