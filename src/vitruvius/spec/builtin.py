"""Importing this registers every kind that comes with Vitruvius."""

from vitruvius.spec import cross, heads, inits, norms, parametrisations
from vitruvius.spec.ffn import mlp, moe
from vitruvius.spec.mixers import attention, differential, mla
from vitruvius.spec.positions import alibi, cope, cumulative_rope, fox, gated, path, rope, scalings, t5, tables
from vitruvius.spec.routers import expert_choice, hashed, sigmoid, softmax

__all__ = [
    "alibi",
    "attention",
    "cope",
    "cross",
    "cumulative_rope",
    "differential",
    "expert_choice",
    "fox",
    "gated",
    "hashed",
    "heads",
    "inits",
    "mla",
    "mlp",
    "moe",
    "norms",
    "parametrisations",
    "path",
    "rope",
    "scalings",
    "sigmoid",
    "softmax",
    "t5",
    "tables",
]
