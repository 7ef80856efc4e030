"""The machine-readable form of a quote, `vitruvius.plan/1`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitruvius.sizing.communication import Message, Network
    from vitruvius.sizing.money import Prices, RunCost
    from vitruvius.sizing.parallel.evaluate import Plan
    from vitruvius.sizing.parallel.quote import Priced, Quote

SCHEMA = "vitruvius.plan/1"


def to_dict(quote: Quote) -> dict[str, Any]:
    """Everything the text says, units in the names; what is not known or was not asked for is None."""
    closest = quote.plans.closest
    return {
        "schema": SCHEMA,
        "name": quote.name,
        "parameters": quote.parameters,
        "context_tokens": quote.context,
        "device": quote.device.name,
        "device_untested": quote.device.untested or None,
        "count": quote.count,
        "batch_tokens": quote.batch_tokens,
        "run_tokens": quote.tokens,
        "dtype": quote.workload.weights,
        "optimizer": quote.workload.optimizer,
        "train_flops_per_token": quote.flops_per_token,
        "fits": bool(quote.priced),
        "smallest_count": quote.smallest_count,
        "plans": [_priced(priced, quote.network) for priced in quote.priced],
        "plans_that_fit": len(quote.plans.fitting),
        "plans_tried": quote.plans.tried,
        "closest": None if closest is None else _plan(closest),
        "advice": [
            {"what": advice.what, "flags": list(advice.flags), "plan": _plan(advice.plan)} for advice in quote.advice
        ],
        "refused": [asdict(refused) for refused in quote.plans.refused],
        "network": asdict(quote.network),
        "efficiency": {
            "compute": quote.device.efficiency.compute,
            "bandwidth": quote.device.efficiency.bandwidth,
            "source": quote.device.efficiency.source,
        },
        "prices": _prices(quote.prices),
        "device_hour": asdict(quote.each),
    }


def _priced(priced: Priced, network: Network) -> dict[str, Any]:
    plan = priced.plan
    return {
        **_plan(plan),
        "messages": [_message(message, network) for message in plan.traffic],
        "time": {
            "step_seconds": plan.step_seconds,
            "step_seconds_best": plan.best_seconds,
            "step_seconds_worst": plan.worst_seconds,
            "computing_seconds": plan.computing_seconds,
            "waiting_seconds": plan.waiting_seconds,
            "beside_seconds": plan.beside_seconds,
            "bubble": plan.schedule.bubble(plan.degrees.pipeline),
            "tokens_per_second": plan.tokens_per_second,
            "model_flops_utilisation": plan.utilisation,
        },
        "overhead": {**asdict(priced.overhead), "total": priced.overhead.total},
        "cost": None if priced.cost is None else cost_dict(priced.cost),
    }


def _plan(plan: Plan) -> dict[str, Any]:
    memory = plan.memory
    return {
        "name": str(plan.degrees),
        "degrees": asdict(plan.degrees),
        "micro_batch": plan.schedule.micro_batch,
        "micro_batches": plan.schedule.micro_batches,
        "step_tokens": plan.tokens,
        "checkpointing": plan.schedule.checkpointing,
        "sequence_parallel": plan.schedule.sequence_parallel,
        "stages": [list(stage) for stage in plan.stages],
        "memory": {
            "weights_bytes": memory.weights,
            "gradients_bytes": memory.gradients,
            "optimizer_bytes": memory.optimizer,
            "gathered_bytes": memory.gathered,
            "activations_bytes": memory.activations,
            "margin_bytes": memory.margin,
            "total_bytes": memory.total,
            "available_bytes": plan.available_bytes,
            "unsure_bytes": memory.unsure,
            "fullest_stage": plan.fullest,
        },
    }


def _message(message: Message, network: Network) -> dict[str, Any]:
    return {
        "what": message.what,
        "collective": message.collective,
        "ranks": message.group.ranks,
        "message_bytes": message.bytes_each,
        "times": message.times,
        "sent_inside_bytes": message.volume.inside,
        "sent_across_bytes": message.volume.across,
        "seconds": message.volume.seconds(network),
        "waits": message.waits,
        "formula": message.formula,
    }


def _prices(prices: Prices) -> dict[str, Any]:
    return {
        "rent_dollars_per_hour": prices.rent,
        "buy_dollars": prices.buy,
        "electricity_dollars_per_kwh": prices.electricity,
        "pue": prices.pue,
        "years": prices.years,
        "utilisation": prices.utilisation,
        "host_price_share": prices.host_price,
        "host_power_share": prices.host_power,
        "dated": prices.dated,
        "sources": dict(prices.sources),
    }


def cost_dict(cost: RunCost) -> dict[str, Any]:
    """The cost of a run, units in the names."""
    return {
        "seconds": cost.seconds,
        "computing_seconds": cost.computing_seconds,
        "device_hours": cost.device_hours,
        "energy_kwh": cost.kwh,
        "rent_dollars": cost.rent_dollars,
        "own_dollars": cost.own_dollars,
        "electricity_dollars": cost.electricity_dollars,
    }
