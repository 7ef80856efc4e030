"""Layer lines: which block stands where, and which layers share their weights.

    line := item+ ;  item := atom ('*' N | '^' N)* ;  atom := NAME | '(' line ')'

`*N` repeats what stands before it N times with new weights each time, `^N` with the same weights. So `(a^2 b)*3` is
nine layers with six sets of weights: the two `a` of each round share theirs. Repeats are counted before they are
written out, so a line of 10^23 layers is refused as fast as one of 33.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import log10, prod
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from vitruvius.errors import VitruviusError
from vitruvius.spec.characters import describe, find_foreign
from vitruvius.spec.reporting import did_you_mean, listed, quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

MAX_LAYERS: Final = 10_000
MAX_DEPTH: Final = 64
"""Parentheses nest at most this deep, and at most this many counts follow one atom."""
MAX_DIGITS: Final = 20

_TOKEN: Final = re.compile(r"\s*(?:(?P<name>[A-Za-z][A-Za-z0-9_-]*)|(?P<count>[0-9][A-Za-z0-9_]*)|(?P<sign>[()*^]))")
_WORD: Final = re.compile(r"[^\s()*^]+|.")


class LineError(VitruviusError):
    """A layer line cannot be read, or names too many layers.

    `position` is the 0-based character in the line where it went wrong, or None; `line_index` says which of
    several stacked lines it is.
    """

    def __init__(self, what: str, *, position: int | None = None, line_index: int | None = None, fix: str = "") -> None:
        self.position = position
        self.line_index = line_index
        line = "" if line_index is None else f"line {line_index + 1} of layers"
        character = "" if position is None else f"character {position + 1}"
        super().__init__(what, where=", ".join(part for part in (line, character) if part), fix=fix)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerItem:
    """One layer of one line."""

    name: str
    """Its block."""
    weights: int
    """Which weights it has, counted from 0 along the line; layers with the same number share theirs."""


def parse_lines(
    text: str | Sequence[str], known: Collection[str], *, limit: int = MAX_LAYERS
) -> list[tuple[LayerItem, ...]]:
    """The layers of one line, or of several that are stacked: one tuple per layer, with an item from each line.

    Raises LineError when a line cannot be read, or when stacked lines have different numbers of layers.
    """
    if isinstance(text, str):
        return [(item,) for item in parse_line(text, known, limit=limit)]
    if not text:
        raise LineError("no layers", fix="name at least one block")
    lines: list[list[LayerItem]] = []
    for index, line in enumerate(text):
        try:
            lines.append(parse_line(line, known, limit=limit))
        except LineError as error:
            raise LineError(error.what, position=error.position, line_index=index, fix=error.fix) from None
    lengths = [len(line) for line in lines]
    if len(set(lengths)) > 1:
        raise LineError(
            f"stacked lines must have equally many layers; these have {listed(f'{n:,}' for n in lengths)}",
            fix="change a count so that every line covers every layer",
        )
    return list(zip(*lines, strict=True))


def parse_line(text: str, known: Collection[str], *, limit: int = MAX_LAYERS) -> list[LayerItem]:
    """The layers of one line, bottom first; `known` are the names of the blocks.

    Raises LineError when the line cannot be read, names an unknown block, or has more than `limit` layers.
    """
    group = _Parser(text, known, limit).parse()
    if group.layers > limit:
        raise _too_many(group.layers, limit)
    return [LayerItem(name=name, weights=weights) for name, weights in _expand(group)]


# ---------------------------------------------------------------------------------------------------------- reading


class _Token(NamedTuple):
    kind: str
    """`name`, `count`, `(`, `)`, `*` or `^`."""
    text: str
    position: int


class _Repeat(NamedTuple):
    sign: str
    """`*` for new weights each time, `^` for the same."""
    times: int


@dataclass(slots=True, kw_only=True)
class _Item:
    atom: str | _Group
    repeats: list[_Repeat]
    position: int

    @property
    def layers(self) -> int:
        number = 1 if isinstance(self.atom, str) else self.atom.layers
        for repeat in self.repeats:
            number *= repeat.times
        return number


@dataclass(slots=True, kw_only=True)
class _Group:
    items: list[_Item]
    position: int
    """Where its parenthesis stands; 0 for the line itself."""
    layers: int = 0
    """Number of layers, filled in when the group is closed."""

    def close(self) -> None:
        """Count the layers."""
        self.layers = sum(item.layers for item in self.items)


class _Parser:
    """Reads a line into groups without recursion; the stack holds the groups that are still open."""

    def __init__(self, text: str, known: Collection[str], limit: int) -> None:
        self._text = text
        self._known = known
        self._limit = limit
        self._open = [_Group(items=[], position=0)]
        self._names = 0

    def parse(self) -> _Group:
        sign: _Token | None = None
        for token in _tokens(self._text):
            if sign is not None:
                self._repeat(sign, token)
                sign = None
            elif token.kind in "*^":
                sign = token
            else:
                self._atom(token)
        if sign is not None:
            raise _no_count(sign, None)
        if len(self._open) > 1:
            raise LineError("this '(' is never closed", position=self._open[-1].position, fix="add the missing ')'")
        line = self._open[0]
        if not line.items:
            raise LineError("no layers", position=0, fix="name at least one block")
        line.close()
        return line

    def _atom(self, token: _Token) -> None:
        if token.kind == "(":
            if len(self._open) > MAX_DEPTH:
                what = f"parentheses nest more than {MAX_DEPTH} deep"
                raise LineError(what, position=token.position, fix="multiply counts: `((local*2)*3)` is `local*6`")
            self._open.append(_Group(items=[], position=token.position))
        elif token.kind == ")":
            self._close(token)
        elif token.kind == "name":
            self._name(token)
        else:
            raise LineError(
                f"expected the name of a block, found {quoted(token.text)}",
                position=token.position,
                fix="a count follows '*' or '^', as in `local*4`",
            )

    def _name(self, token: _Token) -> None:
        if token.text not in self._known:
            known = f"the blocks are {listed(self._known)}" if self._known else "describe it under blocks"
            fix = did_you_mean(token.text, self._known) or known
            raise LineError(f"no block {quoted(token.text)}", position=token.position, fix=fix)
        self._names += 1
        if self._names > self._limit:
            raise LineError(
                f"more than {self._limit:,} layers, the limit, are written out",
                position=token.position,
                fix="use counts: `(local*5 global)*5`",
            )
        self._open[-1].items.append(_Item(atom=token.text, repeats=[], position=token.position))

    def _close(self, token: _Token) -> None:
        if len(self._open) == 1:
            raise LineError("this ')' closes nothing", position=token.position, fix="delete it, or add the missing '('")
        group = self._open.pop()
        if not group.items:
            raise LineError("nothing between these parentheses", position=group.position, fix="name a block there")
        group.close()
        self._open[-1].items.append(_Item(atom=group, repeats=[], position=group.position))

    def _repeat(self, sign: _Token, token: _Token) -> None:
        items = self._open[-1].items
        if not items:
            raise LineError(
                f"nothing stands before this '{sign.text}'",
                position=sign.position,
                fix="write the block first: `local*4`",
            )
        if token.kind != "count" or not token.text.isdigit() or token.text.startswith("0"):
            raise _no_count(sign, token)
        if len(token.text) > MAX_DIGITS:
            digits = len(token.text)
            number = f"{int(token.text):,}" if digits <= 2 * MAX_DIGITS else f"(a number of {digits:,} digits)"
            raise LineError(
                f"repeats {number} times; the limit is {self._limit:,} layers",
                position=token.position,
                fix=f"use counts that make at most {self._limit:,} layers",
            )
        item = items[-1]
        if len(item.repeats) == MAX_DEPTH:
            raise LineError(f"more than {MAX_DEPTH} counts in a row", position=sign.position, fix="multiply them")
        item.repeats.append(_Repeat(sign.text, int(token.text)))


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    end = len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position, end)
        if match is None:
            raise _unreadable(text, position)
        kind = match.lastgroup or ""
        yield _Token(match[kind] if kind == "sign" else kind, match[kind], match.start(kind))
        position = match.end()


def _unreadable(text: str, position: int) -> LineError:
    position += len(text[position:]) - len(text[position:].lstrip())
    word = _WORD.match(text, position)
    found = word[0] if word else text[position : position + 1]
    foreign = find_foreign(found)
    if foreign is not None:
        return LineError(
            f"{quoted(found)} has {describe(foreign.character)} in it; the names of blocks are ASCII",
            position=position + foreign.position,
            fix=f"type {quoted(foreign.meant)} in ASCII" if foreign.meant else "use ASCII letters",
        )
    fixes = {",": "separate blocks by spaces", "-": "counts are 1 or more"}
    fix = fixes.get(found[0], "a line has names of blocks, '*', '^', counts and parentheses: `(local*5 global)*5`")
    return LineError(f"cannot read {quoted(found)}", position=position, fix=fix)


def _no_count(sign: _Token, found: _Token | None) -> LineError:
    instead = quoted(found.text) if found else "the end of the line"
    meant = found.text.lstrip("0") if found and found.kind == "count" else ""
    return LineError(
        f"'{sign.text}' needs a count of at least 1, found {instead}",
        position=found.position if found else sign.position,
        fix=f"write `{sign.text}{meant}`" if meant.isdigit() else f"write `{sign.text}2` to repeat twice, or delete it",
    )


def _too_many(layers: int, limit: int) -> LineError:
    number = f"{layers:,}" if layers < 10**30 else f"about 10^{round(layers.bit_length() * log10(2))}"
    return LineError(f"{number} layers; the limit is {limit:,}", fix=f"use counts that make at most {limit:,} layers")


# -------------------------------------------------------------------------------------------------------- expanding

# (block, weights) of each layer. The weights of a group are numbered from 0 without a gap, so that the next group,
# or the next round of a repeat with new weights, starts where its numbers end.
_Layers: TypeAlias = list[tuple[str, int]]


def _expand(group: _Group) -> _Layers:
    layers: _Layers = []
    used = 0
    for item in group.items:
        part = _expand_item(item)
        layers += _shifted(part, used)
        used += _distinct(part)
    return layers


def _expand_item(item: _Item) -> _Layers:
    layers = [(item.atom, 0)] if isinstance(item.atom, str) else _expand(item.atom)
    for sign, times in item.repeats:
        step = _distinct(layers) if sign == "*" else 0
        layers = [layer for turn in range(times) for layer in _shifted(layers, turn * step)]
    return layers


def _shifted(layers: _Layers, by: int) -> _Layers:
    return [(name, weights + by) for name, weights in layers] if by else layers


def _distinct(layers: _Layers) -> int:
    """How many sets of weights these layers have."""
    return max(weights for _, weights in layers) + 1


# -------------------------------------------------------------------------------------------------------- numbering


def count_blocks(text: str, known: Collection[str], *, limit: int = MAX_LAYERS) -> dict[str, int]:
    """How many layers of each block a line has. Raises LineError as `parse_line` does."""
    counts: dict[str, int] = {}
    for item in parse_line(text, known, limit=limit):
        counts[item.name] = counts.get(item.name, 0) + 1
    return counts


def number_layers(text: str, chosen: Collection[str], counts: dict[str, int], known: Collection[str]) -> str:
    """The line with the layers of the chosen blocks told apart: `(a b)*2` is `a b-1 a b-2` where `b` is chosen.

    `counts` holds how many layers of each block were numbered before, and goes on. Other blocks keep their counts. The
    line must be one that `parse_line` reads. Raises LineError where layers that are told apart share their weights.
    """
    return _numbered(_Parser(text, known, MAX_LAYERS).parse(), chosen, counts)


def _numbered(group: _Group, chosen: Collection[str], counts: dict[str, int]) -> str:
    return " ".join(_numbered_item(item, chosen, counts) for item in group.items)


def _numbered_item(item: _Item, chosen: Collection[str], counts: dict[str, int]) -> str:
    first = _first_of(item, chosen)
    if first is None:
        repeats = "".join(f"{repeat.sign}{repeat.times}" for repeat in item.repeats)
        return (item.atom if isinstance(item.atom, str) else f"({_numbered(item.atom, chosen, counts)})") + repeats
    if any(repeat.sign == "^" and repeat.times > 1 for repeat in item.repeats):
        what = f"'^' repeats the same weights, and the layers of {quoted(first)} differ by their `each`"
        fix = f"use '*', or give {quoted(first)} one value instead of a list"
        raise LineError(what, position=item.position, fix=fix)
    parts: list[str] = []
    for _ in range(prod(repeat.times for repeat in item.repeats)):
        if isinstance(item.atom, str):
            counts[item.atom] = counts.get(item.atom, 0) + 1
            parts.append(f"{item.atom}-{counts[item.atom]}")
        else:
            parts.append(_numbered(item.atom, chosen, counts))
    return " ".join(parts)


def _first_of(item: _Item, chosen: Collection[str]) -> str | None:
    """The first of the chosen blocks in an item, if there is one."""
    if isinstance(item.atom, str):
        return item.atom if item.atom in chosen else None
    return next((name for inner in item.atom.items if (name := _first_of(inner, chosen)) is not None), None)
