"""A text as the 64-bit hashes of its words, after what does not count in a comparison is taken away.

What does not count: case, punctuation, how much and which white space, invisible characters, and in which of its
compatible forms a character is written (NFKC). Everything else does: digits, accents, symbols, the order of words.

The tables are written out here, and words are hashed with BLAKE2b, so that the hashes do not depend on the machine or
on the version of a library; of Python's own Unicode tables only case folding and NFKC are used, which never change for
a character that has been assigned.
"""

from __future__ import annotations

import re
import string
import unicodedata
from hashlib import blake2b
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

LONGEST_NORMALISED_WORD = 256
"""Characters. Longer words are case-folded alone: NFKC takes time that is quadratic in a run of combining marks."""

_CACHED_WORDS = 1 << 17
_LONGEST_CACHED_WORD = 64
_PIECE = 1 << 16

_ALPHANUMERIC = (string.ascii_letters + string.digits).encode()
_ASCII = bytes(ord(chr(b).lower()) if b in _ALPHANUMERIC else b if b >= 128 else 32 for b in range(256))

# Format and variation characters, which nobody sees: they neither make words differ nor part them.
_INVISIBLE = re.compile("[\xad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e01ef]+")

# Punctuation and spaces beyond ASCII (which `_ASCII` has): Latin-1, General and Supplemental Punctuation, and those of
# Hebrew, Arabic, Armenian, Indic, Ethiopic, Tibetan, Myanmar, Khmer, CJK and their full-width and vertical forms.
_SEPARATORS = re.compile(
    "[\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\x7f\x80-\xa9\xab-\xb1\xb4\xb6-\xb8\xbb\xbf\xd7\xf7"
    "\u055a-\u055f\u0589\u058a\u05be\u05c0\u05c3\u05c6\u05f3\u05f4\u0609\u060a\u060c\u060d\u061b\u061e\u061f"
    "\u066a-\u066d\u06d4\u0964\u0965\u0970\u0f04-\u0f14\u0f3a-\u0f3d\u104a-\u104f\u1360-\u1368\u1400\u166e\u1680"
    "\u16eb-\u16ed\u17d4-\u17da\u1800-\u180a\u2000-\u200a\u2010-\u2029\u202f-\u205f\u2e00-\u2e7f\u3000-\u3003"
    "\u3008-\u3020\u3030\u303d\u30fb\ua4fe\ua4ff\ufd3e\ufd3f\ufe10-\ufe19\ufe30-\ufe6f"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]+"
)

# Scripts written without spaces between words: Thai, Lao, Myanmar, Khmer, kana, Bopomofo, ideographs. Each character
# stands for a word, with the voicing mark that may follow a kana.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3021-\u302f\u3031-\u303c\u3041-\u30ff\u3100-\u312f"
    "\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff][\u3099\u309a\uff9e\uff9f]?"
)


_WHITE = re.compile(r"\s+")


@final
class _Hashes(dict[bytes, bytes]):
    """Word -> the eight bytes of its hash, computed once for the words that come again."""

    def __missing__(self, word: bytes) -> bytes:
        folded = word if word.isascii() else _folded(word.decode()).encode()
        value = blake2b(folded.lower(), digest_size=8).digest()
        if len(word) <= _LONGEST_CACHED_WORD:
            if len(self) >= _CACHED_WORDS:
                self.clear()
            self[word] = value
        return value


_hashes = _Hashes()


def word_hashes(text: str) -> np.ndarray:
    """The hash of each word of `text` in order, uint64; in time linear in its length.

    A text that is nothing but punctuation has its runs between white space for words; one that is nothing but white
    space has none.
    """
    hashes = _hashed(_spaced(text))
    if len(hashes) == 0:
        # The byte in front, which parts words everywhere else, keeps these runs apart from words.
        runs = _WHITE.sub(" \0", f" {text}").removesuffix("\0")
        hashes = _hashed(runs.encode())
    return hashes


def _spaced(text: str) -> bytes:
    """The words of the text, with ASCII white space between them."""
    if text.isascii():
        return text.encode().translate(_ASCII)
    text = _SEPARATORS.sub(" ", _INVISIBLE.sub("", text))
    return _UNSPACED.sub(" \\g<0> ", text).encode()


def _hashed(words: bytes) -> np.ndarray:
    import numpy as np

    joined = b"".join([b"".join(map(_hashes.__getitem__, some)) for some in _split(words)])
    return np.frombuffer(joined, dtype="<u8")


def _split(words: bytes) -> Iterator[list[bytes]]:
    """The words in lists of bounded length: an object for each word of a long text would be many times the text."""
    if len(words) <= _PIECE:
        yield words.split()
        return
    start = 0
    while start < len(words):
        end = words.find(b" ", start + _PIECE)
        end = len(words) if end < 0 else end
        yield words[start:end].split()
        start = end


def _folded(word: str) -> str:
    if len(word) > LONGEST_NORMALISED_WORD:
        return word.casefold()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).casefold())
