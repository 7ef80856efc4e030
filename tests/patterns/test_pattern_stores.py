from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import PatternError
from vitruvius.patterns import FOREVER, Pattern, StorePlan, causal, parse, plan

CAUSAL = st.from_type(Pattern).map(causal.__and__)
CAPACITIES = st.integers(1, 60)


class Cache:
    """The stores as dictionaries from slot to key, filled as the module's docstring says."""

    def __init__(self, stores: StorePlan) -> None:
        self.plan = stores
        self.ring: dict[int, int] = {}
        self.archives: list[dict[int, int]] = [{} for _ in stores.archives]

    def append(self, t: int) -> None:
        leaving = t - self.plan.ring
        for archive, held in zip(self.plan.archives, self.archives, strict=True):
            if leaving >= 0 and archive.holds(leaving):
                expired = held.get(archive.slot(leaving))
                assert expired is None or t - expired > archive.reach, "a key was overwritten while still needed"
                held[archive.slot(leaving)] = leaving
        if self.plan.ring:
            self.ring[t % self.plan.ring] = t

    def readable(self, t: int) -> list[int]:
        """The keys that the query at t reads, store by store, each archive masked by the ones before it."""
        found = [k for k in self.ring.values() if self.plan.pattern.allows(t, k)]
        for i, held in enumerate(self.archives):
            earlier = self.plan.archives[:i]
            found += [
                k
                for k in held.values()
                if self.plan.pattern.allows(t, k) and not any(archive.holds(k) for archive in earlier)
            ]
        return found


def run(pattern: Pattern, capacity: int) -> tuple[StorePlan, Cache]:
    stores = plan(pattern, capacity)
    cache = Cache(stores)
    for t in range(capacity):
        cache.append(t)
    return stores, cache


@given(CAUSAL, CAPACITIES)
def test_every_query_reads_each_of_its_keys_from_the_stores_exactly_once(pattern, capacity):
    stores = plan(pattern, capacity)
    cache = Cache(stores)
    for t in range(capacity):
        cache.append(t)
        assert sorted(cache.readable(t)) == [k for k in range(t + 1) if pattern.allows(t, k)]
        assert stores.read(t) == len(cache.readable(t))


@given(CAUSAL, CAPACITIES)
def test_every_key_that_a_later_query_reads_is_held(pattern, capacity):
    cache = Cache(plan(pattern, capacity))
    for t in range(capacity):
        cache.append(t)
        held = set(cache.ring.values()).union(*(archive.values() for archive in cache.archives))
        assert held >= {k for k in range(t + 1) for q in range(t, capacity) if pattern.allows(q, k)}


@given(CAUSAL, CAPACITIES)
def test_positions_are_computed_from_the_slot_alone(pattern, capacity):
    stores = plan(pattern, capacity)
    cache = Cache(stores)
    for t in range(capacity):
        cache.append(t)
        for slot in range(stores.ring):
            position = stores.ring_position(slot, t)
            assert (position if position >= 0 else None) == cache.ring.get(slot)
        for archive, held in zip(stores.archives, cache.archives, strict=True):
            for slot in range(archive.slots):
                assert archive.position(slot, t, stores.ring) == held.get(slot, -1)


@given(CAUSAL, CAPACITIES)
def test_every_slot_of_the_plan_is_used_before_the_capacity_is_reached(pattern, capacity):
    stores, cache = run(pattern, capacity)
    assert len(cache.ring) == stores.ring
    assert [len(held) for held in cache.archives] == [archive.slots for archive in stores.archives]


@given(CAUSAL, CAPACITIES)
def test_positions_and_slots_are_computed_alike_for_arrays_and_tensors(pattern, capacity):
    stores = plan(pattern, capacity)
    t = capacity - 1
    for archive in stores.archives:
        expected = [archive.position(slot, t, stores.ring) for slot in range(archive.slots)]
        holds = [archive.holds(k) for k in range(capacity)]
        for positions in (np.arange, torch.arange):
            assert archive.position(positions(archive.slots), t, stores.ring).tolist() == expected
            assert archive.holds(positions(capacity)).tolist() == holds
            keys = positions(archive.first, capacity, archive.step)
            assert archive.slot(keys).tolist() == [archive.slot(int(k)) for k in keys]
    if stores.ring:
        expected = [stores.ring_position(slot, t) for slot in range(stores.ring)]
        assert stores.ring_position(np.arange(stores.ring), t).tolist() == expected
        assert stores.ring_position(torch.arange(stores.ring), torch.tensor(t)).tolist() == expected


@pytest.mark.parametrize("n", [1, 4_095, 4_096, 4_097, 4_224, 4_225, 16_384, 65_536, 102_400, 131_072])
def test_the_long_context_layout_allocates_what_its_formula_says(n):
    def slots(text: str) -> int:
        return plan(parse(text), n).slots

    globals_ = max(0, -(-(n - 4_096) // 128))
    assert slots("causal & sliding(4096)") == min(n, 4_096)
    assert slots("causal & (sliding(4096) | global(every=128))") == min(n, 4_096) + globals_
    assert slots("causal & dilated(1024, every=4)") == min(n, 4_093)
    assert slots("causal") == n


def test_the_long_context_layout_takes_2_147_gb_at_its_context():
    n, key_and_value = 102_400, 2 * 8 * 128 * 2
    layers = [("causal & sliding(4096)", 16), ("causal & dilated(1024, every=4)", 12), ("causal", 4)]
    kept = sum(count * plan(parse(text), n).slots for text, count in layers)
    assert round(kept * key_and_value / 1e9, 3) == 2.147
    read = sum(count * plan(parse(text), n).read(n - 1) for text, count in layers)
    assert round(read * key_and_value / 1e9, 3) == 1.996


@pytest.mark.parametrize(
    ("text", "capacity", "ring", "archives"),
    [
        ("causal & (sliding(8) | sinks(3))", 64, 8, [(0, 1, 3, FOREVER, 3)]),
        ("causal & (sliding(8) | sinks(3))", 8, 8, []),
        ("causal & (sliding(8) | sinks(3))", 10, 8, [(0, 1, 3, FOREVER, 2)]),
        ("causal & sinks(3)", 64, 0, [(0, 1, 3, FOREVER, 3)]),
        ("causal & (sliding(4) | global(every=8, offset=2))", 32, 4, [(2, 8, FOREVER, FOREVER, 4)]),
        ("sliding(8) & global(every=3)", 64, 0, [(0, 3, FOREVER, 7, 3)]),
        ("causal & block(16)", 64, 16, []),
        ("causal & stride(4)", 64, 64, []),
        ("causal & (sliding(8) | dilated(5, every=4))", 64, 17, []),
        ("sliding(4) | (sliding(20) & global(every=6))", 64, 4, [(0, 6, FOREVER, 19, 3)]),
    ],
)
def test_a_plan_has_the_smallest_ring_and_one_archive_for_each_clause_that_outlives_it(text, capacity, ring, archives):
    stores = plan(parse(text), capacity)
    found = [(one.first, one.step, one.end, one.reach, one.slots) for one in stores.archives]
    assert (stores.ring, found) == (ring, archives)


def test_a_key_in_two_archives_is_masked_in_the_one_that_forgets_it_first():
    pattern = causal & parse("sliding(2) | global(every=4) | (sliding(30) & global(every=6))")
    stores, cache = run(pattern, 60)
    assert [archive.step for archive in stores.archives] == [4, 6]
    assert 36 in cache.archives[0].values() and 36 in cache.archives[1].values()
    assert cache.readable(59).count(36) == 1


@pytest.mark.parametrize("text", ["everything", "around(4)", "causal | sinks(3)", "block(8)"])
def test_a_pattern_that_reads_later_keys_has_no_plan(text):
    with pytest.raises(PatternError, match="no decode cache") as caught:
        plan(parse(text), 64)
    assert "causal &" in caught.value.fix


@pytest.mark.parametrize("capacity", [0, -1, True, 8.0, "8"])
def test_a_capacity_is_a_positive_whole_number(capacity):
    with pytest.raises(PatternError, match="capacity"):
        plan(causal, capacity)


def test_a_plan_for_a_long_context_costs_no_time_that_grows_with_it():
    stores = plan(parse("causal & (sliding(4096) | global(every=128) | sinks(4))"), 2**39)
    assert stores.slots == 4_096 + (2**39 - 4_096) // 128 + 4
