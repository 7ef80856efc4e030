"""Which backend each block of an architecture gets, and why: what its small twin asks for, looked up in the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch

from vitruvius.nn.backends.stored import stored_row
from vitruvius.nn.backends.table import TABLE, Row, Situation, Work, lookup
from vitruvius.nn.place import Signals
from vitruvius.spec.layer import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.nn.backends.request import Asked
    from vitruvius.nn.model import Model
    from vitruvius.patterns import Pattern
    from vitruvius.spec import Architecture, Layer

Occasion = Literal["train_cpu", "infer_cpu", "decode_cpu", "train_cuda", "infer_cuda", "decode_cuda"]
WHOLE: dict[Occasion, tuple[Work, str, str]] = {
    "train_cpu": ("train", "cpu", "float32"),
    "infer_cpu": ("infer", "cpu", "float32"),
    "train_cuda": ("train", "cuda", "bfloat16"),
    "infer_cuda": ("infer", "cuda", "bfloat16"),
}
"""Attention of whole sequences: what for, on what device, in what number format."""
_ROWS: dict[Work, frozenset[str]] = {"train": frozenset({"documents"}), "infer": frozenset()}
"""Terms that rows bring along: training packs documents."""
STEP: dict[Occasion, str] = {"decode_cpu": "cpu", "decode_cuda": "cuda"}
"""Attention of one new token per row to a cache, and on what device."""
OCCASIONS: tuple[Occasion, ...] = get_args(Occasion)
_PROMPT = 8
OWN = Row(backend="own", why="its position computes the scores itself, in blocks of queries")
NONE = Row(backend="none", why="it keeps a state of one size and compares no query with any key")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockBackends:
    """One sublayer that mixes tokens, in all layers of one name."""

    block: str
    """Name of the block; `encoder: NAME` in the encoder."""
    sublayer: Literal["mixer", "cross"]
    sees: str | None
    """The pattern as the spec writes it; None where nothing is attended to."""
    terms: tuple[str, ...]
    """What joins the scores besides products of queries and keys."""
    rows: dict[Occasion, Row | None]
    """The row of the table for each occasion; None where the occasion never comes."""


def survey(architecture: Architecture) -> tuple[BlockBackends, ...]:
    """The backends of each block, in the order in which the blocks first appear.

    Builds the small twin and runs it once whole and once with a cache: what it asks for is what the real one would.
    """
    from vitruvius.nn.build import build
    from vitruvius.spec import resolve
    from vitruvius.spec.shrink import shrink

    graph = resolve(architecture)
    whole, decoding = _asked(build(shrink(architecture)))
    found: dict[tuple[str, str], BlockBackends] = {}
    for layer in (*graph.encoder, *graph.layers):
        for part in _parts(layer, whole, decoding):
            found.setdefault((part.block, part.sublayer), part)
    return tuple(found.values())


_Key = tuple[str, str, str]
"""Stack, block and sublayer."""


def _asked(model: Model) -> tuple[dict[_Key, Asked], dict[_Key, Asked]]:
    """What each sublayer asks for in a pass over a whole sequence, and in a step of decoding."""
    tokens = torch.zeros(1, _PROMPT + 1, dtype=torch.int64, device=model.device)
    if model.encoder is not None:
        model.standing_source = tokens
    whole, decoding = Signals(requests=[]), Signals(requests=[])
    with torch.no_grad():
        model(tokens, prefix=[1], signals=whole)
        if model.graph.is_causal:
            cache = model.cache(1, capacity=_PROMPT + 1)
            model(tokens[:, :_PROMPT], cache=cache)
            model(tokens[:, _PROMPT:], cache=cache, signals=decoding)
    return _by_sublayer(whole), _by_sublayer(decoding)


def _by_sublayer(signals: Signals) -> dict[_Key, Asked]:
    found: dict[_Key, Asked] = {}
    for asked in signals.requests or ():
        layer = asked.request.place.layer
        if layer is not None:
            # Keys of another stack are seen whole; those of a cache only backwards.
            sublayer = "cross" if asked.stored and not asked.request.pattern.is_causal else "mixer"
            found.setdefault((layer.stack.name, layer.name, sublayer), asked)
    return found


def _parts(layer: Layer, whole: dict[_Key, Asked], decoding: dict[_Key, Asked]) -> Iterator[BlockBackends]:
    at = (layer.stack.name, layer.name)
    name = layer.name if layer.stack is Stack.MAIN else f"{layer.stack.name.lower()}: {layer.name}"
    if layer.mixer is not None:
        pattern, asked, step = layer.mixer.pattern(), whole.get((*at, "mixer")), decoding.get((*at, "mixer"))
        sees = None if pattern is None else getattr(layer.mixer, "sees", str(pattern))
        if pattern is None or asked is None:
            other = NONE if pattern is None else OWN
            rows: dict[Occasion, Row | None] = dict.fromkeys(OCCASIONS, other)
        else:
            rows = {
                occasion: lookup(TABLE, _situation(pattern, asked, *WHOLE[occasion]))
                if occasion in WHOLE
                else _stored(step, STEP[occasion])
                for occasion in OCCASIONS
            }
        yield BlockBackends(block=name, sublayer="mixer", sees=sees, terms=_terms(asked), rows=rows)
    crossed = whole.get((*at, "cross"))
    if crossed is not None:
        row = _stored(crossed, "cpu")
        yield BlockBackends(
            block=name, sublayer="cross", sees="everything", terms=_terms(crossed), rows=dict.fromkeys(OCCASIONS, row)
        )


def _stored(asked: Asked | None, device: str) -> Row | None:
    return None if asked is None else stored_row(asked.request.terms, asked.widths, device, "infer")


def _terms(asked: Asked | None) -> tuple[str, ...]:
    return () if asked is None else tuple(sorted(asked.request.terms - {"documents"}))


def _situation(pattern: Pattern, asked: Asked, work: Work, device: str, dtype: str) -> Situation:
    terms = asked.request.terms | _ROWS[work]
    return Situation(pattern=pattern, terms=terms, device=device, dtype=dtype, work=work, widths=asked.widths)
