"""How a foreign model is called: one interface to ids, masks, positions, caches, labels and attention weights."""

from __future__ import annotations

import inspect
import random
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.checks.foreign.outputs import NoLogitsError, cache_in, logits_in
from vitruvius.checks.foreign.precision import lifted, precision_of, rounding_bound
from vitruvius.errors import UsageError
from vitruvius.units import format_count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from vitruvius.checks.foreign.facts import Facts
    from vitruvius.checks.foreign.precision import Precision

SHORTEST, LONGEST = 40, 256
"""Tokens of a probe, unless a window asks for more or the context allows less."""
WINDOWS = 3
_JITTER = 0.05
_ROUNDED = 1e-6
RECURRENT = "cache_params"
CACHES = ("past_key_values", RECURRENT)
"""Under which name a decode cache goes in and comes out, in Hugging Face's protocol."""
_TARGETS = ("labels", "targets")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a forward method takes, by the names of its parameters."""

    takes: frozenset[str]

    @property
    def cache(self) -> str | None:
        """The parameter that a decode cache goes through."""
        return next((name for name in CACHES if name in self.takes), None)

    @property
    def targets(self) -> str | None:
        """The parameter that takes the tokens to predict."""
        return next((name for name in _TARGETS if name in self.takes), None)

    def accepts(self, name: str) -> bool:
        """Whether forward has a parameter of this name."""
        return name in self.takes


def call_of(module: nn.Module) -> Call:
    """The parameters that a module's forward names; `**kwargs` promise nothing."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return Call(takes=frozenset())
    several = {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    return Call(takes=frozenset(p.name for p in parameters if p.kind not in several))


class Foreign:
    """A model of another's making under examination. The one that was given is never touched: copies run."""

    def __init__(self, module: nn.Module, facts: Facts, *, seed: int, double: bool = True) -> None:
        self.given = module
        self.facts = facts
        self.seed = seed
        self.call = call_of(module)
        self._with_targets = False
        self._low_cache = False
        self._refused = "" if double else "fp64 ended the process"
        if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
            raise UsageError("a model on the meta device has no values to probe", fix="make it with values")
        try:
            deepcopy(module)
        except Exception as error:  # noqa: BLE001 (locks, tensors with a history and more cannot be copied)
            raise UsageError(
                f"the model cannot be copied ({type(error).__name__}: {str(error)[:120]}), and probes run on copies",
                fix="keep locks, files and tensors with a history out of the module, or detach them",
            ) from None

    # ------------------------------------------------------------------------------------------------------------------
    # Copies

    def copy(self, dtype: torch.dtype | None = None) -> nn.Module:
        """A copy in eval mode, its weights in a dtype (None: as they are)."""
        model = deepcopy(self.given).eval()
        return model if dtype is None else model.to(dtype)

    def fresh(self, seed: int) -> nn.Module | None:
        """A new model with first weights of a seed, in eval mode; None where nobody knows how it was made."""
        if self.facts.redraw is None:
            return None
        with seeded(seed):
            try:
                return self.facts.redraw(seed).to(self.device).eval()
            except Exception:  # noqa: BLE001 (a class that cannot be made from its config is probed as it is)
                return None

    @cached_property
    def precision(self) -> Precision:
        """The finest format in which the model computes what it computes in its own."""
        tokens = self.tokens(2, self.length)
        return precision_of(self.copy, lambda model: self._logits(model, tokens), refused=self._refused)

    @property
    def has_precision(self) -> bool:
        """Whether the precision is known already."""
        return "precision" in vars(self)

    def find_precision(self) -> None:
        """Try fp64 now. What a model raises is left to the probes to tell."""
        with suppress(Exception), settings_kept():
            _ = self.precision

    @torch.no_grad()
    def exact(self) -> nn.Module:
        """A copy in the precision of the probes, which a probe may ruin.

        Trained tensors whose values are all alike (gains of one, biases and last projections of zero) are moved a
        little, so that nothing hides behind them.
        """
        model = self.copy(self.precision.dtype)
        generator = torch.Generator().manual_seed(self.seed + 1)
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.numel() and bool((parameter == parameter.flatten()[0]).all()):
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_((_JITTER * noise).to(parameter))
        return model

    @torch.no_grad()
    def with_tables_anew(self, model: nn.Module) -> nn.Module | None:
        """The same model with its buffers computed in fp64 when it is made; None where nobody knows how to make it.

        Buffers that come out otherwise (statistics, say) are taken over as they are.
        """
        if self.facts.redraw is None or not self.precision.raised:
            return None
        with settings_kept(), self.precision.active():
            try:
                made = self.facts.redraw(self.seed).double().eval()
                for target, source in zip(made.parameters(), model.parameters(), strict=True):
                    target.copy_(source)
                for target, source in zip(made.buffers(), model.buffers(), strict=True):
                    if target.is_floating_point() and not torch.allclose(target, source.to(target), rtol=_ROUNDED):
                        target.copy_(source)
            except Exception:  # noqa: BLE001 (what cannot be made in fp64 is probed as it was given)
                return None
        return made.to(self.device)

    @cached_property
    def device(self) -> torch.device:
        """Where the model lives."""
        tensors = (*self.given.parameters(), *self.given.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    # ------------------------------------------------------------------------------------------------------------------
    # Tokens

    @cached_property
    def length(self) -> int:
        """Tokens of a probe: three of the longest windows and a bit, within the context."""
        wanted = max(SHORTEST, WINDOWS * (self.facts.reach or 0) + 5)
        return max(2, min(wanted, LONGEST, self.facts.context or LONGEST))

    @cached_property
    def ids(self) -> Tensor:
        """The tokens that probes draw from: all but the one for padding, which some models treat as nothing."""
        every = torch.arange(self.facts.vocab_size)
        kept = every if self.facts.pad_id is None else every[every != self.facts.pad_id]
        return (kept if kept.numel() > 1 else every).to(self.device)

    def tokens(self, batch: int, length: int, *, salt: int = 0) -> Tensor:
        """Random ids, the same for the same arguments and seed."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + 7919 * salt + length)
        return self.ids[torch.randint(self.ids.numel(), (batch, length), generator=generator).to(self.device)]

    # ------------------------------------------------------------------------------------------------------------------
    # Calls

    def forward(self, model: nn.Module, tokens_BT: Tensor, **more: Any) -> Any:
        """Whatever the model returns for these tokens; what is passed besides must be accepted by its forward."""
        takes = self.call.takes
        if "use_cache" in takes:
            more.setdefault("use_cache", False)
        if self.call.targets is not None and self._with_targets:
            more.setdefault(self.call.targets, tokens_BT)
        if self.facts.encoder_decoder:
            source = self.tokens(1, min(self.length, 24), salt=77).expand(tokens_BT.shape[0], -1)
            if "encoder_outputs" not in more:
                more.setdefault("input_ids", source)
            return model(decoder_input_ids=tokens_BT, **more)
        return model(input_ids=tokens_BT, **more) if "input_ids" in takes else model(tokens_BT, **more)

    def logits(self, model: nn.Module, tokens_BT: Tensor, **more: Any) -> Tensor:
        """Logits [B, T, V] in the precision of the probes. Raises NoLogitsError when there are none of that shape."""
        with lifted(self.precision):
            return self._logits(model, tokens_BT, **more)

    def own_logits(self, model: nn.Module, tokens_BT: Tensor, **more: Any) -> Tensor:
        """Logits [B, T, V] in the model's own precision."""
        return self._logits(model, tokens_BT, **more)

    def _logits(self, model: nn.Module, tokens_BT: Tensor, **more: Any) -> Tensor:
        batch, time = tokens_BT.shape
        return logits_in(self.forward(model, tokens_BT, **more), batch, time, self.facts.vocab_size)

    def cached(self, model: nn.Module, tokens_BT: Tensor, cache: Any, **more: Any) -> tuple[Tensor, Any]:
        """(logits, cache) of these tokens after those that a cache holds (None: from the start)."""
        name = self.call.cache
        assert name is not None
        if self.call.accepts("use_cache"):
            more["use_cache"] = True
        if cache is not None:
            more[name] = cache
        with lifted(self.precision) as watching:
            output = self.forward(model, tokens_BT, **more)
        self._low_cache |= watching is not None and bool(watching.seen.low)
        batch, time = tokens_BT.shape
        return logits_in(output, batch, time, self.facts.vocab_size), cache_in(output, name)

    @property
    def cache_bound(self) -> float:
        """The bound for what went through a cache: looser where one was seen to hold less than fp64."""
        fp32 = rounding_bound(torch.float32, self.precision.products)
        return max(self.precision.bound, fp32) if self._low_cache else self.precision.bound

    @torch.no_grad()
    def answers(self) -> str:
        """Find out how the model is called for one row of logits per token, and what was needed for it.

        A model that gives the last position alone unless it is trained is called with its targets. Raises what the
        model raises, NoLogitsError when it gives no logits.
        """
        model, tokens = self.copy(), self.tokens(2, self.length)
        try:
            self._logits(model, tokens)
        except NoLogitsError:
            if self.call.targets is None:
                raise
            self._with_targets = True
            try:
                self._logits(model, tokens)
            except Exception:  # noqa: BLE001 (the plain call's complaint is the one to tell)
                self._with_targets = False
            if not self._with_targets:
                raise
            return f"logits of every position come only with {self.call.targets}, so it is always called with them"
        return ""

    @property
    def description(self) -> str:
        """What is probed, in a line."""
        count = sum(parameter.numel() for parameter in self.given.parameters())
        parts = [f"{format_count(count)} parameters", f"{self.facts.vocab_size:,} tokens", *self.facts.notes]
        if self.has_precision and self.precision.note:
            parts.append(self.precision.note)
        return f"{self.facts.name} ({'; '.join(parts)})"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of torch and Python start from a seed inside the block, and go on as before after it."""
    with settings_kept():
        torch.manual_seed(seed)
        random.seed(seed)
        yield


@contextmanager
def settings_kept() -> Iterator[None]:
    """Whatever the block does to torch's global settings is undone after it."""
    before, state = settings(), torch.get_rng_state()
    python = random.getstate()
    try:
        yield
    finally:
        torch.set_default_dtype(before["default dtype"])
        torch.set_num_threads(before["threads"])
        torch.set_grad_enabled(before["gradients"])
        torch.use_deterministic_algorithms(before["deterministic algorithms"])
        if torch.get_default_device() != before["default device"]:
            torch.set_default_device(before["default device"])
        torch.set_rng_state(state)
        random.setstate(python)


def settings() -> dict[str, Any]:
    """Global settings of torch that a model has no business to change."""
    return {
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "default device": torch.get_default_device(),
    }
