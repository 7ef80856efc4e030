"""Text from a model, token by token, through its decode cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from vitruvius.errors import UsageError
from vitruvius.inference.sampling import Sampler
from vitruvius.spec.tracing.attending_stored import PREFILL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vitruvius.nn import Cache, Model

Reason = Literal["stop", "length", "context"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Why a sequence ended."""

    reason: Reason
    """`stop`: an end token; `length`: max_tokens reached; `context`: the architecture's context is full."""
    tokens: int
    """Tokens generated, the end token not counted."""


class Generation:
    """Iterates over the tokens of one continuation; `finish` says why it ended."""

    def __init__(
        self,
        model: Model,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        sampler: Sampler | None = None,
        seed: int = 0,
        stop_tokens: Sequence[int] = (),
        vocabulary: int | None = None,
    ) -> None:
        """Check the prompt; `vocabulary` keeps to ids below it, for a tokenizer smaller than the model's table.

        Raises UsageError when it is empty, holds ids outside the vocabulary, or leaves no room in the context.
        """
        architecture = model.architecture
        if not model.graph.is_causal:
            what = f"{architecture.name} sees later tokens and continues no text"
            raise UsageError(what, fix="train a causal architecture, or fill in masks with vitruvius.inference.fill")
        self.model, self.prompt = model, list(prompt)
        self.sampler = sampler or Sampler()
        self.stop_tokens = frozenset(stop_tokens)
        self.vocabulary = vocabulary or architecture.vocab_size
        self.generator = torch.Generator(device=model.device).manual_seed(seed)
        self.finish: Finish | None = None
        _check_prompt(self.prompt, architecture.vocab_size, architecture.context)
        if max_tokens < 1:
            raise UsageError(f"max_tokens={max_tokens} generates nothing", fix="use a whole number from 1")
        # An encoder reads the prompt; the decoder starts from its last token.
        self.start = self.prompt[-1:] if model.encoder is not None else self.prompt
        self.room = min(max_tokens, architecture.context - len(self.start))
        self.full: Reason = "length" if self.room == max_tokens else "context"

    def __iter__(self) -> Iterator[int]:
        """Tokens as they are drawn; an end token is not among them."""
        cache = self.model.cache(1, capacity=len(self.start) + self.room, source_capacity=len(self.prompt))
        logits = self._prefill(cache)
        for count in range(self.room):
            token = int(self.sampler.sample(logits, self.generator))
            if token in self.stop_tokens:
                self.finish = Finish(reason="stop", tokens=count)
                return
            # The state is known before the token leaves: a caller that stops here stops cleanly.
            self.finish = Finish(reason=self.full, tokens=count + 1)
            yield token
            if count + 1 < self.room:
                logits = self._step([token], cache)

    def _prefill(self, cache: Cache) -> torch.Tensor:
        """Logits after the prompt; in pieces, unless it must enter at once."""
        if self.model.encoder is not None:
            return self._step(self.start, cache, source=torch.tensor([self.prompt], device=self.model.device))
        if self.model.graph.opens_prefix:
            return self._step(self.start, cache, prefix=[len(self.start)])
        *pieces, last = range(0, len(self.start), PREFILL)
        for start in pieces:
            self._step(self.start[start : start + PREFILL], cache)
        return self._step(self.start[last:], cache)

    @torch.inference_mode()
    def _step(
        self,
        tokens: Sequence[int],
        cache: Cache,
        *,
        source: torch.Tensor | None = None,
        prefix: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Logits after the last of `tokens`, [1, V]; the head runs on that one alone."""
        ids = torch.tensor([list(tokens)], device=self.model.device)
        h_1TD = self.model.hidden(ids, cache=cache, source=source, prefix=prefix)
        return self.model.head(h_1TD[:, -1:], self.model.embedding.tokens.weight)[:, 0, : self.vocabulary]


def _check_prompt(prompt: list[int], vocab_size: int, context: int) -> None:
    if not prompt:
        raise UsageError("the prompt is empty", fix="give at least one token")
    if len(prompt) >= context:
        raise UsageError(
            f"the prompt is {len(prompt):,} tokens long and the context holds {context:,}",
            fix=f"use at most {context - 1:,} tokens of prompt",
        )
    outside = next((token for token in prompt if not 0 <= token < vocab_size), None)
    if outside is not None:
        raise UsageError(f"token id {outside} is outside the vocabulary of {vocab_size:,}")


class StopText:
    """Cuts a stream of text at the first stop string, holding back what might become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises UsageError when a stop string is empty."""
        if any(not stop for stop in stops):
            raise UsageError("a stop string is empty", fix="give at least one character")
        self.stops = tuple(stops)
        self.held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The text that is safe to show after `text` arrived; `found` is set once a stop string is complete."""
        if self.found:
            return ""
        self.held += text
        cuts = [at for at in (self.held.find(stop) for stop in self.stops) if at >= 0]
        if cuts:
            self.found = True
            shown, self.held = self.held[: min(cuts)], ""
            return shown
        keep = max((self._overlap(stop) for stop in self.stops), default=0)
        split = len(self.held) - keep
        shown, self.held = self.held[:split], self.held[split:]
        return shown

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        held, self.held = self.held, ""
        return held

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins `stop`."""
        most = min(len(stop) - 1, len(self.held))
        return next((n for n in range(most, 0, -1) if self.held.endswith(stop[:n])), 0)
