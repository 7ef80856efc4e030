"""What claims can be about: one line for each topic, with the function that does its arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitruvius.sizing.audit import sizes, times

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.sizing.audit.claims import Claim
    from vitruvius.sizing.audit.outcome import Outcome
    from vitruvius.sizing.audit.saying import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One thing that claims are about."""

    name: str
    kind: Kind
    about: str
    needs: frozenset[str] = frozenset()
    """Fields of a claim without which it makes no sense."""
    takes: frozenset[str] = frozenset()
    """Other fields that it may have."""
    judge: Callable[[Claim], Outcome] | None = None
    """None for what no arithmetic decides."""


_CASE = frozenset({"context", "batch", "weights", "cache"})
_WORK = _CASE | {"mode", "optimizer", "checkpointing", "loss", "attention", "rank", "on", "count", "quantised"}

TOPICS = {
    topic.name: topic
    for topic in (
        Topic(name="parameters", kind="count", about="parameters stored", judge=sizes.parameters),
        Topic(name="active_parameters", kind="count", about="parameters of one token", judge=sizes.active_parameters),
        Topic(
            name="weights",
            kind="bytes",
            about="bytes of the weights in a format",
            takes=frozenset({"weights", "quantised"}),
            judge=sizes.weights,
        ),
        Topic(name="kv_cache", kind="bytes", about="bytes of keys and values", takes=_CASE, judge=sizes.kv_cache),
        Topic(name="memory", kind="bytes", about="bytes that a workload takes", takes=_WORK, judge=sizes.memory),
        Topic(
            name="fits",
            kind="yes-no",
            about="whether a workload fits a device",
            needs=frozenset({"on"}),
            takes=_WORK,
            judge=sizes.fits,
        ),
        Topic(name="scaled_context", kind="tokens", about="what rotary scaling reaches", judge=sizes.scaled_context),
        Topic(
            name="rotary_reach",
            kind="tokens",
            about="how far rotation prefers near keys",
            takes=frozenset({"context"}),
            judge=sizes.rotary_reach,
        ),
        Topic(
            name="receptive_field",
            kind="tokens",
            about="how far a token can see through all layers",
            takes=frozenset({"context"}),
            judge=sizes.receptive_field,
        ),
        Topic(
            name="decode_speed",
            kind="rate",
            about="tokens a second while decoding",
            needs=frozenset({"on"}),
            takes=_CASE | {"on", "count"},
            judge=times.decode_speed,
        ),
        Topic(
            name="slowdown",
            kind="factor",
            about="decoding at to_context against context",
            needs=frozenset({"context", "to_context"}),
            takes=_CASE | {"on", "count"},
            judge=times.slowdown,
        ),
        Topic(
            name="training_price",
            kind="dollars",
            about="dollars for training on some tokens",
            needs=frozenset({"tokens", "on"}),
            takes=frozenset({"context", "on", "count", "weights"}),
            judge=times.training_price,
        ),
        Topic(
            name="ratio",
            kind="factor",
            about="one case against another",
            needs=frozenset({"of", "a", "b"}),
            takes=frozenset({"measured"}),
            judge=times.ratio,
        ),
        Topic(
            name="arithmetic",
            kind="number",
            about="plain arithmetic",
            needs=frozenset({"expression"}),
            takes=frozenset({"where"}),
            judge=times.arithmetic,
        ),
        Topic(
            name="statement",
            kind="yes-no",
            about="what no arithmetic decides",
            needs=frozenset({"why"}),
            takes=frozenset({"shown_by"}),
        ),
    )
}
"""Every topic by name."""

WITHOUT_SPEC = frozenset({"ratio", "arithmetic", "statement"})
