"""What one decoding step reads and writes, byte for byte: weights touched, keys read, state carried on.

A step computes one token for each of `batch` sequences, the last of `context` tokens. Of a mixture only the experts
that some token chose are read: with k of E experts for each token and every choice alike, E (1 - (1 - k/E)^batch) of
them on average, exact for uniform routing; routers that favour some experts read fewer. Keys are counted as the pattern
reads them at that position, not as the cache allocates them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1, log1p
from typing import TYPE_CHECKING

from vitruvius.sizing.formats import BYTES_PER_VALUE, is_quantisable, state_tensor_bytes, weight_format
from vitruvius.sizing.memory import cache_format, context_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.patterns import Pattern
    from vitruvius.sizing.workload import Workload
    from vitruvius.spec.costs import StateSpec, TensorSpec
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.layer import Layer

_LONGEST_OWN = 2**17
"""Keys up to which an own condition is asked key by key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes of one decoding step of all sequences."""

    weights: int
    """Every map once, of experts the expected share; rows of tables; not the tables."""
    kv_read: int
    kv_written: int
    state: int
    """Recurrent state, read and written."""
    unsure: int = 0
    """How far `kv_read` may be off: above 0 only for own patterns on sequences too long to ask key by key."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_read + self.kv_written + self.state


def share_touched(used: tuple[int, int], tokens: int) -> float:
    """The expected share of E experts that `tokens` tokens with k different uniform choices each use."""
    chosen, of = used
    if chosen >= of or tokens == 1:
        return min(1.0, chosen / of)
    return -expm1(tokens * log1p(-chosen / of))


def experts_touched(graph: Graph, tokens: int) -> float | None:
    """Experts of one mixture that a pass over so many tokens reads, on average; None without mixtures."""
    for layer in graph.layers:
        for tensor in layer.tensors().values():
            if tensor.used[1] > 1:
                return tensor.used[1] * share_touched(tensor.used, tokens)
    return None


def decode_traffic(graph: Graph, workload: Workload) -> Traffic:
    """Bytes of one step of `workload.batch` sequences, each of which has `context` tokens with the new one."""
    tokens, kept = context_of(graph, workload), cache_format(workload)
    states = dict(zip(graph.every_layer(), graph.states(tokens), strict=True))
    known: dict[object, tuple[int, int, int, int]] = {}
    read = written = carried = unsure = 0
    for layer in graph.layers:
        lender = layer if layer.keys_from is None else graph.layers[layer.keys_from]
        key = (layer.name, lender.name, lender.scope.readers)
        if key not in known:
            known[key] = _of_layer(layer, states[layer], states[lender], tokens, kept)
        one = known[key]
        read, written, carried, unsure = read + one[0], written + one[1], carried + one[2], unsure + one[3]
    return Traffic(
        weights=weights_touched(graph, workload.weights, workload.batch),
        kv_read=read * workload.batch,
        kv_written=written * workload.batch,
        state=2 * carried * workload.batch,
        unsure=unsure * workload.batch,
    )


def weights_touched(graph: Graph, dtype: str, tokens: int) -> int:
    """Bytes of weights that a pass of the decoder over `tokens` tokens reads, once for each time they are applied.

    A table is read by rows, unless the head is tied to it. The encoder and what cross-attention does to the source
    alone take no part: that was done when the prompt came.
    """
    form = weight_format(dtype)
    plain = BYTES_PER_VALUE[form.rest]
    known: dict[str, float] = {}
    total = 0.0
    for layer in graph.layers:
        if layer.name not in known:
            known[layer.name] = sum(
                form.bytes_of(tensor, quantised=is_quantisable(f"{layer.path}.{name}", tensor))
                * share_touched(tensor.used, tokens)
                for name, tensor in layer.tensors().items()
                if not name.startswith(("cross.k.", "cross.v."))
            )
        total += known[layer.name]
    for name, tensor in _outside(graph):
        if tensor.role == "table" and not (_is_head_too(graph, name, tensor)):
            total += min(tokens, tensor.shape[0]) * tensor.shape[-1] * plain
        else:
            total += form.bytes_of(tensor, quantised=False)
    return round(total)


def _outside(graph: Graph) -> Iterator[tuple[str, TensorSpec]]:
    """What takes part in each step besides layers."""
    for name, tensor in graph.tensors().items():
        if name.startswith(("embedding.", "streams.", "final_norm.", "head.")):
            yield name, tensor


def _is_head_too(graph: Graph, name: str, tensor: TensorSpec) -> bool:
    """Whether a table is what logits are made with."""
    tied = bool(getattr(graph.architecture.head, "tied", False))
    return tied and name.startswith("embedding.") and tensor.shape == (graph.scope.vocab_size, graph.scope.width)


def _of_layer(
    layer: Layer, own: Mapping[str, StateSpec], lent: Mapping[str, StateSpec], tokens: int, kept: str
) -> tuple[int, int, int, int]:
    """Of one sequence: bytes of keys read and written, of state, and how far the first may be off."""
    pattern = None if layer.mixer is None else layer.mixer.pattern()
    read = written = carried = unsure = 0
    for name, spec in {**lent, **own}.items():
        size = state_tensor_bytes(spec, kept)
        if spec.role == "state":
            carried += size if name in own else 0
            continue
        slots = spec.shape[-2] if len(spec.shape) > 1 else 1
        if name.startswith("cross.") or pattern is None:
            read += size
            continue
        reads, error = _reads(pattern, tokens, slots)
        read += size * reads // slots
        unsure += size * error // slots
        written += size // slots if name in own else 0
    return read, written, carried, unsure


def _reads(pattern: Pattern, tokens: int, slots: int) -> tuple[int, int]:
    """The number of keys that the last of `tokens` queries reads, and how far that may be off."""
    if tokens > _LONGEST_OWN and any(clause.predicates for clause in pattern.clauses):
        last = tokens // 8  # the average of the last eighth of the queries
        pairs = pattern.count(tokens).value - pattern.count(tokens - last).value
        average = min(slots, max(1, pairs // last))
        return average, max(average, slots - average)
    return min(pattern.reads(tokens - 1, tokens), slots), 0
