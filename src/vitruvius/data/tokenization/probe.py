"""Tries a pattern from a file on texts that make bad patterns slow, in a process of its own.

Patterns run in the regular-expression engine of the tokenizers library, which backtracks. It gives up after ten million
steps at one place, but a pattern can spend nearly that many at each.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from vitruvius.data.tokenization.patterns import KNOWN
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST_PATTERN = 16_384
"""Characters; published patterns have up to about 2,000."""
_SECONDS = 2
"""Processor time for the trial; published patterns need a tenth of a second. One match may use it up: the system then
ends the process.
"""
_WALL_SECONDS = 30
"""Where the system has no such limit."""

_TRIAL = f"""
import contextlib, json, sys, time
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split
with contextlib.suppress(ImportError, ValueError, OSError):
    import resource
    used = int(time.process_time()) + 1
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (used + {_SECONDS}, used + {_SECONDS} + 1))
for pattern in json.load(sys.stdin):
    try:
        split = Split(Regex(pattern), behavior="isolated")
    except Exception as error:
        print(json.dumps([pattern, str(error)]))
        sys.exit()
    letters = list(dict.fromkeys([*"aA1 \\n'-.\\u00e9\\u4e2d", *[c for c in pattern if c.isalnum()][:14]]))
    for length in (24, 96, 384):
        for run in letters:
            for end in ("", *letters):
                # What an engine looks for before it tries to match stands behind the run, out of reach.
                for rest in ("", "\\u2603" + "".join(letters)):
                    split.pre_tokenize_str(run * length + end + rest)
                if time.process_time() > {_SECONDS}:
                    print(json.dumps([pattern, "slow"]))
                    sys.exit()
print("[]")
"""


def try_patterns(patterns: Iterable[str], where: str) -> None:
    """Refuse patterns that do not compile, or whose matching takes time out of proportion to the text.

    A pattern can still cost more than a known one on texts other than those tried; the engine's own limit then ends
    the encoding with an error.

    Raises:
        DataError: names the pattern.
    """
    unknown = sorted(set(patterns) - KNOWN)
    for pattern in unknown:
        if len(pattern) > LONGEST_PATTERN:
            raise DataError(
                f"a pattern has {len(pattern):,} characters; the most is {LONGEST_PATTERN:,}",
                where=where,
                fix="use a tokenizer with a plainer word split",
            )
    if not unknown:
        return
    try:
        done = subprocess.run(  # noqa: S603 (our own text, with the running interpreter)
            [sys.executable, "-c", _TRIAL],
            input=json.dumps(unknown),
            capture_output=True,
            text=True,
            timeout=_WALL_SECONDS,
            check=False,
        )
        found: list[str] = json.loads(done.stdout) if done.returncode == 0 else ["", "slow"]
    except subprocess.TimeoutExpired:
        found = ["", "slow"]
    if found:
        pattern, problem = found
        name = repr(pattern[:200]) if pattern else "one of " + ", ".join(repr(each[:80]) for each in unknown)
        said = "takes far too long on some texts" if problem == "slow" else f"is no regular expression ({problem})"
        raise DataError(f"the pattern {name} {said}", where=where, fix="use a tokenizer with a plainer word split")
