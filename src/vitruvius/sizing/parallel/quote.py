"""A training run on a number of devices: how, how long, for how much, and what to change where it does not fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vitruvius.sizing.communication import network_of
from vitruvius.sizing.hardware import catalogue
from vitruvius.sizing.money import Overhead, Ownership, RunCost, overhead_of, ownership, run_cost
from vitruvius.sizing.parallel.evaluate import Evaluation
from vitruvius.sizing.parallel.search import MOST_DEVICES, Plans, any_fits, checked, plans
from vitruvius.sizing.parameters import count_parameters

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vitruvius.sizing.communication import Network
    from vitruvius.sizing.hardware import Device
    from vitruvius.sizing.money import Prices
    from vitruvius.sizing.parallel.evaluate import Plan
    from vitruvius.sizing.workload import Optimizer, Workload
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.recomputing import Checkpointing

CHECKPOINT_BYTES = 14
"""Of a parameter in a checkpoint: the bf16 weight, fp32 master and two fp32 moments."""
MOST_TRIED = 2**14
"""Devices up to which the smallest number that fits is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """A plan, and what a run with it costs."""

    plan: Plan
    cost: RunCost | None
    """None without a number of tokens."""
    overhead: Overhead


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A change with which the run fits."""

    what: str
    flags: tuple[str, ...]
    """What to add to the command, or replace in it."""
    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """The answer to `vitruvius plan`."""

    name: str
    parameters: int
    workload: Workload
    context: int
    device: Device
    count: int
    batch_tokens: int
    """Tokens of a step that were asked for."""
    tokens: int | None
    """Tokens of the whole run."""
    flops_per_token: float
    """Useful operations to train on one token, forward and backward."""
    network: Network
    prices: Prices
    each: Ownership
    """One device for an hour."""
    plans: Plans
    priced: tuple[Priced, ...]
    """Alternatives, the fastest first; where nothing fits, none."""
    smallest_count: int | None
    """The fewest devices that fit: a power of two, or a divisor of the count; None where none was found."""
    advice: tuple[Advice, ...]
    """Where nothing fits: what to change."""


def quote(
    graph: Graph,
    workload: Workload,
    device: Device,
    count: int,
    *,
    batch_tokens: int,
    tokens: int | None,
    prices: Prices,
    network: Network | None = None,
    checkpointing: Sequence[Checkpointing] = ("none", "layers"),
    most: int = 5,
) -> Quote:
    """Plans of a training run with their prices, or what to change. Raises UsageError as `plans` does."""
    network = network_of(device) if network is None else network
    context = workload.context or graph.scope.context
    checked(workload, count, context, batch_tokens)
    evaluation = Evaluation(graph, workload, device, network)
    found = plans(
        graph,
        workload,
        device,
        count,
        global_batch_tokens=batch_tokens,
        checkpointing=checkpointing,
        known=evaluation,
    )
    thriftiest: Checkpointing = "layers" if "layers" in checkpointing else "none"
    parameters = count_parameters(graph)
    stored = parameters.total + parameters.mtp
    cost = graph.flops(context) + graph.mtp_flops(context)
    return Quote(
        name=graph.architecture.name,
        parameters=stored,
        workload=workload,
        context=context,
        device=device,
        count=count,
        batch_tokens=batch_tokens,
        tokens=tokens,
        flops_per_token=3 * cost.useful / context,
        network=network,
        prices=prices,
        each=ownership(device, prices),
        plans=found,
        priced=tuple(priced(plan, stored, device, tokens, prices) for plan in _told_apart(found.fitting, most)),
        smallest_count=_smallest(evaluation, found, thriftiest),
        advice=() if found.fitting else tuple(_advice(evaluation, count, found.sequences, thriftiest)),
    )


def priced(plan: Plan, parameters: int, device: Device, tokens: int | None, prices: Prices) -> Priced:
    """A plan with the cost of a run over so many tokens."""
    devices = plan.degrees.devices
    overhead = overhead_of(CHECKPOINT_BYTES * parameters, devices, device.per_node)
    if tokens is None:
        return Priced(plan=plan, cost=None, overhead=overhead)
    cost = run_cost(tokens, plan.tokens_per_second, device, devices, prices, overhead)
    return Priced(plan=plan, cost=cost, overhead=overhead)


def _told_apart(fitting: Sequence[Plan], most: int) -> list[Plan]:
    """The fastest plans, no two of which differ in nothing but what ZeRO divides, then those that do."""
    seen: set[object] = set()
    shown: list[Plan] = []
    for plan in fitting:
        key = replace(plan.degrees, zero=0)
        if key not in seen:
            seen.add(key)
            shown.append(plan)
    rest = [plan for plan in fitting if plan not in shown]
    best = [plan for plan in rest if shown and plan.step_seconds <= 1.02 * shown[0].step_seconds]
    chosen = [*shown[:1], *best[:2], *shown[1:]][:most]
    return sorted(chosen, key=lambda plan: plan.rank)


def _smallest(evaluation: Evaluation, found: Plans, checkpointing: Checkpointing) -> int | None:
    """The fewest devices with a plan that fits: among the count's halves where it fits, its doubles where not."""
    if found.fitting:
        least = found.count
        while least > 1:
            fewer = max(n for n in range(1, least) if found.count % n == 0 or n & (n - 1) == 0)
            if any_fits(evaluation, fewer, found.sequences, checkpointing=checkpointing) is None:
                break
            least = fewer
        return least
    more = 1 << found.count.bit_length()
    while more <= min(MOST_TRIED, MOST_DEVICES):
        if any_fits(evaluation, more, found.sequences, checkpointing=checkpointing) is not None:
            return more
        more *= 2
    return None


def _advice(evaluation: Evaluation, count: int, sequences: int, checkpointing: Checkpointing) -> Iterator[Advice]:
    """Changes with which as many devices are enough: the optimizer, the batch, both, the context, the device."""
    graph, workload, device, network = evaluation.graph, evaluation.workload, evaluation.device, evaluation.network
    context = evaluation.tokens
    if checkpointing == "none":
        plan = any_fits(evaluation, count, sequences)
        if plan is not None:
            yield Advice(what="layers computed twice", flags=("--checkpointing layers",), plan=plan)
            return
    few = min(sequences, count)  # one micro-batch for each rank, so that no sums of gradients are kept
    batches: list[tuple[int, tuple[str, ...]]] = [(sequences, ())]
    if few < sequences:
        batches.append((few, (f"--batch-tokens {few * context}",)))
    found = False
    for size, smaller in batches:
        for optimizer, words in _OPTIMIZERS.items():
            if not smaller and optimizer == workload.optimizer:
                continue
            other = replace(workload, optimizer=optimizer)
            plan = any_fits(Evaluation(graph, other, device, network), count, size)
            if plan is not None and not found:
                flags = (*smaller, *(() if optimizer == workload.optimizer else (f"--optimizer {optimizer}",)))
                parts = (["one micro-batch a step"] if smaller else []) + ([words] if len(flags) > len(smaller) else [])
                yield Advice(what=", ".join(parts), flags=flags, plan=plan)
                found = True
    for share in (2, 4, 8, 16):
        if context // share < 1:
            break
        shorter = replace(workload, context=context // share)
        plan = any_fits(Evaluation(graph, shorter, device, network), count, sequences * share)
        if plan is not None:
            yield Advice(what="shorter sequences", flags=(f"--context {context // share}",), plan=plan)
            break
    yield from _larger_devices(graph, workload, device, count, sequences)


_OPTIMIZERS: Mapping[Optimizer, str] = {
    "adamw": "AdamW",
    "adamw-8bit": "moments in 8 bits",
    "adamw-bf16": "moments in the weights' format and no masters, which costs precision",
}
"""From what costs nothing to what costs most."""


def _larger_devices(graph: Graph, workload: Workload, device: Device, count: int, sequences: int) -> Iterator[Advice]:
    """The two cheapest to rent of the devices with more memory on which it fits."""
    larger = [
        other
        for other in catalogue().values()
        if other.usable_bytes > device.usable_bytes
        and other.rent is not None
        and not other.untested
        and (other.tier == "cpu") == (device.tier == "cpu")
    ]
    found = 0
    for other in sorted(larger, key=lambda other: other.rent or 0.0):
        plan = any_fits(Evaluation(graph, workload, other, network_of(other)), count, sequences)
        if plan is not None:
            yield Advice(what=f"more memory on each: {other.title}", flags=(f"--on {other.name}",), plan=plan)
            found += 1
        if found == 2:
            return
