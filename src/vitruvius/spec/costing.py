"""What every component says of its cost, with the answers that fit most of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.spec.costs import LINEAR_ROLES, Activations, Flops
from vitruvius.spec.tracing.tape import Tape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.spec.costs import TensorSpec, Work
    from vitruvius.spec.scope import Scope
    from vitruvius.spec.tracing.tape import Value


class Costing:
    """Base of components: parameter tensors, operations, and what training holds in memory."""

    __slots__ = ()

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:  # noqa: ARG002 (kinds without parameters)
        """Parameter tensors by name, exactly as the built module has them."""
        return {}

    def buffers(self, scope: Scope) -> Mapping[str, TensorSpec]:  # noqa: ARG002 (most keep nothing)
        """What is saved with the parameters and is none, by name: kept in at least fp32, and counted apart."""
        return {}

    def flops(self, scope: Scope, tokens: int) -> Flops:
        """Cost of a forward pass over one sequence of `tokens` tokens; by default that of the linear maps."""
        per_token = sum(2 * t.active for t in self.tensors(scope).values() if t.role in LINEAR_ROLES)
        return Flops(useful=per_token * tokens, dense=per_token * tokens)

    def trace(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """Write on a tape what the module does to its input [B, T, D], and give what it returns.

        By default one operation that takes what `activations` says. A kind that overrides this is exact and need not
        override that one. docs/adr/0014-activation-memory.md has the rules.
        """
        weights = sum(t.count for t in self.tensors(scope).values()) * tape.work.value_bytes
        return tape.account(x, self.activations(scope, tape.work), weights=weights)

    def activations(self, scope: Scope, work: Work) -> Activations:
        """Bytes that training this component holds on one micro-batch, by itself: its input counts where it is kept.

        Read off its tape where it has one. Elsewhere the inputs and outputs of its linear maps, which is right within
        half of it for most modules: a kind with an account of its own overrides this.
        """
        if type(self).trace is not Costing.trace:
            tape = Tape(work)
            y = self.trace(tape, tape.given("stream", (work.batch, work.tokens, scope.width)), scope)
            return tape.replay(y).as_activations(tape.unsure)
        linear = [t for t in self.tensors(scope).values() if t.role in LINEAR_ROLES]
        per_token = sum((t.shape[-1] + t.shape[-2]) * (t.used[0] if len(t.shape) > 2 else 1) for t in linear)
        saved = per_token * work.positions * work.value_bytes
        widest = max((t.shape[-2] for t in linear), default=0) * work.positions * work.value_bytes
        return Activations(saved=saved, forward=widest, backward=2 * widest, unsure=saved // 2)
