"""Importing this registers every kind that comes with Vitruvius."""

from vitruvius.spec import cross, heads, inits, norms, parametrisations
from vitruvius.spec.ffn import mlp, moe
from vitruvius.spec.mixers import attention, differential, mla
from vitruvius.spec.positions import alibi, gated, rope, scalings, t5, tables
from vitruvius.spec.routers import expert_choice, hashed, sigmoid, softmax

__all__ = [
    "alibi",
    "attention",
    "cross",
    "differential",
    "expert_choice",
    "gated",
    "hashed",
    "heads",
    "inits",
    "mla",
    "mlp",
    "moe",
    "norms",
    "parametrisations",
    "rope",
    "scalings",
    "sigmoid",
    "softmax",
    "t5",
    "tables",
]
