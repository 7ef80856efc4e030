"""The bill on hardware: whether the workload fits each device, how fast it is at best, and what would make it fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitruvius.sizing.fit import Fit, fit_of
from vitruvius.sizing.speed import Phase, Speed, demand_of, on_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.sizing.hardware import Device
    from vitruvius.sizing.memory import Memory
    from vitruvius.sizing.workload import Workload
    from vitruvius.spec.graph import Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceBill:
    """One device's part of a bill."""

    device: Device
    fit: Fit
    speed: Speed

    def to_dict(self) -> dict[str, Any]:
        """The device's part of the contract `vitruvius.size/1`."""
        fit, speed, device = self.fit, self.speed, self.device
        return {
            "device": device.name,
            "count": fit.count,
            "fits": fit.fits,
            "needed_bytes": fit.needed_bytes,
            "available_bytes": fit.available_bytes,
            "spare_bytes": fit.spare_bytes,
            "largest_context": fit.largest_context,
            "largest_batch": fit.largest_batch,
            "changes": [
                {
                    "what": change.what,
                    "flags": list(change.flags),
                    "costs": change.costs,
                    "needed_bytes": change.needed_bytes,
                    "spare_bytes": change.spare_bytes,
                    "memory": change.memory.to_dict(),
                }
                for change in fit.changes
            ],
            "prefill": _phase(speed.prefill),
            "decode": {
                "tokens_per_second_bound": speed.tokens_per_second_bound,
                "tokens_per_second_expected": speed.expected_tokens_per_second,
                "seconds_bound": speed.decode_seconds,
                "bytes_per_step": speed.bytes_per_step,
                "bytes_per_step_error": None if speed.traffic is None else speed.traffic.unsure,
                "bound_by": None if speed.decode is None else speed.decode.bound_by,
            },
            "train": {
                "step_seconds_bound": speed.train_step_seconds,
                "step_seconds_expected": speed.expected_train_step_seconds,
                "tokens_per_step": speed.tokens_per_update or None,
                "bound_by": speed.bound_by if speed.train else None,
            },
            "experts_touched": speed.experts_touched,
            "efficiency": {
                "compute": device.efficiency.compute,
                "bandwidth": device.efficiency.bandwidth,
                "source": device.efficiency.source,
            },
            "dated": device.dated or None,
            "untested": device.untested or None,
            "assumed": sorted(device.unknown),
        }


def bills_on(
    graph: Graph, workload: Workload, memory: Memory, devices: Sequence[Device], count: int
) -> tuple[DeviceBill, ...]:
    """The bills of several devices; what the workload asks for is worked out once."""
    demand = demand_of(graph, workload, memory)
    return tuple(
        DeviceBill(
            device=device,
            fit=fit_of(graph, workload, device, count, memory),
            speed=on_device(demand, graph, workload, device, count),
        )
        for device in devices
    )


def _phase(phase: Phase | None) -> dict[str, Any]:
    return {
        "seconds_bound": None if phase is None else phase.seconds,
        "seconds_expected": None if phase is None else phase.expected_seconds,
        "bound_by": None if phase is None else phase.bound_by,
    }
