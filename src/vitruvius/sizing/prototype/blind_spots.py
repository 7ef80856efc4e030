"""What a prototype can no longer catch: failure modes that need what was cut, each from the numbers that changed."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from typing import TYPE_CHECKING, Any

from vitruvius.sizing.laws import DEFAULT
from vitruvius.sizing.memory import kv_cache_bytes
from vitruvius.sizing.parameters import count_parameters
from vitruvius.sizing.prototype.layout import distortion
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.mixers.seeing import Seeing
from vitruvius.spec.parametrisations import CompleteP, WidthParametrisation
from vitruvius.units import format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.sizing.prototype.run import PrototypeRun
    from vitruvius.spec.graph import Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindSpot:
    """One way to fail that the prototype does not show."""

    what: str
    because: str
    """The numbers that changed, and why the failure needs the old ones."""


def blind_spots(before: Graph, after: Graph, run: PrototypeRun) -> tuple[BlindSpot, ...]:
    """Every failure mode that needs something the prototype has less of."""
    sources = (_size, _depth, _width, _heads, _time, _experts, _states, _words, _layout)
    return tuple(spot for source in sources for spot in source(before, after, run))


def _size(before: Graph, after: Graph, run: PrototypeRun) -> Iterator[BlindSpot]:
    old, new = count_parameters(before), count_parameters(after)
    full = DEFAULT.loss_at(old.active, DEFAULT.best_tokens(old.active))
    small = DEFAULT.loss_at(new.active, run.tokens)
    yield BlindSpot(
        what="abilities and instabilities that come with scale",
        because=f"{format_count(old.active)} active parameters became {format_count(new.active)}; the scaling law"
        f"{'' if DEFAULT.covers(new.active) else ', outside the runs it was fitted to,'} puts this run at {small:.2f} "
        f"nats a token and the full size at {full:.2f}, so what shows only below {small:.2f} cannot be seen, nor a "
        "difference that has the other sign there",
    )


def _depth(before: Graph, after: Graph, run: PrototypeRun) -> Iterator[BlindSpot]:
    del run
    old, new = len(before.layers), len(after.layers)
    if new >= old:
        return
    grows = sqrt(old / new)
    carried = isinstance(before.architecture.init, CompleteP)
    yield BlindSpot(
        what="instabilities of depth: a residual stream that swells, gradients that vanish or explode on the way down",
        because=f"{old} layers became {new}, so the stream sums {2 * new} sublayers and not {2 * old} (about "
        f"{grows:.2g} times less at init)" + ("; completep carries the learning rate, not the rounding" * carried),
    )


def _width(before: Graph, after: Graph, run: PrototypeRun) -> Iterator[BlindSpot]:
    old, new = before.scope.width, after.scope.width
    if new >= old:
        return
    yield BlindSpot(
        what="rounding in bf16 products over the full width, and outlier channels that break quantisation",
        because=f"a product sums {new:,} terms and not {old:,}: its error in units of the last bit grows with the "
        f"square root, {sqrt(old / new):.2g} times",
    )
    if not isinstance(before.architecture.init, WidthParametrisation):
        yield BlindSpot(
            what="a learning rate that is too high at full width",
            because=f"{before.architecture.init.kind} init carries no learning rate from width {new:,} to {old:,}: "
            f"lr={run.lr:g} is right here only; init: {{kind: mup, base_width: {new}}} would carry it",
        )


def _heads(before: Graph, after: Graph, run: PrototypeRun) -> Iterator[BlindSpot]:
    del run
    seen: set[tuple[int, ...]] = set()
    for name, old, new in _mixers(before, after):
        pairs = old.heads_and_groups(), new.heads_and_groups()
        if pairs[0] is None or pairs[1] is None or (*pairs[0], *pairs[1]) in seen:
            continue
        seen.add((*pairs[0], *pairs[1]))
        (_, groups), (_, fewer) = pairs
        if fewer == 1 < groups:
            yield BlindSpot(
                what=f"queries of {name} that read the key head of another group",
                because=f"{groups} key heads became 1, and there is nothing left to mix up",
            )
        elif fewer < groups:
            yield BlindSpot(
                what=f"tensor parallelism of {name} over more than {fewer} ranks",
                because=f"{groups} key heads became {fewer}; ranks beyond that must hold copies",
            )


def _time(before: Graph, after: Graph, run: PrototypeRun) -> Iterator[BlindSpot]:
    old, new = before.scope.context, after.scope.context
    if new >= old:
        return
    del run
    yield BlindSpot(
        what=f"positions beyond {new:,}: extrapolation, scaled frequencies, retrieval from far back",
        because=f"the context became {old / new:.4g} times shorter, and wavelengths were shortened alike: "
        f"position {old - 1:,} and the spec's own theta are never computed",
    )
    yield BlindSpot(
        what="attention that thins out over many keys, and the rounding of long softmax sums",
        because=f"a softmax runs over {new:,} keys at most and not {old:,}: entropy up to {log(new):.1f} nats, "
        f"not {log(old):.1f}",
    )
    for name, wide, narrow in _mixers(before, after):
        reach = wide.pattern() if isinstance(wide, Seeing) else None
        short = narrow.pattern() if isinstance(narrow, Seeing) else None
        if reach is not None and short is not None and (reach.longest_reach or 0) > (short.longest_reach or 0):
            yield BlindSpot(
                what=f"cache eviction of {name} at its real length",
                because=f"what the ring keeps repeats after {short.longest_reach:,} positions and not "
                f"{reach.longest_reach:,}; nothing is ever evicted from one of the real size",
            )
    if before.is_causal:
        full, small = (kv_cache_bytes(graph, graph.scope.context, 1, "bf16") for graph in (before, after))
        if full > small:
            yield BlindSpot(
                what="running out of memory while decoding",
                because=f"the cache of one sequence takes {format_bytes(small)} and not {format_bytes(full)}",
            )


def _experts(before: Graph, after: Graph, run: PrototypeRun) -> Iterator[BlindSpot]:
    seen: set[tuple[int, ...]] = set()
    for name, block in before.architecture.blocks.items():
        old, new = block.ffn, after.architecture.blocks[name].ffn
        if not isinstance(old, Moe) or not isinstance(new, Moe) or (old.experts, old.top_k) in seen:
            continue
        seen.add((old.experts, old.top_k))
        if new.experts < old.experts:
            yield BlindSpot(
                what=f"collapse of the router in {name}: experts that nobody chooses",
                because=f"{old.experts} experts became {new.experts}; dead ones are the likelier the more there are",
            )
        each = run.tokens_per_step * new.top_k / new.experts
        yield BlindSpot(
            what=f"specialisation of the experts in {name}, and their load at a full batch",
            because=f"an expert is {new.expert.hidden_width:,} wide and not {old.expert.hidden_width:,}, and sees "
            f"{each:,.0f} tokens a step: its share wavers by {1 / sqrt(each):.1%} through chance alone",
        )


def _states(before: Graph, after: Graph, run: PrototypeRun) -> Iterator[BlindSpot]:
    del run
    seen: set[str] = set()
    for name, old, new in _mixers(before, after):
        if old.pattern() is not None:
            continue
        kept = [
            sum(
                spec.count
                for spec in mixer.state_tensors(graph.scope, graph.scope.context).values()
                if spec.role == "state"
            )
            for graph, mixer in ((before, old), (after, new))
        ]
        if kept[1] < kept[0] and old.kind not in seen:
            seen.add(old.kind)
            yield BlindSpot(
                what=f"how much {name} can recall",
                because=f"its state holds {kept[1]:,} numbers and not {kept[0]:,}, for {after.scope.context:,} tokens "
                f"and not {before.scope.context:,}; recall falls where tokens outgrow the state",
            )


def _words(before: Graph, after: Graph, run: PrototypeRun) -> Iterator[BlindSpot]:
    del run
    old, new = before.scope.vocab_size, after.scope.vocab_size
    if new < old:
        yield BlindSpot(
            what="the loss over the full vocabulary: its memory, its drifting logits, words too rare to be learned",
            because=f"{old:,} words became {new:,}; a loss in nats a token is not that of the full size "
            "(compare bits per byte)",
        )


def _layout(before: Graph, after: Graph, run: PrototypeRun) -> Iterator[BlindSpot]:
    del run
    apart = distortion(before.layers, after.layers)
    if apart > 0.02:
        yield BlindSpot(
            what="the balance between kinds of layer",
            because=f"{apart:.0%} of the layers are of another block than in the full stack",
        )


def _mixers(before: Graph, after: Graph) -> Iterator[tuple[str, Any, Any]]:
    for name, block in before.architecture.blocks.items():
        new = after.architecture.blocks[name].mixer
        if block.mixer is not None and new is not None:
            yield name, block.mixer, new
