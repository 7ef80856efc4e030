"""What a step keeps with low-rank adapters is what the bill says, held against torch's own account."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitruvius.nn import Signals, build
from vitruvius.sizing.adapters import adapter_counts
from vitruvius.sizing.levels import levels_of
from vitruvius.sizing.training import training_memory
from vitruvius.sizing.workload import Adapters, Workload
from vitruvius.spec import preset, shrink
from vitruvius.spec.costs import Work
from vitruvius.spec.rules import ensure
from vitruvius.spec.tracing.activity import steps

BATCH, TOKENS, RANK = 2, 64, 4


class Adapted(nn.Module):
    """y = W x + B (A x), W frozen: three plain operations, as PEFT has them."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(RANK, base.in_features, dtype=base.weight.dtype))
        self.up = nn.Parameter(torch.randn(base.out_features, RANK, dtype=base.weight.dtype))

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight

    def forward(self, x):
        return self.base(x) + F.linear(F.linear(x, self.down), self.up)


def adapt(model: nn.Module, targets: str) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(requires_grad=False)
    for path, module in list(model.named_modules()):
        inside = path.startswith("layers.") and (targets == "linear" or ".mixer." in path)
        if isinstance(module, nn.Linear) and inside:
            above, _, name = path.rpartition(".")
            setattr(model.get_submodule(above), name, Adapted(module))


def kept_by_autograd(architecture, targets: str) -> int:
    model = build(architecture, dtype="bf16")
    model.train()
    adapt(model, targets)
    ids = torch.randint(0, architecture.vocab_size, (BATCH, TOKENS))
    known = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            kept.setdefault(storage._cdata, storage.nbytes())
            alive.append(tensor)
        return tensor

    alive: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.loss(ids, ids.clone(), source=None, signals=Signals())
    return sum(kept.values())


@pytest.mark.parametrize("name", ["tiny-llama", "llama-3-8b", "gemma-2-2b", "gpt2", "smollm2-135m"])
@pytest.mark.parametrize("targets", ["linear", "attention"])
def test_adapters_keep_what_the_bill_says(name, targets):
    architecture = shrink(preset(name))
    graph, adapters = ensure(architecture), Adapters(rank=RANK, targets=targets)
    work = Workload(context=TOKENS, batch=BATCH, mode="lora", adapters=adapters)
    counts = adapter_counts(graph, adapters)
    said = training_memory(graph, work).saved + (counts.kept - counts.spared) * BATCH * TOKENS * 2
    # Autograd keeps no tables and ids, and nothing of the first layer's stream, of which no gradient is wanted.
    shared = levels_of(steps(graph, Work(batch=BATCH, tokens=TOKENS, weights="frozen"))).shared
    first = BATCH * TOKENS * (4 * architecture.width + 8) * 2
    spared = counts.spared * BATCH * TOKENS * 2  # the stated error: frozen maps that are joined keep their input too
    assert -spared <= said - kept_by_autograd(architecture, targets) <= shared + first


def test_fewer_targets_keep_less_and_no_less_than_is_spared():
    architecture = shrink(preset("llama-3-8b"))
    graph = ensure(architecture)
    every, some = (adapter_counts(graph, Adapters(rank=RANK, targets=t)) for t in ("linear", "attention"))
    measured = kept_by_autograd(architecture, "linear") - kept_by_autograd(architecture, "attention")
    ranks = (every.kept - some.kept) * BATCH * TOKENS * 2
    assert ranks < measured <= ranks + some.spared * BATCH * TOKENS * 2
