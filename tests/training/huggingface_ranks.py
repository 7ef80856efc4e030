"""Hugging Face's Trainer in one process and in two; prints JSON.

python huggingface_ranks.py DATA FOLDER
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(TRANSFORMERS_VERBOSITY="error", HF_HUB_OFFLINE="1")

import torch
from ranks import in_ranks
from test_huggingface import MIXTURE, losses_of, trainer_of

from vitruvius.nn.weights import weights_of
from vitruvius.spec import read_text
from vitruvius.training import TrainConfig
from vitruvius.training.checking import ensure

PIECES = {
    "max_steps": 4,
    "order": "training",
    "train_sampling_strategy": "sequential",
    "activation_checkpointing": True,
}


def trained(data: Path, folder: Path, *, resume: str | None = None, **settings: Any) -> dict[str, Any]:
    """Losses, the loss over held-out rows, and a digest of the weights, that of the router's bias among them."""
    torch.set_num_threads(1)
    spec = read_text(MIXTURE).architecture
    config = ensure(TrainConfig(batch=4), spec)
    trainer = trainer_of(spec, config, data, folder, **PIECES, **settings)
    trainer.train(resume_from_checkpoint=resume)
    model = trainer.model.model
    weights = {**weights_of(model), **dict(model.named_buffers())}
    found = {
        "losses": losses_of(trainer),
        "eval": trainer.evaluate()["eval_loss"],
        "weights": {name: float(tensor.double().abs().sum()) for name, tensor in weights.items()},
    }
    trainer.save_model()
    return found


def main(data: Path, folder: Path) -> dict[str, Any]:
    """One process, two with a share of each batch, two that go on in the middle, and two that ask for FSDP."""
    two = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "ddp_backend": "gloo"}
    saved = {**two, "save_strategy": "steps", "save_steps": 2}
    newest = str(folder / "two" / "checkpoint-2")
    works = {
        "two": lambda _: trained(data, folder / "two", **saved),
        "resumed": lambda _: trained(data, folder / "two", resume=newest, **saved),
        "fsdp": lambda _: trained(data, folder / "fsdp", fsdp="full_shard", **two),
    }
    found: dict[str, Any] = {name: in_ranks(work, folder / f"{name}-ends") for name, work in works.items()}
    found["files"] = sorted(path.name for path in (folder / "two").iterdir() if path.is_file())
    # Last: accelerate keeps, for good, how many processes there are.
    found["one"] = trained(data, folder / "one")
    return found


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # the Trainer prints rows
        told = main(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps(told), flush=True)
