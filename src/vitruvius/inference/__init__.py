"""Running a model: sampling and cached generation."""

from vitruvius.inference.answering import answer
from vitruvius.inference.embed import embed
from vitruvius.inference.fill import fill
from vitruvius.inference.generate import Finish, Generation, StopText
from vitruvius.inference.sampling import Sampler

__all__ = ["Finish", "Generation", "Sampler", "StopText", "answer", "embed", "fill"]
