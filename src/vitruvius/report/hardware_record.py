"""Devices, choices and comparisons in machine-readable form, units in the names."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.sizing.devices import Choice, Offer, Side
    from vitruvius.sizing.hardware import Device


def device_dict(device: Device) -> dict[str, Any]:
    """Every number of a device; what the catalogue does not know is None."""
    return {
        "name": device.name,
        "title": device.title,
        "tier": device.tier,
        "released": device.released,
        "memory_bytes": device.memory_bytes,
        "reserved_bytes": device.reserved_bytes,
        "usable_bytes": device.usable_bytes,
        "bandwidth_bytes_per_second": device.bandwidth,
        "flops_per_second": dict(device.flops),
        "link_bytes_per_second": device.link,
        "link_name": device.link_name,
        "per_node": device.per_node,
        "watts": device.watts,
        "buy_dollars": device.buy,
        "rent_dollars_per_hour": device.rent,
        "dated": device.dated or None,
        "efficiency": asdict(device.efficiency),
        "sources": dict(device.sources),
        "untested": device.untested or None,
        "assumed": sorted(device.unknown),
    }


def choice_dict(choice: Choice, name: str) -> dict[str, Any]:
    """The form `vitruvius.hardware-choose/1`."""
    return {
        "schema": "vitruvius.hardware-choose/1",
        "name": name,
        "mode": choice.workload.mode,
        "context_tokens": choice.context,
        "batch": choice.workload.batch,
        "dtype": choice.workload.weights,
        "needed_bytes": choice.memory.total,
        "budget_dollars": choice.wish.budget,
        "rent_budget_dollars_per_hour": choice.wish.rent_budget,
        "min_tokens_per_second": choice.wish.tokens_per_second,
        "order": choice.wish.order,
        "offers": [offer_dict(offer) for offer in choice.offers],
        "refused": [offer_dict(offer) for offer in choice.refused],
    }


def offer_dict(offer: Offer) -> dict[str, Any]:
    """One device, so many times."""
    return {
        "device": offer.device.name,
        "count": offer.count,
        "untested": offer.device.untested or None,
        "fits": offer.fits,
        "needed_bytes": offer.needed_bytes,
        "available_bytes": offer.available_bytes,
        "spare_bytes": offer.spare_bytes,
        "tokens_per_second_expected": offer.tokens_per_second,
        "tokens_per_second_bound": offer.tokens_per_second_bound,
        "prefill_seconds_expected": offer.prefill_seconds,
        "train_step_seconds_expected": offer.train_step_seconds,
        "buy_dollars": offer.price,
        "rent_dollars_per_hour": offer.rent_per_hour,
        "own_dollars_per_hour": offer.own_per_hour,
        "break_even_hours": offer.break_even_hours,
        "rent_dollars_per_million_tokens": offer.rent_per_million,
        "own_dollars_per_million_tokens": offer.own_per_million,
        "refused": list(offer.refused),
    }


def comparison_dict(sides: Sequence[Side], name: str | None, run_tokens: int | None) -> dict[str, Any]:
    """The form `vitruvius.hardware-compare/1`."""
    return {
        "schema": "vitruvius.hardware-compare/1",
        "name": name,
        "run_tokens": run_tokens,
        "devices": [
            {
                **device_dict(side.device),
                "count": side.count,
                "device_hour": asdict(side.each),
                "prices": asdict(side.prices),
                "inference": None if side.inference is None else offer_dict(side.inference),
                "training": None if side.training is None else offer_dict(side.training),
                "largest_context_tokens": side.largest_context,
                "largest_batch": side.largest_batch,
                "run": None if side.run is None else asdict(side.run),
            }
            for side in sides
        ],
    }
