"""One look into a model: what it reads, where its heads look, what its experts and gates do, as one JSON document."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.checks.attention import FIRST
from vitruvius.errors import UsageError
from vitruvius.evals.inspecting.attention import Attended, Shown
from vitruvius.evals.inspecting.gates import Gate, gates_of
from vitruvius.evals.inspecting.information import SHUFFLES
from vitruvius.evals.inspecting.lens import lens_facts, stream_facts
from vitruvius.evals.inspecting.listening import listen
from vitruvius.evals.inspecting.roles import ROLES, Thresholds, repeated_tokens
from vitruvius.evals.inspecting.routing import BETWEEN_LAYERS, overlaps, routing_facts
from vitruvius.evals.inspecting.text import Names, Reading, reading_of
from vitruvius.spec.ffn.moe import Moe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from vitruvius.evals.inspecting.listening import Choice
    from vitruvius.evals.inspecting.subject import Inspected
    from vitruvius.nn import Model
    from vitruvius.spec import Layer

SCHEMA = "vitruvius.inspect/1"
MOST_TOKENS = 4096
_ROLE_ROWS = 8
"""Rows of text, and of repeated tokens, that roles are measured on."""
_TOGETHER = 8
"""Rows in a pass."""
REPEATED = 24
"""Different tokens in each row of repeated ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What to look at."""

    text: str | None = None
    """The text to read; None for held-out text of the run's data."""
    origin: str = "the given text"
    source: str | None = None
    """What the encoder of an encoder-decoder reads; None for the first half of the text."""
    layer: int | None = None
    """Only this layer of each stack."""
    head: int | None = None
    tokens: int = 64
    """Tokens of the text that is shown."""
    sample: int = 4096
    """Tokens that experts are judged on, and heads on the first rows of them."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UsageError for numbers that mean nothing."""
        if not 2 <= self.tokens <= MOST_TOKENS:
            raise UsageError(f"tokens={self.tokens:,} is out of range", fix=f"use 2 to {MOST_TOKENS:,}")
        if not 2 <= self.sample <= 1 << 20:
            raise UsageError(f"sample={self.sample:,} is out of range", fix=f"use 2 to {1 << 20:,}")
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"seed={self.seed} is out of range", fix="use 0 to 2^31 - 1")


def inspect(inspected: Inspected, ask: Ask | None = None) -> dict[str, Any]:
    """Everything that a look finds, as the data of `vitruvius.inspect/1`; equal arguments give equal documents.

    Raises UsageError for a layer or head that the model has not, and for a text that is too short.
    """
    ask = ask or Ask()
    chosen = _chosen_layers(inspected.model, ask)
    reading = reading_of(
        inspected, text=ask.text, origin=ask.origin, source=ask.source, tokens=ask.tokens, sample=ask.sample
    )
    names = Names(inspected)
    shown = Shown.of(reading, chosen, ask)
    attended = Attended(thresholds=ask.thresholds, chosen=chosen, head=ask.head)
    gates: list[Gate] = []
    heard = listen(
        inspected.model,
        torch.tensor([reading.tokens]),
        source_BS=_row(reading.source),
        look=shown.take,
        beside=lambda: gates_of(inspected.model, gates),
    )
    passes, read = _on_rows(inspected.model, reading, names, attended)
    repeats = _on_repeats(inspected, attended, seed=ask.seed)
    document = {
        "schema": SCHEMA,
        "name": inspected.name,
        "run": inspected.run,
        "step": inspected.step,
        "weights": "fresh" if inspected.step is None else "trained",
        "parameters": sum(parameter.numel() for parameter in inspected.model.parameters()),
        "text": _text(reading, names),
        "sample": {"origin": reading.rows_origin, "rows": len(reading.rows), "row_tokens": reading.rows.shape[1]},
        "settings": _settings(ask),
        "roles": [asdict(role) | {"threshold": getattr(ask.thresholds, role.name)} for role in ROLES],
        "layers": attended.records(shown),
        "maps": shown.maps,
        "cell_tokens": {"decoder": shown.run, "encoder": shown.source_run},
        "experts": _experts(passes, read, heard.choices, names, chosen, seed=ask.seed),
        "overlap": overlaps([[c for c in choices if c.layer.path in chosen] for choices in passes], seed=ask.seed),
        "gates": _gates(gates, chosen),
        "stream": stream_facts(heard),
        "lens": lens_facts(inspected.model, heard, reading.tokens, names),
        "notes": [*inspected.notes, *reading.notes, *repeats],
    }
    bad = _not_numbers(heard.stream)
    if bad is not None:
        document["notes"].append(f"the stream holds numbers that are none (NaN or infinite) from {bad} on")
    return _finite(document)


def _chosen_layers(model: Model, ask: Ask) -> dict[str, Layer]:
    """The layers that are looked at, by path."""
    graph = model.graph
    every = [*graph.encoder, *graph.layers]
    chosen = [layer for layer in every if ask.layer is None or layer.index == ask.layer]
    if not chosen:
        most = max(layer.index for layer in every)
        raise UsageError(f"there is no layer {ask.layer}", where="--layer", fix=f"layers are numbered 0 to {most}")
    if ask.head is not None:
        heads = max(
            (getattr(part, "heads", 0) or 0 for layer in chosen for part in (layer.mixer, layer.cross)), default=0
        )
        if not 0 <= ask.head < heads:
            fix = f"heads are numbered 0 to {heads - 1}" if heads else "these layers keep no attention map"
            raise UsageError(f"there is no head {ask.head}", where="--head", fix=fix)
    return {layer.path: layer for layer in chosen}


def _row(ids: Sequence[int] | None) -> Tensor | None:
    return None if ids is None else torch.tensor([list(ids)])


def _on_rows(
    model: Model, reading: Reading, names: Names, attended: Attended
) -> tuple[list[list[Choice]], list[tuple[Tensor, Tensor | None]]]:
    """Statistics over rows of text: heads from the first of them, experts from all; what the passes chose, and read."""
    passes: list[list[Choice]] = []
    read: list[tuple[Tensor, Tensor | None]] = []
    mixtures = any(isinstance(layer.ffn, Moe) for layer in (*model.graph.encoder, *model.graph.layers))
    for start in range(0, len(reading.rows) if mixtures else min(_ROLE_ROWS, len(reading.rows)), _TOGETHER):
        tokens_BT = reading.rows[start : start + _TOGETHER]
        source_BS = None if reading.sources is None else reading.sources[start : start + _TOGETHER]
        first = start == 0
        if first:
            attended.separators = (_separators(tokens_BT, names), _separators(source_BS, names))
        heard = listen(model, tokens_BT, source_BS=source_BS, look=attended.on_text if first else None)
        passes.append(heard.choices)
        read.append((tokens_BT, source_BS))
    return passes, read


def _separators(tokens_BT: Tensor | None, names: Names) -> Tensor | None:
    if tokens_BT is None:
        return None
    known = {int(token): names.separates(int(token)) for token in tokens_BT.unique()}
    return torch.tensor([[known[int(token)] for token in row] for row in tokens_BT])


def _on_repeats(inspected: Inspected, attended: Attended, *, seed: int) -> list[str]:
    """Scores on random tokens written twice; notes where that cannot be done."""
    model = inspected.model
    vocabulary = model.architecture.vocab_size
    if inspected.tokenizer is not None:
        vocabulary = min(vocabulary, inspected.tokenizer.vocab_size)
        ids = torch.tensor([token for token in range(vocabulary) if inspected.tokenizer.token_bytes[token]])
    else:
        ids = torch.arange(vocabulary)
    length = min(REPEATED, model.architecture.context // 2, len(ids))
    if length < 5:
        return ["induction and duplicate heads are not looked for: too few tokens or places for a text written twice"]
    tokens_BT = repeated_tokens(ids, rows=_ROLE_ROWS, length=length, seed=seed)
    source_BS = None if model.encoder is None else repeated_tokens(ids, rows=_ROLE_ROWS, length=length, seed=seed + 1)
    listen(model, tokens_BT, source_BS=source_BS, look=attended.on_repeats)
    return []


def _text(reading: Reading, names: Names) -> dict[str, Any]:
    def listed(ids: Sequence[int] | None) -> list[dict[str, Any]] | None:
        return None if ids is None else [{"id": token, "text": names(token)} for token in ids]

    return {"origin": reading.origin, "tokens": listed(reading.tokens), "source": listed(reading.source)}


def _settings(ask: Ask) -> dict[str, Any]:
    return {
        "layer": ask.layer,
        "head": ask.head,
        "tokens": ask.tokens,
        "sample": ask.sample,
        "seed": ask.seed,
        "thresholds": asdict(ask.thresholds),
        "shuffles": SHUFFLES,
        "overlap_shuffles": BETWEEN_LAYERS,
        "first_tokens": FIRST,
    }


def _experts(
    passes: Sequence[Sequence[Choice]],
    read: Sequence[tuple[Tensor, Tensor | None]],
    shown: Sequence[Choice],
    names: Names,
    chosen: dict[str, Layer],
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """Facts of each layer of experts; those of an encoder are about the source."""
    on_text = {choice.layer.path: [row.nonzero().flatten().tolist() for row in choice.chosen_NE] for choice in shown}
    found: list[dict[str, Any]] = []
    for of_encoder in (True, False):
        own = [
            [c for c in choices if c.layer.path in chosen and c.layer.path.startswith("encoder.") == of_encoder]
            for choices in passes
        ]
        tokens = [source if of_encoder and source is not None else tokens for tokens, source in read]
        facts = routing_facts(own, tokens, names, seed=seed)
        found += [
            fact | {"text": "source" if of_encoder else "tokens", "shown": on_text[fact["path"]]} for fact in facts
        ]
    return found


def _gates(gates: Sequence[Gate], chosen: dict[str, Layer]) -> list[dict[str, Any]]:
    """Gates as data; where an encoder reads first, the first gate of an embedding is its own."""
    embeddings = [gate for gate in gates if gate.path == "embedding"]
    found: list[dict[str, Any]] = []
    for gate in gates:
        encoder = gate.path.startswith("encoder.") or (len(embeddings) > 1 and gate is embeddings[0])
        if gate.path != "embedding" and gate.path not in chosen:
            continue
        values_HT = gate.values_HT.double().cpu()
        per_head = gate.of != "channel"
        found.append(
            {
                "path": f"encoder.{gate.path}" if encoder and gate.path == "embedding" else gate.path,
                "text": "source" if encoder else "tokens",
                "name": gate.name,
                "means": gate.means,
                "most": gate.most,
                "of": gate.of,
                "count": len(values_HT),
                "mean": values_HT.mean(0).tolist(),
                "low": values_HT.quantile(0.1, dim=0).tolist(),
                "high": values_HT.quantile(0.9, dim=0).tolist(),
                "values": values_HT.tolist() if per_head else None,
            }
        )
    return found


def _not_numbers(stream: dict[str, Tensor]) -> str | None:
    """The first place whose stream is not finite."""
    return next((path for path, x in stream.items() if not bool(torch.isfinite(x).all())), None)


def _finite(value: Any) -> Any:
    """The document with null where a number is not finite: JSON has no other."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
