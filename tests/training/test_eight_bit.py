"""AdamW with moments of 8 bits: bit for bit bitsandbytes' own, resumed exactly, and it learns as fp32 AdamW does."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vitruvius.errors import SpecError, UsageError
from vitruvius.nn import build
from vitruvius.runs import RunReader
from vitruvius.spec import preset
from vitruvius.training import TrainConfig, resume
from vitruvius.training.checking import from_plain
from vitruvius.training.eight_bit import LEAST, EightBitAdamWRule
from vitruvius.training.master import AdamWRule, MasterOptimizer, ParameterGroup
from vitruvius.training.numerics import notes_on
from vitruvius.training.optim import make_optimizer
from vitruvius.training.stopping import StopRequest

pytest.importorskip("bitsandbytes")

WIDE = ["width=96", "context=32", "vocab_size=320", "blocks.layer.mixer.heads=2", "blocks.layer.mixer.kv_heads=1"]
WIDE += ["blocks.layer.ffn.hidden=128", "layers=layer*2"]


@pytest.fixture(scope="module")
def wide():
    """Wide enough that its matrices have 4,096 numbers and more."""
    return preset("tiny-llama", overrides=WIDE)


def drawn(*shape, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * 10 ** (spread * torch.randn(*shape, generator=generator))


def optimiser(weight, *, rule=None, lr=1e-2, weight_decay=0.1):
    group = ParameterGroup(
        name="g", parameters={"w": weight}, weight_decay=weight_decay, rule=rule or EightBitAdamWRule()
    )
    return MasterOptimizer([group], lr=lr)


def rows(run):
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in RunReader(run).metrics()]


@pytest.mark.parametrize("shape", [(64, 64), (333, 77), (4096,), (3, 50, 41)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_are_bit_for_bit_those_of_bitsandbytes(shape, weight_decay):
    import bitsandbytes

    mine, theirs = nn.Parameter(drawn(*shape)), nn.Parameter(drawn(*shape))
    opt = optimiser(mine, weight_decay=weight_decay)
    reference = bitsandbytes.optim.AdamW8bit([theirs], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=weight_decay)  # pyright: ignore[reportPrivateImportUsage]
    for step in range(4):
        mine.grad = drawn(*shape, seed=step, spread=2.0)
        theirs.grad = mine.grad.clone()
        opt.step()
        reference.step()
        kept, state = opt.tensors(), reference.state[theirs]
        assert torch.equal(mine, theirs)
        for name, other in (("exp_avg", "state1"), ("exp_avg_sq", "state2")):
            assert torch.equal(kept[f"{name}.w"], state[other])
            assert torch.equal(kept[f"{name}_absmax.w"], state[f"absmax{other[-1]}"])


def test_a_parameter_longer_than_a_chunk_is_updated_as_one_piece(monkeypatch):
    whole, parts = nn.Parameter(drawn(100, 77)), nn.Parameter(drawn(100, 77))
    one, two = optimiser(whole), optimiser(parts)
    for step in range(3):
        for weight, opt, chunk in ((whole, one, 1 << 18), (parts, two, 256)):
            monkeypatch.setattr("vitruvius.training.master.CHUNK", chunk)
            weight.grad = drawn(100, 77, seed=step)
            opt.step()
    assert torch.equal(whole, parts)
    assert all(torch.equal(tensor, two.tensors()[name]) for name, tensor in one.tensors().items())


def test_small_parameters_keep_fp32_moments_and_steps():
    mine, theirs = nn.Parameter(drawn(63, 65)), nn.Parameter(drawn(63, 65))
    assert mine.numel() == LEAST - 1
    one, two = optimiser(mine), optimiser(theirs, rule=AdamWRule())
    for step in range(3):
        mine.grad = drawn(63, 65, seed=step)
        theirs.grad = mine.grad.clone()
        one.step(clip=1.0)
        two.step(clip=1.0)
    assert torch.equal(mine, theirs)
    assert {str(tensor.dtype) for tensor in one.tensors().values()} == {"torch.int64", "torch.float32"}


def test_clipping_and_the_loss_scale_reach_the_moments():
    weights = [nn.Parameter(drawn(64, 64)) for _ in range(2)]
    plain, scaled = (optimiser(weight) for weight in weights)
    weights[0].grad = drawn(64, 64, seed=1)
    weights[1].grad = weights[0].grad * 1024
    plain.step(clip=0.5)
    scaled.apply(plain_norm := float(weights[0].grad.norm()), clip=0.5, loss_scale=1024.0)
    assert plain_norm > 0.5
    for name, tensor in plain.tensors().items():
        assert torch.equal(tensor, scaled.tensors()[name]) or torch.allclose(
            tensor.float(), scaled.tensors()[name].float(), rtol=1e-6
        )


@pytest.mark.parametrize("dtype", ["bf16", "fp32", "fp16"])
def test_the_bytes_of_a_parameter_are_as_stated(dtype, wide):
    """fp32 masters beside narrow weights, a byte for each of two moments, and 4 bytes for each block of 256 of both."""
    optimizer = make_optimizer(build(wide, dtype=dtype), TrainConfig(optimizer="adamw-8bit", dtype=dtype))
    kept = optimizer.tensors()
    large = 0
    for name, slot in optimizer.named_slots():
        moments = {key: tensor for key, tensor in kept.items() if key.endswith(f".{name}") and not key.startswith("ma")}
        count = slot.parameter.numel()
        if count < LEAST:
            assert sum(tensor.nbytes for tensor in moments.values()) == 8 * count
            continue
        large += 1
        assert sum(tensor.nbytes for tensor in moments.values()) == 2 * count + 2 * 4 * -(-count // 256)
        assert (f"master.{name}" in kept) == (dtype != "fp32")
    assert large


class StopAfter:
    def __init__(self, stop, step):
        self.stop, self.step = stop, step

    def row(self, row):
        if row["step"] == self.step:
            self.stop.ask(15)

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


@pytest.mark.parametrize("settings", [{"dtype": "bf16"}, {"dtype": "fp32"}, {"dtype": "fp16", "accumulate": 2}])
def test_a_resumed_run_ends_in_the_same_bits(settings, wide, run_of):
    settings = {"optimizer": "adamw-8bit", "steps": 6, "final_eval_batches": 1, **settings}
    straight, stop = run_of(wide, "straight", **settings), StopRequest()
    halved = run_of(wide, "halved", stop=stop, listener=StopAfter(stop, 3), **settings)
    assert resume(halved.run).status == "finished"
    paths = [RunReader(run.run).checkpoints()[-1].path for run in (straight, halved)]
    assert paths[0].joinpath("manifest.json").read_text() == paths[1].joinpath("manifest.json").read_text()
    saved = load_file(paths[0] / "optimizer.safetensors")
    assert {str(tensor.dtype) for name, tensor in saved.items() if name.startswith("exp_avg.layers.0.ffn.")} == {
        "torch.uint8"
    }
    assert rows(halved.run) == rows(straight.run)


@pytest.mark.slow
def test_what_is_learned_is_what_fp32_moments_learn(wide, run_of):
    """Stated bound: every loss of 40 updates within 0.03 nats, and the last validation within 0.02."""
    settings = {"steps": 40, "checkpoint_every": 40, "dtype": "fp32", "final_eval_batches": 4}
    full = run_of(wide, "full", **settings)
    eight = run_of(wide, "eight", optimizer="adamw-8bit", **settings)
    losses = [[row["loss"] for row in rows(each.run)] for each in (full, eight)]
    assert losses[0] != losses[1]
    assert losses[0][-1] < losses[0][0] - 1.0, "the run must have learned something"
    assert max(abs(one - other) for one, other in zip(*losses, strict=True)) < 0.03
    assert eight.val_loss == pytest.approx(full.val_loss, abs=0.02)


def test_paged_is_the_same_on_a_cpu_and_says_so(wide, run_of):
    notes = []

    class Listener(StopAfter):
        def note(self, text):
            notes.append(text)

    listener = Listener(StopRequest(), 99)
    settings = {"steps": 3, "final_eval_batches": 1}
    paged = run_of(wide, "paged", optimizer="adamw-8bit-paged", listener=listener, **settings)
    plain = run_of(wide, "plain", optimizer="adamw-8bit", **settings)
    assert any("no pages on a CPU" in note for note in notes)
    paths = [RunReader(run.run).checkpoints()[-1].path for run in (paged, plain)]
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert paths[0].joinpath(file).read_bytes() == paths[1].joinpath(file).read_bytes()
    assert list(notes_on(TrainConfig(optimizer="adamw-8bit-paged", device="cuda"))) == []


def test_a_missing_package_is_one_line_before_a_folder_is_made(wide, run_of, tmp_path, monkeypatch):
    found = importlib.util.find_spec

    def without(name, *rest):
        return None if name == "bitsandbytes" else found(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(UsageError, match="not installed: bitsandbytes") as refused:
        run_of(wide, "never", optimizer="adamw-8bit")
    assert "vitruvius[optim]" in refused.value.fix
    assert refused.value.where == "train.optimizer"
    assert not (tmp_path / "never").exists()


def test_blocks_that_processes_would_cut_are_refused():
    with pytest.raises(SpecError) as caught:
        from_plain({"optimizer": "adamw-8bit", "engine": {"kind": "fsdp2"}})
    (finding,) = caught.value.findings
    assert finding.path == "train.optimizer"
    assert "fsdp2 cuts them" in finding.what
    assert from_plain({"optimizer": "adamw-8bit", "engine": {"kind": "ddp"}}).optimizer == "adamw-8bit"
