"""Predicted bytes of a fully sharded rank against FSDP2 itself, two processes over gloo."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from vitruvius.sizing.parallel.ranks import Shelf, Storing
from vitruvius.spec import preset, resolve

if TYPE_CHECKING:
    from pathlib import Path

RANK = """
import json, sys
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.device_mesh import init_device_mesh
import vitruvius as vt
from vitruvius.spec import preset

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
torch.manual_seed(0)
model = vt.build(preset(sys.argv[3], overrides=["vocab_size=1023"])).float()
for layer in model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
ids = torch.randint(0, 1023, (1, 16))
logits = model(ids)
logits = getattr(logits, "logits", logits)
logits.float().square().mean().backward()
optimizer.step()

def size(tensor):
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.numel() * local.element_size()

found = {
    "weights": sum(size(p) for p in model.parameters()),
    "gradients": sum(size(p.grad) for p in model.parameters() if p.grad is not None),
    "optimizer": sum(size(v) for s in optimizer.state.values() for k, v in s.items() if k.startswith("exp_avg")),
}
with open(f"{folder}/rank{rank}.json", "w") as file:
    json.dump(found, file)
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-llama"])
def test_a_rank_of_fsdp2_stores_what_is_predicted(name: str, tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    ranks = [
        subprocess.Popen([sys.executable, str(script), str(rank), str(tmp_path), name], stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in ranks:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said.decode()[-2000:]
    measured = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]

    graph = resolve(preset(name, overrides=["vocab_size=1023"]))
    how = Storing(dense=2, experts=2, zero=3, optimizer="adamw", value_bytes=4, sums="none")
    predicted = Shelf(graph, how, (), tensor=1, expert=1).stage(graph.layers, is_first=True, is_last=True)
    assert measured[0]["weights"] == predicted.weights
    assert measured[0]["gradients"] == predicted.gradients
    assert measured[0]["optimizer"] == predicted.optimizer
    # The odd row is on the first rank; both together are the whole model.
    assert sum(m["weights"] for m in measured) == 4 * sum(t.count for t in graph.tensors().values())
