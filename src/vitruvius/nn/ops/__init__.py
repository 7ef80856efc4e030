"""Numerical primitives of the model: pure functions on tensors, some with a hand-written backward.

Each works in fp64, fp32 and bf16, keeps its statistics in at least fp32, and saves no more for the backward
pass than its inputs and one number per row. Nothing here knows about specs, modules or patterns.
"""

from vitruvius.nn.ops.attention import QueryBlock, blockwise_attention, causal_blocks
from vitruvius.nn.ops.cross_entropy import linear_cross_entropy
from vitruvius.nn.ops.lookup import embedding
from vitruvius.nn.ops.gated import gated_activation, gated_ffn
from vitruvius.nn.ops.projection import joint_linear, linear
from vitruvius.nn.ops.memory import keep_freed_memory
from vitruvius.nn.ops.norm import layer_norm, rms_norm
from vitruvius.nn.ops.rotary import apply_rotary

__all__ = [
    "QueryBlock",
    "apply_rotary",
    "blockwise_attention",
    "causal_blocks",
    "embedding",
    "gated_activation",
    "gated_ffn",
    "joint_linear",
    "keep_freed_memory",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "rms_norm",
]
