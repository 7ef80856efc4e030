"""Probes of what the spec says a forward pass costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from vitruvius.checks.causality import backend
from vitruvius.checks.outcome import Measure, failed, passed
from vitruvius.units import exact, format_count

if TYPE_CHECKING:
    from vitruvius.checks.subject import Subject
    from vitruvius.patterns import Pattern


def flops(subject: Subject) -> Measure:
    """The dense count equals torch's over the readable path; the useful one leaves out exactly the forbidden pairs."""
    length, graph = subject.length, subject.graph
    model = subject.plain(torch.float32)  # while training, a mixture may drop tokens
    tokens = subject.tokens(1, length)
    with torch.no_grad(), backend(model, "reference"):
        model(tokens)
        with FlopCounterMode(display=False) as counter:
            model(tokens)
    said, counted = graph.flops(length), counter.get_total_flops()
    if said.dense != counted:
        return failed(f"{length} tokens: the spec says {exact(said.dense)} dense and torch counts {exact(counted)}")
    modules = {name.partition(".")[2]: sum(kinds.values()) for name, kinds in counter.get_flop_counts().items()}
    for layer in (*graph.encoder, *graph.layers):
        if layer.owns_weights and layer.flops(length).dense and not modules.get(layer.path):
            return failed(f"torch counts nothing in layer {layer.index}, so the comparison is blind there")
    forbidden = 0
    for layer in (*graph.encoder, *graph.layers):
        pattern = None if layer.mixer is None else layer.mixer.pattern()
        if layer.mixer is not None and pattern is not None:
            pairs = length * length - brute_force_pairs(pattern, length)
            forbidden += layer.mixer.pair_flops(layer.scope) * pairs
    if said.useful != counted - forbidden:
        return failed(f"useful is {exact(said.useful)}, and pair by pair {exact(counted - forbidden)}")
    share = said.useful / counted
    return passed(f"{format_count(counted)} for {length} tokens, of which {share:.0%} useful; exact")


def brute_force_pairs(pattern: Pattern, length: int) -> int:
    """Allowed pairs counted one by one, with plain ints."""
    return sum(pattern.allows(query, key) for query in range(length) for key in range(length))
