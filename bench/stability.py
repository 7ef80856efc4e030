"""What happens to a run whose learning rate is too high, with the guard and without: 2,000 updates of two tiny models.

    python bench/stability.py --out DIR             # makes its data, sweeps, trains; goes on where it was stopped
    python bench/stability.py --out DIR --page      # writes docs/benchmarks/stability.md from what is in DIR

A shrunken `longcontext` and a shrunken `tiny-llama-moe` learn the source of Python's standard library. The learning
rate is tuned by a sweep of short runs without any protection; then each arm trains with 3, 10, 30 and 100 times that
rate, from the same first weights over the same batches (those of QK-norm apart):

    unprotected   no clipping, no z-loss, no QK-norm, no detectors, spikes noted; only what is not finite ends a run
    guarded       the same model: ZClip under a ceiling of 1, spikes skipped, detectors every 10 updates, and an alarm
                  halves the learning rate
    protected     guarded, and QK-norm and a z-loss of 1e-4: the loss that is reported is without it

A run is lost when it ends in a number that is not finite, or when held-out text costs it more than the frequencies of
the tokens do: it has then learned less than counting would.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitruvius.data import PrepareOptions, TokenShards, prepare
from vitruvius.data.corpora.python_sources import fetch_standard_library
from vitruvius.errors import RunError
from vitruvius.report.svg import HAIR, INK, MUTED, Svg
from vitruvius.runs import RunReader
from vitruvius.runs.environment import environment
from vitruvius.spec import preset
from vitruvius.training import TrainConfig, train
from vitruvius.training.settings import Guard

STEPS, SWEEP_STEPS, BATCH, CONTEXT, VOCABULARY = 2000, 500, 4, 64, 512
SWEEP = (2e-3, 4e-3, 8e-3, 1.6e-2)
FACTORS = (3, 10, 30, 100)
EVAL_BATCHES = 100
"""Of the held-out text, always the same."""
COMMON = ["width=48", f"context={CONTEXT}", f"vocab_size={VOCABULARY}"]
MODELS: dict[str, tuple[str, list[str], list[str]]] = {
    "LongContext": (
        "longcontext",
        [
            *COMMON,
            "blocks.local.mixer.heads=4",
            "blocks.local.mixer.kv_heads=1",
            "blocks.local.mixer.sees=causal & (sliding(16) | global(every=8))",
            "blocks.local.mixer.position={kind: rope, theta: 1e4}",
            "blocks.local.ffn.hidden=128",
            "blocks.dilated.mixer.sees=causal & dilated(8, every=4)",
            "layers=local dilated full",
            "claims=[]",
        ],
        ["blocks.local.mixer.qk_norm=rmsnorm"],
    ),
    "Llama-MoE": (
        "tiny-llama-moe",
        [
            *COMMON,
            "blocks.dense.mixer.qk_norm=none",
            "blocks.dense.mixer.sees=causal & sliding(16)",
            "blocks.dense.ffn.hidden=128",
            "blocks.moe.ffn.expert.hidden=64",
            "layers=dense moe",
        ],
        ["blocks.dense.mixer.qk_norm=rmsnorm"],
    ),
}
"""Name -> its preset, how it is shrunken, and its QK-norm."""

NO_GUARD = Guard(every=None, keep="nothing")
GUARDED: dict[str, Any] = {
    "clip": 1.0,
    "clipping": "zclip",
    "guard": Guard(
        not_finite="skip", spike="skip", loss_z=8.0, alarm="lower-lr", every=10, retries=200, keep="nothing"
    ),
}
ARMS: dict[str, dict[str, Any]] = {
    "unprotected": {"clip": None, "guard": NO_GUARD},
    "guarded": GUARDED,
    "protected": {**GUARDED, "z_loss": 1e-4},
}
COLOURS = {"unprotected": "#c0392b", "guarded": "#2471a3", "protected": "#1e8449"}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run."""

    model: str
    arm: str
    lr: float
    factor: int
    """Times the tuned learning rate; 0 in the sweep."""
    seed: int = 0

    @property
    def key(self) -> str:
        """A name for it, and for its folder."""
        return f"{self.model}-{self.arm}-{self.factor}-{self.lr:g}-{self.seed}"


def make_data(out: Path) -> Path:
    """About four megabytes of Python in 512 tokens, a twentieth held out."""
    data = out / "data"
    if not (data / "index.json").exists() and not data.exists():
        fetch_standard_library(out / "corpus", limit_bytes=4_000_000)
        prepare([out / "corpus"], data, PrepareOptions(vocab=VOCABULARY, held_out=0.05))
    return data


def unigram(data: Path) -> float:
    """Nats per token of the held-out text under the frequencies of the training text, each counted once more."""
    counts = np.bincount(tokens_of(data, "train"), minlength=VOCABULARY) + 1.0
    held_out = np.bincount(tokens_of(data, "validation"), minlength=VOCABULARY)
    return float(-(held_out * np.log(counts / counts.sum())).sum() / held_out.sum())


def tokens_of(data: Path, split: str) -> np.ndarray:
    """All tokens of a split."""
    shards = TokenShards.open(data, split)
    return np.asarray(shards.read(0, shards.tokens), dtype=np.int64)


def run(trial: Trial, data: Path, out: Path) -> dict[str, Any]:
    """Train one, and what became of it."""
    name, shrunken, qk_norm = MODELS[trial.model]
    architecture = preset(name, overrides=[*shrunken, *(qk_norm if trial.arm == "protected" else [])])
    steps = SWEEP_STEPS if trial.factor == 0 else STEPS
    config = TrainConfig(
        steps=steps,
        batch=BATCH,
        lr=trial.lr,
        seed=trial.seed,
        threads=1,
        eval_every=0,
        final_eval_batches=EVAL_BATCHES,
        checkpoint_every=steps,
        keep=1,
        **ARMS[trial.arm],
    )
    folder = out / "runs" / f"{trial.key}-{os.getpid()}"
    began, problem, held_out = time.perf_counter(), None, None
    try:
        result = train(architecture, data=data, out=folder, config=config)
        held_out = result.val_loss
    except RunError as error:
        problem = error.what
    rows, events = list(RunReader(folder).metrics()), list(RunReader(folder).events())
    losses = [row["loss"] for row in rows]
    return {
        **vars(trial),
        "problem": problem,
        "updates": len(rows),
        "val_loss": held_out,
        "loss_last": statistics.median(losses[-100:]) if losses else None,
        "loss_max": max(losses, default=None),
        "grad_norm_max": max((row["grad_norm"] for row in rows), default=None),
        "not_applied": sum("applied" in row for row in rows),
        "events": {kind: sum(event["kind"] == kind for event in events) for kind in ("not-finite", "spike", "alarm")},
        "alarms": [
            {"step": event["step"], **{name: sight[name] for name in ("what", "place", "value", "limit")}}
            for event in events
            if event["kind"] == "alarm"
            for sight in event["seen"]
        ],
        "lr_last": rows[-1]["lr"] / (trial.lr * config.min_lr) if rows and len(rows) == steps else None,
        "seconds": time.perf_counter() - began,
        "curve": [round(statistics.median(losses[at : at + 20]), 4) for at in range(0, len(losses), 20)],
    }


def measure(out: Path, seeds: int) -> dict[str, Any]:
    """Everything that is missing in `results.json`, which is written after each run."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"trials": {}}
    data = make_data(out)
    results["unigram"], results["environment"] = unigram(data), environment()

    def done(trial: Trial) -> dict[str, Any]:
        if trial.key not in results["trials"]:
            results["trials"][trial.key] = run(trial, data, out)
            found = results["trials"][trial.key]
            path.write_text(json.dumps(results, indent=1))
            print(trial.key, found["val_loss"], found["problem"], f"{found['seconds']:.0f} s", flush=True)
        return results["trials"][trial.key]

    tuned: dict[str, float] = results.setdefault("tuned", {})
    for model in MODELS:
        swept = [done(Trial(model=model, arm="unprotected", lr=lr, factor=0)) for lr in SWEEP]
        tuned[model] = min(swept, key=lambda each: each["val_loss"] or math.inf)["lr"]
    # What the question is about comes first: whoever stops early has that.
    for seed in range(seeds):
        for factor in (3, 30, 10, 100):
            for arm in ("unprotected", "protected", "guarded"):
                for model, lr in tuned.items():
                    done(Trial(model=model, arm=arm, lr=lr * factor, factor=factor, seed=seed))
    return results


def fate(trial: dict[str, Any], counted: float) -> str:
    """In a word or two."""
    if trial["problem"] is not None:
        return f"not finite at {trial['updates'] + 1:,}"
    return "lost" if trial["val_loss"] > counted else "learned"


ABOUT = """# Stability: learning rates that are too high

Written by `bench/stability.py` on {date}; {cpu}, one thread on a machine shared with others; python {python},
torch {torch}, numpy {numpy}.

Two tiny models, {steps:,} updates of {batch} x {context} tokens of Python source, vocabulary {vocabulary}, bf16 with
fp32 masters, AdamW, cosine, warm-up over a twentieth. `unprotected` has no clipping, no z-loss, no QK-norm and no guard
but the one against numbers that are none. `guarded` is the same model with ZClip under a ceiling of 1, spikes skipped
(8 deviations), detectors every 10 updates and the learning rate halved at an alarm. `protected` has QK-norm and a
z-loss of 1e-4 besides. Token frequencies alone give {counted:.3f} nats per held-out token: a run above that is called
lost. `Updates above counting` are those of a run whose training loss (median of 20) was above it, its first included.

## The tuned rate

Runs of {sweep_steps} updates without any protection, one seed; the rate with the lowest held-out loss is the tuned one.
"""
HEAD = (
    *(
        "Model",
        "Rate",
        "Seed",
        "Arm",
        "Held-out loss",
        "Fate",
        "Updates above counting",
        "Largest loss",
        "Largest gradient norm",
    ),
    *("Alarms", "Spikes", "Updates left out", "Rate at the end, of the scheduled"),
)


def row_of(trial: dict[str, Any], counted: float) -> list[str]:
    """A trial in the table."""
    loss = "-" if trial["val_loss"] is None else f"{trial['val_loss']:.3f}"
    left = "-" if trial["lr_last"] is None else f"{trial['lr_last']:.3g}"
    return [
        trial["model"],
        f"{trial['factor']}x",
        str(trial["seed"]),
        trial["arm"],
        loss,
        fate(trial, counted),
        f"{20 * sum(loss > counted for loss in trial['curve']):,}",
        f"{trial['loss_max']:.2f}",
        f"{trial['grad_norm_max']:.3g}",
        str(trial["events"]["alarm"]),
        str(trial["events"]["spike"]),
        str(trial["not_applied"]),
        left,
    ]


def found(trials: list[dict[str, Any]], counted: float) -> list[str]:
    """What the table says, in sentences."""
    lines: list[str] = []
    for arm in ARMS:
        mine = [each for each in trials if each["arm"] == arm]
        dead = [f"{each['model']} at {each['factor']}x" for each in mine if each["problem"] is not None]
        lost = [f"{each['model']} at {each['factor']}x" for each in mine if fate(each, counted) == "lost"]
        lines.append(
            f"- {arm}: of {len(mine)} runs {len(dead)} ended in a number that is not finite"
            f"{' (' + ', '.join(dead) + ')' if dead else ''}, and {len(lost)} more learned less than counting"
            f"{' (' + ', '.join(lost) + ')' if lost else ''}."
        )
    plain = {(each["model"], each["factor"], each["seed"]): each for each in trials if each["arm"] == "unprotected"}
    for arm in ("guarded", "protected"):
        gains: dict[str, list[str]] = {}
        for each in (each for each in trials if each["arm"] == arm):
            other = plain.get((each["model"], each["factor"], each["seed"]))
            if other is not None and other["val_loss"] is not None and each["val_loss"] is not None:
                gain = f"{other['val_loss'] - each['val_loss']:+.3f}"
                gains.setdefault(f"{each['model']} at {each['factor']}x", []).append(gain)
        shown = "; ".join(f"{name} {', '.join(by_seed)}" for name, by_seed in gains.items())
        lines.append(f"- Nats that {arm} is better by than unprotected, seed by seed (below 0: worse): {shown}.")
    return lines


def page(results: dict[str, Any]) -> str:
    """The page, from what was measured."""
    trials, counted, machine = list(results["trials"].values()), results["unigram"], results["environment"]
    about = ABOUT.format(
        date=machine["time_utc"][:10],
        cpu=machine["cpu"],
        python=machine["python"],
        torch=machine["packages"]["torch"],
        numpy=machine["packages"]["numpy"],
        steps=STEPS,
        batch=BATCH,
        context=CONTEXT,
        vocabulary=VOCABULARY,
        counted=counted,
        sweep_steps=SWEEP_STEPS,
    )
    lines = [about, "| Model | " + " | ".join(f"{lr:g}" for lr in SWEEP) + " | Tuned |"]
    lines.append("|---|" + "---|" * (len(SWEEP) + 1))
    for model in MODELS:
        swept = {each["lr"]: each for each in trials if each["model"] == model and each["factor"] == 0}
        losses = {lr: each["val_loss"] for lr, each in swept.items() if each["val_loss"] is not None}
        cells = [f"{losses[lr]:.3f}" if lr in losses else "-" for lr in SWEEP]
        tuned = f"{min(losses, key=lambda lr: losses[lr]):g}" if losses else "-"
        lines.append(f"| {model} | {' | '.join(cells)} | {tuned} |")
    long = sorted(
        (each for each in trials if each["factor"]),
        key=lambda each: (each["model"], each["factor"], each["seed"], list(ARMS).index(each["arm"])),
    )
    lines += ["", "## What became of the runs", "", *found(long, counted), ""]
    lines += [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    lines += [f"| {' | '.join(row_of(each, counted))} |" for each in long]
    minutes = sum(each["seconds"] for each in trials) / 60
    lines += [
        "",
        "![Loss curves](stability.svg)",
        "",
        (
            f"Curves are medians of 20 updates, seed 0. The {len(trials)} runs took {minutes:.0f} minutes, "
            f"{sum(each['updates'] for each in trials):,} updates."
        ),
        "",
    ]
    return "\n".join(lines)


def drawing(results: dict[str, Any]) -> str:
    """A small chart for each model and factor."""
    svg, wide, high, gap, left, top = Svg(), 200, 130, 34, 56, 60
    trials = [each for each in results["trials"].values() if each["factor"] and each["seed"] == 0]
    factors = [factor for factor in FACTORS if any(each["factor"] == factor for each in trials)]
    low, most = 2.5, math.log(VOCABULARY) + 1.3
    for row, model in enumerate(MODELS):
        for column, factor in enumerate(factors):
            x0, y0 = left + column * (wide + gap), top + row * (high + 52)

            def at(update: float, loss: float, x0: float = x0, y0: float = y0) -> tuple[float, float]:
                share = (min(max(loss, low), most) - low) / (most - low)
                return x0 + update / STEPS * wide, y0 + high * (1 - share)

            svg.text(x0, y0 - 8, f"{model}, {factor}x the tuned rate", size=11, bold=True)
            for tick in (3, 4, 5, 6, 7):
                svg.line(at(0, tick), at(STEPS, tick), stroke=HAIR, weight=0.8)
                svg.text(x0 - 6, at(0, tick)[1] + 4, str(tick), size=10, anchor="end", fill=MUTED)
            for tick in (0, 1000, 2000):
                svg.text(at(tick, low)[0], y0 + high + 15, f"{tick:,}", size=10, anchor="middle", fill=MUTED)
            counted = at(0, results["unigram"])[1]
            svg.path(f"M{x0} {counted:.1f}H{x0 + wide}", stroke=INK, weight=0.8, dash="3 3")
            for each in (each for each in trials if each["model"] == model and each["factor"] == factor):
                points = [at(number * 20 + 10, value) for number, value in enumerate(each["curve"])]
                if len(points) > 1:
                    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
                    svg.path(path, stroke=COLOURS[each["arm"]], weight=1.5)
                if each["problem"] is not None and points:
                    svg.text(points[-1][0], points[-1][1] + 4, "x", size=13, anchor="middle", fill=COLOURS[each["arm"]])
    across = left
    for arm, colour in COLOURS.items():
        svg.path(f"M{across} 22h20", stroke=colour, weight=2.4)
        svg.text(across + 26, 26, arm, size=11)
        across += 120
    svg.path(f"M{across} 22h20", stroke=INK, weight=0.8, dash="3 3")
    svg.text(across + 26, 26, "token frequencies alone", size=11)
    width, height = max(across + 180, left + len(factors) * (wide + gap)), top + len(MODELS) * (high + 52)
    return svg.document(
        width,
        height,
        title="Training loss at rates above the tuned one",
        description="Loss in nats per token over updates, for each model, learning rate and arm.",
    )


def main() -> None:
    """Measure what is missing, and write the page when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs and results")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each arm (default 1)")
    parser.add_argument("--page", action="store_true", help="write the page from what is in --out, and train nothing")
    chosen = parser.parse_args()
    if not chosen.page:
        measure(chosen.out, chosen.seeds)
        return
    results = json.loads((chosen.out / "results.json").read_text())
    docs = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
    (docs / "stability.svg").write_text(drawing(results), encoding="utf-8")
    (docs / "stability.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
