"""What a component may know about where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitruvius.patterns import Pattern
    from vitruvius.spec.node import Init


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a component may know about the architecture around it."""

    width: int
    """Width of the residual stream."""
    vocab_size: int
    context: int
    """Tokens the architecture is declared for."""
    depth: int
    """Number of layers."""
    layer: int = 0
    """Place of the component's layer in the stack, from 0."""
    init: Init | None = None
    """How weights are drawn, and with them what the model's maps are multiplied by."""
    readers: tuple[Pattern, ...] = ()
    """Patterns of the later layers that read this layer's keys and values."""
    causal: bool = True
    """Whether the head forbids seeing later tokens."""

    def attention_scale(self, head_width: int) -> float:
        """What scores of heads of this width are multiplied by, unless a mixer says otherwise."""
        return 1 / sqrt(head_width) if self.init is None else self.init.attention_scale(head_width)

    @property
    def branch_scale(self) -> float:
        """What each sublayer is multiplied by before it joins the residual stream."""
        return 1.0 if self.init is None else self.init.branch_scale(self.depth)

    @property
    def logit_scale(self) -> float:
        """What the logits are multiplied by."""
        return 1.0 if self.init is None else self.init.logit_scale(self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """The heads of an attention layer, as its position sees them."""

    queries: int
    groups: int
    """Key and value heads."""
    width: int
    """Channels of a query or key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """What a component may know when it makes its small twin (`vitruvius.spec.shrink`)."""

    width: int
    """Width of the twin's residual stream."""
    context: int
    """Tokens of the twin."""
    old: Scope
    """Around the component at full size."""
    factor: float
    """What windows, strides and distances are divided by."""
    most: int
    """The greatest ratio (heads to key heads, hidden width to width, experts to chosen ones) that the twin keeps."""

    def in_width(self, channels: int, multiple: int = 8) -> int:
        """As many channels in proportion to the width of the stream, a multiple of `multiple`."""
        ratio = min(channels / self.old.width, self.most)
        return max(multiple, round(ratio * self.width / multiple) * multiple)

    def in_time(self, tokens: int, least: int = 1) -> int:
        """As many tokens in proportion to the windows."""
        return max(least, round(tokens / max(self.factor, 1.0)))
