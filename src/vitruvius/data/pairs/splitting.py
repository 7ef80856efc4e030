"""Which pairs stay, and in which split: equal pairs once, groups on one side, no held-out source seen in training."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, final

from vitruvius.data.job.splitting import held_out_below

if TYPE_CHECKING:
    from vitruvius.data.pairs.reading import Pair


def digest_of(*texts: str) -> bytes:
    """16 bytes of SHA-256 over texts and their lengths."""
    digest = hashlib.sha256()
    for text in texts:
        content = text.encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.digest()[:16]


def folded(text: str) -> str:
    """A text for comparing: case and runs of white space make no difference."""
    return " ".join(text.casefold().split())


@final
class Splitter:
    """Takes pairs one by one and then says where each goes. Memory: about 200 bytes a pair, whatever its length."""

    __slots__ = ("_groups", "_pairs", "_seed", "_sources", "keepers")

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._pairs: dict[bytes, int] = {}
        self._sources: list[bytes] = []
        self._groups: list[bytes] = []
        self.keepers: list[str] = []
        """Ids of the pairs that stay, in order."""

    def add(self, pair: Pair) -> str | None:
        """Keep a pair; or the id of the one that is kept already and has the same source and target."""
        source = digest_of(folded(pair.source))
        key = digest_of(folded(pair.source), pair.target)
        known = self._pairs.get(key)
        if known is not None:
            return self.keepers[known]
        self._pairs[key] = len(self.keepers)
        self.keepers.append(pair.id)
        self._sources.append(source)
        self._groups.append(digest_of(str(self._seed), folded(pair.group)))
        return None

    def split(self, fraction: float) -> list[str]:
        """For each pair in order: `train`, `validation`, or `leak`: held out, and its source stands in training."""
        import numpy as np

        places = np.array([int.from_bytes(group[:8], "big") for group in self._groups], dtype=np.uint64)
        below = held_out_below([places], fraction)
        held_out: list[bool] = [int(place) < below for place in places]
        trained = {source for source, out in zip(self._sources, held_out, strict=True) if not out}
        return [
            "train" if not out else "leak" if source in trained else "validation"
            for source, out in zip(self._sources, held_out, strict=True)
        ]
