"""The whole model at chosen lengths: what learned positions do as sequences get longer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from hashlib import sha256
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.checks.compare import EXACT, gap
from vitruvius.checks.decoding import decoded
from vitruvius.errors import UsageError
from vitruvius.nn import build
from vitruvius.runs.record import reproducibility_record
from vitruvius.spec import ensure
from vitruvius.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from vitruvius.nn import Model
    from vitruvius.spec import Architecture

LARGEST_BYTES = 2 * 2**30
"""fp64 weights of the largest architecture that is run at full size."""
_CHUNK, _STEPS = 64, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """One length: what the table did, and what the model computed."""

    length: int
    rows_before: int | None
    """Rows of the learned table in the fresh model; None without such a table."""
    rows_after: int | None
    """Rows after one pass over `length` tokens."""
    loss: float
    """Cross-entropy in nats of random targets under the fresh model."""
    last_row_learns: bool
    """Whether the last position's row (or the last token's) has a finite, non-zero gradient."""
    decode_gap: float
    """Greatest difference between cached decoding and the full pass, in fp64."""
    logits_sha256: str
    """Of the fp64 logits rounded to 9 decimals: equal on machines that agree to that."""
    seconds: float
    """Wall-clock time of all of it; not a promise."""

    @property
    def passed(self) -> bool:
        """Whether the model works at this length."""
        enough = self.rows_after is None or self.rows_after >= self.length
        return enough and self.last_row_learns and self.decode_gap <= EXACT

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        """One line."""
        rows = "no table" if self.rows_after is None else f"{self.rows_before:,} -> {self.rows_after:,} rows"
        mark = "✓" if self.passed else "✗"
        return f"{mark} {self.length:,} tokens: {rows}, loss {self.loss:.4f}, decode = full to {self.decode_gap:.1e}"


def at_length(architecture: Architecture, length: int, *, seed: int = 0) -> Growth:
    """Build the architecture at full size in fp64 and run it over `length` random tokens, full and cached.

    Raises PositionOverflowError past the limit of a learned table, UsageError when the model is too big for this.
    """
    weights = 8 * sum(tensor.count for tensor in ensure(architecture).tensors().values())
    if weights > LARGEST_BYTES:
        raise UsageError(
            f"{architecture.name} takes {format_bytes(weights)} in fp64, and lengths are run at full size",
            fix="try a tiny preset, or make it smaller with --set width=... and --set layers=...",
        )
    start = perf_counter()
    model = build(architecture, dtype=torch.float64, seed=seed)
    before = _rows(model)
    generator = torch.Generator().manual_seed(seed)
    tokens, targets = torch.randint(architecture.vocab_size, (2, 1, length), generator=generator)
    loss = model.loss(tokens, targets)
    loss.backward()
    learns = _learns(model, tokens, length)
    with torch.no_grad():
        logits = model(tokens)
        steps = min(_STEPS, length)
        chunks = [_CHUNK] * ((length - steps) // _CHUNK) + [(length - steps) % _CHUNK]
        cached = decoded(model, tokens, [size for size in chunks if size] + [1] * steps)
    return Growth(
        length=length,
        rows_before=before,
        rows_after=_rows(model),
        loss=loss.item(),
        last_row_learns=learns,
        decode_gap=gap(cached, logits),
        logits_sha256=sha256(logits.mul(1e9).round().to(torch.int64).numpy().tobytes()).hexdigest(),
        seconds=perf_counter() - start,
    )


def _rows(model: Model) -> int | None:
    table = _table(model)
    return None if table is None else table.shape[0]


def _table(model: Model) -> Tensor | None:
    """The learned table of positions as it is now, which growing replaces."""
    position = model.architecture.embedding.position
    table = None if position is None else position.learned_table(model.graph.scope)
    return None if table is None else model.get_parameter(f"embedding.position.{table.name}")


def _learns(model: Model, tokens: Tensor, length: int) -> bool:
    table = _table(model)
    weight, index = (model.embedding.tokens.weight, tokens[0, -1]) if table is None else (table, length - 1)
    row = None if weight.grad is None else weight.grad[index]
    return row is not None and bool(row.isfinite().all()) and bool(row.abs().max() > 0)


def records_page(architecture: Architecture, found: Sequence[Growth], *, spec: str, seed: int) -> str:
    """A markdown page with a reproducibility record for each length."""
    lengths = ",".join(str(run.length) for run in found)
    head = (
        f"# {architecture.name} at {', '.join(f'{run.length:,}' for run in found)} tokens\n\n"
        f"{architecture.description}\n\n"
        "Each record below comes from one command; run it again to hold your machine against this one.\n"
        "The model is built at full size in fp64, its loss and gradients are taken over one sequence of random tokens, "
        f"and the same tokens go through a decode cache ({_CHUNK} at a time, the last {_STEPS} one by one).\n"
    )
    records = [
        reproducibility_record(
            f"{architecture.name}, {run.length:,} tokens",
            command=["vitruvius", "check", spec, "--lengths", lengths, "--seed", str(seed)],
            data={"path": "none: random token ids from the seed", "tokens": run.length},
            observed={name: value for name, value in run.to_dict().items() if value is not None},
            constraints=[
                "The loss is that of a fresh model on random targets: it computes, and has learned nothing.",
                "Equal versions on one machine give equal bits; elsewhere expect the loss to agree to 1e-9.",
                "The hash agrees across machines unless a logit lies on a rounding boundary.",
                "Seconds depend on the machine and on what else runs there.",
            ],
            seeds={"weights and tokens": seed},
        ).to_markdown()
        for run in found
    ]
    return "\n".join([head, *records])
