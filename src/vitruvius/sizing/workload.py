"""What a model is to do when its bill is asked for: context, batch, formats, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vitruvius.spec.recomputing import Checkpointing

Mode = Literal["inference", "train", "lora", "qlora"]
Loss = Literal["chunked", "whole"]
Kernel = Literal["auto", "full"]
Optimizer = Literal["adamw", "adamw-8bit", "muon", "adamw-bf16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """Low-rank adapters (Hu et al., 2021): next to each chosen map W [out, in], A [rank, in] and B [out, rank]."""

    rank: int = 16
    targets: Literal["linear", "attention"] = "linear"
    """`linear`: every map inside layers but routers; `attention`: those of mixers alone."""
    experts: Literal["each", "none"] = "each"
    """Whether each expert of a mixture has adapters of its own, or its experts have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One question about an architecture. `context` None stands for the architecture's own."""

    context: int | None = None
    batch: int = 1
    """Sequences at a time; of training, of one micro-batch on one device."""
    mode: Mode = "inference"
    weights: str = "bf16"
    """Name of a weight format (`sizing.formats`)."""
    cache: str | None = None
    """Plain format of keys and values; that of computing when not given."""
    optimizer: Optimizer = "adamw"
    """adamw: fp32 masters and moments (12 bytes a parameter); adamw-8bit: fp32 masters, 8-bit moments; muon: fp32
    masters and one momentum for matrices, AdamW for the rest; adamw-bf16: moments in the model's format, no masters."""
    checkpointing: Checkpointing = "none"
    """`layers`: only the stream between layers is kept, and each layer computed again in the backward pass;
    `layers/N`: the first of every N layers."""
    loss: Loss = "chunked"
    """`chunked`: logits a few at a time (what `vitruvius train` does); `whole`: all at once, as most trainers do."""
    attention: Kernel = "auto"
    """`auto`: kernels that are linear in memory; `full`: the matrix of scores is held."""
    accumulate: int = 1
    """Micro-batches of one update; above 1, fp32 sums of gradients are kept."""
    average: Literal["none", "fp32"] = "none"
    """`fp32`: a moving average of the weights is kept beside them."""
    z_loss: Literal["none", "added"] = "none"
    """Whether the squared log-sum-exp of the logits is added to the loss."""
    adapters: Adapters = Adapters()
    """Of the modes lora and qlora."""
