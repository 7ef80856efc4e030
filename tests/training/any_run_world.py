"""The world of runs that `any_run` draws: data to read, faults in some of it, and a death before a file operation."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import sys
from typing import TYPE_CHECKING, Any

import torch
from any_run import SOURCES, Fault  # pyright: ignore[reportMissingImports]
from killing import FILE_EVENTS  # pyright: ignore[reportMissingImports]

from conftest import write_texts  # pyright: ignore[reportMissingImports]
from vitruvius.data import PrepareOptions, prepare
from vitruvius.data.cleaning.recipe import read_recipe
from vitruvius.data.options import Source
from vitruvius.data.pairs.options import PairOptions
from vitruvius.data.pairs.preparing import prepare_pairs
from vitruvius.nn import Model
from vitruvius.training.progress import Silent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOOKS = """
import numpy as np


def digits(sample, draw, *, rate=0.2):
    return {"inputs": np.where(draw.random(len(sample.inputs)) < rate, 317, sample.inputs)}
"""


def corpora(folder: Path) -> dict[str, Path]:
    """Text of two sources and pairs, both of vocabulary 300; made once."""
    found = {"text": folder / "text" / "data", "pairs": folder / "pairs" / "data"}
    if not found["pairs"].exists():
        shutil.rmtree(folder, ignore_errors=True)
        parts = [
            Source(
                name=name, inputs=(str(write_texts(folder / "text" / name, seed=number)),), recipe=read_recipe("plain")
            )
            for number, name in enumerate(SOURCES)
        ]
        prepare([], found["text"], PrepareOptions(vocab=300, held_out=0.2, sources=tuple(parts)))
        draw, pairs = random.Random(1), folder / "in.jsonl"
        words = [f"{a}{b}" for a in "bdfg" for b in ("ox", "um", "ane", "ilt")]
        lines = [
            {"source": f"{'now ' * draw.randrange(4)}please {verb} the {noun}", "target": f"{verb}_{noun}"}
            for verb in ("open", "close", "read", "write")
            for noun in words
        ]
        pairs.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        prepare_pairs([pairs], found["pairs"], PairOptions(vocab=300, held_out=0.15))
        (folder / "hooks.py").write_text(HOOKS, encoding="utf-8")
    return found


class Faults:
    """Spoils the loss of pieces whose tokens say so, in training alone."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        original = Model.loss

        def spoiled(model: Model, tokens: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
            fault = self.fault
            loss = original(model, tokens, *args, **named)
            if fault is None or named.get("per_token") or not model.training:
                return loss
            if int(tokens.sum()) % fault.modulus != fault.remainder:
                return loss
            if fault.kind == "memory":
                if len(tokens) > 1:
                    raise torch.OutOfMemoryError("Tried to allocate 1.00 GiB")
                return loss
            return loss * (math.nan if fault.kind == "nan" else 1e3)

        Model.loss = spoiled


class FileWatch:
    """Counts file operations in a run folder, and ends the process before one of them when asked to."""

    def __init__(self) -> None:
        self.folder, self.kill_at, self.seen = "", -1, 0
        sys.addaudithook(self._hook)

    def start(self, folder: Path, *, kill_at: int = -1) -> None:
        self.folder, self.kill_at, self.seen = str(folder), kill_at, 0

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.folder and event in FILE_EVENTS and self.folder in str(arguments[0]):
            if self.seen == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.seen += 1


class Told(Silent):  # pyright: ignore[reportGeneralTypeIssues]
    """Keeps notes, and calls `at` before the row with that number is told on."""

    def __init__(self, number: int = -1, at: Callable[[], object] = lambda: None) -> None:
        self.notes: list[str] = []
        self.left, self.at = number, at

    def note(self, text: str) -> None:
        self.notes.append(text)

    def row(self, row: dict[str, Any]) -> None:
        self.left -= 1
        if self.left == 0:
            self.at()
