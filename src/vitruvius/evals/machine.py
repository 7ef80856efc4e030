"""What the machine at hand can do: rate of matrix products by format, bandwidth of memory, and its size. Measured.

    rate of products   2 n^3 / median time of A @ B, both [n, n], once for each format
    bandwidth          bytes of a vector far larger than any cache / median time of reading it once
    efficiency         compute: what a 135M model's prompt reaches of the bf16 rate;
                       bandwidth: what bf16 maps of one row, as decoding computes them, reach of the bandwidth

The result is a device like those of the hardware catalogue, so that `size --on this-machine` can use it.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.evals.jobs import PREFILL_PHASE, Subject
from vitruvius.evals.memory import available_bytes
from vitruvius.evals.timing import CROWDED, Contestant, Schedule, Spread, spread, take_turns
from vitruvius.nn import build
from vitruvius.runs.environment import environment
from vitruvius.runs.files import write_atomically
from vitruvius.sizing.hardware.catalogue import THIS_MACHINE, machine_file
from vitruvius.sizing.hardware.reading import devices_in
from vitruvius.spec import preset
from vitruvius.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from vitruvius.sizing.hardware import Device

SCHEMA = "vitruvius.machine/1"
PRODUCTS = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
"""Formats whose products are measured."""
_ON_CUDA = {**PRODUCTS, "fp16": torch.float16}
_LEAST_SET, _CACHES = 512 * 2**20, 4
"""Bytes that are streamed: at least so many, and at least so many times the last cache."""
_ROW = 8192
_CACHE_FILES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much a measurement may cost."""

    warmups: int
    runs: int
    size: int
    """Rows and columns of the matrices."""
    streamed: int
    """Bytes of the vector, at most."""


FULL = Effort(warmups=20, runs=21, size=2048, streamed=4 * 2**30)
BRIEF = Effort(warmups=3, runs=9, size=1024, streamed=2**30)
"""For a bench, which measures the machine beside the model."""
QUICK = Effort(warmups=1, runs=3, size=256, streamed=32 * 2**20)
"""For a trial: the vector may fit into a cache, so its bandwidth is no bandwidth of memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A device as it was measured. Rates per second."""

    title: str
    device: str
    """`cpu`, or `cuda`."""
    threads: int
    products: Mapping[str, Spread]
    """FLOP/s of matrix products by format; formats that torch has no product for are missing."""
    bandwidth: Spread
    """Bytes of memory read per second."""
    streamed_bytes: int
    """What was read in each run."""
    cache_bytes: int | None
    """Of the last cache; None where the system does not say."""
    memory_bytes: int
    free_bytes: int
    """What was free before measuring."""
    efficiency: Mapping[str, float] = field(default_factory=dict[str, float])
    """Shares `compute` and `bandwidth` that models reach; empty where they were not measured."""
    processors: float | None
    """Processors that the process had on average while it measured."""
    load: tuple[float, float] | None
    """Load average of the last minute before and after; None where the system does not say."""
    environment: Mapping[str, Any]

    @property
    def wobble(self) -> float:
        """The factor by which runs of one kind may differ: that of the quartiles, or of waiting for a processor."""
        spreads = median(rate.q3 / rate.q1 for rate in (self.bandwidth, *self.products.values()))
        waiting = self.threads / self.processors if self.processors and self.device == "cpu" else 1.0
        return max(spreads, waiting)

    @property
    def notes(self) -> list[str]:
        """How far off the numbers can be."""
        rates = {"bandwidth": self.bandwidth, **{f"{form} products": rate for form, rate in self.products.items()}}
        name, worst = max(rates.items(), key=lambda item: item[1].iqr / item[1].median)
        found = [f"the middle half of the runs lies within {worst.iqr / worst.median:.0%} of each other ({name})"]
        if self.cache_bytes is None or self.streamed_bytes < 2 * self.cache_bytes:
            cache = "unknown" if self.cache_bytes is None else format_bytes(self.cache_bytes)
            found.append(
                f"{format_bytes(self.streamed_bytes)} were streamed and the last cache holds {cache}: a part of the "
                "bandwidth may be the cache's"
            )
        if self.device == "cpu" and self.processors is not None and self.processors < CROWDED * self.threads:
            had = f"{self.processors:.2f} of {self.threads}" if self.threads > 1 else f"{self.processors:.0%} of one"
            found.append(
                f"other work was running: the process had {had} processor{'s' * (self.threads > 1)}, so idle this "
                f"machine does up to {self.threads / self.processors:.1f} times as much; measure again when it is"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable contract `vitruvius.machine/1`."""
        return {
            "schema": SCHEMA,
            "title": self.title,
            "device": self.device,
            "threads": self.threads,
            "flops_per_second": {form: rate.to_dict() for form, rate in self.products.items()},
            "bandwidth_bytes_per_second": self.bandwidth.to_dict(),
            "streamed_bytes": self.streamed_bytes,
            "last_cache_bytes": self.cache_bytes,
            "memory_bytes": self.memory_bytes,
            "free_bytes": self.free_bytes,
            "efficiency": dict(self.efficiency) or None,
            "processors_had": self.processors,
            "load_average": None if self.load is None else {"before": self.load[0], "after": self.load[1]},
            "notes": self.notes,
            "environment": dict(self.environment),
        }

    def as_device(self) -> Device:
        """The same as a device: with the rates of the faster quarter of the runs, since other work only ever slows."""
        found = devices_in(self.toml(), file="measured now", stem=THIS_MACHINE)[THIS_MACHINE]
        return replace(
            found, bandwidth=self.bandwidth.q3, flops={form: rate.q3 for form, rate in self.products.items()}
        )

    def toml(self) -> str:
        """The same as a hardware file; see `vitruvius.sizing.hardware.reading`."""
        streamed = format_bytes(self.streamed_bytes)
        runs = f"median of {self.bandwidth.count} runs"
        reserved = max(self.memory_bytes // 32, self.memory_bytes - self.free_bytes)
        threads = _plural(self.threads, "thread") if self.device == "cpu" else "CUDA"
        rates = ", ".join(f'{form} = "{rate.median / 1e9:.4f} GFLOP/s"' for form, rate in self.products.items())
        spreads = ", ".join(f"{form} {_quartiles(rate, 1e9)}" for form, rate in self.products.items())
        lines = [
            "# Measured by `vitruvius bench --machine`, which replaces this file.",
            f"dated = {_text(self.environment['time_utc'][:10])}",
            f"[{THIS_MACHINE}]",
            f"title = {_text(f'{self.title}, {threads}')}",
            f"tier = {_text('cpu' if self.device == 'cpu' else 'workstation')}",
            f'memory = "{self.memory_bytes} B"',
            f'reserved = "{min(reserved, self.memory_bytes * 31 // 32)} B"',
            f'bandwidth = "{self.bandwidth.median / 1e9:.4f} GB/s"',
            f"flops = {{{rates}}}",
        ]
        if self.efficiency:
            compute, bandwidth = (min(1.0, self.efficiency[name]) for name in ("compute", "bandwidth"))
            source = "measured: a 135M model's prompt over bf16 products; bf16 maps of one row over the bandwidth"
            lines.append(
                f"efficiency = {{compute = {compute:.4f}, bandwidth = {bandwidth:.4f}, source = {_text(source)}}}"
            )
        lines += [
            f"[{THIS_MACHINE}.sources]",
            'memory = "the operating system"',
            'reserved = "what was in use when it was measured, at least a 32nd"',
            f"bandwidth = {_text(f'{runs} over {streamed}; quartiles {_quartiles(self.bandwidth, 1e9)} GB/s')}",
            f"flops = {_text(f'{runs}; quartiles in GFLOP/s: {spreads}')}",
        ]
        return "\n".join(lines) + "\n"

    def write(self, path: Path | None = None) -> Path:
        """Replace the user's machine file, or write to `path`; atomically. Returns where. Raises OSError."""
        place = machine_file() if path is None else path
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, self.toml().encode())
        return place


def _quartiles(rate: Spread, unit: float) -> str:
    return f"{rate.q1 / unit:.4g} to {rate.q3 / unit:.4g}"


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _text(text: str) -> str:
    """A TOML basic string."""
    return json.dumps("".join(ch for ch in text if ch.isprintable()), ensure_ascii=False)


def torch_device() -> torch.device:
    """Where models run: the first CUDA device when torch sees one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many threads of torch while the block runs; as many as before when None."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(*, effort: Effort = FULL, seed: int = 0, models: bool = True) -> Machine:
    """Measure the machine: its first CUDA device when torch sees one, else its processor, with torch's threads.

    models: also find out which share of the rates models reach.
    """
    device = torch_device()
    found, before = environment(), _load()
    worked, began = process_time(), perf_counter()
    free, total = _memory(device, found)
    streamed = _streamed(effort, free)
    products = {form: rate for form in _formats(device) if (rate := product_rate(form, device, effort, seed=seed))}
    bandwidth = stream_rate(streamed, device, effort, seed=seed)
    processors = (process_time() - worked) / (perf_counter() - began)
    efficiency = _efficiency(device, effort, products, bandwidth, streamed, seed) if models else {}
    after = _load()
    return Machine(
        title=torch.cuda.get_device_name(device) if device.type == "cuda" else found["cpu"] or found["machine"],
        device=device.type,
        threads=torch.get_num_threads(),
        products=products,
        bandwidth=bandwidth,
        streamed_bytes=streamed,
        cache_bytes=last_cache_bytes() if device.type == "cpu" else _l2_bytes(device),
        memory_bytes=total,
        free_bytes=free,
        efficiency=efficiency,
        processors=processors,
        load=None if before is None or after is None else (before, after),
        environment=found,
    )


def _formats(device: torch.device) -> Mapping[str, torch.dtype]:
    return _ON_CUDA if device.type == "cuda" else PRODUCTS


def product_rate(form: str, device: torch.device, effort: Effort, *, seed: int = 0) -> Spread | None:
    """FLOP/s of square matrix products in a format; None where torch has none for it."""
    n, dtype = effort.size, _ON_CUDA.get(form, torch.float64)
    generator = torch.Generator().manual_seed(seed)
    if form == "int8":
        a, b = (torch.randint(-8, 8, (n, n), generator=generator, dtype=dtype).to(device) for _ in range(2))
        product: Callable[..., torch.Tensor] = torch._int_mm  # noqa: SLF001  # pyright: ignore[reportPrivateImportUsage] (no public name yet)
    else:
        a, b = (torch.randn(n, n, generator=generator).to(device, dtype) for _ in range(2))
        product = torch.mm
    try:
        product(a, b)
    except (RuntimeError, NotImplementedError):
        return None
    return _rate(lambda: product(a, b), 2.0 * n**3, device, effort, seed)


def stream_rate(streamed: int, device: torch.device, effort: Effort, *, seed: int = 0) -> Spread:
    """Bytes per second of reading memory once: the faster of a sum and a matrix-vector product in fp32."""
    values = max(_ROW, streamed // 4 // _ROW * _ROW)
    x = torch.ones(values, device=device)
    matrix, vector = x.view(-1, _ROW), torch.ones(_ROW, device=device)
    rates = [_rate(run, 4.0 * values, device, effort, seed) for run in (x.sum, lambda: matrix @ vector)]
    return max(rates, key=lambda rate: rate.median)


def _rate(run: Callable[[], Any], amount: float, device: torch.device, effort: Effort, seed: int) -> Spread:
    def whole() -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with torch.inference_mode():
        turns = take_turns(
            [Contestant(name="it", run=whole)], Schedule(warmups=effort.warmups, runs=effort.runs), seed=seed
        )
    return spread(turns.seconds["it"]).inverted(amount)


def _efficiency(
    device: torch.device,
    effort: Effort,
    products: Mapping[str, Spread],
    bandwidth: Spread,
    streamed: int,
    seed: int,
) -> dict[str, float]:
    """Shares of the measured rates that a model's prompt and its decoding reach, at most 1."""
    if "bf16" not in products:
        return {}
    few = Effort(warmups=2, runs=5, size=effort.size, streamed=effort.streamed)
    architecture, tokens = preset("smollm2-135m"), 512
    model = build(architecture, dtype="bf16", device=device).eval()
    job = PREFILL_PHASE.prepare(
        Subject(name=architecture.name, model=model, batch=1, backend="auto", seed=seed), tokens
    )
    turns = take_turns(
        [Contestant(name="it", run=job.run, reset=job.reset)], Schedule(warmups=few.warmups, runs=few.runs), seed=seed
    )
    graph = model.graph
    head = graph.architecture.head
    work = graph.flops(tokens).useful - head.flops(graph.scope, tokens).useful + head.flops(graph.scope, 1).useful
    reached = work / spread(turns.seconds["it"]).median
    del model, job
    side, row = 2048, torch.ones(1, 2048, dtype=torch.bfloat16, device=device)
    maps = torch.ones(max(1, streamed // (2 * side * side)), side, side, dtype=torch.bfloat16, device=device)

    def one_row_through_all() -> None:
        for weight in maps:
            torch.nn.functional.linear(row, weight)

    read = _rate(one_row_through_all, 2.0 * maps.numel(), device, few, seed)
    return {
        "compute": min(1.0, reached / products["bf16"].median),
        "bandwidth": min(1.0, read.median / bandwidth.median),
    }


def _memory(device: torch.device, found: Mapping[str, Any]) -> tuple[int, int]:
    """(free, total) bytes of the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    total = int(found["memory_bytes"] or 8 * 2**30)
    free = available_bytes(device)
    return (total if free is None else free), total


def _streamed(effort: Effort, free: int) -> int:
    """Bytes to stream: far beyond the last cache, within the effort and a quarter of what is free."""
    wanted = max(_LEAST_SET, _CACHES * (last_cache_bytes() or 0))
    return max(4 * _ROW, min(wanted, effort.streamed, free // 4))


def last_cache_bytes() -> int | None:
    """Size of the processor's last cache; None where the system does not say."""
    sizes = [_size(path) for path in sorted(_CACHE_FILES.glob("index*/size"))]
    return max((size for size in sizes if size is not None), default=None)


def _size(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    units = {"K": 1024, "M": 1024**2, "G": 1024**3}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    return int(number) * unit if number.isdigit() else None


def _l2_bytes(device: torch.device) -> int | None:
    return getattr(torch.cuda.get_device_properties(device), "L2_cache_size", None)


def _load() -> float | None:
    import os

    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None
