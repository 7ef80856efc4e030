"""What each way of packing would make of the same data: before a run, or for a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from vitruvius.data.packing.efficiency import Efficiency, pairs_within, together
from vitruvius.data.packing.fitting import next_fit
from vitruvius.data.packing.plans import PACKINGS, Packing, document_groups, pieces_of
from vitruvius.data.packing.samples import samples_of

if TYPE_CHECKING:
    from vitruvius.data.packing.shards import TokenShards
    from vitruvius.data.packing.stream import TokenStream

Compared: TypeAlias = "Packing | Literal['greedy']"


def compare_packings(shards: TokenShards, *, context: int) -> dict[Compared, Efficiency]:
    """The efficiency of every packing of a split as one stream, and of naive packing as a yardstick (`greedy`).

    Naive packing takes documents, and pieces of those longer than the context, in their order, and begins a new sample
    where the next one does not fit.
    """
    found: dict[Compared, Efficiency] = {}
    for packing in PACKINGS:
        parts = samples_of(shards.stream, context, packing=packing, eos_id=shards.eos_id)
        if parts:
            found[packing] = together([part.efficiency() for part in parts])
    found["greedy"] = _greedy(shards.stream, context)
    return found


def _greedy(stream: TokenStream, context: int) -> Efficiency:
    samples = room = long = pairs = 0
    for edges in document_groups(stream, context):
        lengths = pieces_of(edges, context).lengths
        more, room = next_fit(lengths, context, room=room)
        pairs += pairs_within(lengths)
        samples += more
        long += int((edges[1:] - edges[:-1] > context).sum())
    return Efficiency(
        samples=samples,
        context=context,
        documents=stream.documents,
        tokens=stream.tokens,
        packed_tokens=stream.tokens,
        cut_documents=long,
        long_documents=long,
        attended_pairs=pairs,
    )
