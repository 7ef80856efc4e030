"""The messages of one training step under a parallel plan, of one rank of a pipeline stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.sizing.communication import Collective, Group, Message, group_of
from vitruvius.sizing.parallel.deepspeed import SUM_BYTES
from vitruvius.sizing.parallel.sharding import layer_parts, stays_whole
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.mixers.attention import Attention
from vitruvius.spec.mixers.differential import DifferentialAttention

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vitruvius.sizing.parallel.degrees import Degrees, Schedule
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.layer import Layer


class Messages:
    """What a rank of one stage sends in a step; ranks stand in the order tensor, context, data, pipeline.

    Activations, weights and gradients travel in the model's format; gradients under DeepSpeed (`by_deepspeed`) as the
    engine here has them summed: in fp32, and waited for. `inner` remembers, by kind of layer, what was found out.
    """

    def __init__(
        self,
        graph: Graph,
        layers: Sequence[Layer],
        degrees: Degrees,
        schedule: Schedule,
        *,
        stage: int,
        per_node: int,
        value_bytes: int = 2,
        inner: dict[str, int] | None = None,
        by_deepspeed: bool = False,
    ) -> None:
        self._graph, self._layers, self._degrees, self._schedule = graph, layers, degrees, schedule
        self._is_first, self._is_last = stage == 0, stage == degrees.pipeline - 1
        self._per_node, self._value_bytes = per_node, value_bytes
        self._inner = {} if inner is None else inner
        self._by_deepspeed = by_deepspeed
        self._positions = schedule.micro_batch * -(-schedule.tokens // degrees.context)
        self._stream = self._positions * graph.scope.width * value_bytes
        # Forward and backward, and forward again where layers are computed twice.
        self._passes = 2 if schedule.checkpointing == "none" else 3

    def all(self, dense: int, experts: int) -> tuple[Message, ...]:
        """Every message; `dense` and `experts` are the parameters of the rank before data ranks divide them."""
        return (
            *self.between_data_ranks(dense, experts),
            *self.between_tensor_ranks(),
            *self.between_expert_ranks(),
            *self.between_context_ranks(),
            *self.between_stages(),
        )

    def between_data_ranks(self, dense: int, experts: int) -> Iterator[Message]:
        """Gradients, and under ZeRO weights."""
        d = self._degrees
        copies = d.data * d.context
        everyone = group_of(copies, d.tensor, self._per_node)
        if d.expert == 1:
            yield from self._reduced("", dense + experts, everyone)
            return
        yield from self._reduced("", dense, everyone)
        among = group_of(copies // d.expert, d.tensor * d.expert, self._per_node)
        yield from self._reduced(" of experts", experts, among)

    def _reduced(self, of: str, parameters: int, group: Group) -> Iterator[Message]:
        if group.ranks == 1 or parameters == 0:
            return
        size, n, m = parameters * self._value_bytes, group.ranks, self._schedule.micro_batches
        one, zero = f"{n - 1}/{n} x {size:,} bytes", self._degrees.zero
        if self._by_deepspeed:
            yield from self._by_bucket(parameters, group)
            return
        if zero == 0:
            yield self._beside(f"gradients{of}", "all-reduce", group, size, 1, f"2 x {one}")
            return
        reduces = m if zero >= 2 else 1
        gathers = 2 * m if zero == 3 else 1
        yield self._beside(f"gradients{of}", "reduce-scatter", group, size, reduces, f"{one} x {reduces}")
        yield self._beside(f"weights{of}", "all-gather", group, size, gathers, f"{one} x {gathers}")

    def _by_bucket(self, parameters: int, group: Group) -> Iterator[Message]:
        """DeepSpeed's, without `overlap_comm`: stage 2 sums every bucket in every rank, stage 3 scatters the sums."""
        n, m, third = group.ranks, self._schedule.micro_batches, self._degrees.zero == 3
        sums, size = parameters * SUM_BYTES, parameters * self._value_bytes
        if third:
            yield self._waited("gradients", "reduce-scatter", group, sums, m, f"{n - 1}/{n} x {sums:,} bytes")
        else:
            yield self._waited("gradients", "all-reduce", group, sums, m, f"2 x {n - 1}/{n} x {sums:,} bytes")
        gathers = 2 * m if third else 1
        yield self._waited("weights", "all-gather", group, size, gathers, f"{n - 1}/{n} x {size:,} bytes")

    def between_tensor_ranks(self) -> Iterator[Message]:
        """Sums of what sublayers make of their parts; a scatter and a gather instead where sequences are divided."""
        d, m = self._degrees, self._schedule.micro_batches
        if d.tensor == 1:
            return
        group = group_of(d.tensor, 1, self._per_node)
        sums = sum(_sums(layer) for layer in self._layers)
        ends = self._is_first + self._is_last
        each = f"{self._positions:,} tokens x {self._graph.scope.width:,} x {self._value_bytes} bytes"
        if self._schedule.sequence_parallel == "off":
            times = m * (sums * self._passes + ends)
            yield self._waited("activations", "all-reduce", group, self._stream, times, each)
        else:
            # The backward pass gathers the inputs again, which were kept in parts.
            gathers, scatters = self._passes + 1, self._passes
            yield self._waited("activations", "all-gather", group, self._stream, m * (sums * gathers + ends), each)
            yield self._waited("activations", "reduce-scatter", group, self._stream, m * (sums * scatters + ends), each)
        inner = self._inner_sums()
        if inner:
            size = self._positions * inner * self._value_bytes
            yield self._waited("inner maps", "all-reduce", group, size, m * self._passes, f"{size:,} bytes")
        if self._is_last:
            size = self._positions * 4
            yield self._waited("loss", "all-reduce", group, size, 3 * m, f"{self._positions:,} tokens x 4 bytes")

    def _inner_sums(self) -> int:
        """Channels of the maps inside mixers that read divided channels and whose output every rank needs."""
        known = self._inner
        for layer in self._layers:
            if layer.name not in known:
                parts = layer_parts(layer, tensor=1, expert=1).values()
                known[layer.name] = sum(p.spec.shape[-2] for p in parts if p.sums and p.spec.role != "output")
        return sum(known[layer.name] for layer in self._layers)

    def between_expert_ranks(self) -> Iterator[Message]:
        """Tokens to their experts and back, and their gradients the same ways."""
        d, m = self._degrees, self._schedule.micro_batches
        mixtures = [layer.ffn for layer in self._layers if isinstance(layer.ffn, Moe)]
        if d.expert == 1 or not mixtures:
            return
        group = group_of(d.expert, d.tensor, self._per_node)
        sent = sum(moe.top_k for moe in mixtures) * self._stream // d.tensor
        formula = f"{self._positions:,} tokens x top_k x {self._graph.scope.width:,} x {self._value_bytes} bytes"
        yield self._waited("tokens to experts", "all-to-all", group, sent, m * self._passes, formula)
        yield self._waited("experts to tokens", "all-to-all", group, sent, m * self._passes, formula)

    def between_context_ranks(self) -> Iterator[Message]:
        """Keys and values around the ring (Liu et al., 2023): forward, and twice as much backward."""
        d, m = self._degrees, self._schedule.micro_batches
        if d.context == 1:
            return
        channels = 0
        for layer in self._layers:
            if isinstance(layer.mixer, Attention | DifferentialAttention):
                wide = 2 if isinstance(layer.mixer, DifferentialAttention) else 1
                groups = max(1, layer.mixer.groups // d.tensor)
                channels += 2 * wide * groups * layer.mixer.width_of_head(layer.scope)
        size = channels * self._positions * self._value_bytes
        group = group_of(d.context, d.tensor, self._per_node)
        # Each of the context - 1 hops passes everything on, as a gather does.
        formula = f"({d.context} - 1) x {size:,} bytes, forward and twice backward"
        yield self._beside("keys and values", "all-gather", group, size * d.context, m * (self._passes + 1), formula)

    def between_stages(self) -> Iterator[Message]:
        """Activations to the next stage, their gradients to the one before."""
        d, m = self._degrees, self._schedule.micro_batches
        if d.pipeline == 1:
            return
        ways = (not self._is_first) + (not self._is_last)
        stride = d.tensor * d.context * d.data
        group = Group(ranks=2, inside=2 if stride * 2 <= self._per_node else 1)
        size = -(-self._stream // d.tensor)
        formula = f"{self._stream:,} bytes / {d.tensor}"
        yield self._waited("between stages", "send", group, size, m * ways, formula)
        scope = self._graph.scope
        tied = "weight" not in self._graph.architecture.head.tensors(scope)
        if tied and (self._is_first or self._is_last):
            table = -(-scope.vocab_size // d.tensor) * scope.width * self._value_bytes
            yield self._waited("tied table", "all-reduce", group, table, 1, f"{table:,} bytes of gradients")

    def _waited(self, what: str, how: Collective, group: Group, size: int, times: int, formula: str) -> Message:
        text = f"{formula} x {times:,}"
        return Message(
            what=what, collective=how, group=group, bytes_each=size, times=times, waits="always", formula=text
        )

    def _beside(self, what: str, how: Collective, group: Group, size: int, times: int, formula: str) -> Message:
        return Message(
            what=what, collective=how, group=group, bytes_each=size, times=times, waits="when-longer", formula=formula
        )


def _sums(layer: Layer) -> int:
    """Sublayers whose parts are summed, forward as often as backward; parallel ones are summed together."""
    divided = [component for _, component in layer.sublayers() if not stays_whole(component)]
    return min(len(divided), 1) if layer.order != "in-turn" else len(divided)
