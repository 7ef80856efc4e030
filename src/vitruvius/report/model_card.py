"""The model card: what an architecture (or a model trained from one) is, costs and can do, for whoever meets it first.

The form follows Mitchell et al., 2019, as far as a spec and a run folder know the answers; what neither knows is said
to be unknown, and not left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, cast

from vitruvius.patterns import FOREVER
from vitruvius.report.bill import format_flops
from vitruvius.report.tables import code, markdown, prose
from vitruvius.runs.record import reproducibility_record
from vitruvius.sizing import size
from vitruvius.spec.rules import ensure
from vitruvius.units import exact, format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vitruvius.patterns import Pattern
    from vitruvius.sizing import Bill
    from vitruvius.spec.graph import Graph, Layer
    from vitruvius.spec.model import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What a run folder says of how the weights came about."""

    record: Mapping[str, Any]
    """`run.json`."""
    metrics: Sequence[Mapping[str, Any]]
    """The rows of `metrics.jsonl`."""


def model_card(architecture: Architecture, training: Training | None = None, *, drawing: str | None = None) -> str:
    """The card in Markdown, with the front matter that model hubs read; `drawing` is the name of a picture beside it.

    Raises SpecError when the architecture does not fit together.
    """
    graph = ensure(architecture)
    bill = size(architecture)
    parts = [
        _front_matter(graph, training),
        f"# {architecture.name}",
        prose(architecture.description),
        "" if drawing is None else f"![The layers of {architecture.name}]({drawing})",
        "## In short",
        markdown(("", ""), list(_short(graph, bill))),
        "## Layers",
        markdown(("block", "layers", "what is in it"), list(_blocks(graph))),
        "## What it costs",
        _COSTS.format(name=architecture.name),
        markdown(("", "", ""), list(_costs(bill))),
        *_claims(bill),
        "## Training",
        *(_untrained() if training is None else _trained(training)),
        "## What it is for, and what not",
        "\n".join(f"- {line}" for line in _limits(graph, training)),
    ]
    if training is not None:
        parts += ["## How to get it again", _record(training)]
    return "\n\n".join(part for part in parts if part) + "\n"


_COSTS = "For one sequence of the declared context in bf16; `vitruvius size {name} --explain` shows the arithmetic."


def _front_matter(graph: Graph, training: Training | None) -> str:
    kinds = {component.kind for layer in graph.every_layer() for _, component in layer.sublayers()}
    task = "text-generation" if graph.is_causal else "fill-mask"
    tags = "\n".join(f"- {kind}" for kind in sorted(kinds))
    trained = "" if training is None else f"\npipeline_tag: {task}"
    return f"---\nlibrary_name: vitruvius{trained}\ntags:\n- custom-architecture\n{tags}\n---"


def _short(graph: Graph, bill: Bill) -> Iterator[tuple[str, str]]:
    counts, architecture = bill.parameters, graph.architecture
    yield "parameters", f"{format_count(counts.total)} ({exact(counts.total)})"
    if counts.active != counts.total:
        yield "active for each token", f"{format_count(counts.active)} ({exact(counts.active)})"
    yield "of them embedding tables", f"{format_count(counts.embedding)} ({exact(counts.embedding)})"
    if counts.mtp:
        yield "besides, for training alone", f"{format_count(counts.mtp)} ({exact(counts.mtp)})"
    yield "declared context", f"{architecture.context:,} tokens"
    yield "vocabulary", f"{architecture.vocab_size:,}"
    yield "width", f"{architecture.width:,}"
    yield "layers", f"{len(graph.layers):,}" + (f", encoder {len(graph.encoder):,}" if graph.encoder else "")
    yield "head", architecture.head.kind
    yield "decodes token by token", "yes" if graph.is_causal else "no, it sees later tokens"


def _blocks(graph: Graph) -> Iterator[tuple[str, str, str]]:
    found: dict[str, list[Layer]] = {}
    for layer in (*graph.encoder, *graph.layers):
        found.setdefault(layer.name, []).append(layer)
    for name, layers in found.items():
        yield code(name), f"{len(layers):,}", "; ".join(_inside(layers[0]))


def _inside(layer: Layer) -> Iterator[str]:
    for name, component in layer.sublayers():
        details = component.details(layer.scope)
        told = ", ".join(details or ())
        pattern = getattr(component, "sees", None)
        seen = f", sees {code(pattern)}" if isinstance(pattern, str) else ""
        yield f"{name} `{component.kind}`{': ' if told else ''}{prose(told)}{seen}"


def _costs(bill: Bill) -> Iterator[tuple[str, str, str]]:
    yield "weights", format_bytes(bill.weights_bytes), f"{exact(bill.weights_bytes)} bytes"
    if bill.kv_cache_bytes:
        yield "KV cache", format_bytes(bill.kv_cache_bytes), f"{exact(bill.kv_cache_bytes)} bytes"
    if bill.state_bytes:
        yield "recurrent state", format_bytes(bill.state_bytes), f"{exact(bill.state_bytes)} bytes"
    forward, train = bill.forward_flops_per_token, bill.train_flops_per_token
    yield "forward pass", format_flops(forward), "a token, averaged over the context"
    yield "training", format_flops(train), "a token, forward and backward"


def _claims(bill: Bill) -> Iterator[str]:
    if bill.claims:
        yield "What is said of it, held against the arithmetic:"
        head = ("claim", "says", "is", "true", "where it is said")
        rows = [
            (claim.about, claim.says, claim.shown, "yes" if claim.holds else "**no**", prose(claim.source))
            for claim in bill.claims
        ]
        yield markdown(head, rows)


def _untrained() -> Iterator[str]:
    yield "This card describes an architecture. There are no weights: what it can do after training is not known."


def _trained(training: Training) -> Iterator[str]:
    record = training.record
    last: Mapping[str, Any] = training.metrics[-1] if training.metrics else {}
    config = cast("dict[str, Any]", record["config"].get("train") or {})
    rows = [("status", str(record["status"]))]
    rows += [(name, _value(last[key])) for name, key in _LAST if last.get(key) is not None]
    rows += [(name, _value(config[key])) for name, key in _CONFIG if config.get(key) is not None]
    yield markdown(("", ""), rows)
    data = cast("dict[str, Any]", record["data"] or {})
    if data:
        yield "The data it was trained on:"
        yield markdown(("", ""), [(prose(str(key)), code(_value(value))) for key, value in data.items()])


_LAST = (
    ("steps", "step"),
    ("tokens", "tokens"),
    ("loss of the last step, nats a token", "loss"),
    ("validation loss, nats a token", "val_loss"),
    ("validation, bits a byte", "val_bits_per_byte"),
)
_CONFIG = (
    ("objective", "objective"),
    ("optimizer", "optimizer"),
    ("learning rate", "lr"),
    ("batch, sequences", "batch"),
    ("tokens a sequence", "context"),
    ("number format", "dtype"),
    ("seed", "seed"),
)


def _value(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _limits(graph: Graph, training: Training | None) -> Iterator[str]:
    architecture = graph.architecture
    if training is None:
        yield "Without training it produces noise; the numbers above hold all the same."
    yield (
        f"Sequences of up to {architecture.context:,} tokens are what it is declared for. Whether it uses all of them "
        "is a question for measurements, not for the spec."
    )
    position = architecture.embedding.position
    longest = None if position is None else position.longest_sequence(graph.scope)
    if longest is not None:
        yield f"It has {longest:,} learned positions and refuses longer sequences."
    reaches = [layer.mixer.pattern() for layer in graph.layers if layer.mixer is not None]
    bound = 1 + sum(_reach(pattern) for pattern in reaches)
    if bound < architecture.context:
        yield f"Windows through all layers reach back {bound:,.0f} tokens at most; what lies further cannot matter."
    yield "Licence, languages, intended users, biases and evaluations are not known to the spec: add them."


def _reach(pattern: Pattern | None) -> float:
    """Tokens before the query that one layer reads at most; a recurrence has no bound."""
    if pattern is None:
        return inf
    farthest = max((clause.distance_high for clause in pattern.clauses), default=0)
    return inf if farthest >= FOREVER else farthest


def _record(training: Training) -> str:
    record = training.record
    return reproducibility_record(
        "Reproducibility record",
        command=record["command"],
        data=record["data"] or {},
        observed=record["result"],
        environment=record["environment"],
    ).to_markdown()
