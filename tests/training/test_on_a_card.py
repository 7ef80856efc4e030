"""Training on CUDA, on a card that is pretended: nothing mixes devices, and the host waits no more than it must."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pretended_card import compiled

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPT = Path(__file__).with_name("pretended_card.py")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What makes torch believe in a card."""
    compiler = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C++ compiler on Linux, which torch.compile and this test need")
    return compiled(tmp_path_factory.mktemp("card"), compiler)


@pytest.fixture
def run(library: Path, data: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A run on the CPU and on the pretended card."""

    def trained(**settings: Any) -> dict[str, Any]:
        shutil.copytree(data, tmp_path / "data")
        command = [sys.executable, str(SCRIPT), str(library), str(tmp_path), json.dumps(settings)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return trained


def test_a_run_of_a_mixture_on_a_card_learns_what_it_learns_on_a_cpu(run):
    found = run()
    assert found["cuda"]["status"] == found["cpu"]["status"] == "finished"
    # Another backend rounds elsewhere, and in bf16.
    assert found["cuda"]["loss"] == pytest.approx(found["cpu"]["loss"], abs=0.05)
    assert found["cuda"]["val_loss"] == pytest.approx(found["cpu"]["val_loss"], abs=0.05)


def test_the_host_does_not_wait_in_the_middle_of_an_update(run):
    waits = run(eval_every=0)["waits"]
    # Once at the end of a forward pass and once for the norm it must: whether to go on depends on it.
    assert any("math.isfinite" in where for where in waits)
    assert waits["training/master.py: norm = float(torch.linalg.vector_norm(torch.stack(norms)))"] == 4
    within = {"nn/ops/cross_entropy.py", "nn/ffn/moe.py", "training/eight_bit.py", "nn/ops/grouped.py"}
    assert not [where for where in waits if where.split(":")[0] in within], waits
    # What routers gather moves to the device once, in the first update.
    assert sum(count for where, count in waits.items() if where.startswith("nn/routers")) <= 1
    assert [where for where in waits if where.startswith("training/master.py")] == [
        "training/master.py: norm = float(torch.linalg.vector_norm(torch.stack(norms)))"
    ]


def test_every_part_of_an_update_keeps_to_the_card(run):
    found = run(accumulate=2, checkpointing="layers", ema=0.9, z_loss=1e-4, optimizer="muon", packing="best-fit")
    assert found["cuda"]["status"] == "finished"
    assert found["cuda"]["loss"] == pytest.approx(found["cpu"]["loss"], abs=0.05)
