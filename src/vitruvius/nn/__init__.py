"""The architecture as plain torch modules.

Suffixes name the axes of a tensor, here and in everything that imports from here:

    B batch   T query time   S key time   D width   H query heads   G key and value heads   K head width
    E experts   F feed-forward width   V vocabulary   N tokens, batch and time flattened

so `q_BHTK` is [batch, query heads, time, head width].
"""

from vitruvius.nn.build import build
from vitruvius.nn.cache import Cache
from vitruvius.nn.model import Model
from vitruvius.nn.place import Signals
from vitruvius.nn.registry import implements

__all__ = ["Cache", "Model", "Signals", "build", "implements"]
