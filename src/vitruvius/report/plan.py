"""A training plan, for reading."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

from vitruvius.report.tables import columns
from vitruvius.sizing.parallel.degrees import UNTESTED_CONTEXT
from vitruvius.units import format_bytes, format_count, format_money

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.sizing.parallel.evaluate import Plan
    from vitruvius.sizing.parallel.quote import Priced, Quote

_REFUSED = 12
_WIDEST = 110


def plan_text(quote: Quote) -> str:
    """The plans that fit, the first of them in full, what it costs, and why others were left out."""
    parts = [list(_head(quote))]
    if quote.priced:
        best = quote.priced[0]
        parts += [
            list(_table(quote)),
            list(_memory(best.plan)),
            list(_messages(quote, best.plan)),
            list(_time(quote, best)),
            list(_money(quote, best)),
        ]
    else:
        parts += [list(_nothing(quote)), list(_advice(quote))]
    parts += [list(_count(quote)), list(_refused(quote))]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _head(quote: Quote) -> Iterator[str]:
    sequences = quote.plans.sequences
    yield f"{quote.name} on {quote.count:,} x {quote.device.title}"
    yield (
        f"{quote.parameters:,} parameters; {_counted(sequences, 'sequence')} of {quote.context:,} tokens a step "
        f"({sequences * quote.context:,}); {quote.workload.weights}, {quote.workload.optimizer}"
    )
    if quote.device.untested:
        yield f"untested: {quote.device.untested}"


def _table(quote: Quote) -> Iterator[str]:
    head = ("", "plan", "micro-batches", "checkpointing", "a rank holds", "step", "MFU", *_costs_head(quote))
    rows = [_row(number, priced, quote) for number, priced in enumerate(quote.priced, 1)]
    yield from columns([head, *rows], align="><<<>>>" + ">" * len(_costs_head(quote)))
    more = len(quote.plans.fitting) - len(quote.priced)
    if more > 0:
        yield f"{_counted(more, 'more arrangement')} {'fits' if more == 1 else 'fit'}; --top shows more of them"


def _costs_head(quote: Quote) -> tuple[str, ...]:
    return ("run", "rented", "owned") if quote.tokens else ()


def _row(number: int, priced: Priced, quote: Quote) -> tuple[str, ...]:
    plan, schedule = priced.plan, priced.plan.schedule
    sequence = ", sequence" if schedule.sequence_parallel == "on" else ""
    name = f"{plan.degrees}{sequence}"
    batches = f"{schedule.micro_batches:,} of {schedule.micro_batch:,}"
    holds = f"{format_bytes(plan.memory.total)}"
    cells = (f"{number}", name, batches, schedule.checkpointing, holds, format_seconds(plan.step_seconds))
    cells += (f"{plan.utilisation:.1%}",)
    if quote.tokens and priced.cost is not None:
        cells += (format_seconds(priced.cost.seconds), money(priced.cost.rent_dollars), money(priced.cost.own_dollars))
    return cells


def _memory(plan: Plan) -> Iterator[str]:
    memory = plan.memory
    stage = f", stage {plan.fullest + 1} of {len(plan.stages)}" if len(plan.stages) > 1 else ""
    yield f"memory of the fullest rank{stage}"
    rows = [
        ("  weights", f"{memory.weights:,}", format_bytes(memory.weights), ""),
        ("  gradients", f"{memory.gradients:,}", format_bytes(memory.gradients), _sums(plan)),
        ("  optimizer", f"{memory.optimizer:,}", format_bytes(memory.optimizer), "masters and moments"),
        ("  gathered", f"{memory.gathered:,}", format_bytes(memory.gathered), _gathered(plan)),
        ("  activations", f"{memory.activations:,}", format_bytes(memory.activations), _in_flight(plan)),
        ("  margin", f"{memory.margin:,}", format_bytes(memory.margin), "for fragmentation, an estimate"),
        ("  in all", f"{memory.total:,}", format_bytes(memory.total), f"of {format_bytes(plan.available_bytes)}"),
    ]
    yield from columns([row for row in rows if row[1] != "0"], align="<>><")
    if memory.unsure:
        yield f"  activations are known within {format_bytes(memory.unsure)}: some kinds have no account of their own"


def _gathered(plan: Plan) -> str:
    one = "gradients of one layer until they are divided"
    return f"two layers whole, {one}" if plan.degrees.zero == 3 else one


def _sums(plan: Plan) -> str:
    return "with fp32 sums over micro-batches" if plan.schedule.micro_batches > 1 else ""


def _in_flight(plan: Plan) -> str:
    stages = len(plan.stages)
    if stages == 1:
        return "the highest moment of a micro-batch" + (", an estimate: divided" if plan.degrees.tensor > 1 else "")
    held = min(stages - plan.fullest, plan.schedule.micro_batches)
    return f"{held:,} micro-batches on their way (1F1B)"


def _messages(quote: Quote, plan: Plan) -> Iterator[str]:
    if not plan.traffic:
        return
    yield "messages of a rank in a step"
    rows = [
        (
            f"  {message.what}",
            f"{message.collective} over {message.group.ranks:,}",
            format_bytes(message.volume.inside),
            format_bytes(message.volume.across),
            format_seconds(message.volume.seconds(quote.network)),
            message.formula,
        )
        for message in plan.traffic
    ]
    head = ("", "", "inside", "across machines", "time", "")
    yield from columns([head, *rows], align="<<>>><")
    inside, across = quote.network.inside / 1e9, quote.network.across / 1e9
    yield f"  {inside:,.4g} GB/s inside a machine of {quote.network.per_node} ({quote.device.link_name}),"
    yield from _wrapped(f"{across:,.4g} GB/s across machines for each device ({quote.network.source})", 2)


def _time(quote: Quote, priced: Priced) -> Iterator[str]:
    plan = priced.plan
    bubble = plan.schedule.bubble(plan.degrees.pipeline)
    yield "time of a step"
    waiting = f", {bubble:.1%} of it the pipeline's waiting: (p - 1) / (m + p - 1)" if bubble else ""
    efficiency = quote.device.efficiency
    yield f"  computing {format_seconds(plan.computing_seconds)} at {efficiency.compute:.0%} of the peak{waiting}"
    yield from _wrapped(efficiency.source, 4)
    if plan.traffic:
        always, beside = format_seconds(plan.waiting_seconds), format_seconds(plan.beside_seconds)
        yield f"  messages {always} waited for, {beside} beside computing"
    best, worst = format_seconds(plan.best_seconds), format_seconds(plan.worst_seconds)
    yield f"  expected {format_seconds(plan.step_seconds)}; {best} if all messages overlap, {worst} if none do"
    yield f"  {plan.tokens:,} tokens a step, {plan.tokens_per_second:,.0f} a second on all devices"
    if plan.degrees.context > 1:
        yield f"  {UNTESTED_CONTEXT}"


def _money(quote: Quote, priced: Priced) -> Iterator[str]:
    cost, prices, each = priced.cost, quote.prices, quote.each
    if cost is None:
        yield "give --tokens for the time and money of a run"
        return
    yield f"a run of {cost.tokens:,} tokens with plan 1"
    total = quote.flops_per_token * cost.tokens
    yield f"  {format_count(quote.flops_per_token)} FLOPs a token x {format_count(cost.tokens)} = {total:.3e} FLOPs"
    over = priced.overhead
    yield f"  {format_seconds(cost.seconds)}, {cost.device_hours:,.0f} device-hours, {cost.kwh:,.0f} kWh at the plug"
    restarts = f"{over.failures_per_day:.2g} failures a day, a checkpoint every {format_seconds(over.every_seconds)}"
    yield f"    with {over.total:.2%} on top of the steps for checkpoints and restarts: {restarts}"
    if cost.rent_dollars is not None and prices.rent is not None:
        text = f"rented {money(cost.rent_dollars)} at {format_money(prices.rent)} an hour"
        yield from _wrapped(f"{text} ({_source(quote, 'rent')})", 2)
    if cost.own_dollars is not None and each.own_per_hour is not None and prices.buy is not None:
        text = f"owned {money(cost.own_dollars)} at {format_money(each.own_per_hour)} an hour"
        yield from _wrapped(f"{text}: {format_money(prices.buy)} a device ({_source(quote, 'buy')})", 2)
        spread = f"over {prices.years:g} years, {prices.utilisation:.0%} of them in use"
        plug = f"{each.power_watts:,.0f} W at the plug (PUE {prices.pue:g}) x {format_money(prices.electricity)} a kWh"
        yield from _wrapped(f"+ {prices.host_price:.0%} for the machine, {spread}; {plug}", 4)
    if each.break_even_hours is not None:
        years = each.break_even_hours / 8760
        yield f"  buying pays after {each.break_even_hours:,.0f} hours of use ({years:.1f} years without a break)"


def _wrapped(text: str, indent: int) -> list[str]:
    """Prose in lines that fit a terminal; a second line stands two further in."""
    start = " " * indent
    return wrap(text, _WIDEST, initial_indent=start, subsequent_indent=start + "  ", break_on_hyphens=False)


def _source(quote: Quote, name: str) -> str:
    source = quote.prices.sources.get(name, "")
    return source if source == "given" else f"{quote.prices.dated}; {source}"


def _nothing(quote: Quote) -> Iterator[str]:
    closest = quote.plans.closest
    if closest is None:
        yield f"no arrangement of {quote.count:,} devices divides this batch and these layers"
        return
    memory = closest.memory
    lacks = memory.total - closest.available_bytes
    yield f"nothing fits: {format_bytes(lacks)} are missing on a rank of the thriftiest plan, {closest.degrees}"
    yield from _memory(closest)


def _advice(quote: Quote) -> Iterator[str]:
    if not quote.advice:
        return
    yield "what makes it fit"
    rows = [
        (f"  {advice.what}", " ".join(advice.flags), f"{advice.plan.degrees}", format_bytes(advice.plan.memory.total))
        for advice in quote.advice
    ]
    yield from columns(rows, align="<<<>")


def _count(quote: Quote) -> Iterator[str]:
    least = quote.smallest_count
    if least is None:
        yield "no number of these devices was found that fits"
    elif least < quote.count:
        yield f"{least:,} of these devices {'is' if least == 1 else 'are'} enough to hold it"
    elif least == quote.count:
        yield f"fewer than {least:,} of these devices do not hold it"
    else:
        yield f"{least:,} of these devices hold it: --count {least}"


def _refused(quote: Quote) -> Iterator[str]:
    refused = quote.plans.refused
    if not refused:
        return
    yield "not planned, or too large"
    yield from columns([(f"  {each.what}", each.why) for each in refused[:_REFUSED]], align="<<")
    if len(refused) > _REFUSED:
        yield f"  {len(refused) - _REFUSED:,} more; --json has them all"


# ------------------------------------------------------------------------------------------------------------ amounts


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def money(dollars: float | None) -> str:
    """Dollars, or a dash where they are not known."""
    return "-" if dollars is None else format_money(dollars)


def format_seconds(seconds: float) -> str:
    """A time in the unit that fits it: `0.62 ms`, `8.32 s`, `3.5 h`, `23.0 days`."""
    for limit, worth, unit, digits in (
        (1e-3, 1e-6, "us", 3),
        (1.0, 1e-3, "ms", 3),
        (600.0, 1.0, "s", 4),
        (2 * 3600.0, 60.0, "min", 3),
        (2 * 86400.0, 3600.0, "h", 3),
    ):
        if seconds < limit:
            return f"{seconds / worth:.{digits}g} {unit}"
    days = seconds / 86400
    return f"{days:,.1f} days" if days < 3650 else f"{days / 365.25:,.0f} years"
