"""Held-out pairs of prepared data, the targets that a model writes for their sources, and how near they come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitruvius.errors import DataError, UsageError
from vitruvius.evals.matching import Match, match
from vitruvius.inference import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vitruvius.data import Tokenizer, TokenShards
    from vitruvius.nn import Model

BATCH = 32
"""Pairs that are written at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A pair as it lies in the shards."""

    number: int
    """Which pair of its split."""
    source: tuple[int, ...]
    """With its separator."""
    target: tuple[int, ...]
    """Without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long texts may be, in tokens, their separators included."""

    source: int
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A pair, and what a model wrote for its source."""

    source: str
    target: str
    written: str


def pairs_of(shards: TokenShards, *, most: int | None = None) -> list[Encoded]:
    """The pairs of a split, or `most` of them, spread evenly over it.

    Raises DataError when a text has no partner.
    """
    if shards.documents % 2:
        raise DataError("a source has no target", where=str(shards.directory), fix="prepare the pairs again")
    count = shards.documents // 2
    chosen = range(count) if most is None or most >= count else [number * count // most for number in range(most)]
    return [
        Encoded(
            number=number,
            source=tuple(shards.document(2 * number).tolist()),
            target=tuple(shards.document(2 * number + 1).tolist()[:-1]),
        )
        for number in chosen
    ]


def write(
    model: Model,
    pairs: Sequence[Encoded],
    tokenizer: Tokenizer,
    limits: Limits,
    *,
    progress: Callable[[int, int], bool] = lambda done, total: True,  # noqa: ARG005 (goes on)
) -> list[Written]:
    """What the model writes for each pair, greedily; sources longer than their limit are cut as in training.

    progress: told after each batch, and asked whether to go on; what is done so far is returned when not. Raises
    UsageError when the model has no encoder.
    """
    if model.encoder is None:
        raise UsageError(
            f"{model.architecture.name} has no encoder and writes no targets", fix="train objective: seq2seq"
        )
    eos, done = tokenizer.eos_id, list[Written]()
    # Of about one length at a time; what comes out is in the order of the pairs.
    order = sorted(range(len(pairs)), key=lambda at: len(pairs[at].source))
    found: dict[int, Written] = {}
    for first in range(0, len(order), BATCH):
        some = order[first : first + BATCH]
        sources = [(*pairs[at].source[:-1][: limits.source - 1], eos) for at in some]
        texts = answer(model, sources, start=eos, stop=eos, max_tokens=limits.target, vocabulary=tokenizer.vocab_size)
        for at, text in zip(some, texts, strict=True):
            found[at] = Written(
                source=tokenizer.decode(pairs[at].source),
                target=tokenizer.decode(pairs[at].target),
                written=tokenizer.decode(text),
            )
        if not progress(len(found), len(pairs)):
            break
    done.extend(found[at] for at in sorted(found))
    return done


def match_of(written: Sequence[Written]) -> Match:
    """How near the written targets are. Raises ValueError when there are none."""
    return match((one.written, one.target) for one in written)


def texts_of(shards: TokenShards, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """(source, target) of every pair of a split, as text."""
    return [(tokenizer.decode(pair.source), tokenizer.decode(pair.target)) for pair in pairs_of(shards)]
