"""The hooks that come with Vitruvius. What one gives for a sample never changes: a better one has a new name."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from vitruvius.training.preprocessing.base import IGNORED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from vitruvius.training.preprocessing.base import HookFunction, HookSample

_SENTINELS = 3


def fim(
    sample: HookSample,
    draw: np.random.Generator,
    *,
    rate: float = 0.5,
    spm: float = 0.5,
    prefix_id: int | None = None,
    suffix_id: int | None = None,
    middle_id: int | None = None,
) -> Mapping[str, np.ndarray]:
    """Fill in the middle (Bavarian et al., "Efficient Training of Language Models to Fill in the Middle", 2022).

    Each document's stretch of the sample is, with probability `rate`, cut at two places drawn evenly between tokens,
    and put together as `PRE prefix SUF suffix MID middle` (PSM) or, with probability `spm`, as `PRE SUF suffix MID
    prefix middle` (SPM, variant 2 of the paper). Its separator stays at its end. The three sentinels take the place of
    the stretch's first three tokens, or of its last three where the sample ends within the document; nothing is asked
    for after such an end, because the text after it does not follow the middle.

    prefix_id, suffix_id, middle_id: the sentinels; the last three ids of the architecture's vocabulary when not given.

    Raises:
        ValueError: a rate is no share, or a sentinel that was not given stands for a token of the data.
    """
    for name, share in (("rate", rate), ("spm", spm)):
        _ensure_share(name, share)
    marks = [
        _free(sample, name, given, place)
        for place, (name, given) in enumerate(
            (("middle_id", middle_id), ("suffix_id", suffix_id), ("prefix_id", prefix_id)), start=1
        )
    ]
    middle_mark, suffix_mark, prefix_mark = marks
    inputs, targets = sample.inputs.copy(), sample.targets.copy()
    for start, stop in _stretches(sample):
        # Drawn for every stretch, so that what becomes of one does not depend on the length of those before it.
        chosen, as_spm, *cuts = draw.random(4).tolist()
        ended = bool(sample.inputs[stop - 1] == sample.eos_id)
        end = stop - ended
        if chosen >= rate or end - start <= _SENTINELS:
            continue
        text = sample.inputs[start:end]
        text = text[_SENTINELS:] if ended else text[:-_SENTINELS]
        first, second = sorted(int(cut * (len(text) + 1)) for cut in cuts)
        before, middle, after = text[:first].tolist(), text[first:second].tolist(), text[second:].tolist()
        if as_spm < spm:
            whole = [prefix_mark, suffix_mark, *after, middle_mark, *before, *middle]
        else:
            whole = [prefix_mark, *before, suffix_mark, *after, middle_mark, *middle]
        inputs[start:end] = whole
        targets[start : stop - 1] = inputs[start + 1 : stop]
        if not ended:
            targets[stop - 1] = IGNORED
        if start and sample.crosses[start - 1]:
            targets[start - 1] = inputs[start]  # what comes after the document before it
    return {"inputs": inputs, "targets": targets}


def span_mask(
    sample: HookSample,
    draw: np.random.Generator,
    *,
    rate: float = 0.15,
    mean: float = 3.0,
    mask_id: int | None = None,
    ask: str = "everything",
) -> Mapping[str, np.ndarray]:
    """Hide spans of the inputs, of geometric length with this mean (Joshi et al., "SpanBERT", 2020); targets stay.

    rate: share of the tokens that is hidden, on average. mask_id: what hides them; the last id of the architecture's
    vocabulary when not given. ask: `everything`, or `hidden`, which asks for the hidden tokens alone. Separators and
    padding are never hidden.

    Raises:
        ValueError: a rate is no share, `mean` is below 1, or `ask` is neither.
    """
    import numpy as np

    _ensure_share("rate", rate)
    if not 1 <= mean <= 1e9:
        raise ValueError(f"mean is {mean}, and a span has at least 1 token")
    if ask not in {"everything", "hidden"}:
        raise ValueError(f"ask is {ask!r}: use everything or hidden")
    mask = _free(sample, "mask_id", mask_id, 1)
    size = len(sample.inputs)
    # A place is in no span when no span began there or reaches so far: spans of mean length m that begin with
    # probability p cover p m / (1 - p + p m) of the places, where the next one begins after the one before has ended.
    begins = draw.random(size) < rate / (rate + mean * (1 - rate))
    lengths = draw.geometric(1 / mean, size=size)
    hidden = np.zeros(size, dtype=bool)
    place = 0
    for start in np.flatnonzero(begins).tolist():
        if start >= place:
            place = start + int(lengths[start])
            hidden[start:place] = True
    hidden &= (sample.documents >= 0) & (sample.inputs != sample.eos_id)
    if ask == "everything":
        return {"inputs": np.where(hidden, mask, sample.inputs)}
    # The target of a place is the token after it. A sample asks for one at least.
    could = (sample.targets[:-1] != IGNORED) & (sample.inputs[1:] != sample.eos_id) & (sample.documents[1:] >= 0)
    if could.any() and not (could & hidden[1:]).any():
        hidden[1 + draw.choice(np.flatnonzero(could))] = True
    targets = np.full_like(sample.targets, IGNORED)
    targets[:-1][hidden[1:]] = sample.targets[:-1][hidden[1:]]
    return {"inputs": np.where(hidden, mask, sample.inputs), "targets": targets}


def token_drop(
    sample: HookSample,
    draw: np.random.Generator,
    *,
    rate: float = 0.1,
    by: str = "mask",
    mask_id: int | None = None,
) -> Mapping[str, np.ndarray]:
    """Replace inputs at random and ask for the same targets: word dropout (Bowman et al., 2016).

    rate: probability for each token. by: `mask` puts `mask_id` there (the last id of the architecture's vocabulary when
    not given), `sample` a token drawn from the sample. Separators and padding are never replaced.

    Raises:
        ValueError: `rate` is no share, or `by` is neither.
    """
    import numpy as np

    _ensure_share("rate", rate)
    if by not in {"mask", "sample"}:
        raise ValueError(f"by is {by!r}: use mask or sample")
    real = (sample.documents >= 0) & (sample.inputs != sample.eos_id)
    gone = (draw.random(len(real)) < rate) & real
    if by == "mask":
        return {"inputs": np.where(gone, _free(sample, "mask_id", mask_id, 1), sample.inputs)}
    known = sample.inputs[real]
    if not len(known):
        return {}
    return {"inputs": np.where(gone, known[draw.integers(len(known), size=len(real))], sample.inputs)}


BUILTIN: dict[str, HookFunction] = {"fim": fim, "span-mask": span_mask, "token-drop": token_drop}
"""Name in `train.preprocess` -> function."""


def _stretches(sample: HookSample) -> Iterator[tuple[int, int]]:
    """Begin and end of each document in the sample; padding is none."""
    import numpy as np

    documents = sample.documents
    edges = np.flatnonzero(documents[1:] != documents[:-1]) + 1
    bounds = [0, *edges.tolist(), len(documents)]
    for start, stop in itertools.pairwise(bounds):
        if documents[start] >= 0:
            yield start, stop


def _ensure_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}: use a number from 0 to 1")


def _free(sample: HookSample, name: str, given: int | None, from_end: int) -> int:
    """The id that was given, or one at the end of the vocabulary that stands for nothing in the data."""
    if given is not None:
        if not 0 <= given < sample.vocab_size:
            raise ValueError(f"{name} is {given}, and ids are below the vocabulary of {sample.vocab_size:,}")
        return given
    found = sample.vocab_size - from_end
    if found < sample.data_vocab_size:
        raise ValueError(
            f"{name} would be {found:,}, which stands for a token of the data: "
            f"--set vocab_size={sample.data_vocab_size + from_end} makes room, or name the id of a token that is free"
        )
    return found
