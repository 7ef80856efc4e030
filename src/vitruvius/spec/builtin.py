"""Importing this registers every kind that comes with Vitruvius."""

from vitruvius.spec import cross, heads, inits, norms, parametrisations
from vitruvius.spec.ffn import mlp, moe
from vitruvius.spec.mixers import (
    attention,
    deltanet,
    differential,
    gla,
    kda,
    mamba,
    mamba2,
    mla,
    retnet,
    rwkv7,
    short_conv,
)
from vitruvius.spec.positions import alibi, cope, cumulative_rope, fox, gated, path, rope, scalings, t5, tables
from vitruvius.spec.routers import expert_choice, hashed, sigmoid, softmax

__all__ = [
    "alibi",
    "attention",
    "cope",
    "cross",
    "cumulative_rope",
    "deltanet",
    "differential",
    "expert_choice",
    "fox",
    "gated",
    "gla",
    "hashed",
    "heads",
    "inits",
    "kda",
    "mamba",
    "mamba2",
    "mla",
    "mlp",
    "moe",
    "norms",
    "parametrisations",
    "path",
    "retnet",
    "rope",
    "rwkv7",
    "scalings",
    "short_conv",
    "sigmoid",
    "softmax",
    "t5",
    "tables",
]
