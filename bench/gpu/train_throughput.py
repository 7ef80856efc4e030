"""Training on a card: tokens per second, MFU and peak memory, ours beside Hugging Face and litgpt, taking turns.

    python bench/gpu/train_throughput.py --out throughput.json
    python bench/gpu/train_throughput.py --case moe --mode eager --peer hf
    python bench/gpu/train_throughput.py --device cpu --small --json

Each contestant is a process; all hold the card together and take turns of some steps, who begins moves on each round.
Cases that fill the card run one process at a time instead. Rows are written as they come.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from card import ROOT, Results, arguments, gigabytes, hardware_of, require, say, spread, table, total_memory
from cases import CASES, Case, fitting, flops_of, small

from vitruvius.spec import resolve

SCHEMA = "vitruvius.bench.gpu_throughput/1"
OURS, PEERS = "vitruvius", {"hf": "transformers", "litgpt": "litgpt"}
MODES = ("eager", "compiled")
WORKER = Path(__file__).with_name("throughput_worker.py")


class Lost(Exception):  # noqa: N818 (it is no error of ours)
    """A contestant is gone; its message says why."""


class Contestant:
    """A process and the pipe to it."""

    def __init__(self, name: str, python: str, case: Case, mode: str, asked: Any) -> None:
        self.name, self.case = name, case
        self.rows: list[dict[str, Any]] = []
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        paths = [str(ROOT / "src"), str(WORKER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        env["PYTHONPATH"] = os.pathsep.join(paths)
        env.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
        self.process = subprocess.Popen(
            [python, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self.send(
            do="start",
            case=case.name,
            small=asked.small,
            device=asked.device,
            contestant=name,
            mode=mode,
            checkpointing=case.checkpointing,
            optimizer=case.optimizer,
            chunk_logits=asked.chunk_logits if name == OURS else None,
        )

    def send(self, **command: Any) -> None:
        """Ask without waiting."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()

    def heard(self) -> dict[str, Any]:
        """The answer to what was asked first. Raises Lost."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"the process ended with {self.process.wait()}"}
        if "error" in answer:
            raise Lost(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process, which has nothing to lose."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def pythons(asked: Any, results: Results) -> dict[str, str]:
    """The interpreter of each contestant: this one, where it has what a peer needs, or the one that was named."""
    found = {OURS: sys.executable}
    named = dict(one.split("=", 1) for one in asked.python)
    for peer in asked.peer or PEERS:
        if peer in named:
            found[peer] = named[peer]
        elif importlib.util.find_spec(PEERS[peer]) is not None:
            found[peer] = sys.executable
        else:
            results.note(f"{peer} is not here ({PEERS[peer]} is not installed, and no --python {peer}=PATH was given)")
    return found


def run(case: Case, mode: str, names: dict[str, str], asked: Any, results: Results) -> None:
    """All contestants of a case in one mode; what fails is noted, and the others go on."""
    if case.turns == "apart":
        done: list[Contestant] = []
        for number in range(asked.repeats):
            order = list(names) if number % 2 == 0 else list(reversed(names))
            for name in order:
                if number and not results.in_time:
                    results.note(f"{case.name}, {mode}: out of time after {number} of {asked.repeats} repeats")
                    break
                with contextlib.ExitStack() as stack:
                    done += _ready([name], names, case, mode, asked, results, stack)
                    if done and done[-1].name == name:
                        _turn(done[-1], number, asked, results)
                        _record(case, mode, _merged(done), asked, results)
        return
    with contextlib.ExitStack() as stack:
        contestants = _ready(list(names), names, case, mode, asked, results, stack)
        for number in range(asked.rounds):
            if not results.in_time:
                results.note(f"{case.name}, {mode}: out of time after {number} of {asked.rounds} rounds")
                break
            first = number % max(1, len(contestants))
            for one in contestants[first:] + contestants[:first]:
                _turn(one, number, asked, results)
            _record(case, mode, contestants, asked, results)
            contestants = [one for one in contestants if one.process.poll() is None]
            say(f"{case.name}, {mode}: round {number + 1} of {asked.rounds}")


def _ready(
    wanted: list[str],
    names: dict[str, str],
    case: Case,
    mode: str,
    asked: Any,
    results: Results,
    stack: contextlib.ExitStack,
) -> list[Contestant]:
    """Contestants that are built and warm. They are built at the same time, and warm up one after another: so that the
    card holds the activations of one."""
    made = [Contestant(name, names[name], case, mode, asked) for name in wanted]
    for one in made:
        stack.callback(one.close)
    ready: list[Contestant] = []
    for one in made:
        try:
            one.facts = one.heard()  # pyright: ignore[reportAttributeAccessIssue]
            one.send(do="warm", seeds=list(range(1_000_000, 1_000_000 + asked.warmups)))
            one.warm_seconds = one.heard()["seconds"]  # pyright: ignore[reportAttributeAccessIssue]
            ready.append(one)
        except Lost as lost:
            results.note(f"{case.name}, {mode}, {lost}")
    return ready


def _turn(one: Contestant, number: int, asked: Any, results: Results) -> None:
    first = number * (asked.steps + 1)
    try:
        one.send(do="turn", seeds=list(range(first, first + asked.steps + 1)))
        one.rows.append(one.heard())
    except Lost as lost:
        results.note(f"{one.case.name}, {lost}")


def _merged(done: list[Contestant]) -> list[Contestant]:
    """One contestant for all processes of a name: the first, with the rows of all."""
    merged: dict[str, Contestant] = {}
    for one in done:
        known = merged.get(one.name)
        if known is None:
            merged[one.name] = copy(one)
        else:
            known.rows = [*known.rows, *one.rows]
    return list(merged.values())


def _record(case: Case, mode: str, contestants: list[Contestant], asked: Any, results: Results) -> None:
    """A row for each contestant that has measured something."""
    ours = next((one for one in contestants if one.name == OURS), None)
    sums = {tuple(row["checksum"] for row in one.rows) for one in contestants if one.rows}
    if len({seen[: min(map(len, sums))] for seen in sums}) > 1:
        results.note(f"{case.name}, {mode}: contestants saw different tokens, so their figures do not compare")
    for one in contestants:
        if not one.rows:
            continue
        facts: dict[str, Any] = one.facts  # pyright: ignore[reportAttributeAccessIssue]
        architecture = case.architecture if one.name == OURS else case.peer_architecture
        flops = flops_of(resolve(architecture), case.workload)
        times = [ms for row in one.rows for ms in row["milliseconds"]]
        rates = spread([1e3 * case.tokens / ms for ms in times])
        peak = None if results.hardware is None else results.hardware.peak("bf16")
        exact, palm = (None if peak is None else rates["median"] * each / peak for each in (flops.exact, flops.palm))
        measured = max((row["peak_bytes"] for row in one.rows if row["peak_bytes"] is not None), default=None)
        said = case.memory() if one.name == OURS else None
        results.put(
            {
                "case": case.name,
                "what": case.what,
                "contestant": one.name,
                "mode": mode,
                "command": case.command,
                "batch": case.batch,
                "context_tokens": case.context,
                "tokens_per_step": case.tokens,
                "checkpointing": case.checkpointing if one.name != "litgpt" else "none",
                "optimizer": case.optimizer if one.name == OURS else "torch.optim.AdamW(fused=True)",
                "precision": "bf16, fp32 masters" if one.name == OURS else "fp32 under bf16 autocast",
                "chunk_logits": asked.chunk_logits,
                "parameters": facts["parameters"],
                "parameters_counted": flops.parameters,
                "active_parameters": flops.active,
                "versions": facts["versions"],
                "warm_seconds": one.warm_seconds,  # pyright: ignore[reportAttributeAccessIssue]
                "step_milliseconds": spread(times),
                "tokens_per_second": rates,
                "flops_per_token_exact": flops.exact,
                "flops_per_token_palm": flops.palm,
                "mfu_exact": exact,
                "mfu_palm": palm,
                "peak_bytes": measured,
                "predicted_bytes": None if said is None else said.peak,
                "predicted_margin_bytes": None if said is None else said.margin,
                "error_percent": None if said is None or measured is None else 100 * (said.peak - measured) / measured,
                "ours_times_as_fast": None if ours is None or one is ours else _ratio(ours, one),
                "loss_first": one.rows[0]["losses"][0],
                "loss_last": one.rows[-1]["losses"][-1],
                "checksums": [row["checksum"] for row in one.rows],
            },
            key=("case", "contestant", "mode"),
        )


def _ratio(ours: Contestant, other: Contestant) -> dict[str, float]:
    """How many times as many tokens a second, by round, from the medians of its turns."""
    pairs = zip(ours.rows, other.rows, strict=False)
    medians = [
        spread(theirs["milliseconds"])["median"] / spread(mine["milliseconds"])["median"] for mine, theirs in pairs
    ]
    return spread(medians)


def page(data: dict[str, Any]) -> str:
    """The table, and what its columns mean."""
    rows = [
        [
            row["case"],
            f"{row['contestant']}, {row['mode']}",
            f"{row['parameters'] / 1e9:.2f} B",
            f"{row['batch']} x {row['context_tokens']:,}",
            f"{row['tokens_per_second']['median']:,.0f}",
            f"{row['tokens_per_second']['q1']:,.0f} to {row['tokens_per_second']['q3']:,.0f}",
            "" if row["mfu_exact"] is None else f"{row['mfu_exact']:.1%}",
            "" if row["mfu_palm"] is None else f"{row['mfu_palm']:.1%}",
            gigabytes(row["peak_bytes"]),
            gigabytes(row["predicted_bytes"]),
            "" if row["ours_times_as_fast"] is None else f"{row['ours_times_as_fast']['median']:.2f}",
        ]
        for row in data["rows"]
    ]
    header = ("case", "who", "parameters", "step", "tokens/s", "quartiles", "MFU", "MFU as PaLM", "peak", "predicted")
    peak = data["peak_bf16_flops"]
    rate = "no peak is known of this device" if peak is None else f"{peak / 1e12:,.1f} TFLOP/s, {data['peak_source']}"
    specs = dict.fromkeys(f"- `{row['case']}`: {row['what']}. `{row['command']}`" for row in data["rows"])
    return "\n".join(
        [
            table((*header, "ours/this"), rows),
            "",
            (
                f"MFU = tokens/s x useful FLOPs a token / peak of bf16 ({rate}). Useful FLOPs are three times those of "
                "a forward pass as `vitruvius size` counts them: windows as they are, the causal half once, nothing "
                "that is computed again. As PaLM: 6 N + 12 L H Q T a token, N the active parameters, whatever the "
                "layers see."
            ),
            (
                "Ours: bf16 weights with fp32 masters, the update of `vitruvius train`. Peers: fp32 weights under bf16 "
                "autocast with fused AdamW, as their trainers do. Peak: what torch's allocator handed out at the most."
            ),
            "",
            *specs,
        ]
    )


def main() -> int:
    """Run what was asked for; 1 where nothing could be measured."""
    parser = arguments(__doc__)
    parser.add_argument("--case", action="append", choices=tuple(CASES), help="only this one (repeatable)")
    parser.add_argument("--mode", action="append", choices=MODES, help="only this one (repeatable)")
    parser.add_argument("--peer", action="append", choices=tuple(PEERS), help="only this one (repeatable)")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH", help="its own interpreter")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="counted steps of a turn")
    parser.add_argument("--warmups", type=int, default=4, help="steps before the first round, compiling among them")
    parser.add_argument("--repeats", type=int, default=2, help="processes of each contestant that has the card alone")
    parser.add_argument("--chunk-logits", type=int, metavar="N", help="logits that our loss holds at a time")
    asked = parser.parse_args()
    require(asked.device)
    results = Results(
        schema=SCHEMA,
        asked=asked,
        hardware=hardware_of(asked.device, asked.on),
        page=page,
        title="Training on a card: tokens per second, MFU and memory",
        script="train_throughput.py",
    )
    if asked.device == "cuda" and results.hardware is None:
        results.note(
            "this card is not in `vitruvius hardware list`, so there is no peak and no MFU: name one with --on"
        )
    found = {OURS: sys.executable} if asked.no_peers else pythons(asked, results)
    room = total_memory(asked.device)
    if room is not None and results.hardware is not None:
        room -= results.hardware.reserved_bytes
    # All cases eager first: compiling takes the most time, and is what may be left undone.
    for mode in asked.mode or MODES:
        for name in asked.case or CASES:
            if not results.in_time:
                results.note(f"{name}, {mode}: not started, out of time")
                continue
            case = small(CASES[name]) if asked.small else CASES[name]
            way, arithmetic = fitting(case, room)
            for line in arithmetic:
                results.note(line)
            if way is None:
                results.note(f"{name}: no way to train it fits this card")
                continue
            peers = {who: python for who, python in found.items() if who == OURS or who in case.peers}
            if len(peers) > 1 and way != case:
                way = replace(way, turns="apart")
            run(way, mode, peers, asked, results)
    results.end()
    return 0 if results.rows else 1


if __name__ == "__main__":
    raise SystemExit(main())
