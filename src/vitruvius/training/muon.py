"""Muon: momentum whose matrices are made orthogonal before they are added to the weights.

Sources: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024 (the iteration and its
coefficients); Liu et al., "Muon is scalable for LLM training", 2025 (weight decay, and updates as large as AdamW's).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from vitruvius.training.master import zeros_for

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.training.master import Slot, Step

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic a x + b x^3 + c x^5 that each iteration applies to the singular values."""
_LEAST_NORM = 1e-7

MuonScale = Literal["match-rms-adamw", "original"]
MomentumKind = Literal["nesterov", "heavy-ball"]


def matched_to_adamw(rows: int, columns: int) -> float:
    """0.2 sqrt(max(rows, columns)): the update has the root mean square 0.2 of AdamW's, whatever the shape."""
    return 0.2 * sqrt(max(rows, columns))


def original(rows: int, columns: int) -> float:
    """sqrt(max(1, rows / columns)): the update maps unit vectors to vectors that grow as their length does."""
    return sqrt(max(1.0, rows / columns))


SCALES = {"match-rms-adamw": matched_to_adamw, "original": original}
"""Name -> what an orthogonal update of a shape is multiplied by."""

WIDTH_POWERS: dict[MuonScale, float] = {"match-rms-adamw": 0.5, "original": 0.0}
"""Scale -> power of Adam's learning-rate factor that it needs where an init (muP) scales that with the width.

Adam's updates add up along the stream, so that muP divides their learning rate by m. An orthogonal update does not: its
effect on a unit vector is the scale itself, which is sqrt(width) for the one and constant for the other.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MuonRule:
    """Decoupled weight decay, and a step along the orthogonal factor of the momentum; for stacks of matrices too."""

    state_names: ClassVar[tuple[str, ...]] = ("momentum",)

    momentum: float = 0.95
    """Decay of the averaged gradient per step."""
    kind: MomentumKind = "nesterov"
    """`nesterov` looks one step of momentum ahead."""
    iterations: int = 5
    """Newton-Schulz iterations."""
    scale: MuonScale = "match-rms-adamw"
    """What the orthogonal update is multiplied by."""
    dtype: torch.dtype = torch.bfloat16
    """Number format of the iterations."""

    def new_state(self, master: Tensor) -> dict[str, Tensor]:
        """A momentum of zeros."""
        return zeros_for(self.state_names, master)

    def update(self, slot: Slot, grad: Tensor, step: Step) -> None:
        """Average the gradient in fp32, orthogonalise each matrix, move the master."""
        wide = grad.to(torch.float32) * step.clip
        average = slot.state["momentum"].lerp_(wide, 1.0 - self.momentum)
        direction = wide.lerp(average, self.momentum) if self.kind == "nesterov" else average
        # A part of a matrix has another orthogonal factor: processes that share one gather it.
        whole = direction if slot.shared is None else slot.shared.whole(direction)
        rows, columns = whole.shape[-2:]
        scale = SCALES[self.scale](rows, columns)
        moved = orthogonal(whole, iterations=self.iterations, dtype=self.dtype)
        slot.master.mul_(1.0 - step.lr * slot.group.weight_decay)
        slot.master.add_(moved if slot.shared is None else slot.shared.mine(moved), alpha=-step.lr * scale)
        if not slot.is_own_master:
            slot.weight.copy_(slot.master)


def orthogonal(matrices: Tensor, *, iterations: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The nearest semi-orthogonal matrix of each [..., rows, columns], roughly: fp32, of the same shape.

    Newton-Schulz iterations drive singular values into about 0.7 to 1.2, not to one: the coefficients are chosen for
    speed near zero. A matrix of zeros stays zero.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    # In fp32: squares of small gradients vanish in bf16's sums.
    x = (x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(_LEAST_NORM)).to(dtype)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.mT if tall else x).to(torch.float32)
