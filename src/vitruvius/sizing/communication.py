"""What ranks send each other in a training step: bytes of one rank, inside its machine and across machines.

Every collective is counted as its ring algorithm sends it (Patarasuk and Yuan, 2009; NCCL): a rank that reduces S bytes
over n ranks sends n - 1 parts of S / n for a reduce-scatter, as many for an all-gather, and both for an all-reduce. A
group that spans machines does so in two levels, first among the g ranks of a machine and then, with its own g-th part,
across the k machines; so the slow wires carry 1 / g of what one flat ring would send over them.

Latency is not counted: these are the times of long messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vitruvius.sizing.hardware import Device

Collective = Literal["all-reduce", "reduce-scatter", "all-gather", "all-to-all", "send"]
Waits = Literal["always", "when-longer"]
"""`always`: the next operation needs the result. `when-longer`: it runs beside the computing of other layers, and only
what takes longer than that is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """How fast a rank sends to its neighbours, in bytes per second each way."""

    per_node: int
    """Ranks of one machine."""
    inside: float
    """To a rank of the same machine."""
    across: float
    """To a rank of another machine, each rank at the same time."""
    source: str
    """Where the speed across machines comes from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Ranks that take part in a collective: `ranks` of them, `inside` in each machine they touch."""

    ranks: int
    inside: int

    @property
    def nodes(self) -> int:
        """Machines that hold them."""
        return -(-self.ranks // self.inside)

    @property
    def is_even(self) -> bool:
        """Whether each machine holds as many of them."""
        return self.ranks % self.inside == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """Bytes that one rank sends."""

    inside: int = 0
    """To ranks of its own machine."""
    across: int = 0
    """To ranks of other machines."""

    @property
    def total(self) -> int:
        """Both."""
        return self.inside + self.across

    def __add__(self, other: Volume) -> Volume:
        """One after the other."""
        return Volume(inside=self.inside + other.inside, across=self.across + other.across)

    def times(self, count: int) -> Volume:
        """The same again and again."""
        return Volume(inside=self.inside * count, across=self.across * count)

    def seconds(self, network: Network) -> float:
        """Time on the wires, one level after the other."""
        return self.inside / network.inside + self.across / network.across


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One kind of message of a training step."""

    what: str
    """Such as `gradients`."""
    collective: Collective
    group: Group
    bytes_each: int
    """The size of the message that is reduced, gathered or sent."""
    times: int
    """How often in a step."""
    waits: Waits
    formula: str

    @property
    def volume(self) -> Volume:
        """What one rank sends in a step."""
        return volume(self.collective, self.bytes_each, self.group).times(self.times)


def group_of(ranks: int, stride: int, per_node: int) -> Group:
    """Every `stride`-th rank, `ranks` of them, of machines that hold `per_node` ranks in a row."""
    inside = max(1, min(ranks, per_node // stride))
    return Group(ranks=ranks, inside=inside)


def volume(collective: Collective, size: int, group: Group) -> Volume:
    """Bytes that a rank sends so that `size` bytes are reduced, gathered, shared out or sent.

    Parts are rounded up to whole bytes. Where machines hold unequal numbers of ranks, all of it is counted as crossing.
    """
    if group.ranks == 1 or size == 0:
        return Volume()
    match collective:
        case "all-reduce":
            return _ring(size, group).times(2)
        case "reduce-scatter" | "all-gather":
            return _ring(size, group)
        case "all-to-all":
            part = -(-size // group.ranks)
            return Volume(inside=(group.inside - 1) * part, across=(group.ranks - group.inside) * part)
        case "send":
            return Volume(inside=size) if group.inside > 1 else Volume(across=size)


def _ring(size: int, group: Group) -> Volume:
    """One pass around: a reduce-scatter or an all-gather, in two levels where the group spans machines."""
    if not group.is_even:
        return Volume(across=(group.ranks - 1) * -(-size // group.ranks))
    part = -(-size // group.inside)
    return Volume(inside=(group.inside - 1) * part, across=(group.nodes - 1) * -(-part // group.nodes))


_ACROSS: dict[str, tuple[float, str]] = {
    "data-centre": (50e9, "assumed: one 400 Gb/s port for each device, as in a DGX H100 (NVIDIA datasheet)"),
    "tpu": (0.0, "the same interconnect inside and across hosts (ICI)"),
    "workstation": (3.125e9, "assumed: 100 Gb/s Ethernet for each machine of four"),
    "consumer": (0.3125e9, "assumed: 10 Gb/s Ethernet for each machine of four"),
    "apple": (1.25e9, "assumed: 10 Gb/s Ethernet for each machine"),
    "cpu": (3.125e9, "assumed: 25 Gb/s Ethernet for each machine"),
}
"""Bytes per second across machines, for each device, by tier; no catalogue knows what network a buyer has."""


def network_of(device: Device, across: float | None = None) -> Network:
    """The network of machines of a device; `across` (bytes per second and device) replaces what is assumed."""
    assumed, source = _ACROSS[device.tier]
    if across is not None:
        return Network(per_node=device.per_node, inside=device.link, across=across, source="given")
    # A device that reaches its own neighbours more slowly than the assumed network has no faster way out.
    speed = min(assumed or device.link, device.link)
    return Network(per_node=device.per_node, inside=device.link, across=speed, source=source)


def step_seconds(traffic: tuple[Message, ...], network: Network) -> tuple[float, float]:
    """(what computing waits for in any case, what may run beside it) of a step, in seconds."""
    always = sum(t.volume.seconds(network) for t in traffic if t.waits == "always")
    beside = sum(t.volume.seconds(network) for t in traffic if t.waits == "when-longer")
    return always, beside
