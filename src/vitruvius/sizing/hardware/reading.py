"""Reads hardware files: every number with its unit, every finding of a file reported at once.

    dated = "2026-03-10"             # when its prices were read
    [all]                            # what its devices have in common, sources too
    [rtx-4090]
    memory = "24564 MiB"
    bandwidth = "1008 GB/s"
    flops = {bf16 = "165.2 TFLOP/s"}
    [rtx-4090.sources]
    bandwidth = "NVIDIA Ada GPU Architecture whitepaper, appendix A"

A file with `memory` at its top describes one device, named like the file or by `name`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, cast, get_args

from vitruvius.errors import Finding, UsageError
from vitruvius.sizing.hardware.amounts import FLOPS, MEMORY, POWER, PRICE, RATE, RENT, RESERVED, Measure
from vitruvius.sizing.hardware.device import Device, Efficiency, Tier

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Table = dict[str, Any]


def _as_table(value: object) -> Table | None:
    """The value where it is a table of TOML, whose keys are texts."""
    return cast("Table", value) if isinstance(value, dict) else None


FORMATS = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8")
"""Operand formats whose peak a file may give."""

_MEASURES: Mapping[str, Measure] = {
    "memory": MEMORY,
    "reserved": RESERVED,
    "bandwidth": RATE,
    "link": RATE,
    "power": POWER,
    "buy": PRICE,
    "rent": RENT,
}
_REQUIRED = ("memory", "bandwidth", "flops")
_TEXTS = ("name", "title", "tier", "link_name", "dated", "untested")
_COUNTS = {"released": (1990, 2100), "per_node": (1, 4096)}
KEYS = frozenset({*_MEASURES, *_TEXTS, *_COUNTS, "flops", "efficiency", "sources"})
"""Every key that a device may have."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)
_ASSUMED = "assumed: the file does not say"


def devices_in(text: str, *, file: str, stem: str) -> dict[str, Device]:
    """The devices of one file by name. Raises UsageError with everything that is wrong with it."""
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"not a TOML file: {what}", where=file, fix=_EXAMPLE) from None
    found: list[Finding] = []
    devices = {device.name: device for device in _devices(data, file, stem, found)}
    if not devices and not found:
        found.append(Finding(what="the file describes no device", fix=_EXAMPLE, file=file))
    if found:
        raise UsageError("\n\n".join(str(finding) for finding in found))
    return devices


_EXAMPLE = 'write memory = "24 GiB", bandwidth = "1008 GB/s" and flops = {bf16 = "165 TFLOP/s"}; see docs/sizing.md'


def _devices(data: Table, file: str, stem: str, found: list[Finding]) -> Iterator[Device]:
    if not any(isinstance(value, dict) for key, value in data.items() if key not in KEYS):
        sheet = _Sheet(table=data, at="", file=file, found=found)
        yield from sheet.devices(str(data.get("name", stem.lower().replace("_", "-").replace(" ", "-"))))
        return
    common = _as_table(data.pop("all", {}))
    dated = {key: data.pop(key) for key in ("dated",) if key in data}
    if common is None:
        found.append(Finding(what="must be a table of what the devices have in common", path="all", file=file))
        common = {}
    for name, value in data.items():
        table = _as_table(value)
        if table is None:
            fix = f"give every device a table of its own: [{name}]"
            found.append(Finding(what="is no table that describes a device", path=name, file=file, fix=fix))
            continue
        merged: Table = {**dated, **common, **table}
        for key in ("sources", "efficiency"):
            shared, own = _as_table(common.get(key)), _as_table(table.get(key))
            if shared is not None and own is not None:
                merged[key] = {**shared, **own}
        yield from _Sheet(table=merged, at=name, file=file, found=found).devices(name)


@dataclass(kw_only=True)
class _Sheet:
    """One device's table while it is read; `found` collects what is wrong with it."""

    table: Table
    at: str
    file: str
    found: list[Finding]
    unknown: set[str] = field(default_factory=set[str])

    def say(self, key: str, what: str, fix: str = "") -> None:
        path = ".".join(part for part in (self.at, key) if part)
        self.found.append(Finding(what=what, path=path, file=self.file, fix=fix))

    def devices(self, name: str) -> Iterator[Device]:
        """The device, if nothing is wrong with it."""
        before = len(self.found)
        self._check_keys(name)
        amounts = {key: self._amount(key, measure) for key, measure in _MEASURES.items() if key in self.table}
        flops, efficiency = self._flops(), self._efficiency()
        texts = {key: self._text(key) for key in _TEXTS if key in self.table}
        counts = {key: self._count(key, low, high) for key, (low, high) in _COUNTS.items() if key in self.table}
        sources = self._sources()
        self._check_values(amounts, texts)
        if len(self.found) > before:
            return
        memory = int(amounts["memory"] or 0)
        assumed = self._assumed
        yield Device(
            name=name,
            title=texts.get("title", name),
            tier=texts.get("tier", "consumer"),  # pyright: ignore[reportArgumentType] (checked above)
            released=counts.get("released") or assumed("released", 2020),
            memory_bytes=memory,
            reserved_bytes=assumed("reserved", memory // 32) if "reserved" not in amounts else int(amounts["reserved"]),
            bandwidth=float(amounts["bandwidth"]),
            flops=flops,
            link=float(amounts["link"]) if "link" in amounts else assumed("link", 16e9),
            link_name=texts.get("link_name") or assumed("link_name", "PCIe 3.0 x16"),
            per_node=counts.get("per_node") or assumed("per_node", 1),
            watts=float(amounts["power"]) if "power" in amounts else assumed("power", 300.0),
            buy=float(amounts["buy"]) if "buy" in amounts else None,
            rent=float(amounts["rent"]) if "rent" in amounts else None,
            dated=texts.get("dated", ""),
            efficiency=efficiency or assumed("efficiency", Efficiency(compute=0.4, bandwidth=0.6, source=_ASSUMED)),
            sources=sources,
            untested=texts.get("untested", ""),
            unknown=frozenset(self.unknown),
        )

    def _assumed(self, key: str, value: Any) -> Any:
        self.unknown.add(key)
        return value

    def _check_keys(self, name: str) -> None:
        if _NAME.fullmatch(name) is None or len(name) > 60:
            what = f"{name[:60]!r} is no name of a device"
            self.say("", what, "use lower-case letters, digits and dashes: my-gpu-24gb")
        for key in self.table:
            if key not in KEYS:
                near = difflib.get_close_matches(key, KEYS, n=1)
                fix = f"did you mean {near[0]}?" if near else f"use {', '.join(sorted(KEYS))}"
                self.say(key[:60], "there is no such key", fix)
        for key in _REQUIRED:
            if key not in self.table:
                example = 'flops = {bf16 = "165 TFLOP/s"}' if key == "flops" else f'{key} = "{_MEASURES[key].example}"'
                self.say(key, "is missing", f"write {example}")

    def _amount(self, key: str, measure: Measure) -> Any:
        try:
            return measure.read(self.table[key])
        except ValueError as error:
            self.say(key, str(error), measure.fix)
            return 0

    def _flops(self) -> dict[str, float]:
        table = _as_table(self.table.get("flops", {}))
        if table is None or (not table and "flops" in self.table):
            self.say("flops", "must give the peak by format", 'write flops = {bf16 = "165 TFLOP/s"}')
            return {}
        flops: dict[str, float] = {}
        for form, value in table.items():
            if form not in FORMATS:
                self.say(f"flops.{form[:60]}", "there is no such format", f"use {', '.join(FORMATS)}")
                continue
            try:
                flops[form] = float(FLOPS.read(value))
            except ValueError as error:
                self.say(f"flops.{form}", str(error), FLOPS.fix)
        return flops

    def _efficiency(self) -> Efficiency | None:
        if "efficiency" not in self.table:
            return None
        shape = 'write efficiency = {compute = 0.4, bandwidth = 0.6, source = "where they were read"}'
        table = _as_table(self.table["efficiency"])
        if table is None:
            self.say("efficiency", "must be a table", shape)
            return None
        shares: dict[str, float] = {}
        for key in ("compute", "bandwidth"):
            share = table.get(key)
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0.001 <= share <= 1:
                self.say(f"efficiency.{key}", f"{repr(share)[:40]} is no share of the peak, 0.001 to 1", shape)
                return None
            shares[key] = float(share)
        for key in set(table) - {"compute", "bandwidth", "source"}:
            self.say(f"efficiency.{key}", "there is no such key", shape)
        return Efficiency(
            compute=shares["compute"],
            bandwidth=shares["bandwidth"],
            source=str(table.get("source", "given by the file")),
        )

    def _text(self, key: str) -> str:
        value = self.table[key]
        if isinstance(value, date) and key == "dated":
            return value.isoformat()[:10]
        if not isinstance(value, str) or len(value) > 500:
            self.say(key, f"{repr(value)[:40]} is no text", f'write {key} = "..."')
            return ""
        return value

    def _count(self, key: str, low: int, high: int) -> int:
        value = self.table[key]
        if type(value) is not int or not low <= value <= high:
            self.say(key, f"{repr(value)[:40]} is no whole number from {low} to {high}")
            return low
        return value

    def _sources(self) -> dict[str, str]:
        table = _as_table(self.table.get("sources", {}))
        if table is None:
            self.say("sources", "must be a table of texts by key", '[my-gpu.sources]\n  memory = "data sheet"')
            return {}
        for key, value in table.items():
            if key not in KEYS or not isinstance(value, str) or not value:
                self.say(f"sources.{key[:60]}", "must name a key of the device and say where it was read")
        return {key: str(value) for key, value in table.items()}

    def _check_values(self, amounts: Mapping[str, Any], texts: Mapping[str, str]) -> None:
        tiers = get_args(Tier)
        if texts.get("tier", "consumer") not in tiers:
            self.say("tier", f"there is no tier {texts['tier']!r}", f"use one of {', '.join(tiers)}")
        if amounts.get("memory") and amounts.get("reserved", 0) >= amounts["memory"]:
            self.say("reserved", "is not less than the memory", "give what driver and runtime take of it")
        if "dated" in texts and texts["dated"] and not _is_date(texts["dated"]):
            self.say("dated", f"{texts['dated'][:40]!r} is no date", 'write it like "2026-03-10"')
        if ("buy" in amounts or "rent" in amounts) and not texts.get("dated"):
            self.say("dated", "is missing, and prices are only worth what their date is", 'write dated = "2026-03-10"')


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
