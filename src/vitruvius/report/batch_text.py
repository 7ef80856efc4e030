"""The answer of `vitruvius find-batch` as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.report.tables import columns
from vitruvius.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEAD = ("batch", "pieces", "tokens/s", "spread", "of best", "peak", "predicted", "process", "")
_WHY: dict[str, str] = {"out-of-memory": "out of memory", "too-large": "not run", "failed": "failed", "measured": ""}


def batch_text(told: Mapping[str, Any]) -> str:
    """Sizes, what each took, which is the sweet spot and why; `told` as `vitruvius.find-batch/1` has it."""
    if not told["sizes"]:
        return f"{told['name']}: nothing was measured"
    rows = [_HEAD, *(_row(size, told["chosen"]) for size in told["sizes"])]
    lines = [f"{told['name']} on {told['device']}, context {told['context']:,}, {_batch(told)}", ""]
    lines += [f"  {line}" for line in columns(rows, align=">>>>>>>><")]
    reasons = [f"  batch {size['batch']:,}: {size['why']}" for size in told["sizes"] if size["why"]]
    lines += ["", *reasons] if reasons else []
    return "\n".join([*lines, "", *_verdict(told)])


def _batch(told: Mapping[str, Any]) -> str:
    whole = "the batch is open" if told["whole_batch"] is None else f"batches of {told['whole_batch']:,}"
    return f"{whole}, {'random tokens' if told['data'] is None else told['data']}"


def _row(size: Mapping[str, Any], chosen: int | None) -> tuple[str, ...]:
    first = (f"{size['batch']:,}", f"{size['accumulate']:,}")
    predicted = format_bytes(size["predicted_bytes"])
    if size["tokens_per_second"] is None:
        return (*first, "-", "-", "-", "-", predicted, "-", _WHY[size["status"]])
    mark = "<- sweet spot" if size["batch"] == chosen else ""
    if not size["fits"]:
        mark = _WHY[size["status"]] or "does not fit with the margin"
    share = size["share_of_best"]
    return (
        *first,
        f"{size['tokens_per_second']:,.0f}",
        f"{size['spread']:.1%}",
        "-" if share is None else f"{share:.1%}",
        "-" if size["peak_bytes"] is None else format_bytes(size["peak_bytes"]),
        predicted + _off(size),
        "-" if size["taken_bytes"] is None else format_bytes(size["taken_bytes"]),
        mark,
    )


def _off(size: Mapping[str, Any]) -> str:
    if not size["peak_bytes"]:
        return ""
    return f" ({size['predicted_bytes'] / size['peak_bytes'] - 1:+.1%})"


def _verdict(told: Mapping[str, Any]) -> list[str]:
    available = told["available_bytes"]
    room = "" if available is None else f" of {format_bytes(available)} ({told['limit']})"
    lines: list[str] = []
    if told["interrupted"]:
        lines.append("interrupted: this is what was measured so far")
    if told["chosen"] is None:
        return [*lines, f"no size that was tried fits with {told['margin']:.0%}{room} left free"]
    lines.append(
        f"sweet spot: {told['chosen']:,}, the smallest within {told['within']:.0%} of the best that leaves "
        f"{told['margin']:.0%}{room} free"
    )
    lines.append("  " + " ".join(f"--set {text}" for text in told["arguments"]))
    return lines
