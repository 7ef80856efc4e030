"""Random patterns for every test in this folder: `st.from_type(Pattern)` and `st.from_type(Clause)`."""

from __future__ import annotations

import sys
from functools import reduce
from operator import and_, or_
from pathlib import Path

from hypothesis import strategies as st

from vitruvius.patterns import (
    FOREVER,
    Clause,
    Pattern,
    around,
    block,
    causal,
    dilated,
    everything,
    global_,
    sinks,
    sliding,
    stride,
    stride2d,
)

sys.path.insert(0, str(Path(__file__).parent))


@st.composite
def clauses(draw: st.DrawFn) -> Clause:
    """Any clause at all, with small numbers so that its corners show within a few dozen positions."""
    low = draw(st.one_of(st.just(-FOREVER), st.integers(-12, 6)))
    high = draw(st.one_of(st.just(FOREVER), st.integers(-4, 20)))
    key_step, query_step = draw(st.integers(1, 5)), draw(st.sampled_from([1, 1, 1, 2, 3, 4]))
    return Clause(
        distance_low=low,
        distance_high=high,
        distance_multiple=draw(st.integers(1, 5)),
        key_low=draw(st.sampled_from([0, 0, 0, 3, 7])),
        key_high=draw(st.one_of(st.just(FOREVER), st.integers(1, 30))),
        key_residue=draw(st.integers(0, key_step - 1)),
        key_step=key_step,
        query_low=draw(st.sampled_from([0, 0, 0, 2, 9])),
        query_high=draw(st.one_of(st.just(FOREVER), st.just(FOREVER), st.integers(1, 30))),
        query_residue=draw(st.integers(0, query_step - 1)),
        query_step=query_step,
        chunks=draw(st.sampled_from([(), (), (1,), (4,), (7,), (6, 4), (10, 15)])),
    )


NAMED = st.one_of(
    st.just(causal),
    st.just(everything),
    st.builds(sliding, st.integers(1, 12)),
    st.builds(around, st.integers(1, 9)),
    st.builds(sinks, st.integers(1, 6)),
    st.integers(1, 9).flatmap(lambda every: st.builds(global_, st.just(every), st.integers(0, every - 1))),
    st.builds(dilated, st.integers(1, 6), st.integers(1, 5)),
    st.builds(stride, st.integers(1, 6)),
    st.builds(block, st.integers(1, 9)),
    st.builds(stride2d, st.integers(1, 4), st.integers(1, 5)),
)


def joined(leaves: st.SearchStrategy[Pattern]) -> st.SearchStrategy[Pattern]:
    """Up to three patterns joined by one operator, twice over."""
    level = st.builds(reduce, st.sampled_from([and_, or_]), st.lists(leaves, min_size=1, max_size=3))
    return st.builds(reduce, st.sampled_from([and_, or_]), st.lists(level, min_size=1, max_size=2)).filter(
        lambda pattern: len(pattern.clauses) <= 8
    )


ANY_CLAUSES = st.builds(Pattern, st.lists(clauses(), min_size=0, max_size=3).map(tuple))

st.register_type_strategy(Clause, clauses())
st.register_type_strategy(
    Pattern, st.one_of(joined(NAMED), joined(NAMED).map(causal.__and__), ANY_CLAUSES, joined(NAMED | ANY_CLAUSES))
)
