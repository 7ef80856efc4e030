"""A parameter tensor where it stands: in which part of the model, and which of its axes grow with the width.

What a parametrisation (`init`) scales by width depends on nothing else. A map between two axes that grow is *hidden*;
one from an axis that grows to one that does not is a *readout* (logits, routers, gates of a fixed number); everything
else is a vector as far as width is concerned: embeddings, gains, biases, convolutions. Source: Yang et al., "Tensor
Programs V", 2022, tables 3 and 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vitruvius.spec.node import TensorSpec

Part = Literal["embedding", "layer", "final_norm", "head"]
"""Where a tensor stands. `layer` is every block of every stack, and what joins a block to the stream."""

WidthClass = Literal["hidden", "readout", "vector"]
"""How a tensor takes part when the width grows."""

_LINEAR = {"matrix", "output", "router"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One parameter tensor of an architecture, as a parametrisation sees it."""

    tensor: TensorSpec
    part: Part
    grows: tuple[bool, ...]
    """Which axes grow when the architecture is widened."""

    @property
    def width_class(self) -> WidthClass:
        """Hidden, readout or vector."""
        if self.tensor.role not in _LINEAR or len(self.grows) < 2:
            return "vector"
        fan_out, fan_in = self.grows[-2:]
        if not fan_in:
            return "vector"
        return "hidden" if fan_out else "readout"

    @property
    def is_head_readout(self) -> bool:
        """Whether it makes the logits, which the model multiplies by the init's `logit_scale`."""
        return self.part == "head" and self.width_class == "readout"

    @property
    def is_hidden_matrix(self) -> bool:
        """Whether it is a matrix, or a stack of them, inside a layer: what Muon orthogonalises.

        Routers are not, nor are convolutions, nor maps from a number of channels that does not grow.
        """
        return self.part == "layer" and self.tensor.role in {"matrix", "output"} and self.width_class != "vector"
