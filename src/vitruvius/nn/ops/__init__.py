"""Numerical primitives of the model: pure functions on tensors, some with a hand-written backward.

Each works in fp64, fp32 and bf16 and keeps its statistics in at least fp32. Nothing here knows about specs, modules or
patterns. None is specialised to a shape; block sizes fit a core's cache and are named at the top of each file.
"""

from vitruvius.nn.ops.attention import blockwise_attention, causal_blocks
from vitruvius.nn.ops.cross_entropy import LossParts, linear_cross_entropy
from vitruvius.nn.ops.gated import gated_activation
from vitruvius.nn.ops.lookup import embedding
from vitruvius.nn.ops.memory import give_freed_memory_back, hold_reserve, keep_freed_memory
from vitruvius.nn.ops.norm import forked_rms_norm, layer_norm, rms_norm
from vitruvius.nn.ops.projection import joint_linear
from vitruvius.nn.ops.query_blocks import QueryBlock
from vitruvius.nn.ops.rotary import apply_rotary

__all__ = [
    "LossParts",
    "QueryBlock",
    "apply_rotary",
    "blockwise_attention",
    "causal_blocks",
    "embedding",
    "forked_rms_norm",
    "gated_activation",
    "give_freed_memory_back",
    "hold_reserve",
    "joint_linear",
    "keep_freed_memory",
    "layer_norm",
    "linear_cross_entropy",
    "rms_norm",
]
