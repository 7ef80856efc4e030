"""Trains in processes that divide the experts of a model, as `sharded_ranks.py` does with all of it; prints JSON.

python expert_ranks.py DATA FOLDER SCENARIO [CASE ...]
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ranks
import sharded_ranks
import torch
from ranks import MIXTURE, before_update, digests, go_on, in_ranks, rows, start
from sharded_ranks import EVEN_MIXTURE, QUIET
from sharded_ranks import _loaded as loaded
from sharded_ranks import _stored as stored_in

from vitruvius.spec import from_plain, preset, to_data
from vitruvius.training.settings import EngineSettings, Guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.spec import Architecture
    from vitruvius.training.loop import Trainer

FSDP = EngineSettings(kind="fsdp2", expert_parallel=2, timeout=60)
DDP = replace(FSDP, kind="ddp")
TENSOR = replace(FSDP, tensor_parallel=2)
PLAIN = replace(FSDP, expert_parallel=1)
EXPERT = "blocks.moe.ffn.expert"
KINDS: dict[str, list[str]] = {
    "capacity": ["blocks.moe.ffn.capacity=1"],
    "shared-gated": [
        "blocks.moe.ffn.shared_expert={kind: swiglu, hidden: 16}",
        "blocks.moe.ffn.shared_gate=sigmoid",
    ],
    "hash": ["blocks.moe.ffn.router={kind: hash}"],
    "noisy": ["blocks.moe.ffn.router={kind: softmax, noise: 0.5, z_loss: 0.01, balance_loss: 0.02}"],
    "with-biases": [f"{EXPERT}={{kind: mlp, hidden: 16, bias: true}}"],
    "repeated": ["layers=dense^2 moe^2"],
    # A width that torch's grouped product does not take.
    "odd": [f"{EXPERT}.hidden=15"],
}


def _ahead(plain: Any) -> None:
    plain["mtp"] = {"depth": 2, "block": "moe", "loss_weight": 0.3}


def _parallel(plain: Any) -> None:
    plain["blocks"]["moe"]["order"] = "parallel"


def _expert_choice(plain: Any) -> None:
    plain["head"] = {"kind": "mlm"}
    plain["blocks"]["dense"]["mixer"]["sees"] = plain["blocks"]["moe"]["mixer"]["sees"] = "everything"
    plain["blocks"]["moe"]["ffn"]["router"] = {"kind": "expert-choice"}


def _pairs(plain: Any) -> None:
    moe = plain["blocks"]["moe"]
    plain["blocks"]["read"] = {**moe, "mixer": {**moe["mixer"], "sees": "everything"}}
    moe["cross"] = {"kind": "attention", "heads": 2}
    plain["blocks"]["dense"]["cross"] = {"kind": "attention", "heads": 2}
    plain["encoder"] = {"layers": "read"}


CHANGES: dict[str, Callable[[Any], None]] = {
    "ahead": _ahead,
    "parallel": _parallel,
    "expert-choice": _expert_choice,
    "encoder-decoder": _pairs,
}


def architecture_of(kind: str) -> Architecture:
    """Mixtures of every kind, or what `sharded_ranks.py` has."""
    if kind in KINDS:
        return preset("tiny-llama-moe", overrides=[*MIXTURE, *KINDS[kind]])
    if kind in CHANGES:
        plain = to_data(preset("tiny-llama-moe", overrides=EVEN_MIXTURE))
        CHANGES[kind](plain)
        return from_plain(plain)
    return _others(kind)


_others = sharded_ranks.architecture_of
ranks.architecture_of = architecture_of

CASES: dict[str, tuple[str, int, EngineSettings, dict[str, Any]]] = {
    "mixture": ("mixture", 2, FSDP, {}),
    "ddp": ("mixture", 2, DDP, {}),
    "biased": ("biased", 2, FSDP, {"accumulate": 2, "checkpointing": "layers"}),
    "ddp-biased": ("biased", 2, DDP, {"accumulate": 2, "checkpointing": "layers"}),
    "many-experts": ("many", 2, FSDP, {}),
    **{name: (name, 2, FSDP, {}) for name in KINDS if name != "capacity"},
    "ahead": ("ahead", 2, FSDP, {"checkpointing": "layers"}),
    "parallel": ("parallel", 2, FSDP, {}),
    "expert-choice": ("expert-choice", 2, FSDP, {"mask_token": 310}),
    "encoder-decoder": ("encoder-decoder", 2, FSDP, {}),
    "curriculum": ("mixture", 2, FSDP, {"packing": "by-length"}),
    "muon": ("mixture", 2, FSDP, {"optimizer": "muon", "muon_dtype": "fp32"}),
    "ddp-muon": ("mixture", 2, DDP, {"optimizer": "muon", "muon_dtype": "fp32", "ema": 0.9}),
    "average": ("biased", 2, FSDP, {"ema": 0.9, "z_loss": 1e-3}),
    "bf16": ("mixture", 2, FSDP, {"dtype": "bf16"}),
    "copies": ("mixture", 4, FSDP, {"checkpointing": "layers"}),
    "ddp-copies": ("mixture", 4, DDP, {"accumulate": 1, "optimizer": "muon", "muon_dtype": "fp32"}),
    "tensor": ("even-mixture", 4, TENSOR, {}),
    "four": ("mixture", 4, replace(FSDP, expert_parallel=4), {}),
}
"""Name -> architecture, processes, how they share the work, settings."""
TWINS = (
    "deepseek-v3",
    "jamba-like",
    "llama-moe",
    "llama-moe-16e",
    "llama-moe-70b",
    "mixtral-8x7b",
    "qwen3-30b-a3b",
    "tiny-llama-moe",
    "tiny-mixtral",
    "tiny-qwen3-moe",
)
"""Every preset with a mixture."""
CASES |= {f"twin-{name}": (f"twin:{name}", 2, FSDP, {"context": 16}) for name in TWINS}
CASES |= {f"ddp-twin-{name}": (f"twin:{name}", 2, DDP, {"context": 16}) for name in TWINS}


def equal(data: Path, folder: Path, *names: str) -> Any:
    """One process, and several that divide the experts of its model."""
    found = {}
    for name in names:
        kind, count, engine, settings = CASES[name]
        shared: dict[str, Any] = {
            "steps": 4,
            "checkpoint_every": 4,
            "eval_every": 2,
            "guard": Guard(every=2),
            **settings,
        }
        one, many = folder / f"{name}-1", folder / f"{name}-n"
        start(kind, data, one, **shared)

        def work(_: int, kind: str = kind, run: Path = many, engine: Any = engine, shared: Any = shared) -> Any:
            return start(kind, data, run, engine=engine, **shared)

        ends = in_ranks(work, folder / f"{name}-ends", count)
        stored = [stored_in(run, 4) for run in (one, many) if run.exists()]
        found[name] = {
            "one": rows(one),
            "two": rows(many) if many.exists() else [],
            "ends": ends,
            "shapes": [{key: [str(t.dtype), *t.shape] for key, t in each.items()} for each in stored],
        }
    return found


def reshard(data: Path, folder: Path) -> Any:
    """One run that changes its engine at every stop; what each process has loaded; the same run without stops."""
    long: dict[str, Any] = {"steps": 12, "checkpoint_every": 12, **QUIET}
    straight, run = folder / "straight", folder / "run"
    start("biased", data, straight, **long)
    ways: list[tuple[int, EngineSettings]] = [
        (2, FSDP),
        (1, EngineSettings()),
        (2, PLAIN),
        (2, replace(PLAIN, kind="ddp")),
        (2, DDP),
        (2, FSDP),
    ]
    found: dict[str, Any] = {"ways": []}
    for number, (count, engine) in enumerate(ways):
        last = number == len(ways) - 1

        def work(rank: int, number: int = number, engine: Any = engine, count: int = count, last: bool = last) -> Any:
            if rank == count - 1 and not last:
                before_update(2 * number + 2, lambda _: os.kill(os.getpid(), signal.SIGTERM))
            return start("biased", data, run, engine=engine, **long) if number == 0 else loaded(run, engine)

        found["ways"].append(in_ranks(work, folder / f"ends-{number}", count))
    found["rows"] = {each.name: rows(each) for each in (straight, run)}
    return found


def again(data: Path, folder: Path, kind: str) -> Any:
    """Two that divide the experts: straight, stopped by SIGTERM and resumed, killed and resumed."""
    engine = {"fsdp2": FSDP, "ddp": DDP}[kind]
    settings: dict[str, Any] = {"engine": engine, "optimizer": "muon", "muon_dtype": "fp32", "ema": 0.9, **QUIET}
    ways: dict[str, int | None] = {"straight": None, "stopped": signal.SIGTERM, "killed": signal.SIGKILL}
    found: dict[str, Any] = {}
    for name, sent in ways.items():
        run = folder / name

        def work(rank: int, run: Path = run, sent: int | None = sent) -> Any:
            if rank == 1 and sent is not None:
                before_update(3, lambda _: os.kill(os.getpid(), sent))
            return start("biased", data, run, **settings)

        found[f"{name}-first"] = in_ranks(work, folder / f"{name}-first")
        if sent is not None:
            found[f"{name}-second"] = in_ranks(lambda _, run=run: go_on(run), folder / f"{name}-second")
        found[name] = {"bits": digests(run, 6), "rows": rows(run)}
    return found


def uneven(data: Path, folder: Path) -> Any:
    """Rows for one expert alone, none from one process, and no token ahead in one: none is left waiting."""
    from vitruvius.nn import model
    from vitruvius.nn.ffn.moe import MoeModule
    from vitruvius.nn.routers.base import RouterModule

    quick: dict[str, Any] = {"steps": 3, "checkpoint_every": 3, "eval_every": 0, "guard": Guard(every=None)}
    many = {"local": (1, EngineSettings()), "ddp": (2, replace(PLAIN, kind="ddp")), "two": (2, DDP), "parts": (2, FSDP)}

    def one_expert(_: int) -> None:
        RouterModule.pick = lambda _, choose, __: choose() * 0 + 3

    def none_kept(rank: int) -> None:
        within = MoeModule._within_capacity

        def kept(self: Any, routing: Any, *rest: Any) -> Any:
            routing = within(self, routing, *rest)
            return replace(routing, kept_NK=routing.kept_NK & (rank != 1))

        MoeModule._within_capacity = kept

    def nothing_ahead(rank: int) -> None:
        targets_ahead = model.targets_ahead
        if rank == 1:
            model.targets_ahead = lambda *given: targets_ahead(*given).fill_(-100)

    cases: dict[str, tuple[str, Callable[[int], None], tuple[str, ...]]] = {
        "one-expert": ("many", one_expert, ("local", "two", "parts")),
        "capacity": ("capacity", lambda _: None, ("ddp", "two", "parts")),
        "none-kept": ("capacity", none_kept, ("ddp", "two", "parts")),
        "nothing-ahead": ("ahead", nothing_ahead, ("ddp", "two", "parts")),
    }
    found: dict[str, Any] = {}
    for name, (kind, change, engines) in cases.items():
        found[name] = {}
        for way in engines:
            count, engine = many[way]
            run = folder / f"{name}-{way}"

            def work(rank: int, change: Any = change, kind: str = kind, run: Path = run, engine: Any = engine) -> Any:
                change(rank)
                return start(kind, data, run, engine=engine, **quick)

            ends = in_ranks(work, folder / f"{name}-{way}-ends", count)
            found[name][way] = {"ends": ends, "rows": rows(run) if run.exists() else []}
    return found


def guarded(data: Path, folder: Path) -> Any:
    """A gradient that is no number, in an expert that one process alone has."""
    found: dict[str, Any] = {}
    for kind, engine in (("fsdp2", FSDP), ("ddp", DDP)):
        run = folder / kind

        def work(rank: int, run: Path = run, engine: EngineSettings = engine) -> Any:
            def poison(trainer: Trainer) -> None:
                if rank == 1 and trainer.state.batches == 2:
                    done = trainer.engine.reduce

                    def reduce(optimizer: Any) -> None:
                        done(optimizer)
                        del trainer.engine.reduce
                        named = optimizer.named_slots()
                        next(slot for name, slot in named if ".experts." in name).gradient().fill_(torch.nan)

                    trainer.engine.reduce = reduce

            before_update(2, poison)
            return start("biased", data, run, engine=engine, guard=Guard(not_finite="skip", every=2), eval_every=0)

        ends = in_ranks(work, folder / f"{kind}-ends")
        found[kind] = {"ends": ends, "applied": [row.get("applied", 1) for row in rows(run)]}
    return found


def drifted(data: Path, folder: Path) -> Any:
    """One weight of an expert that two of four processes have is no longer the same in both."""

    def moved(trainer: Trainer) -> None:
        named = trainer.model.named_parameters()
        next(parameter for name, parameter in named if ".experts." in name).data.view(-1)[0] += 1e-3

    def work(rank: int) -> Any:
        if rank == 3:
            before_update(1, moved)
        return start("mixture", data, folder / "run", engine=DDP, **QUIET)

    return in_ranks(work, folder / "ends", 4)


def part_sizes(data: Path, folder: Path) -> Any:
    """Bytes of weights, gradients, masters and moments in each process, in bf16, of experts and of all else."""
    found = {}
    for name, count, engine in (
        ("1", 1, EngineSettings()),
        ("ddp 2, experts 2", 2, DDP),
        ("ddp 4, experts 2", 4, DDP),
        ("fsdp2 2, experts 2", 2, FSDP),
        ("fsdp2 4, experts 2", 4, FSDP),
        ("fsdp2 2x2, experts 2", 4, TENSOR),
    ):

        def work(_: int, name: str = name, engine: EngineSettings = engine) -> Any:
            sizes: dict[str, int] = {"experts": 0, "others": 0}

            def looking(trainer: Trainer) -> None:
                apply = trainer.updater.apply

                def measured(*arguments: Any, **options: Any) -> Any:
                    for key, slot in trainer.optimizer.named_slots():
                        kind = "experts" if ".experts." in key else "others"
                        for tensor in (slot.weight, slot.master, *slot.state.values()):
                            sizes[kind] += tensor.numel() * tensor.element_size()
                    return apply(*arguments, **options)

                trainer.updater.apply = measured

            before_update(0, looking)
            start("even-mixture", data, folder / name, engine=engine, steps=1, dtype="bf16", **QUIET)
            return sizes

        found[name] = [end["value"] for end in in_ranks(work, folder / f"{name}-ends", count)]
    return found


def journey(_: Path, folder: Path) -> Any:
    """Rows through experts of three processes, forwards and backwards, against all experts in one; fp64."""
    from torch import distributed as dist
    from torch import nn

    from vitruvius.nn.ffn.moe import Experts
    from vitruvius.nn.ops.grouped import grouped_linear, looped_linear
    from vitruvius.spec import Scope
    from vitruvius.spec.ffn.mlp import Mlp, SwiGLU
    from vitruvius.training.engines.experts import spread_experts

    ways = {"looped": looped_linear, "grouped": grouped_linear}
    # Rows of each of six experts, in each process.
    loads = [
        [[3, 1, 0, 2, 4, 1], [2, 2, 2, 2, 2, 2], [0, 0, 5, 0, 0, 1]],
        [[0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0]],
        [[0, 0, 0, 0, 0, 7], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]],
        [[0, 0, 0, 0, 0, 0]] * 3,
    ]

    def work(rank: int) -> Any:
        dist.init_process_group("gloo", rank=rank, world_size=3)
        group, scope = dist.group.WORLD, Scope(width=4, vocab_size=8, context=8, depth=1)
        furthest = 0.0
        for number, load in enumerate(loads):
            for linear in ways.values():
                whole, parts = nn.Module(), nn.Module()
                for each in (whole, parts):
                    expert = Mlp(hidden=5, activation="gelu", bias=True)
                    each.experts = Experts(expert, 6, scope, {"dtype": torch.float64, "device": "cpu"})
                    torch.manual_seed(number)
                    for parameter in each.experts.parameters():
                        nn.init.normal_(parameter)
                assert spread_experts(parts, group) == {f"experts.{n}" for n, _ in whole.experts.named_parameters()}
                sizes, rows = torch.tensor(load[rank]), sum(load[rank])
                torch.manual_seed(100 * number + rank)
                given, pull = torch.randn(rows, 4, dtype=torch.float64), torch.randn(rows, 4, dtype=torch.float64)
                x, y = given.clone().requires_grad_(), given.clone().requires_grad_()
                one, many = whole.experts(x, sizes, linear), parts.experts(y, sizes, linear)
                one.backward(pull)
                many.backward(pull)
                with torch.no_grad():
                    apart = parts.experts(y, sizes, linear)
                pairs = [(one.detach(), many.detach()), (one.detach(), apart), (x.grad, y.grad)]
                for name, parameter in whole.experts.named_parameters():
                    total = parameter.grad.clone()
                    dist.all_reduce(total)
                    pairs.append((total[2 * rank : 2 * rank + 2], parts.experts.get_parameter(name).grad))
                assert all(a.shape == b.shape for a, b in pairs)
                furthest = max(furthest, *(float((a - b).abs().max()) for a, b in pairs if a.numel()))
        return {"furthest": furthest, "same": alike(group, scope)}

    def alike(group: Any, scope: Any) -> bool:
        """Whether processes that have the same rows get the same bits, where these depend on a row's place."""

        def linear(x_RI: Any, maps: Any, sizes_E: Any) -> Any:
            place_R1 = torch.arange(len(x_RI)).unsqueeze(1)
            return tuple(y_RO + place_R1 for y_RO in looped_linear(x_RI, maps, sizes_E))

        parts = nn.Module()
        parts.experts = Experts(SwiGLU(hidden=5), 6, scope, {"dtype": torch.float32, "device": "cpu"})
        torch.manual_seed(7)
        for parameter in parts.experts.parameters():
            nn.init.normal_(parameter)
        spread_experts(parts, group)
        with torch.no_grad():
            mine = parts.experts(torch.randn(57, 4), torch.tensor([37, 1, 5, 0, 11, 3]), linear)
        found = [torch.empty_like(mine) for _ in range(3)]
        dist.all_gather(found, mine)
        return all(torch.equal(each, mine) for each in found)

    return in_ranks(work, folder / "ends", 3)


def written(_: Path, folder: Path) -> Any:
    """Pairs learned and written out by processes that divide the experts of an encoder-decoder."""
    from vitruvius.data.pairs.options import PairOptions
    from vitruvius.data.pairs.preparing import prepare_pairs
    from vitruvius.training.settings import Pairs

    names = ("mason", "arch", "beam", "stone", "river")
    texts = [" ".join(names[(n * k + n // 3) % 5] for k in range(1 + n % 4)) for n in range(80)]
    lines = [json.dumps({"source": text, "target": text[::-1]}) for text in texts]
    folder.mkdir(exist_ok=True)
    (folder / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    prepare_pairs([folder / "in.jsonl"], folder / "data", PairOptions(vocab=300, held_out=0.15))
    settings: dict[str, Any] = {"objective": "seq2seq", "context": 16, "pairs": Pairs(score=8), "eval_every": 2}
    found: dict[str, Any] = {}
    for name, engine in (("ddp", replace(PLAIN, kind="ddp")), ("two", DDP), ("parts", FSDP)):

        def work(_: int, name: str = name, engine: EngineSettings = engine) -> Any:
            return start("encoder-decoder", folder / "data", folder / name, engine=engine, **settings)

        ends = in_ranks(work, folder / f"{name}-ends")
        found[name] = {"ends": ends, "rows": rows(folder / name) if (folder / name).exists() else []}
    return found


def quick(data: Path, folder: Path) -> Any:
    """What is looked at in every run of the tests."""
    return {"journey": journey(data, folder / "journey"), **equal(data, folder, "mixture")}


SCENARIOS: dict[str, Callable[..., Any]] = {
    each.__name__: each for each in (equal, reshard, again, uneven, guarded, drifted, part_sizes, written, quick)
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(SCENARIOS[sys.argv[3]](Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[4:])))
