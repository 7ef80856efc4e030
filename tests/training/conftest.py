"""Small data and small architectures, so that a whole training run takes a fraction of a second."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vitruvius.data import PrepareOptions, prepare
from vitruvius.spec import preset
from vitruvius.training import TrainConfig, train

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.spec import Architecture
    from vitruvius.training import TrainResult

SMALL = ["width=32", "context=32", "vocab_size=320"]
DENSE = [*SMALL, "blocks.layer.mixer.heads=2", "blocks.layer.mixer.kv_heads=1", "blocks.layer.ffn.hidden=48"]
MIXTURE = [*SMALL, "blocks.dense.mixer.heads=2", "blocks.dense.mixer.kv_heads=1", "blocks.dense.ffn.hidden=48"]
MIXTURE += ["blocks.moe.ffn.experts=4", "blocks.moe.ffn.expert.hidden=24", "layers=dense moe"]
MIXTURE += ["blocks.dense.mixer.sees=causal & sliding(8)"]
LEARNED = [
    *SMALL,
    "blocks.layer.mixer.heads=2",
    "blocks.layer.ffn.hidden=48",
    "layers=layer",
    "embedding.position.size=32",
]


def write_texts(folder: Path, *, seed: int = 0, documents: int = 24) -> Path:
    """Documents of nonsense with some order in it, so that a model has something to learn."""
    folder.mkdir(parents=True)
    draw = random.Random(seed)
    nouns, verbs = ["mason", "arch", "beam", "stone", "river"], ["carries", "meets", "holds", "draws"]
    for number in range(documents):
        lines = (
            f"The {draw.choice(nouns)} {draw.choice(verbs)} the {draw.choice(nouns)} {draw.randrange(100)} times."
            for _ in range(draw.randrange(10, 40))
        )
        (folder / f"{number:03}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data: vocabulary 300, about 10,000 tokens, a fifth of the documents held out."""
    folder = tmp_path_factory.mktemp("training")
    sources = write_texts(folder / "texts")
    prepare([sources], folder / "data", PrepareOptions(vocab=300, held_out=0.2))
    return folder / "data"


@pytest.fixture(scope="session")
def other_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data of the same shape and another content."""
    folder = tmp_path_factory.mktemp("other")
    prepare([write_texts(folder / "texts", seed=1)], folder / "data", PrepareOptions(vocab=300, held_out=0.2))
    return folder / "data"


@pytest.fixture(scope="session")
def dense() -> Architecture:
    """Two dense layers of width 32."""
    return preset("tiny-llama", overrides=[*DENSE, "layers=layer*2"])


@pytest.fixture(scope="session")
def mixture() -> Architecture:
    """A dense layer with a sliding window and a mixture of four experts."""
    return preset("tiny-llama-moe", overrides=MIXTURE)


@pytest.fixture(scope="session")
def learned() -> Architecture:
    """One layer under a table of learned positions."""
    return preset("tiny-gpt2", overrides=LEARNED)


@pytest.fixture
def run_of(data: Path, tmp_path: Path, one_thread: None) -> Callable[..., TrainResult]:
    """Train an architecture with few settings into a folder of the test's own: `run_of(dense, "first", steps=6)`."""

    def start(architecture: Architecture, name: str = "run", *, data: Path = data, **settings: Any) -> TrainResult:
        known = {key: settings.pop(key) for key in ("stop", "listener") if key in settings}
        defaults = {"steps": 6, "batch": 4, "threads": 1, "checkpoint_every": 2, "eval_every": 0, "eval_batches": 1}
        config = TrainConfig(**{**defaults, **settings})
        return train(architecture, data=data, out=tmp_path / name, config=config, **known)

    return start


@pytest.fixture(scope="module")
def asked(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """What the module's `SCRIPT`, which starts processes, prints as JSON; each is asked once: `asked("resumed")`."""
    said: dict[tuple[str, ...], Any] = {}

    def ask(*words: str) -> Any:
        if words not in said:
            folder = tmp_path_factory.mktemp("-".join(("asked", *words))[:40])
            command = [sys.executable, str(request.module.SCRIPT), str(data), str(folder), *words]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
            assert done.returncode == 0, done.stderr
            said[words] = json.loads(done.stdout)
        return said[words]

    return ask
