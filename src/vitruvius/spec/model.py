"""The architecture as data: what a spec file says, as frozen values.

The same values can be built in Python. Nothing is checked here beyond types: `vitruvius.spec.rules` finds what does
not fit together, and `vitruvius.spec.graph` resolves an architecture into its layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from vitruvius.spec.embeddings import Embedding
from vitruvius.spec.heads import LanguageModelHead
from vitruvius.spec.inits import NormalInit
from vitruvius.spec.node import (
    Cross,
    FeedForward,
    Head,
    Init,
    Mixer,
    Node,
    Norm,
    PositiveFloat,
    PositiveInt,
    Scope,
    TensorSpec,
)
from vitruvius.spec.norms import RMSNorm
from vitruvius.spec.schedulable import Schedulable, marks

if TYPE_CHECKING:
    from collections.abc import Mapping

NormPlace = Literal["pre", "post", "output", "sandwich", "none"]
"""Where a block normalises each of its sublayers f.

`pre` is x + f(norm(x)), `post` is norm(x + f(x)), `output` is x + norm(f(x)) (OLMo 2), `sandwich` is
x + norm_out(f(norm(x))) with two norms of one kind (Gemma 2 and 3), `none` is x + f(x).
"""


SublayerOrder = Literal["in-turn", "parallel", "parallel-one-norm"]
"""How a block applies its sublayers.

`in-turn` adds each to the stream before the next reads it. `parallel` is x + mixer(norm(x)) + ffn(norm'(x)) with a norm
each (GPT-NeoX), `parallel-one-norm` the same with one norm for both (GPT-J, PaLM, Cohere).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block(Node):
    """One named kind of layer: what mixes positions, then what acts on each of them."""

    schedulable = marks(residual_scale=Schedulable(why="layers that join the stream little by little (ReZero, 2020)"))

    mixer: Mixer | None = None
    """Moves information between positions."""
    cross: Cross | None = None
    """Reads the encoder's output; stands between mixer and ffn."""
    ffn: FeedForward | None = None
    """Acts on each position by itself."""
    norm: Norm | None = None
    """Normalisation of both; the architecture's when not given."""
    norm_place: NormPlace | None = None
    """Where it stands; `pre` when not given. `sandwich` has two, before and after mixer and ffn alike."""
    order: SublayerOrder | None = None
    """Whether the ffn reads what the mixer wrote; `in-turn` when not given."""
    residual_scale: float | str | None = None
    """Multiplies what each sublayer adds to the stream: a number or an expression of width and depth."""
    weights: Literal["own", "shared"] | None = None
    """`shared`: all layers of this block are one set of weights, wherever they stand; `own` when not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams(Node):
    """Ways from layer to layer besides the residual stream, each with a learned scale."""

    skips: Literal["none", "unet"] = "none"
    """`unet`: the last half of the stack adds the outputs of the first half, innermost first, each times a scale."""
    embedding: Literal["none", "learned"] = "none"
    """`learned`: each layer starts from a x stream + b x embedding, with a from 1 and b from 0."""

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """A scale for each skip, and two for each layer."""
        tensors: dict[str, TensorSpec] = {}
        if self.skips == "unet" and scope.depth > 1:
            tensors["skip"] = TensorSpec(shape=(scope.depth // 2,), role="gain")
        if self.embedding == "learned":
            tensors["stream"] = TensorSpec(shape=(scope.depth,), role="gain")
            tensors["embedding"] = TensorSpec(shape=(scope.depth,), role="bias")
        return tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder(Node):
    """The stack that reads the source text of an encoder-decoder; its layers see both ways."""

    layers: str | list[str]
    """Its layers, written as those of the architecture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiToken(Node):
    """Heads for the tokens after the next one, each a block on top of the last (DeepSeek-V3); for training only."""

    schedulable = marks(loss_weight=Schedulable(why="0.3 at first, 0.1 for the rest of a run (DeepSeek-V3, 2024)"))

    block: str
    """The block of each."""
    depth: PositiveInt = 1
    """How many tokens beyond the next are predicted."""
    loss_weight: PositiveFloat = 0.3
    """Their mean loss counts this much beside the next token's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Node):
    """Something said about the architecture, kept beside it so that `size` can check it."""

    about: Literal["parameters", "active_parameters", "weights", "kv_cache"]
    """What the claim is about; `weights` and `kv_cache` are bytes."""
    says: str
    """The quoted number with its unit, e.g. `8B` or `16 GB`; it stands for its last written digit."""
    source: str = ""
    """Who says so."""
    dtype: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Number format the claim is about."""
    context: PositiveInt | None = None
    """Tokens the claim is about; the architecture's context when not given."""

    @property
    def is_about_bytes(self) -> bool:
        """Whether the number counts bytes, not parameters."""
        return self.about in {"weights", "kv_cache"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture(Node):
    """A language-model architecture: the single source from which everything else follows."""

    name: str
    """Letters, digits, `.`, `_` and `-`; names files and folders."""
    vocab_size: PositiveInt
    """Rows of the token embedding."""
    width: PositiveInt
    """Width of the residual stream (d_model)."""
    context: PositiveInt
    """Tokens the architecture is designed for."""
    blocks: dict[str, Block]
    """The kinds of layer, by name."""
    layers: str | list[str]
    """The layers in order: `local*16 dilated*12 full*4`, `(dense moe)*16`, or stacked lines of equal length whose
    blocks set different fields."""
    description: str = ""
    """One or two sentences on what the design is."""
    embedding: Embedding = field(default_factory=Embedding)
    """From tokens to the residual stream."""
    encoder: Encoder | None = None
    """The stack that reads the source text; blocks of `layers` read it by their `cross`."""
    streams: Streams = field(default_factory=Streams)
    """Ways from layer to layer besides the residual stream."""
    mtp: MultiToken | None = None
    """Multi-token prediction, counted apart."""
    norm: Norm = field(default_factory=RMSNorm)
    """Default normalisation of blocks, and the final one."""
    head: Head = field(default_factory=LanguageModelHead)
    """What the last residual stream becomes."""
    init: Init = field(default_factory=NormalInit)
    """How the first weights are drawn."""
    claims: list[Claim] = field(default_factory=list[Claim])
    """Numbers others quote for this architecture, checked by `size`."""


PARTS: dict[str, type[Node]] = {"embedding": Embedding, "encoder": Encoder, "streams": Streams, "mtp": MultiToken}
"""The nodes of an architecture that are no components, by their key."""
