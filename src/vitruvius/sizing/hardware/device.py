"""One device of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Tier = Literal["consumer", "workstation", "data-centre", "apple", "cpu", "tpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """What share of a peak good software reaches, and where that was read."""

    compute: float
    """Of the peak FLOP/s, in prefill and training steps as a whole (model FLOPs utilisation)."""
    bandwidth: float
    """Of the peak bytes/s, in decoding."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What a device offers and costs. Rates are per second, without sparsity; money is US dollars."""

    name: str
    """As `--on` takes it: lower case with dashes, the memory where it varies."""
    title: str
    tier: Tier
    released: int
    """Year."""
    memory_bytes: int
    reserved_bytes: int
    """Of that, what driver and runtime (or, of a CPU, the system) take before the first tensor; an estimate."""
    bandwidth: float
    """Bytes of memory read per second, peak."""
    flops: Mapping[str, float]
    """Peak FLOP/s with dense operands by format: fp32, tf32, bf16, fp16, fp8, int8, as far as it has them."""
    link: float
    """Bytes per second to its neighbours, each way: NVLink, xGMI, ICI, or PCIe."""
    link_name: str
    per_node: int
    """How many of them usually share a machine and the link."""
    watts: float
    """Board power under load."""
    buy: float | None
    """Street price of one."""
    rent: float | None
    """Of one for an hour, on demand; None where nobody rents it out."""
    dated: str
    """When prices were read: YYYY-MM-DD."""
    efficiency: Efficiency
    sources: Mapping[str, str]
    """Where each number was read, by field name."""
    untested: str = ""
    """Why models of this project do not run on it yet, or are not known to; empty where they do."""
    unknown: frozenset[str] = field(default_factory=frozenset[str])
    """Fields that the file leaves out and that had to be assumed."""

    @property
    def usable_bytes(self) -> int:
        """What is left for a model."""
        return self.memory_bytes - self.reserved_bytes

    def peak(self, fmt: str) -> float:
        """Peak FLOP/s for operands of a format; the next wider one's where it has no units for it."""
        for candidate in (fmt, *_WIDER.get(fmt, ())):
            if candidate in self.flops:
                return self.flops[candidate]
        return max(self.flops.values())


_WIDER = {
    "fp8": ("bf16", "fp16", "fp32"),
    "int8": ("bf16", "fp16", "fp32"),
    "bf16": ("fp16", "fp32"),
    "fp16": ("bf16", "fp32"),
    "fp64": ("fp32",),
}
