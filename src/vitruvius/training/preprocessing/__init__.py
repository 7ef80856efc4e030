"""Hooks of `train.preprocess`: functions that change samples before a run learns from them. No torch.

    def mask_digits(sample, draw, *, rate=0.1):
        hidden = draw.random(len(sample.inputs)) < rate
        return {"inputs": np.where(hidden, sample.vocab_size - 1, sample.inputs)}

A hook is a pure function of the sample, its options and `draw`, a generator that is seeded by the run's seed, the
epoch, the sample and the hook's name: what it gives depends on no worker, no order and no resume.
"""

from __future__ import annotations

from vitruvius.training.preprocessing.base import IGNORED, Hook, HookSample
from vitruvius.training.preprocessing.builtin import BUILTIN
from vitruvius.training.preprocessing.finding import GROUP, find_hooks, pinned
from vitruvius.training.preprocessing.pipeline import Pipeline

__all__ = ["BUILTIN", "GROUP", "IGNORED", "Hook", "HookSample", "Pipeline", "find_hooks", "pinned"]
