"""A card against the CPU: losses, gradients, decoding and resuming of every preset's small twin.

    python bench/gpu/correctness.py --out correctness.json
    python bench/gpu/correctness.py --preset tiny-longcontext --part gradients
    python bench/gpu/correctness.py --device cpu --small --json

Gradients: the truth is fp64 on the CPU through the reference backend, from the same weights, the same tokens and (of
mixtures) the same choice of experts. The error of a device is |found - true| / |true| over all gradients together;
the CPU's own error in the same format stands beside it. Exits with 1 when anything is beyond its bound.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read when CUDA starts: without it cuBLAS does not promise the same bits twice.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from card import Results, arguments, hardware_of, require, say, table

import vitruvius as vt
from vitruvius.nn import Signals
from vitruvius.spec import preset, preset_names, resolve, shrink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.nn import Model
    from vitruvius.spec import Architecture

SCHEMA = "vitruvius.bench.gpu_correctness/1"
PARTS = ("gradients", "decode", "resume")
BACKENDS = ("reference", "sdpa", "chunked", "flex")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BOUNDS = {("fp32", "flex"): 5e-3, ("fp32", "any"): 2e-4, ("bf16", "flex"): 3e-2, ("bf16", "any"): 3e-2}
"""Relative error of all gradients together. Triton multiplies fp32 as TF32 by default, hence flex's own bound."""
OWN = 2.0
"""An error beyond its bound passes all the same when it is at most so many times the CPU's own in that format."""
DECODE_BOUND = 2e-3
"""Of logits in fp32, decoded token by token against one forward pass: relative error of all together."""
FLEX_PRESETS = ("tiny-longcontext", "tiny-llama-moe", "gemma-2-2b", "context-aware-decoder")
"""Where flex is tried: each pattern compiles for some seconds, and flex_backward.py goes through all terms."""
FEW = ("tiny-longcontext", "tiny-llama-moe", "gated-deltanet-hybrid")


def inputs(architecture: Architecture, device: str) -> dict[str, Any]:
    """Ids, targets, and a source where an encoder reads one."""
    generator = torch.Generator().manual_seed(7)
    length = min(architecture.context, 96)
    ids = torch.randint(0, architecture.vocab_size, (2, length + 1), generator=generator).to(device)
    found: dict[str, Any] = {"tokens": ids[:, :-1].contiguous(), "targets": ids[:, 1:].contiguous()}
    found["source"] = found["tokens"].clone() if architecture.encoder is not None else None
    return found


def computed(
    model: Model, given: dict[str, Any], routing: list[torch.Tensor] | None
) -> tuple[float, torch.Tensor, list[torch.Tensor]]:
    """Loss, all gradients in one fp64 vector on the CPU, and the experts that were chosen."""
    device = str(model.device)
    signals = Signals(routing=[], replay=None if routing is None else iter([r.to(device) for r in routing]))
    model.zero_grad(set_to_none=True)
    loss = model.loss(given["tokens"], given["targets"], source=given["source"], signals=signals)
    objective = loss
    if signals.losses:
        objective = loss + torch.stack([extra.to(loss.dtype) for extra in signals.losses]).sum()
    objective.backward()
    flat = [
        (p.grad if p.grad is not None else torch.zeros_like(p)).detach().double().cpu().flatten()
        for p in model.parameters()
    ]
    chosen = [each.detach().cpu() for each in signals.routing or []]
    return float(loss.detach()), torch.cat(flat), chosen


def with_weights(architecture: Architecture, like: Model, dtype: torch.dtype, device: str, backend: str) -> Model:
    """The same weights in another format, elsewhere."""
    model = vt.build(architecture, dtype=dtype)
    with torch.no_grad():
        theirs = dict(like.named_parameters()) | dict(like.named_buffers())
        for name, mine in (*model.named_parameters(), *model.named_buffers()):
            mine.copy_(theirs[name])
    model = model.to(device).train()
    model.backend = backend  # pyright: ignore[reportAttributeAccessIssue]
    return model


def error(found: torch.Tensor, true: torch.Tensor) -> float:
    """Relative."""
    return float((found - true).norm() / true.norm().clamp_min(1e-30))


def forget_kernels() -> None:
    """Let flex compile anew: past two dozen kernels it would leave its work to the chunked backend without a word."""
    from vitruvius.nn.backends import flex

    flex._KERNELS.clear()  # noqa: SLF001 (there is no other way, and no run needs one)  # pyright: ignore[reportPrivateUsage]
    torch._dynamo.reset()  # noqa: SLF001 (torch documents it)


def gradients(name: str, asked: Any) -> Iterator[dict[str, Any]]:
    """Every backend and format of a preset's twin."""
    architecture = shrink(preset(name))
    attends = any(layer.mixer is not None and layer.mixer.kind == "attention" for layer in resolve(architecture).layers)
    start = vt.build(architecture, dtype=torch.float32)
    cpu = inputs(architecture, "cpu")
    for form, dtype in DTYPES.items():
        rounded = with_weights(architecture, start, dtype, "cpu", "reference")
        exact = with_weights(architecture, rounded, torch.float64, "cpu", "reference")
        true_loss, true, chosen = computed(exact, cpu, None)
        _, own, _ = computed(rounded, cpu, chosen or None)
        for backend in BACKENDS if attends else ("reference",):
            row = {"part": "gradients", "preset": name, "backend": backend, "dtype": form}
            why = _why_not(name, backend, asked)
            if why:
                yield {**row, "passed": None, "why_not": why}
                continue
            with _failures(row) as failed:
                model = with_weights(architecture, rounded, dtype, asked.device, backend)
                loss, found, _ = computed(model, inputs(architecture, asked.device), chosen or None)
                bound = BOUNDS[form, "flex" if backend == "flex" else "any"]
                off, cpu_off = error(found, true), error(own, true)
                failed.update(
                    passed=bool(off <= max(bound, OWN * cpu_off)),
                    error=off,
                    cpu_error=cpu_off,
                    bound=bound,
                    loss=loss,
                    true_loss=true_loss,
                    why_not=None,
                )
            yield failed


def _why_not(name: str, backend: str, asked: Any) -> str | None:
    if backend != "flex":
        return None
    if asked.device == "cpu":
        return "FlexAttention has no backward pass on a CPU"
    return None if name in FLEX_PRESETS else "flex is tried on a few presets, and in flex_backward.py"


@contextlib.contextmanager
def _failures(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row that says what went wrong where something does; the other rows go on."""
    found = dict(row)
    try:
        yield found
    except Exception as raised:  # noqa: BLE001 (a bench reports what fails)
        found.update(passed=False, why_not=f"{type(raised).__name__}: {raised}"[:500])


@torch.no_grad()
def decode(name: str, asked: Any) -> dict[str, Any]:
    """A prompt and then one token after another through the cache, against one pass over all of it, in fp32."""
    architecture = shrink(preset(name))
    row: dict[str, Any] = {"part": "decode", "preset": name, "backend": "auto", "dtype": "fp32"}
    if not resolve(architecture).is_causal:
        return {**row, "passed": None, "why_not": "it sees later tokens, and is not decoded"}
    with _failures(row) as found:
        model = vt.build(architecture, dtype=torch.float32).to(asked.device).eval()
        given = inputs(architecture, asked.device)
        ids, source = given["tokens"], given["source"]
        whole = model(ids, source=source)
        cache = model.cache(len(ids), capacity=ids.shape[1], source_capacity=ids.shape[1])
        half = 1 if source is not None else ids.shape[1] // 2
        parts = [model(ids[:, :half], cache=cache, source=source)]
        parts += [model(ids[:, at : at + 1], cache=cache) for at in range(half, ids.shape[1])]
        off = error(torch.cat(parts, dim=1).double().cpu(), whole.double().cpu())
        found.update(passed=bool(off <= DECODE_BOUND), error=off, bound=DECODE_BOUND, why_not=None)
    return found


def resume(name: str, asked: Any) -> dict[str, Any]:
    """A run of six updates, and one that was stopped after three and resumed: are their weights the same bits?"""
    from vitruvius.data import PrepareOptions, prepare
    from vitruvius.nn.weights import read_tensors
    from vitruvius.training import TrainConfig, resume, train
    from vitruvius.training.determinism import digest_of
    from vitruvius.training.stopping import StopRequest

    row: dict[str, Any] = {"part": "resume", "preset": name, "backend": "auto", "dtype": "bf16"}
    with _failures(row) as found, tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        prepare([_texts(home / "texts")], home / "data", PrepareOptions(vocab=300, held_out=0.2))
        architecture = preset(name, overrides=["vocab_size=320", "context=64"])
        config = TrainConfig(steps=6, batch=4, checkpoint_every=3, eval_every=0, device=asked.device, keep=3)
        stopped = StopAfter(3)
        straight = train(architecture, data=home / "data", out=home / "straight", config=config)
        train(architecture, data=home / "data", out=home / "halves", config=config, listener=stopped, stop=stopped.stop)
        halves = resume(home / "halves", stop=StopRequest())
        assert halves.step == straight.step == config.steps
        one, other = (read_tensors(result.checkpoint / "model.safetensors") for result in (straight, halves))
        twice = train(architecture, data=home / "data", out=home / "twice", config=config)
        again = read_tensors(twice.checkpoint / "model.safetensors")
        repeats, resumes = digest_of(one) == digest_of(again), digest_of(one) == digest_of(other)
        off = max(float((one[key].double() - other[key].double()).abs().max()) for key in one)
        found.update(
            # A run that does not repeat by itself says nothing about resuming; the row then says so.
            passed=resumes,
            error=off,
            bound=0.0,
            repeats=repeats,
            why_not=None if resumes else f"largest difference {off:g}; two straight runs agree: {repeats}",
        )
    return found


class StopAfter:
    """A listener that asks a run to stop after an update."""

    def __init__(self, step: int) -> None:
        from vitruvius.training.stopping import StopRequest

        self.step, self.stop = step, StopRequest()

    def row(self, row: dict[str, Any]) -> None:
        """An update is done."""
        if row["step"] == self.step:
            import signal

            self.stop.ask(signal.SIGTERM)

    def __getattr__(self, _name: str) -> Any:
        return lambda *_args, **_named: None


def _texts(folder: Path) -> Path:
    folder.mkdir()
    draw = random.Random(0)
    words = ["mason", "arch", "beam", "stone", "river", "carries", "meets", "holds", "draws"]
    for number in range(16):
        lines = (" ".join(draw.choice(words) for _ in range(8)) + "." for _ in range(30))
        (folder / f"{number:02}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def page(data: dict[str, Any]) -> str:
    """What was within bounds, and what was not."""
    judged = [row for row in data["rows"] if row["passed"] is not None]
    header = ("part", "preset", "backend", "format", "error", "of the CPU", "bound", "")
    rows = [
        [
            row["part"],
            row["preset"],
            row["backend"],
            row["dtype"],
            *("" if row.get(key) is None else f"{row[key]:.1e}" for key in ("error", "cpu_error", "bound")),
            "ok" if row["passed"] else row.get("why_not") or "TOO FAR OFF",
        ]
        for row in judged
    ]
    within = sum(bool(row["passed"]) for row in judged)
    return "\n".join(
        [
            (
                f"{within} of {len(judged)} within their bounds. Errors are relative, of all gradients (or logits) "
                "together, against fp64 on the CPU through the reference backend."
            ),
            "",
            table(header, rows),
        ]
    )


def main() -> int:
    """Go through what was asked for; 1 when something is off."""
    parser = arguments(__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="only this (repeatable)")
    parser.add_argument("--preset", action="append", choices=preset_names(), help="only this one (repeatable)")
    asked = parser.parse_args()
    require(asked.device)
    results = Results(
        schema=SCHEMA,
        asked=asked,
        hardware=hardware_of(asked.device, asked.on),
        page=page,
        title="A card against the CPU",
        script="correctness.py",
    )
    names = asked.preset or (FEW if asked.small else tuple(dict.fromkeys((*FLEX_PRESETS, *preset_names()))))
    parts = asked.part or PARTS
    resumed = [name for name in names if name in {"tiny-longcontext", "tiny-llama-moe", "tiny-llama"}]
    work: list[tuple[str, str]] = [("resume", name) for name in resumed if "resume" in parts]
    work += [(part, name) for name in names for part in ("decode", "gradients") if part in parts]
    for part, name in work:
        if not results.in_time:
            results.note(f"{part} of {name} and what comes after it: not started, out of time")
            break
        forget_kernels()
        found = (
            list(gradients(name, asked))
            if part == "gradients"
            else [{"decode": decode, "resume": resume}[part](name, asked)]
        )
        for row in found:
            results.add(row)
        say(f"{part} of {name}: {'ok' if all(row['passed'] is not False for row in found) else 'OFF'}")
    results.end()
    return 0 if results.rows and all(row["passed"] is not False for row in results.rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
