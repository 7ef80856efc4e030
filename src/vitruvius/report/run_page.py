"""One HTML page about one run: picture, bill, proof, curve, samples, record. Self-contained, works offline."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from vitruvius.units import exact, format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vitruvius.sizing.bill import Bill

_STYLE = """
:root { color-scheme: light; --ink: #0f172a; --soft: #475569; --line: #e2e8f0; --paper: #ffffff; --tint: #f8fafc;
  --good: #047857; --bad: #b91c1c; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3rem 1.5rem 5rem; max-width: 60rem; color: var(--ink); background: var(--paper);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .25rem; } h2 { margin: 3rem 0 .75rem; font-size: 1.25rem; }
p.lead { color: var(--soft); margin: 0 0 1rem; font-size: 1.1rem; }
figure { margin: 0; overflow-x: auto; } figure svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; } th { font-weight: 600; color: var(--soft); }
pre { background: var(--tint); border: 1px solid var(--line); border-radius: 6px; padding: 1rem; overflow-x: auto;
  font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap; }
.prompt { color: var(--soft); } .good { color: var(--good); } .bad { color: var(--bad); }
details { margin-top: 2rem; } summary { cursor: pointer; color: var(--soft); }
""".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A prompt and what the model made of it."""

    prompt: str
    text: str
    settings: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRow:
    """One probe of the model."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """What the page shows."""

    bill: Bill
    description: str
    drawing: str
    """SVG of the architecture."""
    curve: str
    """SVG of the losses."""
    checks: Sequence[CheckRow]
    scores: Sequence[tuple[str, float]]
    """Bits per byte on the held-out text, by who predicted it, best first."""
    samples: Sequence[Sample]
    spec: str
    """The spec file's text."""
    record: Mapping[str, Any]
    """Environment and settings, for whoever repeats the run."""

    def html(self) -> str:
        """The page."""
        name = escape(self.bill.name)
        body = [
            f"<h1>{name}</h1>",
            f'<p class="lead">{escape(self.description)}</p>',
            "<h2>The architecture</h2>",
            f"<figure>{_inline(self.drawing)}</figure>",
            f"<details><summary>The file it comes from</summary><pre>{escape(self.spec)}</pre></details>",
            "<h2>The bill</h2>",
            self._bill(),
            "<h2>The proof</h2>",
            self._checks(),
            "<h2>The training run</h2>",
            f"<figure>{_inline(self.curve)}</figure>",
            self._scores(),
            "<h2>What it writes</h2>",
            *(_sample(sample) for sample in self.samples),
            "<details><summary>Record of this run, to repeat it</summary>",
            f"<pre>{escape(json.dumps(self.record, indent=2))}</pre></details>",
        ]
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{name}: a Vitruvius run</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n"
            + "\n".join(body)
            + "\n</body>\n</html>\n"
        )

    def _bill(self) -> str:
        bill = self.bill
        rows = [
            ("Parameters", exact(bill.parameters.total), format_count(bill.parameters.total)),
            ("Active per token", exact(bill.parameters.active), format_count(bill.parameters.active)),
            (f"Weights in {bill.dtype}", f"{exact(bill.weights_bytes)} B", format_bytes(bill.weights_bytes)),
            (
                f"KV cache of {bill.context:,} tokens",
                f"{exact(bill.kv_cache_bytes)} B",
                format_bytes(bill.kv_cache_bytes),
            ),
            (
                "Forward FLOPs per token",
                f"{bill.forward_flops_per_token:,.0f}",
                format_count(round(bill.forward_flops_per_token)),
            ),
        ]
        cells = (
            f'<tr><td>{escape(what)}</td><td class="number">{number}</td><td class="number">{short}</td></tr>'
            for what, number, short in rows
        )
        return f"<table>{''.join(cells)}</table>"

    def _checks(self) -> str:
        cells = (
            f'<tr><td class="{"good" if row.passed else "bad"}">{"✓" if row.passed else "✗"}</td>'
            f"<td>{escape(row.name)}</td><td>{escape(row.detail)}</td></tr>"
            for row in self.checks
        )
        return f"<table>{''.join(cells)}</table>"

    def _scores(self) -> str:
        cells = (f'<tr><td>{escape(who)}</td><td class="number">{bits:.3f}</td></tr>' for who, bits in self.scores)
        head = '<tr><th>Predictor of the held-out text</th><th class="number">bits per byte</th></tr>'
        return f"<table>{head}{''.join(cells)}</table>"


def _sample(sample: Sample) -> str:
    return (
        f'<p class="prompt">{escape(sample.settings)}</p>'
        f'<pre><span class="prompt">{escape(sample.prompt)}</span>{escape(sample.text)}</pre>'
    )


def _inline(svg: str) -> str:
    """The SVG without its XML declaration, as HTML wants it."""
    start = svg.find("<svg")
    return svg[start:] if start >= 0 else ""
