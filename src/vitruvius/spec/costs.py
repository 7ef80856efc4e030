"""What a component says of its size: parameter tensors, decode state, floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

Role = Literal["matrix", "output", "router", "gain", "bias", "table"]
"""What a tensor is for, which decides how it is initialised and whether it is decayed:

matrix   a linear map applied to every token            output   the last map before the residual stream
router   the map from a token to its experts' scores     gain     a norm's scale
bias     an additive vector                              table    rows looked up by index
"""


LINEAR_ROLES: frozenset[Role] = frozenset({"matrix", "output", "router"})


StartKind = Literal["uniform", "log-of-uniform", "step-size", "log-of-count", "ramp"]
"""First values of a tensor, with `low` and `high` as bounds:

uniform        drawn evenly between them                   log-of-uniform  the logarithm of such a draw
step-size      what softplus turns into a number between   log-of-count    log 1, log 2, log 3, ... along the last axis
               them, drawn evenly on a logarithmic scale   ramp            from low to high along the last axis
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """First values of a tensor that are neither all the same nor drawn as its role says, whatever the init."""

    kind: StartKind
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One parameter tensor: its shape, its role, and which share of it a token uses."""

    shape: tuple[int, ...]
    role: Role = "matrix"
    used: tuple[int, int] = (1, 1)
    """(top_k, experts): a token passes through top_k of the experts that the tensor stacks."""
    start: float | Start | None = None
    """What every entry starts with; None leaves it to the role: gains 1, biases 0, the others drawn by the init."""

    @property
    def count(self) -> int:
        """Parameters stored."""
        return prod(self.shape)

    @property
    def is_linear(self) -> bool:
        """Whether it is a linear map, which costs two operations for each parameter and token."""
        return self.role in LINEAR_ROLES

    @property
    def active(self) -> int:
        """Parameters that take part in computing one token."""
        used, of = self.used
        return self.count * used // of


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedTable:
    """A table of positions that grows as longer sequences come."""

    name: str
    """Name of its tensor, below the position's."""
    rows: int
    """Rows of a fresh model."""
    limit: int
    """The most rows it may ever have."""

    def inside(self, module: str) -> LearnedTable:
        """The same table as part of a module."""
        return LearnedTable(name=f"{module}.{self.name}", rows=self.rows, limit=self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSpec:
    """One tensor of decode state: what a mixer keeps for one sequence between two tokens."""

    shape: tuple[int, ...]
    """Without the batch."""
    dtype: Literal["model", "fp32"] = "model"
    """`fp32` is kept in at least fp32, whatever the format of the model."""
    role: Literal["keys", "state"] = "keys"
    """`keys` is kept per token and grows with the capacity; `state` has one size however long the sequence."""

    @property
    def count(self) -> int:
        """Numbers stored."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """Floating-point operations of a forward pass, a multiply-add counted as two.

    `useful` counts the query-key pairs that the pattern allows; `dense` counts every pair, which is what
    an implementation with a full score matrix does.
    """

    useful: int = 0
    dense: int = 0
    unsure: int = 0
    """How far `useful` may be off: above 0 only for own patterns too irregular to be counted."""

    def __add__(self, other: Flops) -> Flops:
        """Sum of two costs."""
        return Flops(
            useful=self.useful + other.useful, dense=self.dense + other.dense, unsure=self.unsure + other.unsure
        )


AttentionKernel = Literal["auto", "full"]
"""`auto` is what the table of backends chooses, linear in memory; `full` holds the whole matrix of scores."""


Documents = Literal["joined", "separate"]
"""`separate`: rows are packed, and documents in them do not see each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One micro-batch of training, as far as activations depend on it."""

    batch: int
    """Sequences."""
    tokens: int
    """Tokens of each."""
    value_bytes: int = 2
    """Bytes of a number of the model's format."""
    attention: AttentionKernel = "auto"
    threads: int = 1
    """Threads that compute: what works in blocks has a buffer for each."""
    documents: Documents = "joined"
    weights: Literal["trained", "frozen"] = "trained"
    """`frozen` weights get no gradients; adapters beside them keep what their maps would."""
    half: Literal["bf16", "fp16"] = "bf16"
    """Which of the formats of two bytes it is, where it is one."""
    z_loss: Literal["none", "added"] = "none"
    """Whether the squared log-sum-exp of the logits is added to the loss."""

    @property
    def positions(self) -> int:
        """Tokens in all."""
        return self.batch * self.tokens

    @property
    def wide_bytes(self) -> int:
        """Bytes of a number that is kept in at least fp32."""
        return max(4, self.value_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """Bytes that training holds because of one component, besides weights and their gradients."""

    saved: int = 0
    """Kept from its forward pass to its backward pass, its input where it keeps that."""
    forward: int = 0
    """The most that exists besides at any moment of its forward pass, its output included."""
    backward: int = 0
    """The most that exists besides at any moment of its backward pass, the gradients of input and output included."""
    unsure: int = 0
    """How far `saved` may be off: above 0 for kinds without an account of their own."""

    def then(self, other: Activations) -> Activations:
        """Both, one after the other."""
        return Activations(
            saved=self.saved + other.saved,
            forward=max(self.forward, other.forward),
            backward=max(self.backward, other.backward),
            unsure=self.unsure + other.unsure,
        )
