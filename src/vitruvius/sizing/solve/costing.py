"""What a shape costs, exactly and in microseconds: layers of one kind cost the same, and most shapes share kinds.

Counted through the components' own methods (`tensors`, `flops`, `state_tensors`), so that parameters, cache and FLOPs
are the numbers that `vitruvius size` gives; a test holds both against each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from vitruvius.sizing.memory import bytes_per_value, state_tensor_bytes
from vitruvius.sizing.solve.shapes import LAYOUTS, MixerName, Shape, Style, ffn_of, mixer_of
from vitruvius.spec.mixers.seeing import Seeing
from vitruvius.spec.scope import Scope

if TYPE_CHECKING:
    from vitruvius.spec.node import Component, Mixer, Norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one shape, or of one part of it."""

    parameters: int
    active: int
    cache_bytes: int
    """Keys, values and recurrent state of one sequence of the whole context."""
    read_bytes: int
    """What the last token of the context reads and writes of it."""
    short_read_bytes: int
    """What the last token of a short context reads and writes."""
    train_flops: float
    """Forward and backward, of a token, averaged over the training context."""
    expert_parameters: int = 0
    """Of `parameters`, those of experts, of which a decode step reads some."""
    table_parameters: int = 0
    """Of `parameters`, the token table where the head is not tied to it: a decode step reads one row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where costs are counted."""

    style: Style
    short: int
    """Tokens of the short context that decoding is compared with."""
    train_context: int
    dtype: str = "bf16"
    """Format of keys and values."""

    def scope(self, width: int, depth: int = 1) -> Scope:
        """What components know of the architecture around them."""
        style = self.style
        return Scope(
            width=width, vocab_size=style.vocab_size, context=style.context, depth=depth, init=style.init, causal=True
        )


def cost_of(shape: Shape, setting: Setting) -> Cost:
    """The cost of a whole shape."""
    layout, scope = LAYOUTS[shape.layout], setting.scope(shape.width)
    ffn = _component(ffn_of(shape, setting.style), scope, setting.train_context)
    frame = _frame(setting, shape.width)
    norms = 2 * _norm(setting, shape.width)
    times = shape.depth // layout.period
    parameters = active = frame[0] + shape.depth * (norms + ffn[0])
    active += shape.depth * (ffn[1] - ffn[0])
    flops = frame[1] + shape.depth * ffn[2]
    cache = read = short = 0
    for kind, count in layout.unit:
        part = _mixer(mixer_of(kind, shape, setting.style), scope, setting)
        layers = count * times
        parameters += layers * part.parameters
        active += layers * part.active
        flops += layers * part.train_flops
        cache += layers * part.cache_bytes
        read += layers * part.read_bytes
        short += layers * part.short_read_bytes
    table = 0 if getattr(setting.style.head, "tied", False) else setting.style.vocab_size * shape.width
    experts = setting.style.maps * shape.width * shape.hidden * shape.experts * shape.depth
    return Cost(
        parameters=parameters,
        active=active,
        cache_bytes=cache,
        read_bytes=read,
        short_read_bytes=short,
        train_flops=3 * flops,
        expert_parameters=experts if shape.experts > 1 else 0,
        table_parameters=table,
    )


def layer_parameters(shape: Shape, setting: Setting, hidden: int) -> float:
    """Parameters of a layer, averaged over the unit, with another inner width."""
    layout, style = LAYOUTS[shape.layout], setting.style
    mixers = sum(
        count * _mixer_parameters(kind, shape.width, shape.head_width, shape.kv_heads, style.qk_norm)
        for kind, count in layout.unit
    )
    router = shape.experts * shape.width if shape.experts > 1 else 0
    ffn = style.maps * shape.width * hidden * shape.experts + router
    return mixers / layout.period + ffn + 2 * _norm(setting, shape.width)


@lru_cache(maxsize=65_536)
def _mixer_parameters(kind: MixerName, width: int, head_width: int, kv_heads: int, qk_norm: Norm | None) -> int:
    """Of a mixer, which has as many whatever it sees."""
    shape = Shape(layout="full", width=width, depth=1, head_width=head_width, kv_heads=kv_heads, hidden=1, window=_SOME)
    style = Style(context=_SOME, qk_norm=qk_norm)
    mixer = mixer_of(kind, shape, style)
    scope = Scope(width=width, vocab_size=style.vocab_size, context=_SOME, depth=1, causal=True)
    return sum(tensor.count for tensor in mixer.tensors(scope).values())


_SOME = 64


def frame_parameters(setting: Setting, width: int) -> int:
    """Parameters outside the layers."""
    return _frame(setting, width)[0]


@lru_cache(maxsize=4096)
def _frame(setting: Setting, width: int) -> tuple[int, float]:
    """(parameters, FLOPs of a token) of embedding, final norm and head."""
    scope, style = setting.scope(width), setting.style
    parts: tuple[Component, ...] = (style.head,)
    tensors = [*style.embedding.tensors(scope).values(), *style.norm.tensors(scope).values()]
    tensors += [tensor for part in parts for tensor in part.tensors(scope).values()]
    tokens = setting.train_context
    flops = style.embedding.flops(scope, tokens).useful + style.head.flops(scope, tokens).useful
    return sum(tensor.count for tensor in tensors), flops / tokens


@lru_cache(maxsize=4096)
def _norm(setting: Setting, width: int) -> int:
    return sum(tensor.count for tensor in setting.style.norm.tensors(setting.scope(width)).values())


@lru_cache(maxsize=65_536)
def _component(part: Component, scope: Scope, tokens: int) -> tuple[int, int, float]:
    """(parameters, active ones, FLOPs of a token)."""
    tensors = part.tensors(scope).values()
    useful = part.flops(scope, tokens).useful / tokens
    return sum(t.count for t in tensors), sum(t.active for t in tensors), useful


@lru_cache(maxsize=65_536)
def _mixer(mixer: Mixer, scope: Scope, setting: Setting) -> Cost:
    parameters, active, flops = _component(mixer, scope, setting.train_context)
    context = setting.style.context
    kept = sum(state_tensor_bytes(spec, setting.dtype) for spec in mixer.state_tensors(scope, context).values())
    read, short = 2 * kept, 2 * kept  # recurrent state is read and written
    if isinstance(mixer, Seeing):
        value = bytes_per_value(setting.dtype)
        slot = sum(spec.count for spec in mixer.state_per_slot(scope).values()) * value
        pattern = mixer.pattern()
        # Keys that the last query reads, and the one it writes.
        read, short = (slot * (pattern.reads(n - 1, n) + 1) for n in (context, min(setting.short, context)))
    return Cost(
        parameters=parameters,
        active=active,
        cache_bytes=kept,
        read_bytes=read,
        short_read_bytes=short,
        train_flops=flops,
    )


def step_parameters(cost: Cost, shape: Shape, batch: int) -> float:
    """Parameters that a decode step of a batch reads: of E experts E (1 - (1 - k / E)^b), for even routing."""
    share = 1.0 if shape.experts == 1 else 1 - (1 - shape.top_k / shape.experts) ** batch
    rows = min(batch * shape.width, cost.table_parameters)
    return cost.parameters - cost.expert_parameters * (1 - share) - cost.table_parameters + rows
