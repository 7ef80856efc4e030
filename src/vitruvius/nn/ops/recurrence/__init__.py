"""Linear-time recurrences: chunked forms to train with, single steps to decode with, and loops to hold both against."""

from vitruvius.nn.ops.recurrence.conv import short_conv, short_conv_matmul
from vitruvius.nn.ops.recurrence.gated import clear_padding, diagonal_rank_one, gated_delta
from vitruvius.nn.ops.recurrence.selective import selective_scan, selective_scan_step, selective_scan_steps
from vitruvius.nn.ops.recurrence.steps import (
    diagonal_rank_one_step,
    diagonal_rank_one_steps,
    gated_delta_step,
    gated_delta_steps,
)

__all__ = [
    "clear_padding",
    "diagonal_rank_one",
    "diagonal_rank_one_step",
    "diagonal_rank_one_steps",
    "gated_delta",
    "gated_delta_step",
    "gated_delta_steps",
    "selective_scan",
    "selective_scan_step",
    "selective_scan_steps",
    "short_conv",
    "short_conv_matmul",
]
