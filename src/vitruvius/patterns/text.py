"""The text form of patterns: `causal & (sliding(4096) | global(every=128))`.

    sees := term (('&' term)+ | ('|' term)+)?
    term := NAME | NAME '(' arguments ')' | 'where' '(' condition ')' | '(' sees ')'

What a condition may say stands in `conditions.py`. Numbers are whole; arguments go by place or by name. `&` and `|`
never meet at one level: `causal & sliding(8) | sinks(3)` would let the sinks ignore `causal`, so the text has to say
which reading is meant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, NoReturn

from vitruvius.errors import PatternError
from vitruvius.patterns.names import NAMED, NamedPattern, Parameter, named, whole
from vitruvius.patterns.tokens import DEEPEST_NESTING, WHERE, Token, tokens_of, whole_number

if TYPE_CHECKING:
    from vitruvius.patterns.algebra import Pattern
    from vitruvius.patterns.expressions import Condition

LONGEST_TEXT: Final = 1000
"""Longer texts are refused."""

Operator = Literal["&", "|"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """A number given to a named pattern, and where it stands."""

    parameter: Parameter
    value: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A named pattern with its arguments."""

    entry: NamedPattern
    arguments: tuple[Argument, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Terms joined by one operator."""

    operator: Operator
    terms: tuple[Node, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A condition of one's own, `where(...)`."""

    condition: Condition
    start: int
    stop: int


Node = Named | Where | Joined


def parse(text: str) -> Pattern:
    """The pattern that a text describes.

    Raises `PatternError` with the text, the position of the mistake and a way out.
    """
    return _parsed(text) if type(text) is str else build(text, read(text))


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Pattern:
    """Patterns are values, and the layers of a model ask for the same few again and again."""
    return build(text, read(text))


def clear() -> None:
    """Forget the patterns of texts read so far: a name has changed its meaning."""
    _parsed.cache_clear()


def read(text: str) -> Node:
    """The syntax tree of a text, with the position of every number. Raises `PatternError`."""
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise PatternError(f"a pattern is written as text, got {text!r}", fix="for example: causal & sliding(4096)")
    if len(text) > LONGEST_TEXT:
        raise PatternError(
            f"the pattern has {len(text):,} characters, more than {LONGEST_TEXT:,}", fix="write a shorter pattern"
        )
    return _Parser(text).whole_text()


def build(text: str, node: Node) -> Pattern:
    """The pattern of a syntax tree read from `text`. Raises `PatternError`."""
    try:
        if isinstance(node, Where):
            from vitruvius.patterns.normalising import pattern_of

            return pattern_of(node.condition)
        if isinstance(node, Named):
            return node.entry.make(**{argument.parameter.name: argument.value for argument in node.arguments})
        pattern = build(text, node.terms[0])
        for term in node.terms[1:]:
            other = build(text, term)
            pattern = pattern & other if node.operator == "&" else pattern | other
    except PatternError as error:
        if error.position is not None:
            raise
        raise PatternError(error.what, text=text, position=node.start, fix=error.fix) from None
    return pattern


class _Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tokens_of(text)
        self.at = 0
        self.depth = 0

    def whole_text(self) -> Node:
        if self._peek().kind == "end":
            self._fail("the pattern is empty", 0, fix="for example: causal & sliding(4096)")
        node = self._sees()
        token = self._peek()
        if token.kind != "end":
            fix = "remove it, or open a parenthesis" if token.text == ")" else "join terms with & or |"
            self._fail(f"expected & or | before {token.text!r}", token.start, fix=fix)
        return node

    def _sees(self) -> Node:
        terms, operators, marks = [self._term()], list[Operator](), list[int]()
        while (mark := self._peek()).text in ("&", "|"):
            operators.append("&" if mark.text == "&" else "|")
            marks.append(mark.start)
            self.at += 1
            terms.append(self._term())
        if not operators:
            return terms[0]
        if len(set(operators)) > 1:
            self._refuse_mixture(terms, operators, marks)
        return Joined(operator=operators[0], terms=tuple(terms), start=terms[0].start, stop=terms[-1].stop)

    def _term(self) -> Node:
        token = self._next()
        if token.text == "(":
            self.depth += 1
            if self.depth > DEEPEST_NESTING:
                self._fail(f"more than {DEEPEST_NESTING} parentheses inside each other", token.start, fix="nest less")
            node = self._sees()
            stop = self._close(token).stop
            self.depth -= 1
            return _spanning(node, token.start, stop)
        if token.text == WHERE:
            return self._where(token)
        if token.kind == "name":
            return self._named(token)
        return self._fail(f"expected a pattern, found {token.shown}", token.start, fix=f"patterns are {_names()}")

    def _where(self, token: Token) -> Where:
        opening = self._next()
        if opening.text != "(":
            self._fail("where needs a condition in parentheses", opening.start, fix="as in where((q - k) % 7 == 0)")
        from vitruvius.patterns.conditions import ConditionParser

        parser = ConditionParser(self.text, self.tokens, self.at)
        condition = parser.condition()
        stop = parser.close(opening).stop
        self.at = parser.at
        return Where(condition=condition, start=token.start, stop=stop)

    def _named(self, token: Token) -> Named:
        entry = named(token.text)
        if entry is None:
            close = get_close_matches(token.text.lower(), [*NAMED, WHERE], n=1)
            fix = f"did you mean {close[0]!r}?" if close else f"patterns are {_names()}"
            if token.text.lower() == "document":
                fix = "leave it out: positions are relative to the document, and packed documents never see each other"
            self._fail(f"there is no pattern named {token.text!r}", token.start, fix=fix)
        opening = self._peek()
        arguments, stop = (), token.stop
        if opening.text == "(":
            self.at += 1
            arguments = self._arguments(entry)
            stop = self._close(opening).stop
        given = {argument.parameter.name for argument in arguments}
        for parameter in entry.parameters:
            if parameter.default is None and parameter.name not in given:
                self._fail(f"{entry.name} needs {parameter.name}", token.start, fix=f"for example: {entry.example}")
        return Named(entry=entry, arguments=arguments, start=token.start, stop=stop)

    def _arguments(self, entry: NamedPattern) -> tuple[Argument, ...]:
        arguments: list[Argument] = []
        named = False
        while self._peek().text != ")":
            if arguments:
                comma = self._next()
                if comma.text != ",":
                    self._fail(
                        f"expected , or ) in the arguments of {entry.name}", comma.start, fix=f"as in {entry.example}"
                    )
            label = self._next() if self._peek().kind == "name" else None
            if label is not None:
                named = True
                parameter = self._parameter(entry, label, arguments)
                equals = self._next()
                if equals.text != "=":
                    self._fail(f"expected = after {label.text}", equals.start, fix=f"as in {entry.example}")
            else:
                parameter = self._next_in_place(entry, arguments, named=named)
            arguments.append(self._number(parameter, entry))
        return tuple(arguments)

    def _parameter(self, entry: NamedPattern, label: Token, given: list[Argument]) -> Parameter:
        names = [parameter.name for parameter in entry.parameters]
        if label.text not in names:
            close = get_close_matches(label.text.lower(), names, n=1)
            known = f"its arguments are {', '.join(names)}" if names else f"write {entry.name} alone"
            fix = f"did you mean {close[0]!r}?" if close else known
            self._fail(f"{entry.name} has no argument {label.text!r}", label.start, fix=fix)
        if any(argument.parameter.name == label.text for argument in given):
            self._fail(f"{label.text} is given twice", label.start, fix="give it once")
        return entry.parameters[names.index(label.text)]

    def _next_in_place(self, entry: NamedPattern, given: list[Argument], *, named: bool) -> Parameter:
        token = self._peek()
        if named and token.kind == "number":
            self._fail("a number without a name follows one with a name", token.start, fix=f"as in {entry.example}")
        if len(given) >= len(entry.parameters) and token.kind == "number":
            count = len(entry.parameters)
            fix = f"as in {entry.example}" if count else f"write {entry.name} alone"
            self._fail(f"{entry.name} takes {count} argument{'s' * (count != 1)}, not more", token.start, fix=fix)
        return entry.parameters[len(given)] if len(given) < len(entry.parameters) else Parameter(name="", default=None)

    def _number(self, parameter: Parameter, entry: NamedPattern) -> Argument:
        token = self._next()
        if token.kind != "number":
            self._fail(f"expected a whole number, found {token.shown}", token.start, fix=f"as in {entry.example}")
        number = whole_number(token, self.text)
        try:
            whole(parameter.name, number, parameter.least)
        except PatternError as error:
            self._fail(error.what, token.start, fix=error.fix)
        return Argument(parameter=parameter, value=number, start=token.start, stop=token.stop)

    def _refuse_mixture(self, terms: list[Node], operators: list[Operator], marks: list[int]) -> NoReturn:
        second = next(mark for mark, operator in zip(marks, operators, strict=True) if operator != operators[0])
        loose, strict = (self._grouped(terms, operators, operator) for operator in ("&", "|"))
        self._fail(
            "& and | are mixed without parentheses, and the two readings differ: in the first, a term after | is not "
            "held to the terms joined by &",
            second,
            fix=f"write {loose}  or  {strict}",
        )

    def _grouped(self, terms: list[Node], operators: list[Operator], inner: str) -> str:
        """The text with every run of one operator in parentheses."""
        written = [self.text[term.start : term.stop] for term in terms]
        runs = [[written[0]]]
        joints: list[str] = []
        for operator, term in zip(operators, written[1:], strict=True):
            if operator == inner:
                runs[-1].append(term)
            else:
                joints.append(operator)
                runs.append([term])
        pieces = [f"({f' {inner} '.join(run)})" if len(run) > 1 else run[0] for run in runs]
        return pieces[0] + "".join(f" {joint} {piece}" for joint, piece in zip(joints, pieces[1:], strict=True))

    def _peek(self) -> Token:
        return self.tokens[self.at]

    def _next(self) -> Token:
        token = self.tokens[self.at]
        self.at = min(self.at + 1, len(self.tokens) - 1)
        return token

    def _close(self, opening: Token) -> Token:
        token = self._next()
        if token.text != ")":
            place = opening.start + 1
            self._fail(f"the parenthesis opened at character {place} is not closed", token.start, fix="add a )")
        return token

    def _fail(self, what: str, position: int, *, fix: str) -> NoReturn:
        raise PatternError(what, text=self.text, position=position, fix=fix)


def _spanning(node: Node, start: int, stop: int) -> Node:
    """The node with its parentheses as part of its text."""
    return replace(node, start=start, stop=stop)


def _names() -> str:
    return ", ".join([*NAMED, f"{WHERE}(...)"])
