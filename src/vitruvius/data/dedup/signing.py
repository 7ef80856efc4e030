"""Banded MinHash signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from vitruvius.data.dedup.shingles import constant, shingle_hashes

if TYPE_CHECKING:
    import numpy as np

    from vitruvius.data.dedup.settings import NearSettings

SIGNATURE_DTYPE = "<u8"
"""numpy type of a signature's entries, one for each band."""

NO_BAND = 0
"""What the entries of a text without shingles are; no band of another text is."""

_SCRATCH = 1 << 17


@final
class Signer:
    """Signs texts: an entry for each band, the hash of the minima of its rows.

    Hash function i of a shingle x is (a_i x + b_i) mod 2**32, of the upper half of the shingle's 64-bit hash, with a_i
    odd: a permutation of the 32-bit numbers. a_i and b_i are drawn with BLAKE2b from the seed and i. All arithmetic is
    on integers, so a signature is the same on every machine and with every version of numpy.
    """

    __slots__ = ("_add", "_band_constants", "_multiply", "_row_constants", "_scratch", "settings")

    def __init__(self, settings: NearSettings) -> None:
        import numpy as np

        self.settings = settings
        count = settings.permutations

        def drawn(name: str, numbers: int) -> np.ndarray:
            values = [constant(name, number, seed=settings.seed) for number in range(numbers)]
            return np.array(values, dtype=np.uint64)

        self._multiply = ((drawn("multiply", count) >> np.uint64(32)) | np.uint64(1)).astype(np.uint32)[:, None]
        self._add = (drawn("add", count) >> np.uint64(32)).astype(np.uint32)[:, None]
        self._row_constants = drawn("row", settings.rows)
        self._band_constants = drawn("band", settings.bands)
        self._scratch = np.empty(max(_SCRATCH, count), dtype=np.uint32)

    def sign(self, text: str) -> np.ndarray:
        """The signature of a text: `bands` entries of `SIGNATURE_DTYPE`."""
        import numpy as np

        hashes = shingle_hashes(text, ngram=self.settings.ngram)
        if len(hashes) == 0:
            return np.full(self.settings.bands, NO_BAND, dtype=SIGNATURE_DTYPE)
        return self.bands_of(self.minima(hashes))

    def minima(self, hashes: np.ndarray) -> np.ndarray:
        """The least value of each hash function over a set of shingle hashes: `permutations` uint32."""
        import numpy as np

        count = self.settings.permutations
        upper = (hashes >> np.uint64(32)).astype(np.uint32)
        step = len(self._scratch) // count
        least: np.ndarray | None = None
        for start in range(0, len(upper), step):
            some = upper[start : start + step]
            values = self._scratch[: count * len(some)].reshape(count, len(some))
            np.multiply(self._multiply, some, out=values)
            np.add(values, self._add, out=values)
            now = values.min(axis=1)
            least = now if least is None else np.minimum(least, now)
        assert least is not None
        return least

    def bands_of(self, minima: np.ndarray) -> np.ndarray:
        """A 64-bit hash of the minima of each band, different for the same minima in another band."""
        import numpy as np

        rows = minima.reshape(self.settings.bands, self.settings.rows).astype(np.uint64)
        mixed = mix((rows * self._row_constants).sum(axis=1, dtype=np.uint64) + self._band_constants)
        mixed[mixed == NO_BAND] = 1
        return mixed.astype(SIGNATURE_DTYPE, copy=False)


def mix(values: np.ndarray) -> np.ndarray:
    """A permutation of the 64-bit numbers that spreads every bit over all (the finaliser of MurmurHash3)."""
    import numpy as np

    shift = np.uint64(33)
    values = (values ^ (values >> shift)) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> shift)) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> shift)
