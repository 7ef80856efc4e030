"""Importing this registers every kind that comes with Vitruvius."""

from vitruvius.spec import heads, inits, norms
from vitruvius.spec.ffn import mlp, moe
from vitruvius.spec.mixers import attention
from vitruvius.spec.positions import alibi, rope, tables
from vitruvius.spec.routers import softmax

__all__ = ["alibi", "attention", "heads", "inits", "mlp", "moe", "norms", "rope", "softmax", "tables"]
