"""Names of a sweep's arms, which are names of folders: `lr=0.001,width=128`. Whatever the values are, they are safe.

Letters, digits and `._+=,-` only, none longer than 100 characters, no two alike where case is not told apart.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

ALONE = "base"
"""The arm of a sweep over seeds alone."""
LONGEST = 100
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
_HASH = 8


def named(arms: Sequence[Sequence[tuple[str, Any]]]) -> list[str]:
    """A name for each arm, of its (path, value) pairs; no two arms are the same."""
    keys = _short({path for arm in arms for path, _ in arm})
    plain = [",".join(f"{keys[path]}={_shown(value)}" for path, value in arm) or ALONE for arm in arms]
    count = Counter(name.casefold() for name in plain)
    return [
        name if len(name) <= LONGEST and count[name.casefold()] == 1 else _marked(name, arm)
        for name, arm in zip(plain, arms, strict=True)
    ]


def _short(paths: set[str]) -> dict[str, str]:
    """Path -> its last part, or more of it where two would be alike."""
    found: dict[str, str] = {}
    for path in paths:
        parts = path.split(".")
        ends = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        others = [other for other in paths if other != path]
        short = next((end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others)), path)
        found[path] = _UNSAFE.sub("-", short).strip("-.") or "value"
    return found


def _shown(value: Any) -> str:
    if isinstance(value, int | float):
        return json.dumps(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return _UNSAFE.sub("-", text).strip("-") or "none"


def _marked(name: str, arm: Sequence[tuple[str, Any]]) -> str:
    """The name, cut, with what tells it from every other."""
    whole = json.dumps([*arm], ensure_ascii=True)
    return f"{name[: LONGEST - _HASH - 1]}~{hashlib.sha256(whole.encode()).hexdigest()[:_HASH]}"
