"""What the model writes while it learns: at some steps, after the row of the update, into `samples.jsonl`.

A run is not changed by it: modules, random state and what comes after have the same bits as without.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from vitruvius.data.tokenization.of_run import tokenizer_of_run
from vitruvius.errors import UsageError
from vitruvius.inference import Generation, Sampler, fill
from vitruvius.runs.lines import LineLog
from vitruvius.runs.samples import SAMPLES_FILE, is_sample, samples_of
from vitruvius.spec.reporting import printable, quoted
from vitruvius.training.settings.samples import MASK
from vitruvius.training.stopping import signalled
from vitruvius.training.watching.reading import undisturbed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import torch
    from torch import Tensor

    from vitruvius.data import Tokenizer
    from vitruvius.runs import Checkpoint
    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.loop import Listener, Trainer
    from vitruvius.training.stopping import StopRequest

_SHOWN = 160
"""Characters of a text in the progress."""


class _StoppedError(Exception):
    """The run was asked to stop in the middle of a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listening(Sampler):
    """Draws as a `Sampler` does, and keeps how likely each token was; raises when the run is to stop."""

    is_asked: Callable[[], bool]
    logprobs: list[float] = field(default_factory=list[float])
    """Of each token that was drawn, in nats, before temperature."""

    def sample(self, logits_BV: Tensor, generator: torch.Generator) -> Tensor:
        if self.is_asked():
            raise _StoppedError
        drawn_B = Sampler.sample(self, logits_BV, generator)
        self.logprobs.append(float(logits_BV.float().log_softmax(dim=-1)[0, int(drawn_B)]))
        return drawn_B


def ensure_prompts(config: TrainConfig, architecture: Architecture, tokenizer: Callable[[], Tokenizer]) -> None:
    """Raise UsageError where a prompt leaves no room in the context, before anything is made."""
    if config.samples.every is None:
        return
    known = tokenizer()
    for number, prompt in enumerate(config.samples.prompts):
        length = len(
            prompt_ids(prompt, known, config, mask=config.mask_token if not architecture.head.causal else None)
        )
        if length >= architecture.context:
            raise UsageError(
                f"the prompt is {length:,} tokens long and the context holds {architecture.context:,}",
                where=f"train.samples.prompts.{number}",
                fix=f"use at most {architecture.context - 1:,} tokens",
            )


@contextlib.contextmanager
def with_samples(listener: Listener, trainer: Trainer, stop: StopRequest) -> Generator[Listener]:
    """A listener that has the model write at its steps, around another one; that one itself where none are asked for.

    Of several processes the one that writes the run folder does so. stop: looked at between two tokens.
    """
    if trainer.config.samples.every is None or not trainer.engine.is_main:
        yield listener
        return
    if not trainer.engine.has_whole_model:  # a run that goes on under another engine
        listener.note("no samples are taken: none of these processes has the whole model")
        yield listener
        return
    writing = Writing(listener, trainer, stop)
    try:
        yield writing
    finally:
        writing.close()


@final
class Writing:
    """Told about every update as a listener is; after some of them the model writes."""

    def __init__(self, listener: Listener, trainer: Trainer, stop: StopRequest) -> None:
        self._listener, self._trainer, self._stop = listener, trainer, stop
        self._settings = trainer.config.samples
        self._log = LineLog(trainer.run.path / SAMPLES_FILE)
        self._last = -1
        self._works = True
        self._tokenizer: Tokenizer = tokenizer_of_run(trainer.run.path)

    def close(self) -> None:
        """Close the file."""
        self._log.close()

    def is_due(self, step: int) -> bool:
        """Whether the model writes after an update: a function of its number alone."""
        every = self._settings.every
        assert every is not None
        return step > 0 and (step % every == 0 or step == self._trainer.config.steps)

    def started(self, *, step: int, steps: int) -> None:
        """Drop what was written past the checkpoint that the run goes on from; write what a stop cut short."""
        self._listener.started(step=step, steps=steps)
        self._log.keep(lambda row: is_sample(row) and row["step"] <= step)
        rows = samples_of(self._trainer.run.path)
        self._last = max((row["step"] for row in rows), default=-1)
        if self.is_due(step) and sum(row["step"] == step for row in rows) < len(self._settings.prompts):
            self._write(step)

    def row(self, row: dict[str, Any]) -> None:
        """Pass it on, and write when it is time."""
        self._listener.row(row)
        if self.is_due(row["step"]):
            self._write(row["step"])

    def saved(self, checkpoint: Checkpoint) -> None:
        """Pass it on."""
        self._listener.saved(checkpoint)

    def note(self, text: str) -> None:
        """Pass it on."""
        self._listener.note(text)

    def ended(self) -> None:
        """Pass it on."""
        self._listener.ended()

    def _write(self, step: int) -> None:
        """A text for each prompt. What fails is left out from now on: no run must end because it is watched."""
        if not self._works:
            return
        if step <= self._last:  # the run went back, or was stopped in the middle of this
            self._log.keep(lambda row: is_sample(row) and row["step"] < step)
        self._last = step
        try:
            rows = [self._sample(step, prompt) for prompt in self._settings.prompts]
        except _StoppedError:
            return  # the run saves and ends; the one that goes on writes all of them
        except Exception as error:  # noqa: BLE001
            self._works = False
            what = f"{type(error).__name__}: {error}"
            self._trainer.run.event("samples-failed", step=step, error=what[:500])
            self.note(f"warning: no more samples are taken ({printable(what, _SHOWN)})")
            return
        for row in rows:
            self._log.append(row)
        self._log.sync()
        self._listener.note(described(rows[0]))

    def _sample(self, step: int, prompt: str) -> dict[str, Any]:
        model, tokenizer, settings = self._trainer.model, self._tokenizer, self._settings
        sampler = _Listening(temperature=settings.temperature, is_asked=lambda: self._stop.asked or signalled())
        with undisturbed(model):
            if model.encoder is None and not model.architecture.head.causal:
                text, finish = self._filled(prompt, sampler), None
                tokens = len(sampler.logprobs)
            else:
                generation = Generation(
                    model,
                    prompt_ids(prompt, tokenizer, self._trainer.config),
                    max_tokens=settings.max_tokens,
                    sampler=sampler,
                    seed=settings.seed,
                    stop_tokens=[tokenizer.eos_id],
                    vocabulary=tokenizer.vocab_size,
                )
                decoder = tokenizer.stream(after=generation.prompt)
                text = "".join([*map(decoder.push, generation), decoder.finish()])
                assert generation.finish is not None
                tokens, finish = generation.finish.tokens, generation.finish.reason
        mean = sum(sampler.logprobs) / len(sampler.logprobs)
        return {
            "step": step,
            "prompt": prompt,
            "text": text,
            "tokens": tokens,
            "logprob_mean": mean,
            "finish": finish,
        }

    def _filled(self, prompt: str, sampler: Sampler) -> str:
        tokenizer, mask = self._tokenizer, self._trainer.config.mask_token
        assert mask is not None, "a resolved config under an mlm head has one"
        ids = prompt_ids(prompt, tokenizer, self._trainer.config, mask=mask)
        found = fill(
            self._trainer.model,
            ids,
            mask=mask,
            sampler=sampler,
            seed=self._settings.seed,
            vocabulary=tokenizer.vocab_size,
        )
        return tokenizer.decode(found)


def described(row: dict[str, Any]) -> str:
    """A sample in a line that a terminal may print: `at step 100 it writes: 'Once' -> ' upon a'`."""
    prompt = f"{quoted(row['prompt'], 40)} -> " if row["prompt"] else ""
    return f"at step {row['step']:,} it writes: {prompt}{quoted(row['text'], _SHOWN)}"


def prompt_ids(prompt: str, tokenizer: Tokenizer, config: TrainConfig, *, mask: int | None = None) -> list[int]:
    """The tokens of a prompt, `[MASK]` in it hidden ones where there is an id for them.

    A source of `seq2seq` ends in the separator, from which the decoder starts.
    """
    if mask is None:
        separator = [tokenizer.eos_id]
        ids = tokenizer.encode(prompt)
        return ids + separator if config.objective == "seq2seq" else ids or separator
    ids = list[int]()
    for index, piece in enumerate(prompt.split(MASK)):
        ids += [mask] * (index > 0) + tokenizer.encode(piece)
    return ids
