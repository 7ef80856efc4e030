"""What a model holds for a moment while it reads a prompt and writes token by token, besides weights and cache.

The layers' tapes (docs/adr/0014-activation-memory.md) are recorded as passes without gradients, where nothing is kept:
a prompt goes through in pieces (`vitruvius.inference.generate`), each beside what the cache holds by then, and the
logits of its last token alone are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.patterns.blocks import BLOCK, keys_of_block
from vitruvius.sizing.formats import BYTES_PER_VALUE, weight_format
from vitruvius.spec.costs import Work
from vitruvius.spec.layer import Stack
from vitruvius.spec.mixers.attention import Attention
from vitruvius.spec.mixers.seeing import Seeing
from vitruvius.spec.positions.rope import KEPT_TABLES, RotaryPosition
from vitruvius.spec.tracing.activity import trace_layer
from vitruvius.spec.tracing.attending import TILE_SCORES
from vitruvius.spec.tracing.attending_stored import KEPT_PARTS, PREFILL, Stored
from vitruvius.spec.tracing.tape import Tape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.patterns.stores import StorePlan
    from vitruvius.sizing.workload import Workload
    from vitruvius.spec.costs import AttentionKernel
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.layer import Layer
    from vitruvius.spec.tracing.tape import Value

Moment = Literal["prefill", "decode", "forward"]
"""`forward` is the one pass over a whole text of a model that sees later tokens, and has no cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceActivations:
    """The most that exists besides weights and cache, in bytes."""

    prefill: int
    """While `context` tokens enter the cache, or go through at once where there is none."""
    decode: int
    """While one more token of each row goes through; 0 where there is no cache."""
    at: str
    """Where: an embedding, a layer, the head, of which piece of the prompt."""
    moment: Moment
    """Which of them is the peak."""
    unsure: int
    """How far they may be off, for kinds without an account of their own."""

    @property
    def activations(self) -> int:
        """The greater of both."""
        return max(self.prefill, self.decode)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """One call of the model."""

    tokens: int
    held: int
    name: str
    source: int = 0


def inference_activations(graph: Graph, workload: Workload) -> InferenceActivations:
    """The peak of reading `context` tokens into a cache and of writing one, of `batch` sequences at a time.

    An encoder reads `context` tokens, of which its decoder then writes as many.
    """
    context = graph.scope.context if workload.context is None else workload.context
    walk = _Walk(graph, workload, context)
    passes = list(_passes(graph, context, workload.batch))
    stays = kept_between_calls(graph, context, walk.value)
    found = {one.name: walk.high(one, stays) for one in passes}
    reading = {name: level for name, level in found.items() if name != "decode"}
    largest = max(found, key=lambda name: found[name][0])
    prefill = max(level for level, _ in reading.values())
    decode = found["decode"][0] if "decode" in found else 0
    moment: Moment = "decode" if decode > prefill else "prefill" if "decode" in found else "forward"
    where = found[largest][1] if largest in {"decode", "forward"} else f"{found[largest][1]}, {largest}"
    return InferenceActivations(prefill=prefill, decode=decode, at=where, moment=moment, unsure=walk.unsure)


def _passes(graph: Graph, context: int, batch: int) -> Iterator[_Pass]:
    """The calls that may be the highest: of a prompt in pieces the first, the last whole one, and the rest.

    And those whose scores just fit in one tile of the attention in blocks: longer ones are computed in several.
    """
    if not graph.is_causal:
        yield _Pass(tokens=context, held=0, name="forward")
        return
    if graph.encoder:
        yield _Pass(tokens=1, held=0, name="the source", source=context)
    elif graph.opens_prefix:
        yield _Pass(tokens=context, held=0, name="the prompt")
    else:
        whole = context // PREFILL
        if whole:
            yield _Pass(tokens=PREFILL - 1, held=0, name="end of a prompt that fills no whole chunk")
        yield _Pass(tokens=min(PREFILL, context), held=0, name="first piece of the prompt")
        if whole > 1:
            yield _Pass(tokens=PREFILL, held=(whole - 1) * PREFILL, name="last whole piece of the prompt")
        for held in sorted(_held_at_full_tiles(graph, batch)):
            if 0 < held < (whole - 1) * PREFILL:
                yield _Pass(tokens=PREFILL, held=held, name=f"piece of the prompt after {held:,} tokens")
        if whole and context % PREFILL:
            yield _Pass(tokens=context % PREFILL, held=whole * PREFILL, name="end of the prompt")
    if context > 1:
        yield _Pass(tokens=1, held=context - 1, name="decode", source=context if graph.encoder else 0)


def kept_between_calls(graph: Graph, context: int, value: int) -> int:
    """Bytes of tables and masks that the kernels keep for the next call, once a prompt of `context` tokens is read.

    Cosines and sines of the last `rope.KEPT_TABLES` calls and specs, masks of the last `plans.KEPT_PARTS` pieces.
    """
    wide = max(4, value)
    pieces = -(-context // PREFILL)
    mixers = {layer.mixer for layer in graph.layers if isinstance(layer.mixer, Seeing)}
    turned = {
        (mixer.position, mixer.position.rotary_width(mixer.heads_of(graph.scope).width))
        for mixer in mixers
        if isinstance(mixer.position, RotaryPosition)
    }
    last = min(pieces, max(1, KEPT_TABLES // max(1, len(turned))))
    calls = [min(PREFILL, context - piece * PREFILL) for piece in range(pieces - last, pieces)]
    tables = sum(tokens * (channels * wide + 8) for tokens in calls for _, channels in turned)
    masks = [size for mixer in mixers for size in _masks(mixer, graph, context, wide)] if graph.is_causal else []
    return tables + sum(sorted(masks, reverse=True)[:KEPT_PARTS])


def _masks(mixer: Seeing, graph: Graph, context: int, wide: int) -> Iterator[int]:
    """Bytes of the masks of each of the last pieces whose keys all stand in their places.

    A byte for each pair that is masked, and what is added to its score where our own kernel computes it.
    """
    plan, pattern = mixer.stores(graph.scope, context), mixer.pattern()
    each = 1 + (wide if _has_terms(mixer) else 0)
    for start in range(PREFILL, context, PREFILL)[-KEPT_PARTS:]:
        stop = min(start + PREFILL, context)
        if plan.archives or stop > plan.ring:
            continue
        seen: dict[object, int] = {}
        for first in range(start, stop, BLOCK):
            last = min(first + BLOCK, stop)
            masked = keys_of_block(pattern, first, last, stop).masked
            shape = tuple((run.start - first, run.size, run.step) for run in masked)
            seen[last - first, shape] = (last - first) * sum(run.size for run in masked)
        yield sum(seen.values()) * each


def _has_terms(mixer: Seeing) -> bool:
    """Whether scores need more than torch's own attention knows."""
    if not isinstance(mixer, Attention):
        return True
    biased = mixer.position is not None and mixer.position.acts_on == "scores"
    return biased or mixer.logit_cap is not None or mixer.sinks != "none"


def _held_at_full_tiles(graph: Graph, batch: int) -> set[int]:
    """Tokens before the piece in which a block of queries over all keys so far fills one tile."""
    heads = {layer.mixer.heads_of(layer.scope).queries for layer in graph.layers if isinstance(layer.mixer, Seeing)}
    return {TILE_SCORES // (batch * count * BLOCK) // PREFILL * PREFILL - PREFILL for count in heads}


class _Walk:
    """Goes through the parts of a model, call by call."""

    def __init__(self, graph: Graph, workload: Workload, context: int) -> None:
        self.graph, self.batch, self.context = graph, workload.batch, context
        self.value = BYTES_PER_VALUE[weight_format(workload.weights).rest]
        self.attention: AttentionKernel = workload.attention
        self.unsure = 0

    def high(self, one: _Pass, stays: int) -> tuple[int, str]:
        """The highest level of a call beside what `stays` between calls, and where it is."""
        levels = self._encoder(one) if one.source and not one.held else []
        source = self.batch * one.source * self.graph.scope.width * self.value if not one.held else 0
        levels += [(level + source, name) for level, name in self._decoder(one)]
        highest, name = max(levels, key=lambda level: level[0])
        return highest + stays, name

    def _encoder(self, one: _Pass) -> list[tuple[int, str]]:
        work = self._work(one.source)
        stored = Stored(held=0, source=one.source)
        return self._stack(work, stored, self.graph.encoder, norm=True)

    def _decoder(self, one: _Pass) -> list[tuple[int, str]]:
        graph, work = self.graph, self._work(one.tokens)
        stored = Stored(held=one.held, source=one.source)
        levels = self._stack(work, stored, graph.layers, norm=False)
        tape = Tape(work)
        tape.stored = stored
        with tape.call():
            x = tape.given("stream", self._shape(work))
            tape.hold(x)
            h = x if graph.final_norm is None else graph.final_norm.trace_normed(tape, x)
            tape.hold(h)
            rows = work.tokens if not graph.is_causal else 1
            last = tape.fresh((work.batch, rows, graph.scope.width))
            tape.op("last", reads=[h], makes=[last], gives=[])
            (logits,) = tape.linear(last, [graph.scope.vocab_size])
            if getattr(graph.architecture.head, "softcap", None) is not None:
                tape.hold(logits)
                tape.scaled(tape.scaled(logits))
            if not graph.is_causal and logits.item < work.wide_bytes:
                wide = tape.fresh(logits.shape, item=work.wide_bytes)
                tape.op("wide", reads=[logits], makes=[wide], gives=[])
        done = tape.fresh((1,))
        tape.op("done", reads=[logits], makes=[done], gives=[])
        return [*levels, (self._size(work) + tape.replay(done).alone, "head")]

    def _stack(self, work: Work, stored: Stored, layers: tuple[Layer, ...], *, norm: bool) -> list[tuple[int, str]]:
        """The embedding, the layers, and of an encoder the norm after them."""
        graph, size = self.graph, self._size(work)
        tape = Tape(work)
        tape.stored = stored
        levels = [(self._alone(tape, graph.architecture.embedding.trace(tape, graph.scope)), "embedding")]
        skips = "skip" in graph.architecture.streams.tensors(graph.scope) and layers is graph.layers
        known: dict[object, int] = {}
        lent = 0
        for index, layer in enumerate(layers):
            key = (layer.stack, layer.name, layer.scope.readers, layer.lends)
            if key not in known:
                known[key] = self._layer(work, stored, layer)
            # The embedding is held beside the stream that a layer reads; skips hold the first half of the stack.
            held = size * (min(index, 1) + 1)
            if skips:
                held += size * min(index, len(layers) - index, len(layers) // 2)
            levels.append((held + lent + known[key], f"{_NAMES[layer.stack]}layer {index}"))
            lent += self._lent(work, layer)
        if norm and graph.encoder_norm is not None:
            tape = Tape(work)
            x = tape.given("stream", self._shape(work))
            levels.append((2 * size + self._alone(tape, graph.encoder_norm.trace_normed(tape, x)), "encoder norm"))
        return levels

    def _layer(self, work: Work, stored: Stored, layer: Layer) -> int:
        tape = Tape(work, lends=layer.lends)
        tape.stored = Stored(held=stored.held, source=stored.source, plan=self._plan(layer))
        x = tape.given("stream", self._shape(work))
        if layer.stack is Stack.MAIN and self.graph.architecture.streams.embedding == "learned":
            x = tape.add(tape.pointwise("stream scale", x), tape.given("embedded", self._shape(work)))
        level = self._alone(tape, trace_layer(tape, layer, x))
        self.unsure = max(self.unsure, tape.unsure)
        return level

    def _plan(self, layer: Layer) -> StorePlan | None:
        """Where the layer's keys stand, or those that it borrows."""
        if layer.stack is not Stack.MAIN or not self.graph.is_causal:
            return None
        owner = layer if layer.keys_from is None else self.graph.layers[layer.keys_from]
        return owner.mixer.stores(owner.scope, self.context) if isinstance(owner.mixer, Seeing) else None

    def _lent(self, work: Work, layer: Layer) -> int:
        """Values of this call that later layers mix into their own."""
        if "values" not in layer.lends or layer.mixer is None:
            return 0
        heads = layer.mixer.lends(layer.scope, "values")
        return 0 if heads is None else work.positions * heads.groups * heads.width * self.value

    @staticmethod
    def _alone(tape: Tape, output: Value) -> int:
        return tape.replay(output).alone

    def _work(self, tokens: int) -> Work:
        return Work(batch=self.batch, tokens=tokens, value_bytes=self.value, attention=self.attention)

    def _shape(self, work: Work) -> tuple[int, int, int]:
        return work.batch, work.tokens, self.graph.scope.width

    def _size(self, work: Work) -> int:
        return work.positions * self.graph.scope.width * self.value


_NAMES = {Stack.MAIN: "", Stack.ENCODER: "encoder ", Stack.MTP: ""}
