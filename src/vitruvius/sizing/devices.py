"""Devices held against one architecture: which of them it fits, how fast, and for how much."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import UsageError
from vitruvius.sizing.fit import available_bytes
from vitruvius.sizing.memory import Memory, context_of, memory_of
from vitruvius.sizing.money import ownership, prices_of
from vitruvius.sizing.speed import demand_of, on_device

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from vitruvius.sizing.hardware import Device
    from vitruvius.sizing.money import Ownership, Prices
    from vitruvius.sizing.speed import Demand, Speed
    from vitruvius.sizing.workload import Workload
    from vitruvius.spec.graph import Graph

COUNTS = (1, 2, 4, 8)
Order = Literal["value", "speed", "price"]
"""`value`: dollars for a million tokens; `speed`: tokens a second; `price`: dollars to buy or an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One architecture and workload on a number of one device."""

    device: Device
    count: int
    needed_bytes: int
    """Of the workload, the margin included, which the devices hold in equal parts."""
    available_bytes: int
    tokens_per_second: float | None
    """Of all sequences together, expected: decoded, encoded where nothing is decoded, or trained on."""
    tokens_per_second_bound: float | None
    """The same at 100 % of what binds."""
    prefill_seconds: float | None
    """Of the batch at its whole context, expected."""
    train_step_seconds: float | None
    """Expected; messages between devices are not in it."""
    price: float | None
    """To buy all of them with their machines."""
    rent_per_hour: float | None
    """Of all of them."""
    own_per_hour: float | None
    """Of all of them: price over its years of use, and electricity."""
    break_even_hours: float | None
    refused: tuple[str, ...] = ()
    """Why it is out of the question: does not fit, costs too much, is too slow."""

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.needed_bytes <= self.available_bytes

    @property
    def spare_bytes(self) -> int:
        """Room that is left; below 0 what is missing."""
        return self.available_bytes - self.needed_bytes

    @property
    def rent_per_million(self) -> float | None:
        """Dollars for a million tokens, rented."""
        return _per_million(self.rent_per_hour, self.tokens_per_second)

    @property
    def own_per_million(self) -> float | None:
        """Dollars for a million tokens, owned."""
        return _per_million(self.own_per_hour, self.tokens_per_second)

    @property
    def least_per_million(self) -> float | None:
        """Dollars for a million tokens, the cheaper of both."""
        known = [value for value in (self.rent_per_million, self.own_per_million) if value is not None]
        return min(known, default=None)


def _per_million(per_hour: float | None, tokens_per_second: float | None) -> float | None:
    if per_hour is None or not tokens_per_second:
        return None
    return per_hour / 3600 / tokens_per_second * 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a choice of hardware has to meet."""

    budget: float | None = None
    """Dollars to buy it, machines included."""
    rent_budget: float | None = None
    """Dollars an hour."""
    tokens_per_second: float | None = None
    """At least, expected."""
    order: Order = "value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Offers that meet a wish, the best first, and the others."""

    workload: Workload
    context: int
    memory: Memory
    wish: Wish
    offers: tuple[Offer, ...]
    refused: tuple[Offer, ...]
    """Nearest to fitting first."""


def choose(
    graph: Graph,
    workload: Workload,
    devices: Iterable[Device],
    wish: Wish,
    *,
    counts: Sequence[int] = COUNTS,
    given: Mapping[str, float | None] | None = None,
) -> Choice:
    """Rank devices, in numbers that share a machine, for a workload; `given` replaces prices by name.

    Devices on which models of this project are not known to run come last. Raises UsageError for a wish that is none.
    """
    _check(wish)
    memory = memory_of(graph, workload)
    demand = demand_of(graph, workload, memory)
    offers = [
        offer_of(graph, workload, device, count, memory=memory, demand=demand, given=given or {}, wish=wish)
        for device in devices
        for count in counts
        if count <= max(device.per_node, 1)
    ]
    good = sorted((offer for offer in offers if not offer.refused), key=lambda offer: _order(offer, wish))
    bad = sorted((offer for offer in offers if offer.refused), key=lambda offer: (offer.fits, -offer.spare_bytes))
    return Choice(
        workload=workload,
        context=context_of(graph, workload),
        memory=memory,
        wish=wish,
        offers=tuple(good),
        refused=tuple(bad),
    )


def _check(wish: Wish) -> None:
    wishes = {
        "budget": wish.budget,
        "rent budget": wish.rent_budget,
        "least number of tokens a second": wish.tokens_per_second,
    }
    for name, value in wishes.items():
        if value is not None and not (isfinite(value) and value > 0):
            raise UsageError(f"a {name} of {value:g} makes no wish", fix="use a number above 0, or leave it out")


def offer_of(
    graph: Graph,
    workload: Workload,
    device: Device,
    count: int,
    *,
    memory: Memory,
    demand: Demand,
    given: Mapping[str, float | None],
    wish: Wish | None = None,
) -> Offer:
    """One device, so many times, held against a workload whose memory and demand are known."""
    speed = on_device(demand, graph, workload, device, count)
    prices = prices_of(device, **given)
    each = ownership(device, prices)
    expected, bound = tokens_per_second(graph, workload, speed)
    offer = Offer(
        device=device,
        count=count,
        needed_bytes=memory.total,
        available_bytes=available_bytes(device, count),
        tokens_per_second=expected,
        tokens_per_second_bound=bound,
        prefill_seconds=speed.expected_prefill_seconds,
        train_step_seconds=speed.expected_train_step_seconds,
        price=_times(count, each.capital),
        rent_per_hour=_times(count, each.rent_per_hour),
        own_per_hour=_times(count, each.own_per_hour),
        break_even_hours=each.break_even_hours,
    )
    return offer if wish is None else _judged(offer, wish)


def _times(count: int, value: float | None) -> float | None:
    return None if value is None else count * value


def tokens_per_second(graph: Graph, workload: Workload, speed: Speed) -> tuple[float | None, float | None]:
    """(expected, bound) rate of what the workload does: decode, encode where nothing is decoded, or train."""
    if workload.mode != "inference":
        expected, bound = speed.expected_train_step_seconds, speed.train_step_seconds
        made = float(speed.tokens_per_update)
    elif speed.decode is not None:
        return speed.expected_tokens_per_second, speed.tokens_per_second_bound
    else:
        expected, bound = speed.expected_prefill_seconds, speed.prefill_seconds
        made = float(workload.batch * context_of(graph, workload))
    return made / expected if expected else None, made / bound if bound else None


def _judged(offer: Offer, wish: Wish) -> Offer:
    return replace(offer, refused=tuple(_reasons(offer, wish)))


def _reasons(offer: Offer, wish: Wish) -> Iterable[str]:
    if not offer.fits:
        yield f"{-offer.spare_bytes / 1e9:,.1f} GB too small"
    if wish.budget is not None and (offer.price is None or offer.price > wish.budget):
        yield "not for sale" if offer.price is None else f"costs ${offer.price:,.0f}"
    if wish.rent_budget is not None and (offer.rent_per_hour is None or offer.rent_per_hour > wish.rent_budget):
        yield "not for rent" if offer.rent_per_hour is None else f"rents for ${offer.rent_per_hour:,.2f} an hour"
    slow = offer.tokens_per_second or 0.0
    if wish.tokens_per_second is not None and slow < wish.tokens_per_second:
        yield f"only {slow:,.3g} tokens a second"


def _order(offer: Offer, wish: Wish) -> tuple[float, ...]:
    """Devices that are tested first; then by what was asked for, and the faster of equals."""
    speed = -(offer.tokens_per_second or 0.0)
    price = offer.price if wish.rent_budget is None else offer.rent_per_hour
    price = price if price is not None else offer.rent_per_hour
    if wish.budget is not None:
        value = offer.own_per_million
    elif wish.rent_budget is not None:
        value = offer.rent_per_million
    else:
        value = offer.least_per_million
    first = {"speed": speed, "price": price, "value": value}[wish.order]
    return (float(bool(offer.device.untested)), float("inf") if first is None else first, speed, float(offer.count))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training run on one side of a comparison, with the fastest plan that fits."""

    plan: str
    seconds: float
    rent_dollars: float | None
    own_dollars: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One column of a comparison."""

    device: Device
    count: int
    prices: Prices
    each: Ownership
    inference: Offer | None = None
    """None without an architecture."""
    training: Offer | None = None
    """The same sequences, trained on."""
    largest_context: int | None = None
    """Tokens of each sequence that just fit in inference."""
    largest_batch: int | None = None
    """Sequences that just fit in inference."""
    run: Run | None = None
    """None where no tokens were asked for, and where no plan fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A run that a comparison is to price."""

    tokens: int
    batch_tokens: int


def compare(
    graph: Graph | None, workload: Workload, devices: Sequence[tuple[Device, int]], training: Training | None = None
) -> tuple[Side, ...]:
    """Devices side by side, by themselves or running an architecture; the workload is one of inference."""
    sides: list[Side] = []
    for device, count in devices:
        prices = prices_of(device)
        alone = Side(device=device, count=count, prices=prices, each=ownership(device, prices))
        sides.append(alone if graph is None else _running(alone, graph, workload, training))
    return tuple(sides)


def _running(side: Side, graph: Graph, workload: Workload, training: Training | None) -> Side:
    from vitruvius.sizing.fit import fit_of

    offers: list[Offer] = []
    memory = memory_of(graph, workload)
    trained = replace(workload, mode="train")
    for asked, bill in ((workload, memory), (trained, memory_of(graph, trained))):
        demand = demand_of(graph, asked, bill)
        offers.append(offer_of(graph, asked, side.device, side.count, memory=bill, demand=demand, given={}))
    found = fit_of(graph, workload, side.device, side.count, memory)
    return replace(
        side,
        inference=offers[0],
        training=offers[1],
        largest_context=found.largest_context,
        largest_batch=found.largest_batch,
        run=None if training is None else _run(side, graph, trained, training),
    )


def _run(side: Side, graph: Graph, workload: Workload, training: Training) -> Run | None:
    from vitruvius.sizing.parallel import plans
    from vitruvius.sizing.parallel.quote import priced
    from vitruvius.sizing.parameters import count_parameters

    found = plans(graph, workload, side.device, side.count, global_batch_tokens=training.batch_tokens)
    if not found.fitting:
        return None
    best = found.fitting[0]
    cost = priced(best, count_parameters(graph).total, side.device, training.tokens, side.prices).cost
    assert cost is not None
    return Run(
        plan=str(best.degrees), seconds=cost.seconds, rent_dollars=cost.rent_dollars, own_dollars=cost.own_dollars
    )
