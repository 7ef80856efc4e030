"""The space that `solve` searches: layouts and dimensions, each of which makes one complete architecture.

A layout is a unit of layers that repeats. What is tried are layouts that published models use, with numbers of heads,
windows and widths that kernels like; everything else of a spec (vocabulary, norms, head, init) is the style.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Literal

from vitruvius.spec.embeddings import Embedding
from vitruvius.spec.ffn.mlp import GeGLU, Mlp, SwiGLU
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.heads import LanguageModelHead
from vitruvius.spec.inits import NormalInit
from vitruvius.spec.mixers.attention import Attention
from vitruvius.spec.mixers.deltanet import GatedDeltaNet
from vitruvius.spec.mixers.mla import LatentAttention
from vitruvius.spec.model import Architecture, Block
from vitruvius.spec.norms import RMSNorm
from vitruvius.spec.positions.rope import RotaryPosition

if TYPE_CHECKING:
    from vitruvius.spec.node import FeedForward, Head, Init, Mixer, Norm

MixerName = Literal["full", "local", "dilated", "linear", "latent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Kinds of layer in a unit that repeats, and who uses it."""

    name: str
    unit: tuple[tuple[MixerName, int], ...]
    """(kind, how many) in order."""
    known_from: str
    grouped: Literal["interleaved", "stacked"] = "interleaved"
    """`stacked`: all layers of a kind stand together, as in LongContext."""

    @property
    def period(self) -> int:
        """Layers of a unit."""
        return sum(count for _, count in self.unit)

    @property
    def windows(self) -> bool:
        """Whether some layer sees a window alone."""
        return any(kind == "local" for kind, _ in self.unit)

    def share(self, kind: MixerName) -> float:
        """Part of the layers that are of a kind."""
        return sum(count for name, count in self.unit if name == kind) / self.period

    def lines(self, depth: int) -> str:
        """The layer line of so many layers, a multiple of the period."""
        times = depth // self.period
        if self.grouped == "stacked" or len(self.unit) == 1:
            return " ".join(f"{name}*{count * times}" for name, count in self.unit)
        inner = " ".join(name if count == 1 else f"{name}*{count}" for name, count in self.unit)
        return f"({inner})*{times}"


def _unit(**counts: int) -> tuple[tuple[MixerName, int], ...]:
    return tuple(counts.items())  # pyright: ignore[reportReturnType]


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(name="full", unit=_unit(full=1), known_from="Llama 3, Qwen 3"),
        Layout(name="latent", unit=_unit(latent=1), known_from="DeepSeek-V3"),
        Layout(name="sliding-1:1", unit=_unit(local=1, full=1), known_from="Gemma 2, gpt-oss"),
        Layout(name="sliding-3:1", unit=_unit(local=3, full=1), known_from="Llama 4, Command A"),
        Layout(name="sliding-5:1", unit=_unit(local=5, full=1), known_from="Gemma 3"),
        Layout(
            name="longcontext",
            unit=_unit(local=4, dilated=3, full=1),
            grouped="stacked",
            known_from="the LongContext project",
        ),
        Layout(name="linear-3:1", unit=_unit(linear=3, full=1), known_from="Qwen3-Next, Kimi Linear"),
        Layout(name="linear-7:1", unit=_unit(linear=7, full=1), known_from="Jamba, MiniMax-01"),
    )
}
"""Every layout by name, from the one that sees most."""

DILATION = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """What every candidate shares."""

    vocab_size: int = 32_000
    context: int = 8192
    ffn: Literal["swiglu", "geglu", "mlp"] = "swiglu"
    norm: Norm = field(default_factory=RMSNorm)
    embedding: Embedding = field(default_factory=Embedding)
    head: Head = field(default_factory=LanguageModelHead)
    init: Init = field(default_factory=NormalInit)
    qk_norm: Norm | None = None

    @property
    def maps(self) -> int:
        """Linear maps of a feed-forward network."""
        return 2 if self.ffn == "mlp" else 3

    @property
    def usual_ratio(self) -> float:
        """Inner width to width that makes a feed-forward network of 8 width^2 parameters."""
        return 8 / self.maps


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One point of the space."""

    layout: str
    width: int
    depth: int
    head_width: int
    kv_heads: int
    hidden: int
    """Inner width of the feed-forward network, or of each expert."""
    window: int = 0
    """Keys that a local layer sees; 0 in layouts without them."""
    experts: int = 1
    """1: no mixture."""
    top_k: int = 1

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.width // self.head_width


def architecture_of(shape: Shape, style: Style, name: str) -> Architecture:
    """The complete architecture of a shape."""
    layout = LAYOUTS[shape.layout]
    ffn = ffn_of(shape, style)
    blocks = {kind: Block(mixer=mixer_of(kind, shape, style, thetas="settled"), ffn=ffn) for kind, _ in layout.unit}
    return Architecture(
        name=name,
        vocab_size=style.vocab_size,
        width=shape.width,
        context=style.context,
        blocks=dict(blocks),
        layers=layout.lines(shape.depth),
        norm=style.norm,
        embedding=style.embedding,
        head=style.head,
        init=style.init,
    )


def ffn_of(shape: Shape, style: Style) -> FeedForward:
    """The feed-forward network of every layer."""
    kinds = {"swiglu": SwiGLU, "geglu": GeGLU, "mlp": Mlp}
    one = kinds[style.ffn](hidden=shape.hidden)
    return one if shape.experts == 1 else Moe(experts=shape.experts, top_k=shape.top_k, expert=one)


def mixer_of(kind: MixerName, shape: Shape, style: Style, *, thetas: Thetas = "unsettled") -> Mixer:
    """The mixer of one kind of layer. `unsettled` leaves every rotary base at its default, which costs the same."""
    return _mixer(kind, shape.heads, shape.head_width, shape.kv_heads, shape.window, style, thetas)


Thetas = Literal["settled", "unsettled"]


@lru_cache(maxsize=65_536)
def _mixer(
    kind: MixerName, heads: int, head_width: int, kv_heads: int, window: int, style: Style, thetas: Thetas
) -> Mixer:
    def rotary(width: int, farthest: int) -> RotaryPosition:
        return RotaryPosition(theta=theta_for(width, farthest)) if thetas == "settled" else RotaryPosition()

    if kind == "linear":
        return GatedDeltaNet(
            heads=2 * heads,
            key_heads=heads,
            head_width=head_width,
            value_width=head_width,
        )
    if kind == "latent":
        half = head_width // 2
        return LatentAttention(
            heads=heads,
            kv_rank=4 * head_width,
            nope_width=head_width,
            rope_width=half,
            value_width=head_width,
            position=rotary(half, style.context),
        )
    window, every = min(window, style.context), min(DILATION, style.context)
    sees = {
        "full": "causal",
        "local": f"causal & sliding({window})",
        "dilated": f"causal & dilated({max(1, window // every)}, every={every})",
    }[kind]
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        sees=sees,
        qk_norm=style.qk_norm,
        position=rotary(head_width, style.context if kind == "full" else window),
    )


_THETAS = (1e4, 1e5, 5e5, 1e6, 5e6, 1e7, 5e7, 1e8, 5e8, 1e9, 5e9, 1e10, 1e11, 1e12)


@cache
def theta_for(head_width: int, farthest: int) -> float:
    """The least of the usual rotary bases with which near keys are preferred at every distance that is seen.

    Source: "Base of RoPE bounds context length", Men et al., 2024; `RotaryPosition.first_negative`.
    """
    for theta in _THETAS:
        if RotaryPosition(theta=theta).first_negative(head_width, farthest) is None:
            return theta
    return _THETAS[-1]
