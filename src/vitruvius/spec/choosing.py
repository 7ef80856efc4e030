"""What a mixture of experts asks of its router, with the answers that fit most routers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vitruvius.errors import Finding
    from vitruvius.spec.costs import TensorSpec
    from vitruvius.spec.tracing.routing import Routed
    from vitruvius.spec.tracing.tape import Tape, Value


class Chooser:
    """Base of routers: what their tensors are, and what choosing `top_k` of `experts` comes to."""

    __slots__ = ()
    chooses: ClassVar[Literal["experts", "tokens"]] = "experts"
    """Whether each token chooses its experts, or each expert its tokens."""

    def tensors_for(self, experts: int, width: int) -> Mapping[str, TensorSpec]:  # noqa: ARG002 (routers without any)
        """Parameter tensors of a router of tokens of `width` to that many experts, as the built module has them."""
        return {}

    def buffers_for(self, experts: int) -> Mapping[str, TensorSpec]:  # noqa: ARG002 (most keep nothing)
        """What is saved with the parameters and is none: kept in at least fp32, and counted apart."""
        return {}

    def trace_routed(self, tape: Tape, x: Value, *, experts: int, top_k: int) -> Routed:
        """Write on a tape what choosing experts for tokens [N, D] does: by default a map of them and a softmax."""
        from vitruvius.spec.tracing import routing
        from vitruvius.spec.tracing.linear_parts import wide_linear

        scores = wide_linear(x, experts)
        weights = routing.gathered(scores, routing.largest(tape, scores, top_k))
        tape.unsure += 2 * scores.size
        return routing.Routed(chosen=tape.fresh((x.shape[0], top_k), item=8, gradient=False), weights=weights)

    def pairs(self, tokens: int, top_k: int, experts: int) -> int:
        """How many (token, expert) pairs one sequence of `tokens` tokens makes."""
        del experts
        return tokens * top_k

    def sum_of_weights(self, top_k: int) -> float | None:
        """What the weights of one token's experts add up to, or None where that depends on the token."""
        del top_k
        return None

    def least_experts(self, top_k: int) -> tuple[int, int]:
        """(fewest experts, what their number must be a multiple of) for choosing `top_k` of them."""
        return top_k, 1

    def silent_for(self, experts: int, top_k: int) -> Iterable[str]:  # noqa: ARG002 (most matter always)
        """Parameters without any effect on the loss, for a reason that lies in the mathematics."""
        return ()

    def findings_for_choice(self, experts: int, top_k: int) -> Iterable[Finding]:  # noqa: ARG002 (most fit any number)
        """What does not fit choosing `top_k` of `experts`."""
        return ()
