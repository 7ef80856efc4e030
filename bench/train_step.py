"""Training speed against Hugging Face and litgpt: one process each, taking turns step by step over the same tokens.

    python bench/train_step.py                      eager, both peers
    python bench/train_step.py --mode compiled --rounds 6
    python bench/train_step.py --peer hf --json

Run it with the Python that has Vitruvius and torch. Each peer gets an environment of its own under bench/, made on the
first run from bench/peers/NAME/requirements.txt. Only ratios within a run mean anything: the machine's speed drifts,
and turn-taking lets it drift under all contestants alike. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PEERS = ("hf", "litgpt")
OURS = "vitruvius"
VOCAB, WIDTH, LAYERS, HEADS, HEAD_WIDTH = 8192, 384, 6, 6, 64
NORM_PARAMETERS = (2 * LAYERS + 1) * WIDTH


def environment(peer: str) -> Path:
    """The Python of a peer's own environment, made when it is missing or its requirements have changed."""
    home = HERE / f".venv-{peer}"
    python = home / "bin" / "python"
    wanted = (HERE / "peers" / peer / "requirements.txt").read_text()
    stamp = home / "requirements.installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        say(f"making the environment of {peer} in {home.relative_to(HERE.parent)} (a minute or so)")
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        source = HERE / "peers" / peer / "requirements.txt"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", source], check=True, stdout=sys.stderr)
        stamp.write_text(wanted)
    return python


class Worker:
    """A contestant's process and the pipe to it."""

    def __init__(self, name: str, python: Path | str, config: dict[str, Any]) -> None:
        self.name = name
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        env.pop("PYTHONPATH", None)
        if name == OURS:
            env["PYTHONPATH"] = str(HERE.parent / "src")
        self.process = subprocess.Popen(
            [python, HERE / "train_step_worker.py", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        self.facts = self.ask(do="start", config=config)

    def ask(self, **command: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"the {self.name} worker stopped with exit code {self.process.wait()}; see its error above"
            )
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)


def say(text: str) -> None:
    """Talk goes to stderr; stdout is the result."""
    print(text, file=sys.stderr, flush=True)


def train_flops_per_token(parameters: int, context: int) -> float:
    """Useful FLOPs: 6 per weight of a matmul (the tied table once, as head), 12*K per attended pair and head."""
    pairs_per_token = (context + 1) / 2
    return 6 * (parameters - NORM_PARAMETERS) + 12 * HEAD_WIDTH * HEADS * LAYERS * pairs_per_token


def measure(workers: list[Worker], *, rounds: int, warmups: int) -> dict[str, list[dict[str, Any]]]:
    """Steps of each worker, in rounds; who begins moves on by one each round."""
    rows: dict[str, list[dict[str, Any]]] = {worker.name: [] for worker in workers}
    for index in range(warmups + rounds):
        turn = index % len(workers)
        for worker in workers[turn:] + workers[:turn]:
            row = worker.ask(do="step", seed=index)
            if index >= warmups:
                rows[worker.name].append(row)
        sums = {rows[w.name][-1]["tokens_sum"] for w in workers if rows[w.name]}
        assert len(sums) <= 1, f"contestants saw different tokens: {sums}"
        say(f"round {index + 1}/{warmups + rounds}{' (warm-up)' if index < warmups else ''}")
    return rows


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": middle, "q1": low, "q3": high}


def summary(rows: dict[str, list[dict[str, Any]]], workers: list[Worker], config: dict[str, Any]) -> dict[str, Any]:
    """What is printed: per contestant its speed, and ours against it, paired by round."""
    step_tokens = config["batch"] * config["context"]
    by_name = {worker.name: worker for worker in workers}
    gemm_rates = [by_name["gemm"].facts["flops"] / row["seconds"] for row in rows["gemm"]]
    ours = rows[OURS]
    flops = step_tokens * train_flops_per_token(by_name[OURS].facts["parameters"], config["context"])
    contestants: dict[str, Any] = {}
    for name, mine in rows.items():
        if name == "gemm":
            continue
        pairs = list(zip(mine, ours, strict=True))
        rates = zip(mine, gemm_rates, strict=True)
        contestants[name] = {
            "parameters": by_name[name].facts["parameters"],
            "versions": by_name[name].facts["versions"],
            "tokens_per_second": spread([step_tokens / row["seconds"] for row in mine]),
            "cpu_seconds_per_step": spread([row["cpu_seconds"] for row in mine]),
            "share_of_gemm": spread([flops / row["seconds"] / rate for row, rate in rates]),
            "ours_over_this": spread([row["seconds"] / own["seconds"] for row, own in pairs]),
            "ours_over_this_cpu": spread([row["cpu_seconds"] / own["cpu_seconds"] for row, own in pairs]),
            "loss_first": mine[0]["loss"],
            "loss_last": mine[-1]["loss"],
        }
    return {
        "schema": "vitruvius.bench.train_step/1",
        "config": config,
        "rounds": len(ours),
        "flops_per_step": flops,
        "gemm_gflops": spread([rate / 1e9 for rate in gemm_rates]),
        "contestants": contestants,
    }


def table(result: dict[str, Any]) -> str:
    config = result["config"]
    gemm = result["gemm_gflops"]
    settings = (
        f"{config['mode']}, {config['batch']} x {config['context']} tokens, {config['threads']} threads, "
        f"{result['rounds']} rounds; bf16 GEMM {gemm['median']:,.0f} GFLOP/s ({gemm['q1']:,.0f} to {gemm['q3']:,.0f})"
    )
    header = (
        f"{'':10}  {'tokens/s':>8}  {'quartiles':>15}  {'of GEMM':>7}  {'ours/this':>9}  {'quartiles':>12}  "
        f"{'CPU ratio':>9}  {'CPU s/step':>10}  loss"
    )
    lines = [settings, header]
    for name, row in result["contestants"].items():
        speed, ratio = row["tokens_per_second"], row["ours_over_this"]
        lines.append(
            f"{name:10}  {speed['median']:8,.0f}  {speed['q1']:7,.0f}-{speed['q3']:<7,.0f}  "
            f"{row['share_of_gemm']['median']:7.1%}  {ratio['median']:8.2f}x  {ratio['q1']:5.2f}-{ratio['q3']:<6.2f}  "
            f"{row['ours_over_this_cpu']['median']:8.2f}x  {row['cpu_seconds_per_step']['median']:10.2f}  "
            f"{row['loss_first']:.3f} -> {row['loss_last']:.3f}"
        )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", action="append", choices=PEERS, help="only this peer (repeatable); default: all")
    parser.add_argument("--mode", choices=("eager", "compiled"), default="eager", help="the same for every contestant")
    parser.add_argument("--rounds", type=int, default=15, help="counted steps of each contestant")
    parser.add_argument("--warmups", type=int, default=3, help="steps of each that do not count")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    config = {
        "mode": asked.mode,
        "threads": asked.threads,
        "batch": asked.batch,
        "context": asked.context,
        "vocab": VOCAB,
    }
    pythons: dict[str, Path | str] = {OURS: sys.executable}
    pythons |= {peer: environment(peer) for peer in asked.peer or PEERS}
    pythons["gemm"] = sys.executable
    with contextlib.ExitStack() as stack:
        workers = [Worker(name, python, config) for name, python in pythons.items()]
        for worker in workers:
            stack.callback(worker.close)
        rows = measure(workers, rounds=asked.rounds, warmups=asked.warmups)
    result = summary(rows, workers, config)
    print(json.dumps(result, indent=2) if asked.json else table(result))


if __name__ == "__main__":
    main()
