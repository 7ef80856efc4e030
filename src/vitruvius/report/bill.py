"""The bill of an architecture, for reading."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.report.tables import columns
from vitruvius.units import format_binary_bytes, format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.sizing import Bill, Verdict

RIGHT, WRONG = "✓", "✗"


def bill_text(bill: Bill) -> str:
    """Parameters, memory, FLOPs, a line for each block, devices, and the claims of others with a mark."""
    batch = "1 sequence" if bill.batch == 1 else f"{bill.batch:,} sequences"
    head = f"{bill.name}: {batch} of {bill.context:,} tokens, {bill.dtype}, {_MODES.get(bill.mode, bill.mode)}"
    parts = [[head], list(_totals(bill)), list(_memory(bill)), list(_blocks(bill))]
    if bill.on:
        from vitruvius.report.bill_devices import devices

        parts.append(list(devices(bill)))
    parts.append(list(_claims(bill)))
    return "\n\n".join("\n".join(part) for part in parts if part)


_MODES = {
    "train": "training",
    "lora": "training low-rank adapters",
    "qlora": "training adapters over frozen weights",
}


def format_flops(amount: float) -> str:
    """FLOPs to four digits with the prefixes of physics: `55.01 GFLOP`."""
    number, _, unit = format_count(amount).partition(" ")
    return f"{number} {'G' if unit == 'B' else unit}FLOP"


def _totals(bill: Bill) -> Iterator[str]:
    counts = bill.parameters
    rows = [_count("parameters", counts.total, "")]
    if counts.active != counts.total:
        rows.append(_count("  active", counts.active, f"{counts.active / counts.total:.1%} of them, for each token"))
    rows.append(_count("  embedding", counts.embedding, "token and position tables"))
    parts = {k: v for k, v in counts.by_component.items() if k != "embedding" and v}
    rows += [_count(f"  {name}", value, "") for name, value in sorted(parts.items(), key=lambda kv: -kv[1])]
    if counts.mtp:
        rows.append(_count("apart: mtp", counts.mtp, "multi-token prediction, in training alone"))
    if counts.buffers:
        rows.append(_count("apart: buffers", counts.buffers, "balancing biases of routers, in fp32"))
    if bill.adapter_parameters:
        share = bill.adapter_parameters / counts.total
        rows.append(
            _count("apart: adapters", bill.adapter_parameters, f"of rank {bill.workload.adapters.rank}, {share:.2%}")
        )
    forward, train = bill.forward_flops_per_token, bill.train_flops_per_token
    averaged = "a token, averaged over the context"
    if bill.flops_error:
        averaged += f"; off by at most {format_flops(bill.flops_error / bill.context)}"
    rows.append(("forward FLOPs", f"{forward:,.0f}", format_flops(forward), averaged))
    rows.append(("training FLOPs", f"{train:,.0f}", format_flops(train), "a token, forward and backward"))
    yield from columns(rows, align="<>><")


def _count(name: str, amount: int, note: str) -> tuple[str, str, str, str]:
    return (name, f"{amount:,}", format_count(amount), note)


def _bytes(name: str, amount: int, note: str = "") -> tuple[str, str, str, str, str]:
    return (name, f"{amount:,}", format_bytes(amount), format_binary_bytes(amount), note)


def _memory(bill: Bill) -> Iterator[str]:
    memory = bill.memory
    rows = [_bytes("weights", memory.weights, _stored(bill))]
    if bill.mode == "inference":
        rows.append(_bytes("KV cache", memory.kv_cache))
    named = {
        "recurrent state": memory.state,
        "buffers": memory.buffers,
        "adapters": memory.adapters,
        "gradients": memory.gradients,
        "optimizer states": memory.optimizer,
    }
    rows += [_bytes(name, amount) for name, amount in named.items() if amount]
    unsure = f"off by at most {format_bytes(memory.unsure)}" if memory.unsure else ""
    rows.append(_bytes("activations", memory.activations, unsure))
    rows.append(_bytes("peak", memory.peak))
    rows.append(_bytes("margin", memory.margin, "for fragmentation, apart"))
    yield from columns(rows, align="<>>><")


def _stored(bill: Bill) -> str:
    from vitruvius.sizing.formats import weight_format

    form = weight_format(bill.dtype)
    return f"maps in {form.name}, the rest in {form.rest}" if form.is_quantised else ""


def _blocks(bill: Bill) -> Iterator[str]:
    caches = bill.mode == "inference"
    states = caches and any(layer.state_bytes for layer in bill.layers)
    kept = (*(("KV cache",) if caches else ()), *(("state",) if states else ()))
    head = ("block", "layers", "parameters", "active", "forward a token", *kept)
    rows = [
        (
            layer.name,
            f"{layer.layers:,}",
            format_count(layer.parameters),
            format_count(layer.active),
            format_flops(layer.useful_flops / bill.context),
            *((format_bytes(layer.kv_cache_bytes),) if caches else ()),
            *((format_bytes(layer.state_bytes),) if states else ()),
        )
        for layer in bill.layers
    ]
    yield from columns([head, *rows], align="<" + ">" * (len(head) - 1))
    if any(layer.layers > 1 for layer in bill.layers):
        yield "(each of these layers)"


def _claims(bill: Bill) -> Iterator[str]:
    for claim in bill.claims:
        yield _claim(claim)
        if claim.source:
            yield f"    {claim.source}"


def _claim(claim: Verdict) -> str:
    mark, verb = (RIGHT, "and is") if claim.holds else (WRONG, "is")
    return f"{mark} {claim.about}: says {claim.says}, {verb} {claim.shown}"
