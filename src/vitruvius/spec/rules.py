"""What does not fit together: findings across fields, all of them at once.

Each component finds what is wrong inside itself (`Component.findings`); the rules here look across components. Paths
are dotted keys; `vitruvius.spec.reading` turns them into lines and columns.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from vitruvius.errors import Finding, PatternError, SpecError, UsageError
from vitruvius.spec.expressions import evaluate
from vitruvius.spec.graph import Graph, line_finding, resolve
from vitruvius.spec.lines import LineError, parse_lines
from vitruvius.spec.mixing import Mixing
from vitruvius.spec.node import LARGEST, Scope, under
from vitruvius.spec.stack import mixer_block
from vitruvius.spec.validating import checked_types
from vitruvius.units import parse_quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from vitruvius.spec.model import Architecture, Block, Claim

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_BLOCK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")
_LARGEST_PARAMETERS = 10**15
_LONGEST_SHOWN = 40


def findings(architecture: Architecture) -> list[Finding]:
    """Everything wrong with, or worth knowing about, an architecture; paths are dotted and lines unknown."""
    scope = Scope(
        width=architecture.width,
        vocab_size=architecture.vocab_size,
        context=architecture.context,
        depth=1,
        init=architecture.init,
        causal=architecture.head.causal,
    )
    found = list(_names(architecture))
    for name, block in architecture.blocks.items():
        found += under(f"blocks.{name}", _block(block, scope))
    found += under("embedding", _embedding(architecture, scope))
    for index, claim in enumerate(architecture.claims):
        found += under(f"claims.{index}", _claim(claim))
    try:
        graph = resolve(architecture)
    except SpecError as error:
        return found + list(error.findings)
    if not any(finding.severity == "error" for finding in found):
        found += _stack(graph)
    return found


def findings_of_parts(plain: Mapping[str, Any], sound_block: Callable[[object], Block | None]) -> list[Finding]:
    """What the rules find in plain data of which some part is no architecture: the layer lines, and each sound block.

    So one run tells of the mistakes in other places too. `sound_block` reads one block, or gives None.
    """
    blocks, lines = plain.get("blocks"), plain.get("layers")
    if not isinstance(blocks, dict):
        return []
    named = cast("dict[str, object]", blocks)
    found: list[Finding] = []
    if isinstance(lines, str) or _is_texts(lines):
        try:
            parse_lines(cast("str | list[str]", lines), named)
        except LineError as error:
            found.append(line_finding(error))
    dimensions = {name: plain.get(name) for name in ("width", "vocab_size", "context")}
    if all(type(number) is int and 1 <= number <= LARGEST for number in dimensions.values()):
        width, vocab_size, context = cast("list[int]", list(dimensions.values()))
        scope = Scope(width=width, vocab_size=vocab_size, context=context, depth=1)
        for name, data in named.items():
            block = sound_block(data)
            if block is not None:
                found += under(f"blocks.{name}", _block(block, scope))
    return found


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in cast("list[object]", value))


def ensure(architecture: Architecture) -> Graph:
    """The resolved architecture, checked: the one entrance of size, build, check and train for Python-built specs.

    Raises SpecError with every finding that is an error, UsageError when it is given something else.
    """
    architecture = checked_types(architecture)
    errors = [finding for finding in findings(architecture) if finding.severity == "error"]
    if errors:
        raise SpecError(errors)
    return resolve(architecture)


def _names(architecture: Architecture) -> Iterator[Finding]:
    if not _NAME.fullmatch(architecture.name):
        what = f"{_short(architecture.name)!r} cannot name files and folders"
        fix = "start with a letter or digit; use at most 100 letters, digits, '.', '_' and '-'"
        yield Finding(path="name", what=what, fix=fix)
    if not architecture.blocks:
        yield Finding(path="blocks", what="there are no blocks", fix="describe at least one")
    for name in architecture.blocks:
        if not _BLOCK_NAME.fullmatch(name):
            what = f"{_short(name)!r} cannot stand in a layer line"
            fix = "start with a letter; use at most 100 letters, digits, '_' and '-'"
            yield Finding(path=f"blocks.{name}", what=what, fix=fix)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}..."


def _block(block: Block, scope: Scope) -> Iterator[Finding]:
    if block.mixer is None and block.cross is None and block.ffn is None:
        yield Finding(what="this block does nothing", fix="give it a mixer, an ffn or both")
    parts = (("mixer", block.mixer), ("cross", block.cross), ("ffn", block.ffn), ("norm", block.norm))
    for name, component in parts:
        if component is not None:
            yield from under(name, component.findings(scope))
    if block.order not in {None, "in-turn"} and block.norm_place not in {None, "pre", "none"}:
        what = (
            f"sublayers in parallel all read the stream as it came in, and norm_place {block.norm_place} has no place"
        )
        yield Finding(path="norm_place", what=what, fix="use norm_place pre or none, or order in-turn")
    if block.residual_scale is not None:
        try:
            evaluate(block.residual_scale, {"width": scope.width, "depth": scope.depth})
        except UsageError as error:
            yield Finding(path="residual_scale", what=error.what, fix=error.fix)


def _embedding(architecture: Architecture, scope: Scope) -> Iterator[Finding]:
    embedding = architecture.embedding
    if embedding.scale is not None:
        try:
            evaluate(embedding.scale, {"width": scope.width})
        except UsageError as error:
            yield Finding(path="scale", what=error.what, fix=error.fix)
    position = embedding.position
    if position is None:
        return
    if position.acts_on != "embedding":
        what = f"{position.kind} positions act inside attention, not on the embedding"
        fix = f"move it to each mixer: {{position: {{kind: {position.kind}}}}}"
        yield Finding(path="position", what=what, fix=fix)
    yield from under("position", position.findings(scope))


def _claim(claim: Claim) -> Iterator[Finding]:
    try:
        parse_quoted(claim.says, "bytes" if claim.is_about_bytes else "count")
    except UsageError as error:
        yield Finding(path="says", what=error.what, fix=error.fix)


def _stack(graph: Graph) -> Iterator[Finding]:
    architecture = graph.architecture
    used = {name for layer in graph.every_layer() for name in layer.name.split("/")}
    yield from _frame(graph)
    yield from _loans(graph)
    for name in architecture.blocks:
        if name not in used:
            yield Finding(path=f"blocks.{name}", severity="note", what="no layer uses this block")
    if architecture.head.causal:
        for name in sorted({name for layer in graph.layers for name in layer.name.split("/")}):
            yield from under(f"blocks.{name}.mixer", _future(architecture.blocks[name]))
    total = sum(tensor.count for tensor in graph.tensors().values())
    if total > _LARGEST_PARAMETERS:
        yield Finding(
            path="width", what=f"{total:,} parameters are more than anyone builds", fix="check the dimensions"
        )


def _frame(graph: Graph) -> Iterator[Finding]:
    """What an encoder and its readers need of each other."""
    reading = {layer.name for layer in graph.layers if layer.cross is not None}
    for name in sorted(reading) if not graph.encoder else ():
        what = "cross-attention reads an encoder, and the architecture has none"
        fix = "add encoder: {layers: ...}, or remove cross"
        yield Finding(path=f"blocks.{name.split('/', maxsplit=1)[0]}.cross", what=what, fix=fix)
    if graph.encoder and not reading:
        what = "no block of layers reads the encoder"
        yield Finding(path="encoder", what=what, fix="give a block cross: {kind: attention, heads: ...}")
    for layer in graph.encoder:
        if layer.cross is not None:
            name = layer.name.split("/", maxsplit=1)[0]
            what = "this block stands in the encoder and reads it too"
            yield Finding(path=f"blocks.{name}.cross", what=what, fix="use a block without cross in the encoder")
            break
    for layer in graph.mtp:
        if layer.cross is not None or not graph.is_causal:
            what = "multi-token prediction goes on top of a causal stack without an encoder"
            yield Finding(path="mtp", what=what, fix="remove mtp")
            break


def _loans(graph: Graph) -> Iterator[Finding]:
    """What does not fit between layers that read each other's keys and values."""
    known: set[tuple[str, str, str]] = set()
    for stack in (graph.encoder, graph.layers, graph.mtp):
        for layer in stack:
            for what, source in layer.loans():
                pair = (what, layer.name, stack[source].name)
                if layer.mixer is not None and pair not in known:
                    at, lender = mixer_block(layer, graph.architecture.blocks), stack[source].mixer or Mixing()
                    yield from under(f"blocks.{at}.mixer", layer.mixer.findings_of_loan(what, lender, layer.scope))
                known.add(pair)


def _future(block: Block) -> Iterator[Finding]:
    try:
        pattern = block.mixer.pattern() if block.mixer is not None else None
    except PatternError:
        return
    if pattern is not None and not pattern.is_causal:
        sees: str = getattr(block.mixer, "sees", "...")
        what = f"{sees!r} lets a token see later ones, and an lm head would be trained on the answer"
        fix = f"write causal & ({sees})" if "|" in sees else f"write causal & {sees}"
        yield Finding(path="sees", what=what, fix=fix)
