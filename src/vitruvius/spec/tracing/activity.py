"""A training step of a whole architecture as stretches of tape: embedding, layers, what stands between them, the loss.

Layers that cannot differ share one stretch, so that a step of a hundred layers is read off a few.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vitruvius.spec.layer import Stack
from vitruvius.spec.tracing.tape import Tape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.costs import Work
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.layer import Layer
    from vitruvius.spec.node import Component
    from vitruvius.spec.tracing.losing import Loss
    from vitruvius.spec.tracing.replay import Replay
    from vitruvius.spec.tracing.tape import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """One part of a step."""

    name: str
    """`embedding`, `layer 3`, `encoder layer 0`, `loss`."""
    replay: Replay
    unsure: int
    reads: Mapping[str, str]
    """Names of what was there before, on its tape -> in the step."""
    leaves: Mapping[str, str]
    """Names of what it gives on, on its tape -> in the step."""
    weights: str
    """Whose weights its own are: stretches of one name share them."""
    index: int | None = None
    """Of a layer of a stack, its place there."""
    tied: int = 0
    """Of the gradients of its weights, bytes that are the token table's where the head's map is that table."""


def steps(graph: Graph, work: Work, *, loss: Loss = "chunked") -> list[Stretch]:
    """The stretches of one micro-batch in the order of its forward pass."""
    return list(_Walk(graph, work, loss).stretches())


def trace_layer(tape: Tape, layer: Layer, x: Value) -> Value:
    """What a layer does to the stream; as `vitruvius.nn.block.LayerModule`."""
    sublayers = list(layer.sublayers())
    with tape.call():
        tape.hold(x)
        if layer.order != "in-turn" and len(sublayers) > 1:
            return _parallel(tape, layer, x, sublayers)
        for name, component in sublayers:
            x = _added(tape, layer, x, name, component)
            tape.hold(x)
        return x


def _added(tape: Tape, layer: Layer, x: Value, name: str, component: Component) -> Value:
    with tape.call():
        if not layer.has_norm(name):
            return tape.add(x, _scaled(tape, layer, component.trace(tape, x, layer.scope)))
        norm, place = layer.norm, layer.norm_place
        if place == "post":
            return norm.trace_normed(tape, tape.add(x, _scaled(tape, layer, component.trace(tape, x, layer.scope))))
        if place == "output":
            y = norm.trace_normed(tape, component.trace(tape, x, layer.scope))
            return tape.add(x, _scaled(tape, layer, y))
        x, h = norm.trace_forked(tape, x)
        tape.hold(x, h)
        y = component.trace(tape, h, layer.scope)
        tape.hold(y)
        y = norm.trace_normed(tape, y) if place == "sandwich" else y
        return tape.add(x, _scaled(tape, layer, y))


def _parallel(tape: Tape, layer: Layer, x: Value, sublayers: list[tuple[str, Component]]) -> Value:
    h = total = x
    for name, component in sublayers:
        if layer.has_norm(name):
            h = layer.norm.trace_normed(tape, x)
        tape.hold(h, total)
        total = tape.add(total, _scaled(tape, layer, component.trace(tape, h, layer.scope)))
    return total


def _scaled(tape: Tape, layer: Layer, y: Value) -> Value:
    return y if layer.branch_scale == 1.0 else tape.scaled(y)


class _Walk:
    """Goes through the parts of an architecture, naming what passes between them."""

    def __init__(self, graph: Graph, work: Work, loss: Loss) -> None:
        self.graph, self.work = graph, work
        self.loss: Loss = loss
        self.shape = (work.batch, work.tokens, graph.scope.width)
        self._known: dict[object, tuple[Replay, int, dict[str, tuple[int, ...]]]] = {}
        self._strides: dict[str, tuple[int, ...]] = {}
        """Of what layers lend, by its name in the step."""

    def stretches(self) -> Iterator[Stretch]:
        graph = self.graph
        if graph.encoder:
            yield self._embedding("source stream 0", "encoder embedding", "source")
            for index, layer in enumerate(graph.encoder):
                yield self._layer(layer, f"source stream {index}", f"source stream {index + 1}")
            yield self._encoder_norm()
        yield self._embedding("stream 0", "embedding", "tokens")
        yield from self._main()
        yield from self._ahead()
        yield self._head()

    def _embedding(self, leaves: str, name: str, ids: str) -> Stretch:
        tape = Tape(self.work, place=_PLACES.get(name, ""))
        y = self.graph.architecture.embedding.trace(tape, self.graph.scope, ids=ids)
        return self._stretch(name, tape, y, leaves={"output": leaves}, weights="embedding", tied=self._tied())

    def _main(self) -> Iterator[Stretch]:
        """The stack under the head, with what enters its layers beside the stream."""
        for index, layer in enumerate(self.graph.layers):
            reads = f"stream {index}"
            skip = self._skip(layer)
            if skip is not None or self.graph.architecture.streams.embedding == "learned":
                yield self._entering(index, skip)
                reads = f"entered {index}"
            yield self._layer(layer, reads, f"stream {index + 1}")

    def _layer(self, layer: Layer, reads: str, leaves: str) -> Stretch:
        loans = {"keys": layer.keys_from, "values": layer.values_from}
        known = {"stream": reads, "source": "source"}
        known |= {f"{what}.{i}": f"{what} of {lender}.{i}" for what, lender in loans.items() for i in range(2)}
        lent = {f"{what}.{i}": f"{what} of {layer.index}.{i}" for what in loans for i in range(2)}
        borrowed = {name: self._strides[known[name]] for name in known if known[name] in self._strides}
        key = (layer.stack, layer.name, layer.scope.readers, layer.lends, tuple(borrowed.items()))
        if key not in self._known:
            tape = Tape(self.work, lends=layer.lends, loans=borrowed, place=_STACKS[layer.stack])
            y = trace_layer(tape, layer, tape.given("stream", self.shape))
            strides = {name: value.strides for name, value in tape.lent.items()}
            self._known[key] = (tape.replay(y), tape.unsure, strides)
        replay, unsure, strides = self._known[key]
        self._strides |= {lent[name]: steps for name, steps in strides.items()}
        return Stretch(
            name=f"{_STACKS[layer.stack]}layer {layer.index}",
            replay=replay,
            unsure=unsure,
            reads=known,
            leaves={"output": leaves, **lent},
            weights=layer.stack.value.format(index=layer.weights),
            index=layer.index,
        )

    def _skip(self, layer: Layer) -> int | None:
        """The layer whose output a skip adds to what this one reads."""
        depth = self.graph.scope.depth
        if "skip" not in self.graph.architecture.streams.tensors(self.graph.scope):
            return None
        return depth - 1 - layer.index if layer.index >= depth - depth // 2 else None

    def _entering(self, index: int, skip: int | None) -> Stretch:
        """What enters a layer, as `vitruvius.nn.stack.StreamsOfCall.enter`."""
        number = self.work.value_bytes
        tape = Tape(self.work)
        reads = {"stream": f"stream {index}", "embedded": "stream 0", "skip": f"stream {(skip or 0) + 1}"}
        x = tape.given("stream", self.shape)
        with tape.call():
            if skip is not None:
                kept = tape.given("skip", self.shape)
                x = tape.add(x, tape.pointwise("skip", kept, saves=[kept], weights=number, backward=kept.size))
            if self.graph.architecture.streams.embedding == "learned":
                embedded = tape.given("stream" if index == 0 else "embedded", self.shape)
                parts: list[Value] = []
                for each in (x, embedded):
                    parts.append(tape.pointwise("scale", each, saves=[each], weights=number, backward=each.size))
                    tape.hold(*parts)
                x = tape.add(*parts)
        return self._stretch(f"entering layer {index}", tape, x, reads=reads, leaves={"output": f"entered {index}"})

    def _encoder_norm(self) -> Stretch:
        last = f"source stream {len(self.graph.encoder)}"
        tape = Tape(self.work)
        x = tape.given("stream", self.shape)
        norm = self.graph.encoder_norm
        y = x if norm is None else norm.trace_normed(tape, x)
        return self._stretch("encoder norm", tape, y, reads={"stream": last}, leaves={"output": "source"})

    def _ahead(self) -> Iterator[Stretch]:
        """Multi-token prediction: each block reads the stream of the one before, without its last token."""
        graph, before = self.graph, f"stream {len(self.graph.layers)}"
        norm, width = graph.architecture.norm, graph.scope.width
        for ahead, layer in enumerate(graph.mtp, 1):
            tokens = self.work.tokens - ahead
            if tokens < 1:
                return
            work = replace(self.work, tokens=tokens)
            tape = Tape(work)
            longer = tape.given("stream", (work.batch, tokens + 1, width))
            with tape.call():
                x = tape.cut(longer, 1, tokens)
                ids = tape.constant("tokens", 8 * self.work.positions)
                token = tape.fresh((work.batch, tokens, width))
                table = graph.scope.vocab_size * width * work.value_bytes
                wide = 0 if work.value_bytes == work.wide_bytes else table // work.value_bytes * work.wide_bytes
                tape.op("embedding", reads=[ids], makes=[token], saves=[ids], gives=[], backward=table + wide)
                tape.hold(x, token)
                normed = [norm.trace_normed(tape, each) for each in (x, token)]
                joined = tape.fresh((work.batch, tokens, 2 * width))
                tape.op("join", reads=normed, makes=[joined])
                tape.hold(joined)
                (h,) = tape.linear(joined, [width])
                y = trace_layer(tape, layer, h)
            after = f"ahead stream {ahead}"
            yield self._stretch(
                f"token {ahead} ahead",
                tape,
                y,
                reads={"stream": before},
                leaves={"output": after},
                weights=f"mtp {ahead}",
            )
            tape = Tape(work)
            h = norm.trace_normed(tape, tape.given("stream", (work.batch, tokens, width)))
            y = graph.architecture.head.trace_loss(tape, h.flatten(0, 1), graph.scope, loss=self.loss)
            before = after
            yield self._stretch(
                f"loss {ahead} ahead",
                tape,
                y,
                reads={"stream": after},
                leaves={"output": f"loss {ahead}"},
                weights="head",
                tied=self._tied(),
            )

    def _head(self) -> Stretch:
        graph, last = self.graph, f"stream {len(self.graph.layers)}"
        tape = Tape(self.work)
        with tape.call():
            h = tape.given("stream", self.shape)
            tape.hold(h)
            if graph.final_norm is not None:
                h = graph.final_norm.trace_normed(tape, h)
                tape.hold(h)
            y = graph.architecture.head.trace_loss(tape, h.flatten(0, 1), graph.scope, loss=self.loss)
        return self._stretch(
            "loss", tape, y, reads={"stream": last}, leaves={"output": "loss"}, weights="head", tied=self._tied()
        )

    def _tied(self) -> int:
        """Bytes of the gradient that embedding and head share; 0 where the head has a map of its own."""
        scope = self.graph.scope
        own = "weight" in self.graph.architecture.head.tensors(scope)
        return 0 if own or self.work.weights != "trained" else scope.vocab_size * scope.width * self.work.value_bytes

    @staticmethod
    def _stretch(
        name: str,
        tape: Tape,
        output: Value,
        *,
        leaves: Mapping[str, str],
        reads: Mapping[str, str] | None = None,
        weights: str = "",
        tied: int = 0,
    ) -> Stretch:
        return Stretch(
            name=name,
            replay=tape.replay(output),
            unsure=tape.unsure,
            reads=reads or {},
            leaves=leaves,
            weights=weights or name,
            tied=tied,
        )


_PLACES = {"encoder embedding": "encoder "}
_STACKS = {Stack.MAIN: "", Stack.ENCODER: "encoder ", Stack.MTP: "token ahead "}
