"""`vitruvius bench`: how fast a model is, and with how much memory; or what this machine can do."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.arguments import Count, json_option, overrides_option, say_findings
from vitruvius.cli.output import clean, emit, emit_json, next_step, say
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from vitruvius.evals.rows import Bench
    from vitruvius.evals.timing import Spread

FAILED = 1


@click.command(
    cls=ExampleCommand,
    help="Time SPEC (a file or a preset) or the trained model of a run folder: reading a prompt, writing a token, a "
    "training step, and the memory of each, at several lengths.\n\n"
    "What does not fit into memory or time is predicted, marked so, and says how far off it may be. --against takes "
    "another SPEC, or a backend for attention, in turns; differences inside the noise are called inconclusive.",
    examples=[
        "vitruvius bench tiny-longcontext",
        "vitruvius bench my-arch.yaml --lengths 1k,4k --phases prefill,decode --html bench.html",
        "vitruvius bench tiny-llama --against tiny-llama-moe --lengths 128,256 --minutes 1",
        "vitruvius bench tiny-longcontext --against reference --phases prefill --flame flame.svg",
        "vitruvius bench --machine",
    ],
)
@click.argument("spec", metavar="SPEC|RUN", required=False)
@click.option("--machine", is_flag=True, help="Measure this machine instead; `--on this-machine` uses the result.")
@click.option("--lengths", metavar="N,N,...", help="Tokens of context. [default: 4k,16k,64k,100k, or what there is]")
@click.option("--phases", default="prefill,decode,train", show_default=True, metavar="NAME,...", help="What to time.")
@click.option("--batch", type=Count(), default=1, show_default=True, metavar="B", help="Sequences at a time.")
@click.option("--dtype", default="bf16", show_default=True, help="Number format: fp32, bf16 or fp16.")
@click.option("--against", metavar="SPEC|BACKEND", help="Time this beside it, in turns, and say which is faster.")
@click.option("--threads", type=click.IntRange(1, 4096), help="CPU threads; torch's own choice when not given.")
@click.option(
    "--warmups", type=click.IntRange(0, 10_000), default=20, show_default=True, help="Runs that do not count."
)
@click.option(
    "--runs", type=click.IntRange(1, 100_000), default=30, show_default=True, help="Runs that count, at most."
)
@click.option("--minutes", type=float, default=3.0, show_default=True, help="Time for all of it, about.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Draws turns and tokens.")
@overrides_option
@click.option("--html", type=click.Path(path_type=Path), help="Write a page to this file.")
@click.option("--flame", type=click.Path(path_type=Path), help="Write a flame graph: .svg, else folded stacks as text.")
@click.option("--out", type=click.Path(path_type=Path), help="With --machine: write to this file instead.")
@json_option
def command(
    *,
    spec: str | None,
    machine: bool,
    threads: int | None,
    as_json: bool,
    out: Path | None,
    seed: int,
    **options: Any,
) -> int:
    """Measure the model, or the machine."""
    quiet_profiler()
    if machine:
        if spec is not None:
            raise click.UsageError("--machine takes no SPEC: it measures the machine alone")
        return _machine(out, threads=threads, seed=seed, as_json=as_json)
    if spec is None:
        raise click.UsageError("name a SPEC or a run folder, or give --machine")
    if out is not None:
        raise click.UsageError("--out goes with --machine; a bench writes --html and --flame")
    return _bench(spec, threads=threads, seed=seed, as_json=as_json, **options)


def quiet_profiler() -> None:
    """Keep torch's profiler from writing about itself on stderr; it reads this when torch is loaded."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def _machine(out: Path | None, *, threads: int | None, seed: int, as_json: bool) -> int:
    import torch

    from vitruvius.evals import machine as machines
    from vitruvius.units import format_binary_bytes

    place = machines.machine_file() if out is None else out
    _ensure_writable(place, make=True)
    if threads is not None:
        torch.set_num_threads(threads)
    say("measuring products, bandwidth and memory; about half a minute")
    found = machines.measure(effort=machines.FULL, seed=seed)
    written = found.write(place)
    if as_json:
        emit_json({**found.to_dict(), "written_to": str(written)})
    else:
        lines = [f"{found.title}, {found.threads} thread{'s' * (found.threads != 1)}"]
        lines += [_rate(f"{form} products", rate, "GFLOP/s") for form, rate in found.products.items()]
        lines.append(_rate("bandwidth", found.bandwidth, "GB/s"))
        lines.append(f"  {'memory':<16}{format_binary_bytes(found.memory_bytes):>12}")
        lines += [f"  {'models reach':<16}{part:>12.0%} of the {name}" for name, part in _reached(found.efficiency)]
        emit(clean("\n".join(lines)))
    for note in found.notes:
        say(f"note: {clean(note)}")
    say(f"wrote {clean(str(written))}")
    on = "this-machine" if out is None else shlex.quote(str(out))
    next_step(f"vitruvius size smollm2-135m --on {clean(on)}")
    return 0


def _rate(what: str, rate: Spread, unit: str) -> str:
    low, middle, high = (value / 1e9 for value in (rate.q1, rate.median, rate.q3))
    return f"  {what:<16}{middle:>12,.1f} {unit} ({low:,.1f} to {high:,.1f})"


def _reached(efficiency: Any) -> list[tuple[str, float]]:
    names = {"compute": "bf16 products (prompt of a 135M model)", "bandwidth": "bandwidth (bf16 maps of one row)"}
    return [(name, efficiency[key]) for key, name in names.items() if key in efficiency]


def _bench(
    spec: str,
    *,
    lengths: str | None,
    phases: str,
    batch: int,
    dtype: str,
    against: str | None,
    threads: int | None,
    warmups: int,
    runs: int,
    minutes: float,
    seed: int,
    overrides: tuple[str, ...],
    html: Path | None,
    flame: Path | None,
    as_json: bool,
) -> int:
    for place in (html, flame):
        if place is not None:
            _ensure_writable(place)
    from vitruvius.lab.benching import contenders_of, request_of, run

    contenders, findings = contenders_of(spec, against, dtype=dtype, overrides=overrides, seed=seed)
    say_findings(finding for finding in findings if finding.severity == "warning")
    request = request_of(
        contenders,
        lengths=lengths,
        phases=phases,
        batch=batch,
        dtype=dtype,
        warmups=warmups,
        runs=runs,
        minutes=minutes,
        seed=seed,
        threads=threads,
    )
    found = run(contenders, request, say=lambda text: say(clean(text)))
    document = found.to_dict()
    # What took minutes to measure is shown before anything can go wrong with files.
    if as_json:
        emit_json(document)
    else:
        from vitruvius.report.bench_text import bench_text

        emit(clean(bench_text(document)))
    _write(found, document, html=html, flame=flame)
    next_step(_next(spec, html=html))
    return FAILED if any(row.status == "failed" for row in found.rows) else 0


def _next(spec: str, *, html: Path | None) -> str:
    again = shlex.quote(clean(spec))
    if Path(spec).is_dir():
        return f"vitruvius generate {again} --prompt TEXT"
    return f"vitruvius validate {again}" if html is not None else f"vitruvius bench {again} --html bench.html"


def _write(found: Bench, document: dict[str, Any], *, html: Path | None, flame: Path | None) -> None:
    """Write what was asked for, each file whole or not at all."""
    if html is None and flame is None:
        return
    from vitruvius.report.bench_page import bench_page
    from vitruvius.report.flame import folded
    from vitruvius.runs.files import write_atomically

    graph = _flame(found)
    if flame is not None:
        if graph is None:
            say("note: nothing was run, so there is no flame graph to write")
        else:
            text = graph[1] if flame.suffix.lower() == ".svg" else folded(graph[0])
            write_atomically(flame, text.encode())
            say(f"wrote {clean(str(flame))}")
    if html is not None:
        write_atomically(html, bench_page(document, flame="" if graph is None else graph[1]).encode())
        say(f"wrote {clean(str(html))}")


def _flame(found: Bench) -> tuple[dict[tuple[str, ...], float], str] | None:
    """Stacks and drawing of the profiled runs of the first contender, phase beside phase."""
    from vitruvius.report.flame import flame_svg

    rows = [row for row in found.profiled() if row.contender == found.name]
    stacks: dict[tuple[str, ...], float] = {}
    for row in rows:
        assert row.profile is not None
        for names, seconds in row.profile.stacks.items():
            stacks[f"{row.phase} at {row.length:,}", *names[1:]] = seconds
    if not stacks:
        return None
    note = "One profiled run of each phase; the width of a box is its share of the time, what it called is below it."
    return stacks, flame_svg(stacks, title=f"{found.name}: where the time goes", note=note, root="bench")


def _ensure_writable(place: Path, *, make: bool = False) -> None:
    """Say now what writing would say after minutes of measuring. Raises OSError, or UsageError for an odd folder."""
    from vitruvius.errors import UsageError

    if place.is_dir():
        raise UsageError(f"{place} is a folder", fix="name a file")
    if place.exists() and not place.is_file():
        raise UsageError(f"{place} is no plain file", fix="name a plain file")
    folder = place.parent
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", fix="make it first, or choose another place")
    if not os.access(folder, os.W_OK) or (place.exists() and not os.access(place, os.W_OK)):
        raise UsageError(f"{place} cannot be written", fix="check its permissions, or choose another place")
