"""Builds the tree of a spec out of the YAML parser's events, refusing what a spec never needs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from vitruvius.spec.characters import CURLY_QUOTES, HIDDEN, ODD_SPACE, describe, find_foreign
from vitruvius.spec.reporting import Report, printable, quoted
from vitruvius.spec.scalars import ScalarError, read_scalar
from vitruvius.spec.tree import Mark, Node

if TYPE_CHECKING:
    from vitruvius.spec.tree import Scalar

MAX_DEPTH: Final = 64
"""Mappings and lists nest at most this deep."""

MAX_NODES: Final = 50_000
"""A spec has at most this many keys and values."""

_COLON_WITHOUT_SPACE: Final = re.compile(r"([A-Za-z_][\w-]*):(\S.*)")


@dataclass(slots=True)
class _Split:
    """A value in a flow collection whose parenthesis is still open at a comma: `dilated(1024` of `dilated(1024, 4)`."""

    mark: Mark
    start: int
    """Index of its first character in the text."""
    path: str
    key: str | None
    unclosed: int


@dataclass(slots=True)
class _Frame:
    """A mapping or list that is still open."""

    mark: Mark
    is_flow: bool
    fields: dict[str, Node] | None = None
    """The entries so far, of a mapping."""
    items: list[Node] | None = None
    """The entries so far, of a list."""
    key_marks: dict[str, Mark] = field(default_factory=dict[str, Mark])
    key: str | None = None
    """The key whose value comes next; None while a key was refused and its value will be dropped."""
    awaits_value: bool = False
    split: _Split | None = None

    @property
    def awaits_key(self) -> bool:
        return self.fields is not None and not self.awaits_value


class TreeBuilder:
    """Takes parser events one by one; `root` is the tree, `report` what is wrong with it."""

    def __init__(self, *, text: str, file: str, report: Report) -> None:
        self.root: Node | None = None
        self.report = report
        self.last_mark = Mark(file, 1, 1)
        self._text = text
        self._file = file
        self._frames: list[_Frame] = []
        self._documents = 0
        self._nodes = 0

    @property
    def path(self) -> str:
        """Dotted path of the value that comes next."""
        parts: list[str] = []
        for frame in self._frames:
            if frame.items is not None:
                parts.append(str(len(frame.items)))
            elif frame.awaits_value and frame.key is not None:
                parts.append(printable(frame.key))
        return ".".join(parts)

    @property
    def innermost_bracket(self) -> Mark | None:
        """Where the `{` or `[` stands that was opened last and is still open."""
        return next((frame.mark for frame in reversed(self._frames) if frame.is_flow), None)

    def take(self, event: Any) -> bool:
        """Take the next event; False when reading on would be of no use."""
        import yaml

        self.last_mark = mark = self._mark(event.start_mark)
        match event:
            case yaml.ScalarEvent():
                self._refuse_properties(event, mark)
                self._scalar(event, mark)
                return self._has_room(mark)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._refuse_properties(event, mark)
                return self._open(event, mark) and self._has_room(mark)
            case yaml.CollectionEndEvent():
                self._close()
            case yaml.AliasEvent():
                self._refuse_alias(event, mark)
            case yaml.DocumentStartEvent():
                return self._start_document(event, mark)
            case _:
                pass
        return True

    # -------------------------------------------------------------------------------------------------- documents

    def _start_document(self, event: Any, mark: Mark) -> bool:
        self._documents += 1
        if event.version or event.tags:
            self._refuse("a YAML directive", mark, fix="delete the lines that start with '%'")
        if self._documents > 1:
            self._refuse(
                "a second document starts here; a spec is one document", mark, fix="delete the '---', or split the file"
            )
        return self._documents == 1

    def _has_room(self, mark: Mark) -> bool:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._refuse(
                f"more than {MAX_NODES:,} keys and values; no architecture needs so many",
                mark,
                fix="is this the right file?",
            )
        return self._nodes <= MAX_NODES

    # ------------------------------------------------------------------------------------------------ collections

    def _open(self, event: Any, mark: Mark) -> bool:
        if len(self._frames) == MAX_DEPTH:
            self._refuse(
                f"nested more than {MAX_DEPTH} levels deep", mark, fix="close brackets that are open by mistake"
            )
            return False
        if self._frames and self._frames[-1].awaits_key:
            self._refuse("a key that is no plain name", mark, fix="a key is one word, such as `width`")
        frame = _Frame(mark=mark, is_flow=bool(event.flow_style))
        if type(event).__name__ == "MappingStartEvent":
            frame.fields = {}
        else:
            frame.items = []
        self._frames.append(frame)
        return True

    def _close(self) -> None:
        frame = self._frames.pop()
        value = frame.items if frame.fields is None else frame.fields
        self._place(self._node(value if value is not None else [], frame.mark, frame.key_marks))

    def _place(self, node: Node) -> None:
        """Put a finished value where it belongs."""
        if not self._frames:
            self.root = node
            return
        frame = self._frames[-1]
        if frame.items is not None:
            frame.items.append(node)
        elif frame.fields is not None and frame.awaits_value:
            if frame.key is not None:
                frame.fields[frame.key] = node
            frame.awaits_value = False
        else:
            # A collection or alias in the place of a key, refused when it started: its value is dropped.
            frame.key, frame.awaits_value = None, True

    # ---------------------------------------------------------------------------------------------------- scalars

    def _scalar(self, event: Any, mark: Mark) -> None:
        frame = self._frames[-1] if self._frames else None
        is_plain = event.style in {None, ""}
        if frame is not None and frame.is_flow:
            self._watch_commas(frame, event, mark, is_plain=is_plain)
        if frame is not None and frame.awaits_key:
            frame.key = self._key(frame, event, mark, is_plain=is_plain)
            frame.awaits_value = True
        else:
            self._place(self._node(self._value(event.value, mark, is_plain=is_plain), mark))

    def _value(self, text: str, mark: Mark, *, is_plain: bool) -> Scalar:
        hidden = HIDDEN.search(text)
        if hidden is not None:
            self._refuse(
                f"an escape writes a character that does not show: {describe(hidden[0])}", mark, fix="delete it"
            )
        if not is_plain:
            return text
        if text and text[0] in CURLY_QUOTES:
            self._refuse(f"a curly quote ({describe(text[0])}) quotes nothing", mark, fix='use straight quotes: "..."')
        self._refuse_odd_space(text, mark)
        try:
            return read_scalar(text)
        except ScalarError as error:
            self._refuse(error.what, mark, fix=error.fix)
            return None

    def _key(self, frame: _Frame, event: Any, mark: Mark, *, is_plain: bool) -> str | None:
        """The key as written, or None when it is refused."""
        key: str = event.value
        if self._is_refused_key(key, mark, is_plain=is_plain):
            return None
        assert frame.fields is not None, "only mappings have keys"
        first = frame.key_marks.get(key)
        if first is not None:
            self._refuse(
                f"duplicate key {quoted(key)}; it was first written on line {first.line}, column {first.column}",
                mark,
                fix="keep one of the two",
            )
            return None
        frame.key_marks[key] = mark
        return key

    def _is_refused_key(self, key: str, mark: Mark, *, is_plain: bool) -> bool:
        colon = _COLON_WITHOUT_SPACE.fullmatch(key) if is_plain else None
        foreign = find_foreign(key)
        if not key or "\n" in key:
            self._refuse("a key that is no plain name", mark, fix="a key is one word, such as `width`")
        elif key == "<<":
            self._refuse("merge keys (`<<`) are not read", mark, fix="inside `blocks`, write `extends: NAME`")
        elif HIDDEN.search(key) or ODD_SPACE.search(key):
            odd = HIDDEN.search(key) or ODD_SPACE.search(key)
            assert odd is not None, "one of the two was just found"
            self._refuse(f"key {quoted(key)} has {describe(odd[0])} in it", mark, fix="delete that character")
        elif foreign is not None:
            self._refuse(
                f"key {quoted(key)} is not ASCII: character {foreign.position + 1} is {describe(foreign.character)}",
                mark,
                fix=f"type {quoted(foreign.meant)} in ASCII" if foreign.meant else "use ASCII letters",
            )
        elif colon is not None:
            self._refuse(
                f"no space after the colon of {quoted(key)}",
                mark,
                fix=f"write {quoted(f'{colon[1]}: {colon[2]}')}",
            )
        else:
            return False
        return True

    def _watch_commas(self, frame: _Frame, event: Any, mark: Mark, *, is_plain: bool) -> None:
        """Notice a comma inside parentheses that ended a value: `{sees: dilated(1024, every=4)}`."""
        text: str = event.value if is_plain else ""
        unclosed = text.count("(") - text.count(")")
        split = frame.split
        if split is None:
            if unclosed > 0:
                key = frame.key if frame.awaits_value else None
                frame.split = _Split(
                    mark=mark, start=event.start_mark.index, path=self.path, key=key, unclosed=unclosed
                )
            return
        split.unclosed += unclosed
        if split.unclosed > 0:
            return
        whole = " ".join(self._text[split.start : event.end_mark.index].split())
        safe = f"'{whole}'" if '"' in whole else f'"{whole}"'
        self._refuse(
            f"the comma inside {quoted(whole)} ends the value, because it stands between {{}} or []",
            split.mark,
            fix="quote it: " + printable(f"{split.key}: {safe}" if split.key else safe, limit=200),
            path=split.path,
        )
        frame.split = None

    # --------------------------------------------------------------------------------------------------- refusals

    def _refuse(self, what: str, mark: Mark, *, fix: str, path: str | None = None) -> None:
        if path is None:
            path = "" if self.report.is_full else self.path
        self.report.add(what, mark=mark, fix=fix, path=path)

    def _refuse_properties(self, event: Any, mark: Mark) -> None:
        if event.anchor is not None:
            self._refuse(
                f"anchors (&{printable(event.anchor)}) are not read",
                mark,
                fix="write the value out; a block can say `extends: NAME`; quote the text if it is no anchor",
            )
        if event.tag is not None:
            self._refuse(
                f"tags ({quoted(event.tag)}) are not read", mark, fix="delete the tag, or quote the text if it is none"
            )

    def _refuse_alias(self, event: Any, mark: Mark) -> None:
        self._refuse(
            f"aliases (*{printable(event.anchor)}) are not read",
            mark,
            fix="write the value out; a block can say `extends: NAME`; quote the text if it is no alias",
        )
        self._place(self._node(None, mark))

    def _refuse_odd_space(self, text: str, mark: Mark) -> None:
        odd = ODD_SPACE.search(text)
        if odd is not None:
            self._refuse(
                f"{describe(odd[0])} looks like a space, and YAML takes it for text",
                mark,
                fix="replace it with a space, or quote the text",
            )

    # ------------------------------------------------------------------------------------------------------ nodes

    def _mark(self, mark: Any) -> Mark:
        return Mark(self._file, mark.line + 1, mark.column + 1)

    def _node(
        self,
        value: Scalar | dict[str, Node] | list[Node],
        mark: Mark,
        key_marks: dict[str, Mark] | None = None,
    ) -> Node:
        return Node(value=value, line=mark.line, column=mark.column, file=mark.file, key_marks=key_marks or {})
