"""A validation in Markdown, from its JSON document (`vitruvius.validate/1`)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from vitruvius.report.bench_text import bench_markdown, duration, facts, number
from vitruvius.report.tables import markdown
from vitruvius.units import exact, format_bytes, format_count, format_money

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Document = Mapping[str, Any]

QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Does it return what it should?", ("output-shape", "parameters")),
    ("Does attention see what it declares, and nothing later?", ("attention-pattern", "future-leak")),
    ("Does the cache give what the full pass gives, in the memory stated?", ("cached-decode", "cache-bytes")),
    ("Does every parameter learn?", ("gradients",)),
    ("Is it stable in numbers?", ("no-nan", "bf16")),
)
"""The five tests that a long-context project asks for, and the checks that answer each."""

FULL_HEAD = ("phase", "tokens", "tokens/s at best", "tokens/s at worst", "a run", "memory")


def validation_markdown(document: Document, *, drawing: str = "") -> str:
    """The report; `drawing` is the path of a picture beside it."""
    blocks = [
        f"# {document['name']}: validation",
        _plain(document["description"]),
        f"**{verdict(document)}**",
        *(f"> {_plain(note)}" for note in document["notes"]),
        f"![{document['name']}, drawn]({drawing})" if drawing else "",
        "## Architecture tests",
        document["checks"]["subject"],
        markdown(("question", "answer", "checks"), [*questions(document)]),
        markdown(("", "check", "measured", "detail"), [[*map(_plain, row)] for row in check_rows(document)]),
        *(f"- **{one['name']}**: {one['means']}. Look at: {one['look_at']}." for one in failures(document)),
        "## Parameter counts",
        markdown(("part", "parameters", ""), [*parameter_rows(document)]),
        *([claims_title(), markdown(("", "about", "says", "is"), [*claim_rows(document)])] if claims(document) else []),
        "## What it costs",
        markdown(("", *(mode for mode in document["bills"])), [*memory_rows(document)]),
        markdown(DEVICE_HEAD, [*device_rows(document)]),
        "## Benchmark",
        " ".join((*facts(document["bench"]), left_out(document))).strip(),
        bench_markdown(document["bench"]),
        *_full_size(document),
        *_prototype(document),
        "## Configuration",
        _fenced("yaml", document["spec"]),
        "## The next experiment",
        *_experiment(document),
        "## Record",
        _fenced("json", json.dumps(record(document), indent=2)),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _plain(text: str) -> str:
    """Text that a reader of Markdown shows as it is, and takes for no HTML; one line."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")


def _fenced(language: str, text: str) -> str:
    """A block of code, behind a fence that the text does not hold."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _experiment(document: Document) -> list[str]:
    about, command, basis = experiment_lines(document)
    return [about, _fenced("sh", command), basis]


def verdict(document: Document) -> str:
    """What came out, in a sentence."""
    checks: Sequence[Mapping[str, Any]] = document["checks"]["checks"]
    ran = [one for one in checks if one["applies"]]
    bad = failures(document)
    crashed = sum(row["status"] == "failed" for row in document["bench"]["rows"])
    says = f"All {len(ran)} checks passed." if not bad else f"{len(bad)} of {len(ran)} checks failed."
    return f"{says} {crashed} rows of the bench failed." if crashed else says


def failures(document: Document) -> list[Mapping[str, Any]]:
    """The checks that failed."""
    return [one for one in document["checks"]["checks"] if not one["passed"]]


def mark(one: Mapping[str, Any]) -> str:
    """One character: passed, failed, does not apply."""
    if not one["applies"]:
        return "-"
    return "✓" if one["passed"] else "✗"


def questions(document: Document) -> list[tuple[str, str, str]]:
    """The five questions, whether the checks that ran answer them well, and which checks those are."""
    by_name = {one["name"]: one for one in document["checks"]["checks"]}
    rows: list[tuple[str, str, str]] = []
    for question, names in QUESTIONS:
        ran = [by_name[name] for name in names if name in by_name and by_name[name]["applies"]]
        answer = "not run" if not ran else "yes" if all(one["passed"] for one in ran) else "no"
        rows.append((question, answer, ", ".join(one["name"] for one in ran)))
    return rows


def check_rows(document: Document) -> list[tuple[str, str, str, str]]:
    """A row for each check."""
    rows: list[tuple[str, str, str, str]] = []
    for one in document["checks"]["checks"]:
        measured, bound = one["measured"], one["bound"]
        against = "" if measured is None else f"{measured:.2g}"
        against += "" if measured is None or bound is None else f" {'<=' if measured <= bound else '>'} {bound:.2g}"
        detail = one["detail"] + (f" (warning: {one['warning']})" if one["warning"] else "")
        rows.append((mark(one), one["name"], against, detail))
    return rows


def parameter_rows(document: Document) -> list[tuple[str, str, str]]:
    """Counts, exact and short."""
    counts = document["parameters"]
    named = {"total": counts["total"], "active per token": counts["active"]}
    named |= {"active without embedding": counts["active_without_embedding"]}
    named |= dict(sorted(counts["by_component"].items(), key=lambda kv: -kv[1]))
    for apart in ("mtp", "buffers"):
        if counts[apart]:
            named[f"apart: {apart}"] = counts[apart]
    return [(part, exact(count), format_count(count)) for part, count in named.items()]


def claims(document: Document) -> list[Mapping[str, Any]]:
    """What others say of it, with the arithmetic."""
    return document["bills"]["inference"]["claims"]


def claims_title() -> str:
    """What stands over the claims."""
    return "What is said of it:"


def claim_rows(document: Document) -> list[tuple[str, str, str, str]]:
    """A row for each claim."""
    return [("✓" if one["holds"] else "✗", one["about"], one["says"], one["shown"]) for one in claims(document)]


_MEMORY = {
    "weights_bytes": "weights",
    "kv_cache_bytes": "KV cache",
    "state_bytes": "state",
    "activations_bytes": "activations",
    "gradients_bytes": "gradients",
    "optimizer_bytes": "optimizer",
    "peak_bytes": "peak",
}


def memory_rows(document: Document) -> list[tuple[str, ...]]:
    """Bytes by part, a column for each mode, then FLOPs of a token."""
    bills: Mapping[str, Mapping[str, Any]] = document["bills"]
    rows: list[tuple[str, ...]] = []
    for key, name in _MEMORY.items():
        found = [bill["memory"].get(key) for bill in bills.values()]
        if any(found):
            rows.append((name, *("" if not amount else format_bytes(amount) for amount in found)))
    flops = ("forward_per_token", "train_per_token")
    return [
        *rows,
        ("FLOPs a token", *(format_count(bill["flops"][key]) for bill, key in zip(bills.values(), flops, strict=True))),
    ]


DEVICE_HEAD = ("on", "for", "fits", "spare", "largest context", "expected", "at best")


def device_rows(document: Document) -> list[tuple[str, ...]]:
    """Whether it fits each device, and how fast it is there."""
    rows: list[tuple[str, ...]] = []
    for mode, bill in document["bills"].items():
        for on in bill["on"]:
            part = on["decode"] if mode == "inference" else on["train"]
            if mode == "inference":
                expected, best = part["tokens_per_second_expected"], part["tokens_per_second_bound"]
                speeds = [f"{number(rate)} tokens/s" if rate else "" for rate in (expected, best)]
            else:
                speeds = [
                    f"{duration(seconds)} a step" if seconds else ""
                    for seconds in (part["step_seconds_expected"], part["step_seconds_bound"])
                ]
            spare, longest = on["spare_bytes"], on["largest_context"]
            rows.append(
                (
                    f"{on['count']} x {on['device']}" if on["count"] > 1 else on["device"],
                    mode,
                    "yes" if on["fits"] else "no",
                    format_bytes(spare) if spare >= 0 else f"short of {format_bytes(-spare)}",
                    f"{longest:,}" if longest else "none",
                    *speeds,
                )
            )
    return rows


def left_out(document: Document) -> str:
    """Which of the usual lengths are missing, and why."""
    missing: list[int] = document["lengths_left_out"]
    if not missing:
        return ""
    shown = ", ".join(f"{length:,}" for length in missing)
    return f"({shown} tokens are beyond its context and left out.)"


def full_rows(document: Document) -> list[tuple[str, ...]]:
    """The architecture itself, predicted."""
    rows: list[tuple[str, ...]] = []
    for row in document["full_size"]:
        worst, slow = row["tokens_per_second_at_worst"], row["seconds_at_worst"]
        rows.append(
            (
                row["phase"],
                f"{row['length']:,}",
                f"~{number(row['tokens_per_second_at_best'])}",
                "" if worst is None else f"~{number(worst)}",
                f"{duration(row['seconds_at_best'])}{'' if slow is None else f' to {duration(slow)}'}",
                f"~{format_bytes(row['peak_memory_bytes'])}",
            )
        )
    return rows


def full_note(document: Document) -> str:
    """What the full-size numbers stand on, and how far off they can be."""
    return (
        f"Every number here is **predicted**, for {document['name']} itself on this machine, if it had the memory. "
        "At best: the roofline over the measured rates, which no software beats. At worst: no larger a share of it "
        "than the prototype reached at that length; larger models usually reach more. Memory is sizing's."
    )


def _full_size(document: Document) -> list[str]:
    if not document["full_size"]:
        return []
    return ["### At full size, predicted", full_note(document), markdown(FULL_HEAD, full_rows(document))]


def _prototype(document: Document) -> list[str]:
    of = document["bench_of"]
    if not of["is_prototype"]:
        return []
    lines = [f"### What {of['name']} cannot show"]
    lines.append("\n".join(f"- {spot['what']}: {spot['because']}" for spot in of["blind_spots"]))
    return [line for line in lines if line]


def experiment_lines(document: Document) -> tuple[str, str, str]:
    """The cheapest next experiment: what it decides and costs, its command, and where the numbers come from."""
    found: Mapping[str, Any] = document["next_experiment"]
    price = "" if found["dollars"] is None else f", {format_money(found['dollars'])}"
    costs = f"about {duration(found['seconds'])}{price} on {found['device']}, within {found['off_by']:g} times"
    return f"It decides {found['decides']}. It costs {costs}.", found["command"], f"Counted from {found['basis']}."


def record(document: Document) -> dict[str, Any]:
    """What someone needs to get these numbers again."""
    bench = document["bench"]
    kept = ("batch", "dtype", "device", "threads", "seed", "budget_seconds", "seconds")
    return {
        "seconds": document["seconds"],
        "effort": document["effort"],
        "lengths": document["lengths"],
        "bench": {name: bench[name] for name in kept},
        "environment": document["environment"],
    }
