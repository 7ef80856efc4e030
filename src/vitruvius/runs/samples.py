"""Text that a model wrote while it was trained: `samples.jsonl` in its run folder. Files only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.runs.lines import read_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

SAMPLES_FILE = "samples.jsonl"


def samples_of(run: Path) -> list[dict[str, Any]]:
    """The rows of `samples.jsonl`, oldest first: step, prompt, text, tokens, logprob_mean, finish.

    None where the run takes no samples; a row that lacks what one holds is passed over. Raises RunError for a line
    that is no JSON object.
    """
    return [row for row in read_lines(run / SAMPLES_FILE) if is_sample(row)]


def is_sample(row: Mapping[str, Any]) -> bool:
    """Whether a row holds what a sample does."""
    step = row.get("step")
    texts = (row.get("prompt"), row.get("text"))
    return type(step) is int and 0 <= step < 2**63 and all(isinstance(text, str) for text in texts)


def newest(samples: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of the last step that has any."""
    found = list(samples)
    return [row for row in found if row["step"] == found[-1]["step"]]
