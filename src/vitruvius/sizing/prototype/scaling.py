"""Every node of a spec in small: widths by the stream's ratio, heads by their groups, time by the context's ratio."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from fractions import Fraction
from functools import lru_cache
from math import log, log2
from typing import TYPE_CHECKING, Any

from vitruvius.patterns import shrink_text
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.mixers.rwkv7 import RWKV7
from vitruvius.spec.node import Component, Cross, FeedForward, Mixer, Node, Position, Scaling
from vitruvius.spec.positions.rope import RotaryPosition

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.spec.model import Block

HEAD_WIDTHS = ("head_width", "nope_width", "rope_width", "value_width")
"""Fields that measure one head; `state` follows them, where there is one."""
GROUPS = ("kv_heads", "key_heads", "groups")
"""Fields that count the heads which others share."""
_COUNTS = frozenset({"heads", *GROUPS})
_NARROWEST_HEAD = 8
_FEW_HEADS = 4
"""Fewer heads than this are no multi-head attention any more."""
_TIMES = frozenset({"original_context", "farthest", "horizon"})
"""Fields that measure distances in tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """How small: what the nodes of a prototype are told."""

    width: int
    """Width of the prototype's stream."""
    old_width: int
    context: int
    old_context: int
    experts: int = 1
    """What numbers of experts and of chosen ones are divided by."""
    trim: float = 1.0
    """What inner widths of feed-forward layers are multiplied by besides, to meet a number of parameters."""

    @property
    def ratio(self) -> Fraction:
        """Width to width."""
        return Fraction(self.width, self.old_width)

    @property
    def shorter(self) -> float:
        """How many times shorter the context is."""
        return max(1.0, self.old_context / self.context)

    def channels(self, old: int, multiple: int = 8) -> int:
        """As many channels in proportion to the stream, a multiple of `multiple`."""
        return max(multiple, round(old * self.ratio / multiple) * multiple)

    def tokens(self, old: float, least: int = 1) -> int:
        """As many tokens in proportion to the context."""
        return max(least, round(old / self.shorter))


def scaled_block(block: Block, small: Small) -> Block:
    """The block in small."""
    changes = {f.name: _scaled(getattr(block, f.name), small) for f in fields(block)}
    return replace(block, **changes)


def scaled_part(node: Any, small: Small) -> Any:
    """Any other node in small: the embedding with its position."""
    return _scaled(node, small)


def _scaled(node: Any, small: Small) -> Any:
    if isinstance(node, Mixer | Cross):
        return _scaled_mixer(node, small)
    if isinstance(node, FeedForward):
        return _scaled_ffn(node, small)
    if isinstance(node, Position):
        return _in_time(node, small, width=small.old_width, new_width=small.width)
    if isinstance(node, Node) and is_dataclass(node):
        changes = {f.name: _scaled(getattr(node, f.name), small) for f in fields(node)}
        return replace(node, **changes)
    return node


# ------------------------------------------------------------------------------------------------------ feed-forward


def _scaled_ffn(node: FeedForward, small: Small) -> FeedForward:
    changes: dict[str, Any] = {}
    for f in fields(node):  # pyright: ignore[reportArgumentType]
        value = getattr(node, f.name)
        if isinstance(value, FeedForward):
            changes[f.name] = _scaled_ffn(value, small)
    for name, wide in node.widened(2).items():
        old = getattr(node, name)
        if isinstance(wide, int) and isinstance(old, int):
            changes[name] = max(8, round(old * small.ratio * Fraction(small.trim) / 8) * 8)
    if isinstance(node, Moe) and small.experts > 1:
        changes["experts"] = max(2, node.experts // small.experts)
        changes["top_k"] = max(1, node.top_k // small.experts)
        groups = getattr(node.router, "groups", 1)
        if groups > 1:
            changes["router"] = replace(node.router, groups=1, top_groups=None)  # pyright: ignore[reportCallIssue]
    return replace(node, **changes)


# ------------------------------------------------------------------------------------------------------------ mixers


def _scaled_mixer(mixer: Any, small: Small) -> Any:
    changes: dict[str, Any] = {}
    grows = mixer.widened(2)
    for name in grows:
        value = getattr(mixer, name)
        if name not in _COUNTS and type(value) is int:
            changes[name] = small.channels(value)
    if "heads" in grows:
        changes |= _heads(mixer, small)
    elif isinstance(mixer, RWKV7):
        changes["head_width"] = _dividing(mixer.head_width, small)
    before = _turned_width(mixer, small.old_width)
    mixer = replace(mixer, **changes)
    late: dict[str, Any] = {}
    position = getattr(mixer, "position", None)
    if position is not None:
        after = _turned_width(mixer, small.width)
        resized = position.resized(before, after) if after and before and after != before else position
        late["position"] = _in_time(resized, small, width=before, new_width=after)
    sees = getattr(mixer, "sees", None)
    if isinstance(sees, str) and small.shorter > 1:
        late["sees"] = shrink_text(sees, small.shorter)
    return replace(mixer, **late)


def _turned_width(mixer: Any, width: int) -> int:
    """Channels of a head that a position works on."""
    if hasattr(mixer, "rope_width"):
        return int(mixer.rope_width)
    heads = getattr(mixer, "heads", 0)
    own = getattr(mixer, "head_width", None)
    return int(own) if own else (width // heads if heads else 0)


def _heads(mixer: Any, small: Small) -> dict[str, Any]:
    """Fewer heads in the same groups, each as much narrower as it takes for all of them to keep their share."""
    known = {f.name for f in fields(mixer)}
    heads, field = mixer.heads, next((name for name in GROUPS if name in known and getattr(mixer, name)), None)
    groups = getattr(mixer, field) if field else heads
    own = next((getattr(mixer, name) for name in HEAD_WIDTHS if getattr(mixer, name, None)), None)
    channels = (heads * own if own else small.old_width) * small.ratio
    head_width = own or small.old_width // heads
    new_heads, new_groups, new_width = _best_heads(heads, groups, float(channels), head_width)
    changes: dict[str, Any] = {"heads": new_heads}
    if field:
        changes[field] = new_groups
    share = Fraction(new_width, head_width)
    for name in HEAD_WIDTHS:
        old = getattr(mixer, name, None)
        if old:
            least = 2 if name == "rope_width" else 4
            changes[name] = max(least, round(old * share / 2) * 2)
    if "state" in known and own:
        changes["state"] = max(4, round(mixer.state * share / 4) * 4)
    if "head_width" in known and not own and small.width != new_heads * new_width:
        changes["head_width"] = new_width
    return changes


@lru_cache(maxsize=4096)
def _best_heads(heads: int, groups: int, channels: float, head_width: int) -> tuple[int, int, int]:
    return min(_choices(heads, groups, channels, head_width), key=lambda choice: choice[0])[1:]


def _choices(heads: int, groups: int, channels: float, head_width: int) -> Iterator[tuple[float, int, int, int]]:
    """(what is lost, heads, groups, head width), for every number of groups.

    Lost counts halvings: of the width of a head, of the heads below four, of the ratio of heads to groups; and more
    where several groups become one, because then nothing can be mixed up any more.
    """
    each = heads // groups if groups > 1 else 1
    for new_groups in (1,) if groups == 1 else range(1, groups + 1):
        ratios = {each} | {each >> shift for shift in range(1, 5) if each >> shift}
        for ratio in _free(heads) if groups == 1 else ratios:
            new_heads = new_groups * ratio
            step = 2 if channels < 16 * new_heads else 8
            width = round(channels / new_heads / step) * step
            if width < _NARROWEST_HEAD and new_heads > 1:
                continue
            width = max(width, 4)
            narrower = log2(head_width / width)
            lost = max(narrower, -2 * narrower) + 4 * abs(log2(width * new_heads / channels))
            lost += 2 * max(0.0, log2(min(heads, _FEW_HEADS) / new_heads))
            lost += 1.5 * (new_groups == 1 < groups) + (0 if groups == 1 else 2 * log2(each / ratio))
            yield lost, new_heads, new_groups, width


def _free(heads: int) -> Iterator[int]:
    """Numbers of heads where all of them share one group, so that no ratio is to be kept."""
    yield from range(1, heads + 1)


def _dividing(head_width: int, small: Small) -> int:
    """A head width that divides the stream, near the square root of the ratio below the old one."""
    wanted = max(float(_NARROWEST_HEAD), head_width * float(small.ratio) ** 0.5)
    fitting = [n for n in range(4, min(head_width, small.width) + 1, 2) if small.width % n == 0]
    return min(fitting or [1], key=lambda n: abs(log2(n / wanted)))


# -------------------------------------------------------------------------------------------------------------- time


def _in_time(position: Any, small: Small, *, width: int, new_width: int) -> Any:
    """A position whose distances shrink as the context does."""
    changes: dict[str, Any] = {}
    for f in fields(position):
        value = getattr(position, f.name)
        if isinstance(value, Scaling):
            changes[f.name] = _in_time(value, small, width=width, new_width=new_width)
        elif f.name in _TIMES and isinstance(value, int | float) and small.shorter > 1:
            changes[f.name] = type(value)(small.tokens(value, least=_least(position)))
        elif f.name in {"size", "start", "positions"} and isinstance(value, int):
            changes[f.name] = min(value, small.context)
        elif f.name in {"theta", "base"} and isinstance(value, float) and isinstance(position, RotaryPosition):
            changes[f.name] = _slowest_kept(position, small, width=width, new_width=new_width)
    return replace(position, **changes)


def _least(position: Component) -> int:
    """The shortest distance that a position still makes sense with."""
    return getattr(position, "buckets", 0) + 1 if hasattr(position, "buckets") else 4


def _slowest_kept(position: RotaryPosition, small: Small, *, width: int, new_width: int) -> float:
    """The theta whose slowest pair turns as far over the new context as before over the old one.

    The slowest of d channels has the wavelength 2 pi theta^((d - 2) / d).
    """
    turned, now = position.rotary_width(width) if width else 0, position.rotary_width(new_width) if new_width else 0
    if turned <= 2 or now <= 2 or (turned == now and small.shorter == 1):
        return position.theta
    slowest = log(position.theta) * (turned - 2) / turned - log(small.shorter)
    theta = 2.718281828459045 ** (slowest * now / (now - 2))
    return float(f"{max(theta, 10.0):.4g}")
