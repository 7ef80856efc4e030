"""Two processes that train together see the load of both: the same bias, and the balance loss of the whole batch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
import torch
from vitruvius.nn import Signals
from vitruvius.nn.place import Place
from vitruvius.nn.registry import Factory, make_router
from vitruvius.nn.updates import after_step
from vitruvius.spec.ffn.mlp import SwiGLU
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.routers.sigmoid import SigmoidRouter

torch.set_num_threads(1)
rank, world, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if world > 1:
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(store, world), rank=rank, world_size=world
    )
spec = Moe(experts=4, top_k=1, expert=SwiGLU(hidden=8), router=SigmoidRouter(bias_step=0.125, balance_loss=0.5))
router = make_router(spec, 8, Factory(device=torch.device("cpu"), dtype=torch.float64)).train()
with torch.no_grad():
    router.weight.copy_(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)))
x = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
chosen = torch.tensor([[0], [0], [1], [0], [0], [2], [0], [1]])
if world > 1:
    x, chosen = x[:, rank * 4 : rank * 4 + 4], chosen[rank * 4 : rank * 4 + 4]
after_step(router)
signals = Signals(replay=iter([chosen]))
router(x, Place(positions=torch.arange(x.shape[1]), signals=signals))
after_step(router)
print(json.dumps({"bias": router.bias.tolist(), "loss": signals.losses[0].item()}))
if world > 1:
    torch.distributed.destroy_process_group()
"""


def start(rank, world, store):
    argv = [sys.executable, "-c", PROGRAM, str(rank), str(world), str(store)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def result(process):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return json.loads(out)


@pytest.mark.slow
def test_processes_balance_the_batch_that_they_share(tmp_path):
    import torch

    if not torch.distributed.is_available():
        pytest.skip("this torch cannot train in several processes")
    alone, *together = [start(0, 1, tmp_path / "one"), *(start(rank, 2, tmp_path / "two") for rank in range(2))]
    whole, parts = result(alone), [result(process) for process in together]
    assert whole["bias"] == [-0.125, 0.0, 0.125, 0.125]
    assert [part["bias"] for part in parts] == [whole["bias"]] * 2
    # Each process differentiates its own half; gradients, like these losses, are averaged.
    assert sum(part["loss"] for part in parts) / 2 == pytest.approx(whole["loss"], rel=1e-9)
    assert parts[0]["loss"] != pytest.approx(parts[1]["loss"], rel=1e-3)
