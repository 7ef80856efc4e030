"""Bytes of collectives against ranks that really pass parts around, in one process."""

from __future__ import annotations

import pytest

from vitruvius.sizing.communication import Group, Network, Volume, group_of, network_of, step_seconds, volume
from vitruvius.sizing.hardware import device_named


class Wire:
    """Counts what each rank sends, by whether the receiver is on the same machine."""

    def __init__(self, ranks: int, inside: int) -> None:
        self.machine = [rank // inside for rank in range(ranks)]
        self.inside = [0] * ranks
        self.across = [0] * ranks

    def send(self, source: int, target: int, values: list[float]) -> list[float]:
        side = self.inside if self.machine[source] == self.machine[target] else self.across
        side[source] += len(values)
        return list(values)


def cut(values: list[float], parts: int) -> list[list[float]]:
    size = len(values) // parts
    return [values[i * size : (i + 1) * size] for i in range(parts)]


def ring_reduce_scatter(data: dict[int, list[float]], wire: Wire) -> dict[int, tuple[int, list[float]]]:
    """Each rank ends with the sum of one part: (which, values)."""
    ring = list(data)
    n = len(ring)
    parts = {rank: cut(values, n) for rank, values in data.items()}
    for step in range(n - 1):
        moved = {}
        for place, rank in enumerate(ring):
            which = (place - step) % n
            moved[ring[(place + 1) % n]] = (which, wire.send(rank, ring[(place + 1) % n], parts[rank][which]))
        for rank, (which, values) in moved.items():
            parts[rank][which] = [a + b for a, b in zip(parts[rank][which], values, strict=True)]
    return {rank: ((place + 1) % n, parts[rank][(place + 1) % n]) for place, rank in enumerate(ring)}


def ring_all_gather(owned: dict[int, tuple[int, list[float]]], wire: Wire) -> dict[int, list[float]]:
    ring = list(owned)
    n = len(ring)
    have: dict[int, dict[int, list[float]]] = {rank: {which: part} for rank, (which, part) in owned.items()}
    for _ in range(n - 1):
        moved = {}
        for place, rank in enumerate(ring):
            which = list(have[rank])[-1]
            target = ring[(place + 1) % n]
            moved[target] = (which, wire.send(rank, target, have[rank][which]))
        for rank, (which, values) in moved.items():
            have[rank][which] = values
    return {rank: [value for i in range(n) for value in parts[i]] for rank, parts in have.items()}


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_a_ring_all_reduce_on_one_machine_sends_what_is_counted(ranks: int) -> None:
    size = 24 * ranks
    data = {rank: [float(rank * 1000 + i) for i in range(size)] for rank in range(ranks)}
    wire = Wire(ranks, ranks)
    result = ring_all_gather(ring_reduce_scatter(data, wire), wire)
    expected = [sum(data[rank][i] for rank in range(ranks)) for i in range(size)]
    assert all(values == expected for values in result.values())
    counted = volume("all-reduce", size, Group(ranks=ranks, inside=ranks))
    assert wire.inside == [counted.inside] * ranks
    assert wire.across == [counted.across] * ranks == [0] * ranks
    assert counted.total == 2 * (ranks - 1) * size // ranks


@pytest.mark.parametrize(("inside", "nodes"), [(2, 2), (2, 3), (4, 2), (3, 4)])
def test_a_two_level_all_reduce_sends_what_is_counted(inside: int, nodes: int) -> None:
    ranks = inside * nodes
    size = 6 * inside * nodes
    data = {rank: [float(rank * 1000 + i) for i in range(size)] for rank in range(ranks)}
    wire = Wire(ranks, inside)
    owned: dict[int, tuple[int, list[float]]] = {}
    for node in range(nodes):
        here = range(node * inside, (node + 1) * inside)
        owned |= ring_reduce_scatter({rank: data[rank] for rank in here}, wire)
    for place in range(inside):
        column = [node * inside + place for node in range(nodes)]
        reduced = ring_all_gather(ring_reduce_scatter({r: owned[r][1] for r in column}, wire), wire)
        owned |= {rank: (owned[rank][0], reduced[rank]) for rank in column}
    result: dict[int, list[float]] = {}
    for node in range(nodes):
        result |= ring_all_gather({r: owned[r] for r in range(node * inside, (node + 1) * inside)}, wire)
    expected = [sum(data[rank][i] for rank in range(ranks)) for i in range(size)]
    assert all(values == expected for values in result.values())
    counted = volume("all-reduce", size, Group(ranks=ranks, inside=inside))
    assert wire.inside == [counted.inside] * ranks
    assert wire.across == [counted.across] * ranks


def test_an_all_to_all_sends_a_part_to_each_other_rank() -> None:
    ranks, inside, size = 8, 4, 800
    wire = Wire(ranks, inside)
    for source in range(ranks):
        for target, part in enumerate(cut([1.0] * size, ranks)):
            if target != source:
                wire.send(source, target, part)
    counted = volume("all-to-all", size, Group(ranks=ranks, inside=inside))
    assert (wire.inside, wire.across) == ([counted.inside] * ranks, [counted.across] * ranks)


def test_one_rank_sends_nothing() -> None:
    for collective in ("all-reduce", "reduce-scatter", "all-gather", "all-to-all"):
        assert volume(collective, 10**9, Group(ranks=1, inside=1)) == Volume()


def test_a_scatter_and_a_gather_are_an_all_reduce() -> None:
    group = Group(ranks=16, inside=8)
    parts = volume("reduce-scatter", 1 << 20, group) + volume("all-gather", 1 << 20, group)
    assert parts == volume("all-reduce", 1 << 20, group)


def test_parts_that_do_not_divide_are_rounded_up() -> None:
    assert volume("all-gather", 10, Group(ranks=4, inside=4)).inside == 3 * 3


def test_machines_with_unequal_numbers_of_ranks_count_as_all_across() -> None:
    group = group_of(12, 1, 8)
    assert not group.is_even
    assert volume("all-reduce", 1200, group) == Volume(across=2 * 11 * 100)


def test_ranks_that_stand_apart_share_fewer_machines() -> None:
    assert group_of(8, 1, 8) == Group(ranks=8, inside=8)
    assert group_of(8, 4, 8) == Group(ranks=8, inside=2)
    assert group_of(8, 16, 8) == Group(ranks=8, inside=1)


def test_the_network_of_a_device_can_be_replaced() -> None:
    device = device_named("h100-80gb")
    assert network_of(device).across == 50e9
    given = network_of(device, 25e9)
    assert (given.across, given.source) == (25e9, "given")
    assert network_of(device_named("tpu-v5p")).across == device_named("tpu-v5p").link


def test_time_on_the_wires_is_both_levels_one_after_the_other() -> None:
    network = Network(per_node=8, inside=100.0, across=10.0, source="")
    assert Volume(inside=200, across=30).seconds(network) == pytest.approx(5.0)
    assert step_seconds((), network) == (0.0, 0.0)
