"""What computing costs: time, energy and dollars of a training run, and whether to rent or to buy."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from vitruvius.sizing.hardware import Device

HOURS_PER_YEAR = 8760

FAILURE_HOURS = 54 * 24 * 16_384 / 419
"""Device-hours between two unexpected interruptions, 50,677: 419 in 54 days on 16,384 H100s (Llama 3, 2024, 3.3.4)."""
RESTART_SECONDS = 600.0
"""From a failure to the next step; assumed."""
WRITE_BYTES_PER_SECOND = 2e9
"""At which each machine writes its part of a checkpoint while training waits; assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What a device costs its user. Money is US dollars; each number has a source."""

    rent: float | None
    """For an hour of one device, on demand; None where nobody rents it out."""
    buy: float | None
    """Of one device."""
    electricity: float
    """For a kilowatt-hour."""
    pue: float
    """Energy that a building takes for each unit that its computers take (power usage effectiveness)."""
    years: float
    """In which what was bought is written off."""
    utilisation: float
    """Share of those hours in which it computes."""
    host_price: float
    """What the machine around a device costs, as a share of the device's price."""
    host_power: float
    """What the machine around a device takes, as a share of the device's power."""
    dated: str
    """When rent and price were read."""
    sources: dict[str, str]
    """Where each number comes from, by name."""


_ASSUMED: dict[str, tuple[float, str]] = {
    "electricity": (0.13, "US commercial average of 2024 (EIA), from memory"),
    "years": (4.0, "assumed; operators of data centres write servers off in 4 to 6 years"),
    "utilisation": (0.7, "assumed"),
}
_AT_HOME = {"pue": (1.0, "no building around it"), "host_price": (0.4, "assumed"), "host_power": (0.4, "assumed")}
_IN_A_DATA_CENTRE = {
    "pue": (1.56, "average of Uptime Institute's survey of 2024, from memory; the largest operators reach 1.1"),
    "host_price": (0.5, "assumed: processors, memory, network, racks"),
    "host_power": (0.82, "a DGX H100 takes up to 10.2 kW, its eight boards 5.6 kW (NVIDIA datasheet)"),
}
_WHOLE = {"pue": (1.0, "no building around it"), "host_price": (0.0, "whole"), "host_power": (0.0, "whole")}
_BY_TIER = {
    "data-centre": _IN_A_DATA_CENTRE,
    "tpu": _IN_A_DATA_CENTRE,
    "workstation": _AT_HOME,
    "consumer": _AT_HOME,
    "apple": _WHOLE,
    "cpu": _AT_HOME,
}
"""What is assumed around a device; an Apple computer is bought whole, and its price and power are the machine's."""


def prices_of(device: Device, **given: float | None) -> Prices:
    """The prices of a device as the catalogue has them, with `given` ones by name over them.

    Raises UsageError for numbers that no price can be.
    """
    assumed = _ASSUMED | _BY_TIER[device.tier]
    sources = {name: source for name, (_, source) in assumed.items()}
    sources |= {name: device.sources.get(name, "catalogue") for name in ("rent", "buy")}
    prices = Prices(
        rent=device.rent,
        buy=device.buy,
        dated=device.dated,
        sources=sources,
        **{name: value for name, (value, _) in assumed.items()},
    )
    wanted = {name: value for name, value in given.items() if value is not None}
    for name, value in wanted.items():
        _check_price(name, value)
    return replace(prices, **wanted, sources=sources | dict.fromkeys(wanted, "given"))


_LEAST = {"pue": 1.0, "years": 0.01, "utilisation": 0.001}
_MOST = {"utilisation": 1.0, "years": 100.0, "pue": 10.0}


def _check_price(name: str, value: float) -> None:
    known = {field.name for field in fields(Prices)} - {"dated", "sources"}
    if name not in known:
        raise UsageError(f"there is no price {name!r}", fix=f"use one of {', '.join(sorted(known))}")
    least, most = _LEAST.get(name, 0.0), _MOST.get(name, 1e12)
    if not (isfinite(value) and least <= value <= most):
        raise UsageError(f"{name}={value:g} is out of range", fix=f"use a number from {least:g} to {most:,.0f}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Renting and owning one device, side by side."""

    rent_per_hour: float | None
    own_per_hour: float | None
    """Price over the hours of use, and electricity; None without a price."""
    electricity_per_hour: float
    """Of one device at full power, with its share of the machine and the building."""
    capital: float | None
    """Price of the device and its share of a machine."""
    break_even_hours: float | None
    """Hours of use after which buying has cost less than renting; None where it never does or a price is missing."""
    power_watts: float
    """At the plug, the building included."""


def ownership(device: Device, prices: Prices) -> Ownership:
    """What an hour of one device costs, rented and owned.

    own = buy x (1 + host) / (years x 8,760 x utilisation) + kW x electricity, with
    kW = watts x (1 + host power) x PUE / 1000; break-even = buy x (1 + host) / (rent - kW x electricity).
    """
    watts = device.watts * (1 + prices.host_power) * prices.pue
    running = watts / 1000 * prices.electricity
    capital = None if prices.buy is None else prices.buy * (1 + prices.host_price)
    own = None
    even = None
    if capital is not None:
        own = capital / (prices.years * HOURS_PER_YEAR * prices.utilisation) + running
        if prices.rent is not None and prices.rent > running:
            even = capital / (prices.rent - running)
    return Ownership(
        rent_per_hour=prices.rent,
        own_per_hour=own,
        electricity_per_hour=running,
        capital=capital,
        break_even_hours=even,
        power_watts=watts,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """Time that checkpoints and restarts add to the computing, as shares of it."""

    checkpoint: float
    """Writing checkpoints."""
    lost: float
    """Steps done again after a failure."""
    restart: float
    """Waiting for machines to come back."""
    every_seconds: float
    """Computing between two checkpoints that costs least (Young, 1974): sqrt(2 x write x time between failures)."""
    failures_per_day: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.checkpoint + self.lost + self.restart


def overhead_of(
    checkpoint_bytes: int,
    count: int,
    per_node: int,
    *,
    failure_hours: float = FAILURE_HOURS,
    restart_seconds: float = RESTART_SECONDS,
    write_speed: float = WRITE_BYTES_PER_SECOND,
) -> Overhead:
    """What failures cost `count` devices that write a checkpoint of so many bytes, each machine its part."""
    nodes = -(-count // per_node)
    write = checkpoint_bytes / (nodes * write_speed)
    between = failure_hours * 3600 / count
    every = min(max(sqrt(2 * write * between), 1.0), between)
    return Overhead(
        checkpoint=write / every,
        lost=every / 2 / between,
        restart=restart_seconds / between,
        every_seconds=every,
        failures_per_day=86400 / between,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCost:
    """Time, energy and dollars of a run over a number of tokens."""

    tokens: int
    seconds: float
    """From the first step to the last, checkpoints and failures included."""
    computing_seconds: float
    """Of that, steps."""
    device_hours: float
    kwh: float
    """At the plug, machines and building included."""
    rent_dollars: float | None
    own_dollars: float | None
    """Share of the price for these hours, and electricity."""
    electricity_dollars: float
    """In `own_dollars`, and in what is rented paid by the landlord."""


def run_cost(
    tokens: int, tokens_per_second: float, device: Device, count: int, prices: Prices, overhead: Overhead
) -> RunCost:
    """The cost of a run at a speed of all devices together."""
    computing = tokens / tokens_per_second
    seconds = computing * (1 + overhead.total)
    hours = seconds / 3600 * count
    each = ownership(device, prices)
    return RunCost(
        tokens=tokens,
        seconds=seconds,
        computing_seconds=computing,
        device_hours=hours,
        kwh=hours * each.power_watts / 1000,
        rent_dollars=None if each.rent_per_hour is None else hours * each.rent_per_hour,
        own_dollars=None if each.own_per_hour is None else hours * each.own_per_hour,
        electricity_dollars=hours * each.electricity_per_hour,
    )


# --------------------------------------------------------------------------------------------------- reading dollars

_DOLLARS = re.compile(r"\$?\s*(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)\s*(?P<unit>[kKmM]?)", re.ASCII)
_PER_HOUR = re.compile(r"(?P<amount>[^/]*?)\s*(?:/\s*(?:h|hr|hour)|\s+an hour|\s+per hour)", re.ASCII)
_WORTH = {"": 1.0, "k": 1e3, "m": 1e6}
_LONGEST = 40


def parse_dollars(text: str, *, least: Literal["some", "none"] = "some") -> float:
    """Dollars as `2000`, `$2,000`, `2k` or `1.5M`; nothing at all only where `least` is `none`. Raises UsageError."""
    match = _DOLLARS.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if match is None:
        fix = "write dollars, such as 2000, $2,000 or 30k"
        if _PER_HOUR.fullmatch(text.strip()[:_LONGEST]):
            fix = "this is a sum; for dollars an hour use --rent-budget"
        raise UsageError(f"cannot read {text[:_LONGEST]!r} as dollars", fix=fix)
    amount = float(match["number"].replace(",", "")) * _WORTH[match["unit"].lower()]
    if amount > 1e12 or (amount == 0 and least == "some"):
        raise UsageError(f"{amount:g} dollars buy nothing here", fix="use more than 0, and at most $1,000,000M")
    return amount


def parse_rate(text: str, *, least: Literal["some", "none"] = "some") -> float:
    """Dollars an hour as `3/h`, `$2.50/hour` or plain `3`; as `parse_dollars`. Raises UsageError."""
    match = _PER_HOUR.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    try:
        return parse_dollars(text if match is None else match["amount"], least=least)
    except UsageError:
        fix = "write dollars an hour, such as 3/h or $2.50/h"
        raise UsageError(f"cannot read {text[:_LONGEST]!r} as dollars an hour", fix=fix) from None
