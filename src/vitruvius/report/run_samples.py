"""What a model wrote while it learned, as text and as part of a page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from vitruvius.report.runs_text import number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_SHOWN = 400
"""Characters of a text in a terminal."""
MOST_STEPS = 12
"""Steps of a run on a page, spread over it."""


def samples_text(samples: Sequence[Mapping[str, Any]]) -> str:
    """Samples of one step, a paragraph each; nothing without any."""
    if not samples:
        return ""
    lines = [f"what it wrote at step {samples[0]['step']:,}"]
    lines += [f"  {_told(sample)}" for sample in samples]
    return "\n".join(lines)


def sample_line(sample: Mapping[str, Any], width: int = 100) -> str:
    """A sample in a line."""
    text = " ".join(f"{sample['prompt']}{_joint(sample)}{sample['text']}".split())
    return f"  wrote at step {sample['step']:,}: {text[:width]}" + ("..." if len(text) > width else "")


def _told(sample: Mapping[str, Any]) -> str:
    text = str(sample["text"])
    shown = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
    score = number(_mean(sample))
    return f"{sample['prompt']}{_joint(sample)}{shown}  ({score} nats a token)".replace("\n", "\n  ")


def _joint(sample: Mapping[str, Any]) -> str:
    """Between a prompt and what was made of it: nothing where it was continued."""
    return " -> " if sample["prompt"] and sample.get("finish") is None else ""


def _mean(sample: Mapping[str, Any]) -> float | None:
    """The mean surprise of its tokens, in nats."""
    value = sample.get("logprob_mean")
    return -value if isinstance(value, int | float) else None


def samples_html(named: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> str:
    """A section with the samples of runs, by name: some steps of each from first to last; empty without any."""
    parts: list[str] = []
    for name, samples in named:
        steps = list(dict.fromkeys(sample["step"] for sample in samples))
        if not steps:
            continue
        count = min(MOST_STEPS, len(steps))
        kept = {steps[round(i * (len(steps) - 1) / max(1, count - 1))] for i in range(count)}
        if len(named) > 1:
            parts.append(f"<h3>{escape(name)}</h3>")
        if len(kept) < len(steps):
            parts.append(f'<p class="soft">{len(kept)} of {len(steps):,} steps; all of them are in samples.jsonl.</p>')
        parts += [_sample_html(sample) for sample in samples if sample["step"] in kept]
    return "<h2>What it wrote</h2>" + "".join(parts) if parts else ""


def _sample_html(sample: Mapping[str, Any]) -> str:
    told = f"step {sample['step']:,}, {number(_mean(sample))} nats a token"
    prompt = f'<span class="soft">{escape(str(sample["prompt"]) + _joint(sample))}</span>'
    return f'<p class="soft">{escape(told)}</p><pre>{prompt}{escape(str(sample["text"]))}</pre>'
