"""How much memory computing takes, measured: what torch's allocator handed out, and what a process took.

    measured = measure_decode(vt.preset("tiny-llama"), tokens=200)
    measured.peak, measured.phases["prefill"]

On a CPU torch's profiler reports each block that the allocator gives and takes back, temporaries inside kernels
included; on CUDA the allocator keeps the peak itself. The process has more than that: the interpreter, libraries, and
what the C library does not give back. `vitruvius.training.measuring` measures a training step in the same way.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch.profiler import ProfilerActivity, profile

from vitruvius.errors import UsageError
from vitruvius.nn import build
from vitruvius.nn.backends.packed import forget_batches
from vitruvius.nn.backends.plans import forget_plans
from vitruvius.nn.positions.rope import forget_tables
from vitruvius.spec.tracing.attending_stored import PREFILL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vitruvius.nn import Cache, Model
    from vitruvius.spec import Architecture

Device = Literal["cpu", "cuda"]
RUNS = 2
"""Runs done; the last is measured, when what the first one leaves for good is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What some work took of the allocator, in bytes."""

    peak: int
    """The most at any moment, weights and optimizer included."""
    before: int
    """At rest between two runs: weights, masters, moments, tables that stay."""
    phases: Mapping[str, int] = field(default_factory=dict[str, int])
    """The most within each phase: `forward`, `backward` and `update`, or `prefill` and `decode`."""


class Work(Protocol):
    """What is measured: made once, run several times."""

    def run(self, done: Callable[[str], None]) -> None:
        """Do it once; `done` is told the name of each phase when it ends."""
        ...


def measured_on(device: Device, make: Callable[[], Work]) -> Measured:
    """Make the work and measure a run of it. Raises UsageError for a CUDA device that is not there."""
    return _on_cuda(make) if device == "cuda" else _on_cpu(make)


def measure_decode(
    architecture: Architecture,
    *,
    batch: int = 1,
    tokens: int | None = None,
    new_tokens: int = 4,
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16",
    device: Device = "cpu",
) -> Measured:
    """The memory of decoding: a prompt of `tokens` tokens enters the cache in pieces, then `new_tokens` one by one.

    The cache has room for just these. Raises UsageError for numbers below 1, and for a stack that sees later tokens.
    """
    length = architecture.context - new_tokens if tokens is None else tokens
    at_least_one(batch=batch, tokens=length, new_tokens=new_tokens)

    def decode() -> Decoding:
        return Decoding(architecture, batch=batch, tokens=length, new_tokens=new_tokens, dtype=dtype, device=device)

    return measured_on(device, decode)


def at_least_one(**numbers: int) -> None:
    """Raise UsageError, naming the first number that is no whole number from 1 on."""
    for name, number in numbers.items():
        if type(number) is not int or number < 1:
            raise UsageError(f"{name}={number} is out of range", fix="use a whole number from 1 on")


class Decoding:
    """A prompt and a few tokens after it."""

    def __init__(
        self, architecture: Architecture, *, batch: int, tokens: int, new_tokens: int, dtype: str, device: str
    ) -> None:
        torch.manual_seed(0)
        self.model: Model = build(architecture, dtype=dtype).to(torch.device(device)).eval()
        self.batch, self.tokens, self.new_tokens = batch, tokens, new_tokens
        self.ids = torch.randint(0, architecture.vocab_size, (batch, tokens + new_tokens), device=device)
        self.source = self.ids[:, :tokens].clone() if architecture.encoder is not None else None

    @torch.inference_mode()
    def run(self, done: Callable[[str], None]) -> None:
        """One prompt and its continuation, as `vitruvius.inference.generate` goes through them."""
        cache = self.model.cache(self.batch, capacity=self.tokens + self.new_tokens, source_capacity=self.tokens)
        prompt = self.ids[:, : self.tokens if self.source is None else 1]
        for piece in [prompt] if self.model.graph.opens_prefix else prompt.split(PREFILL, dim=1):
            self._logits(piece, cache, self.source)
        done("prefill")
        for at in range(prompt.shape[1], prompt.shape[1] + self.new_tokens):
            self._logits(self.ids[:, at : at + 1], cache, None)
        done("decode")

    def _logits(self, ids: torch.Tensor, cache: Cache, source: torch.Tensor | None) -> torch.Tensor:
        """Of the last token alone."""
        h_BTD = self.model.hidden(ids, cache=cache, source=source)
        return self.model.head(h_BTD[:, -1:], self.model.embedding.tokens.weight)


def _on_cpu(make: Callable[[], Work]) -> Measured:
    forget_plans()
    forget_batches()
    forget_tables()
    marks: list[tuple[str, int]] = []

    def done(name: str) -> None:
        marks.append((name, time.time_ns()))

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        # From the first weight on, so that every block that is taken back was seen being given.
        work = make()
        for _ in range(RUNS):
            done("before")
            work.run(done)
        del work
    results: Any = profiler.profiler
    events = [(e.start_ns(), e.nbytes()) for e in results.kineto_results.events() if e.name() == "[memory]"]
    return _read(sorted(events, key=lambda event: event[0]), marks)


def _read(events: list[tuple[int, int]], marks: list[tuple[str, int]]) -> Measured:
    """Levels from the blocks given (above 0) and taken back, in order of time, over the last of several runs."""
    level, at, before = 0, 0, 0
    phases: dict[str, int] = {}
    for name, until in marks:
        highest = level
        while at < len(events) and events[at][0] <= until:
            level += events[at][1]
            highest = max(highest, level)
            at += 1
        if name == "before":
            before, phases = level, {}
        else:
            phases[name] = max(phases.get(name, 0), highest)
    return Measured(peak=max(phases.values()), before=before, phases=phases)


def _on_cuda(make: Callable[[], Work]) -> Measured:
    if not torch.cuda.is_available():
        raise UsageError("this torch sees no CUDA device", fix="use device: cpu, or install torch for CUDA")
    forget_plans()
    forget_batches()
    forget_tables()
    _warm_libraries()
    held = torch.cuda.memory_allocated()
    work = make()
    phases: dict[str, int] = {}

    def done(name: str) -> None:
        torch.cuda.synchronize()
        phases[name] = max(phases.get(name, 0), torch.cuda.max_memory_allocated() - held)
        torch.cuda.reset_peak_memory_stats()

    before = 0
    for _ in range(RUNS):
        phases.clear()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated() - held
        torch.cuda.reset_peak_memory_stats()
        work.run(done)
    return Measured(peak=max(phases.values()), before=before, phases=dict(phases))


def _warm_libraries() -> None:
    """Have cuBLAS allocate its workspaces, one for each thread that multiplies: they stay, and are no part of the work.

    They are tens of MiB, and come from torch's allocator; backward passes have a thread of their own.
    """
    for dtype in (torch.float32, torch.bfloat16):
        one = torch.ones(64, 64, dtype=dtype, device="cuda", requires_grad=True)
        (one @ one).sum().backward()
    torch.cuda.synchronize()


# The process


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMemory:
    """What a whole process took, in bytes."""

    peak: int
    """The most resident memory it ever had (VmHWM)."""
    at_rest: int
    """With everything imported, before the model was built."""

    @property
    def growth(self) -> int:
        """What the model and its work added."""
        return self.peak - self.at_rest


def in_fresh_process(module: str, asked: dict[str, Any]) -> ProcessMemory:
    """Run `python -m module`, which reads what is asked and calls `report_process`; give what it reports.

    Linux only, elsewhere UsageError: nothing else tells a process's peak apart from its level at rest.
    """
    if not sys.platform.startswith("linux"):
        what = "the peak of a process is read from /proc, which Linux alone has"
        raise UsageError(what, fix="measure what the allocator hands out")
    found = subprocess.run(  # noqa: S603 (this interpreter, a module of ours)
        [sys.executable, "-m", module], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise UsageError(f"the measuring process failed: {found.stderr.strip()[-400:]}", fix="ask for less")
    return ProcessMemory(**json.loads(found.stdout.splitlines()[-1]))


def report_process(make: Callable[[], Work]) -> None:
    """Do the work in this process, which keeps freed memory as training does, and print what the process took."""
    from vitruvius.nn.ops import keep_freed_memory

    keep_freed_memory()
    at_rest = _status("VmRSS")
    work = make()
    for _ in range(RUNS):
        work.run(lambda _: None)
    sys.stdout.write(json.dumps(asdict(ProcessMemory(peak=_status("VmHWM"), at_rest=at_rest))) + "\n")


def _status(name: str) -> int:
    """A line of /proc/self/status in bytes."""
    with Path("/proc/self/status").open(encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
