"""Number formats of weights: what is stored how, tensor by tensor, and how many bytes that takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from vitruvius.spec.costs import StateSpec, TensorSpec

BYTES_PER_VALUE = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}
"""Plain number formats: every number by itself, in whole bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How the weights of a model are stored: its linear maps in one way, everything else in another."""

    name: str
    bits: int
    """Of each number of a quantised map, or of every number where nothing is quantised."""
    block: int = 0
    """Numbers along the input that share one scale; 0 where there are no scales."""
    scale_bits: int = 0
    """Of each scale, and of the zero point or minimum where there is one."""
    super_block: int = 0
    """Scales that share one scale of their own; 0 where scales are plain numbers."""
    super_bits: int = 0
    per: Literal["nothing", "row", "block"] = "nothing"
    """What has a scale of its own: an output row, or a block of numbers."""
    rest: str = "bf16"
    """Plain format of what is not quantised (embeddings, head, norms, biases, routers), and of computing."""
    about: str = ""
    source: str = ""

    @property
    def is_quantised(self) -> bool:
        """Whether linear maps are stored in another format than the rest."""
        return self.per != "nothing"

    def bytes_of(self, tensor: TensorSpec, *, quantised: bool) -> int:
        """Bytes of one tensor, whole bytes for each of its parts (numbers, scales, scales of scales)."""
        if not (quantised and self.is_quantised):
            return tensor.count * BYTES_PER_VALUE[self.rest]
        payload = -(-tensor.count * self.bits // 8)
        if self.per == "row":
            return payload + tensor.count // tensor.shape[-1] * self.scale_bits // 8
        scales = -(-tensor.count // self.block)
        extra = -(-scales // self.super_block) * self.super_bits // 8 if self.super_block else 0
        return payload + scales * self.scale_bits // 8 + extra


_BITSANDBYTES = "bitsandbytes: absmax per block of 64, itself in 8 bits per block of 256 (Dettmers et al., 2023)"

FORMATS: dict[str, WeightFormat] = {
    form.name: form
    for form in (
        *(
            WeightFormat(name=name, bits=8 * count, rest=name, about="every number alike")
            for name, count in BYTES_PER_VALUE.items()
        ),
        WeightFormat(
            name="fp8",
            bits=8,
            per="row",
            scale_bits=32,
            about="8-bit floats, a scale for each row",
            source="Micikevicius et al., 2022; an fp32 scale for each output channel, as vLLM and torchao keep",
        ),
        WeightFormat(
            name="int8",
            bits=8,
            per="row",
            scale_bits=32,
            about="8-bit integers, a scale for each row",
            source="LLM.int8() (Dettmers et al., 2022); an fp32 scale for each output channel",
        ),
        WeightFormat(
            name="nf4",
            bits=4,
            per="block",
            block=64,
            scale_bits=8,
            super_block=256,
            super_bits=32,
            about="4-bit normal floats with double quantisation",
            source=_BITSANDBYTES,
        ),
        WeightFormat(
            name="int4",
            bits=4,
            per="block",
            block=128,
            scale_bits=16 + 4,
            about="4-bit integers in groups of 128 with zero points",
            source="GPTQ and AWQ as commonly released: a 16-bit scale and a 4-bit zero point for each group",
        ),
    )
}
"""Every format by name. In quantised ones the linear maps inside layers are quantised, experts included; embedding
tables, the head, norms, biases and routers stay in `rest`, as bitsandbytes, torchao and vLLM leave them by default."""


def weight_format(name: str) -> WeightFormat:
    """The format of that name. Raises UsageError naming those there are."""
    if name not in FORMATS:
        raise UsageError(f"there is no weight format {name!r}", fix=f"use one of {', '.join(FORMATS)}")
    return FORMATS[name]


def bytes_per_value(dtype: str) -> int:
    """Bytes of one number of a plain format. Raises UsageError naming the formats there are."""
    if dtype not in BYTES_PER_VALUE:
        raise UsageError(f"there is no number format {dtype!r}", fix=f"use one of {', '.join(BYTES_PER_VALUE)}")
    return BYTES_PER_VALUE[dtype]


def state_tensor_bytes(spec: StateSpec, dtype: str) -> int:
    """Bytes of one tensor of decode state for one sequence, when keys and values are kept in a plain format."""
    at_least = 4 if spec.dtype == "fp32" else 0
    return spec.count * max(bytes_per_value(dtype), at_least)


MOST_TAPS = 8
"""Numbers along the last axis up to which a map is a convolution's taps, which nobody quantises or adapts."""


def is_quantisable(name: str, tensor: TensorSpec) -> bool:
    """Whether a tensor (by its name in the built module) is quantised where its format quantises."""
    is_map = tensor.role in {"matrix", "output"} and len(tensor.shape) > 1 and tensor.shape[-1] > MOST_TAPS
    return is_map and ".layers." in f".{name}"
