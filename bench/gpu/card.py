"""What the benches of this folder share: the device and its peak, clocks, memory, partial results, pages.

Every bench here runs on a card with `--device cuda`, and in a small form anywhere with `--device cpu --small`, which
shows that it works and says nothing about speed. `Results` writes what is known after every row, so that a command
that is cut off leaves what it had.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.runs.environment import environment
from vitruvius.sizing.hardware.catalogue import catalogue, device_named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vitruvius.sizing.hardware.device import Device

ROOT = Path(__file__).resolve().parents[2]
NO_CARD = 2
"""Exit code where there is no card: nothing was measured."""


def say(text: str) -> None:
    """Talk goes to stderr; stdout is the result."""
    print(text, file=sys.stderr, flush=True)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What every bench here can be asked."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny shapes, to see that it works; no speed is meant")
    parser.add_argument("--minutes", type=float, default=9.0, help="start nothing new after so many minutes")
    parser.add_argument("--on", metavar="DEVICE", help="the card's name in `vitruvius hardware list`; found by default")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON, written again after every row")
    parser.add_argument("--write", type=Path, metavar="FILE", help="the page of docs, written again after every row")
    return parser


def require(device: str) -> None:
    """End with an explanation where the device is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        say("this bench needs a CUDA device; --device cpu --small shows that it works, and measures nothing")
        raise SystemExit(NO_CARD)


def hardware_of(device: str, name: str | None = None) -> Device | None:
    """The card in the catalogue: by its name there, else by what the driver calls it; None where it is not in it."""
    if name is not None:
        return device_named(name)
    if device != "cuda":
        return None
    return named_like(torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory)


def named_like(title: str, memory_bytes: int) -> Device | None:
    """The device of the catalogue with all words of the driver's name, and the nearest memory; None of others."""
    skipped = {"nvidia", "geforce", "gpu", "hbm2", "hbm2e", "hbm3", "hbm3e"}
    words = {word for word in title.lower().replace("-", " ").split() if word not in skipped}
    fitting = [
        found
        for found in catalogue().values()
        if words & set(f"{found.name} {found.title}".lower().replace("-", " ").split()) == words
    ]
    near = [found for found in fitting if abs(found.memory_bytes / memory_bytes - 1) < 0.15]
    return min(near, key=lambda found: abs(found.memory_bytes - memory_bytes), default=None)


def total_memory(device: str) -> int | None:
    """Bytes that the card has for everybody; None of a CPU, where nothing here is limited by it."""
    return torch.cuda.get_device_properties(0).total_memory if device == "cuda" else None


def synchronize(device: str) -> None:
    """Wait until the device has done all it was asked."""
    if device == "cuda":
        torch.cuda.synchronize()


def milliseconds(work: Callable[[], object], device: str) -> float:
    """How long work takes: between two events on a card, by the clock on a CPU."""
    if device == "cuda":
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        began.record()
        work()
        ended.record()
        torch.cuda.synchronize()
        return float(began.elapsed_time(ended))
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def forget_peak(device: str) -> None:
    """Begin to look for the highest moment anew."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def peak_bytes(device: str) -> int | None:
    """The most that torch's allocator has handed out since `forget_peak`; None of a CPU, where it does not count."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else None


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles, and the extremes."""
    ordered = sorted(values)
    low, middle, high = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
    return {"median": middle, "q1": low, "q3": high, "least": ordered[0], "most": ordered[-1], "count": len(ordered)}


def facts(device: str, hardware: Device | None) -> dict[str, Any]:
    """What was measured where."""
    cuda = device == "cuda"
    return {
        "device": device,
        "card": torch.cuda.get_device_name() if cuda else None,
        "capability": list(torch.cuda.get_device_capability()) if cuda else None,
        "cuda": torch.version.cuda,
        "card_memory_bytes": total_memory(device),
        "catalogue": None if hardware is None else hardware.name,
        "peak_bf16_flops": None if hardware is None else hardware.peak("bf16"),
        "peak_source": None if hardware is None else hardware.sources.get("bf16", hardware.sources.get("flops")),
        "environment": environment(),
    }


@dataclass(kw_only=True)
class Results:
    """Rows as they come; written after each, whole or not at all."""

    schema: str
    asked: argparse.Namespace
    hardware: Device | None
    page: Callable[[dict[str, Any]], str]
    """What stands on the page, below its heading."""
    title: str
    script: str
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    notes: list[str] = field(default_factory=list[str])
    finished: bool = False
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.facts = facts(self.asked.device, self.hardware)

    @property
    def in_time(self) -> bool:
        """Whether something new may be started."""
        return time.monotonic() - self.began < 60 * self.asked.minutes

    def note(self, text: str) -> None:
        """Something that a reader of the figures must know."""
        if text not in self.notes:
            say(text)
            self.notes.append(text)
            self.save()

    def add(self, row: dict[str, Any]) -> None:
        """A row is there."""
        self.rows.append(row)
        self.save()

    def put(self, row: dict[str, Any], *, key: tuple[str, ...]) -> None:
        """A row that grows: in the place of the one with the same values under these names, or behind all others."""
        for place, known in enumerate(self.rows):
            if all(known[name] == row[name] for name in key):
                self.rows[place] = row
                self.save()
                return
        self.add(row)

    def data(self) -> dict[str, Any]:
        """All of it."""
        return {
            "schema": self.schema,
            "finished": self.finished,
            "small": bool(self.asked.small),
            **self.facts,
            "rows": self.rows,
            "notes": self.notes,
        }

    def save(self) -> None:
        """Write what there is."""
        if self.asked.out is not None:
            written(self.asked.out, json.dumps(self.data(), indent=1) + "\n")
        if self.asked.write is not None:
            written(self.asked.write, self._page())

    def end(self) -> None:
        """Nothing more comes."""
        self.finished = True
        self.save()
        print(json.dumps(self.data(), indent=1) if self.asked.json else self.page(self.data()))

    def _source(self, where: str) -> str:
        env = self.facts["environment"]
        versions = [f"{name} {version}" for name, version in env["packages"].items() if name in _NAMED]
        when, ours = env["time_utc"][:10], env["vitruvius"]
        about = ", ".join([f"CUDA {self.facts['cuda']}", f"python {env['python']}", f"vitruvius {ours}", *versions])
        return f"Written by `bench/gpu/{self.script}` on {when}; {where}; {about}."

    def _page(self) -> str:
        data, env = self.data(), self.facts["environment"]
        where = data["card"] or env["cpu"] or env["machine"]
        lines = [
            f"# {self.title}",
            "",
            self._source(where),
            "",
        ]
        if data["small"] or data["device"] == "cpu":
            lines += ["**A small run that shows that the script works: no figure here says anything about speed.**", ""]
        if not self.finished:
            lines += ["**The run did not come to its end: these are the rows that it had.**", ""]
        lines += [self.page(data), *(["", *(f"- {note}" for note in self.notes)] if self.notes else [])]
        return "\n".join(lines).rstrip() + "\n"


_NAMED = ("torch", "transformers")


def written(path: Path, text: str) -> None:
    """The file, replaced in one go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def gigabytes(size: float | None) -> str:
    """Bytes for people, in units of 10^9."""
    return "" if size is None else f"{size / 1e9:.2f} GB"
