"""Runs as text: in a list, one at a time, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.report.shape_text import shape_lines
from vitruvius.report.tables import columns
from vitruvius.runs import RunReader
from vitruvius.runs.anomalies import anomalies_of
from vitruvius.runs.summary import mapping_of
from vitruvius.spec.writing import flow
from vitruvius.units import format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vitruvius.runs.pruning import Kept
    from vitruvius.runs.summary import RunSummary

UNKNOWN = "-"


def list_text(runs: Sequence[RunSummary]) -> str:
    """A row for each run, the newest last."""
    head = ("run", "status", "architecture", "step", "tokens", "loss", "val loss", "bits/byte", "tokens/s", "size")
    rows = [
        (
            one_line(str(run.path)),
            run.status,
            one_line(run.architecture or UNKNOWN),
            f"{run.step:,}" + ("" if run.steps is None else f"/{run.steps:,}"),
            format_count(run.tokens),
            number(run.loss),
            number(run.val_loss),
            number(run.val_bits_per_byte),
            number(run.tokens_per_second),
            format_bytes(run.bytes),
        )
        for run in runs
    ]
    return "\n".join(columns([head, *rows], align="<<<>>>>>>>"))


def show_text(run: RunSummary, record: Mapping[str, Any], changed: Mapping[str, Any], kept: Sequence[Kept] = ()) -> str:
    """One run: how far it is, what it was told, on what, what happened, and which checkpoints it has."""
    data: dict[str, Any] = record["data"] or {}
    environment: dict[str, Any] = record["environment"]
    versions = mapping_of(environment.get("packages")).items()
    packages = ", ".join(f"{name} {version}" for name, version in versions if version)
    facts = [
        ("run", one_line(str(run.path))),
        ("status", run.status),
        ("architecture", one_line(run.architecture or UNKNOWN)),
        ("started", one_line(run.started)),
        ("finished", one_line(record["finished"] or UNKNOWN)),
        ("command", one_line(" ".join(record["command"])) or UNKNOWN),
        ("step", f"{run.step:,}" + ("" if run.steps is None else f" of {run.steps:,}")),
        ("tokens", f"{run.tokens:,}"),
        ("loss", number(run.loss)),
        ("validation", f"{number(run.val_loss)} nats per token, {number(run.val_bits_per_byte)} bits per byte"),
        ("speed", f"{number(run.tokens_per_second)} tokens a second (median of the last rows)"),
        ("data", f"{data.get('path', UNKNOWN)}, fingerprint {str(data.get('fingerprint'))[:16]}"),
        ("machine", f"{environment.get('cpu', UNKNOWN)}, {packages}"),
        ("checkpoints", ", ".join(f"step {step:,}" for step in run.checkpoints) or "none"),
        ("size", format_bytes(run.bytes)),
        ("set aside", ", ".join(map(str, anomalies_of(run.path))) or "nothing"),
        ("events", ", ".join(f"{count:,} {kind}" for kind, count in run.events.items()) or "none"),
    ]
    lines = columns(facts, align="<<")
    if kept:
        head = ("  step", "size", "val loss", "why it stays")
        rows = [
            (f"{each.step:,}", format_bytes(each.bytes), number(each.val_loss), ", ".join(each.why) or "not pruned yet")
            for each in kept
        ]
        lines += ["", "checkpoints", *columns([head, *rows], align=">>><")]
    shaped = shape_lines(RunReader(run.path).events())
    if shaped:
        lines += ["", "what train.shape changed", *(f"  {line}" for line in shaped)]
    if changed:
        lines += ["", "settings that are not the default"]
        set_to = [(key, one_line(plain_text(value))) for key, value in changed.items()]
        lines += [f"  {line}" for line in columns(set_to, align="<<")]
    return "\n".join(lines)


def compare_text(runs: Sequence[RunSummary], differing: Mapping[str, Mapping[str, Any]]) -> str:
    """Runs side by side: results first, then every setting, field of the spec and fact of the data that differs."""
    keys = [str(run.path) for run in runs]
    names = [one_line(key) for key in keys]
    results: list[tuple[str, ...]] = [
        ("status", *(run.status for run in runs)),
        ("step", *(f"{run.step:,}" for run in runs)),
        ("tokens", *(f"{run.tokens:,}" for run in runs)),
        ("loss", *(number(run.loss) for run in runs)),
        ("val_loss", *(number(run.val_loss) for run in runs)),
        ("val_bits_per_byte", *(number(run.val_bits_per_byte) for run in runs)),
        ("tokens_per_second", *(number(run.tokens_per_second) for run in runs)),
    ]
    settings = [
        (one_line(field), *(one_line(plain_text(values[name])) for name in keys)) for field, values in differing.items()
    ]
    if not settings:
        settings = [("(nothing differs)",)]
    align = "<" + ">" * len(runs)
    lines = columns([("", *names), *results, ("",), *settings], align=align)
    if len({run.step for run in runs}) > 1:
        lines += ["", "the runs are not equally far, so their losses do not compare"]
    return "\n".join(lines)


def plain_text(value: Any) -> str:
    """A value of a setting as a run file would have it; a text without quotes."""
    return value if isinstance(value, str) else flow(value)


def one_line(text: str) -> str:
    """A text of others in a table: what is not printable is spelled out."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def number(value: float | None) -> str:
    """A number with four significant digits, or a dash."""
    return UNKNOWN if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
