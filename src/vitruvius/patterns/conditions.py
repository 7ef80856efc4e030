"""The text inside `where(...)`: a condition on the query position q and the key position k.

    condition := not (('&' not)+ | ('|' not)+)?
    not       := ('~' | 'not') not | comparison
    comparison:= sum (('<' | '<=' | '>' | '>=' | '==' | '!=') sum)*
    sum       := product (('+' | '-') product)*
    product   := factor (('*' | '//' | '%') factor)*
    factor    := '-' factor | NUMBER | 'q' | 'k' | ('abs' | 'min' | 'max') '(' sum (',' sum)* ')' | '(' condition ')'

`and`, `or` are the same as &, |. Both bind looser than comparisons, so `q - k < 8 | k < 4` reads as it looks, and they
never mix without parentheses. `0 <= q - k < 8` means both. Nothing is ever evaluated but these operations.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, NoReturn

from vitruvius.errors import PatternError
from vitruvius.patterns.arithmetic import LIMIT
from vitruvius.patterns.expressions import (
    COMPARISONS,
    Comparison,
    Condition,
    Junction,
    K,
    Number,
    Q,
    Truth,
    comparison,
    junction,
    negation,
)
from vitruvius.patterns.ranges import POSITIONS, Bounded, Range, bounded
from vitruvius.patterns.tokens import DEEPEST_NESTING, Token, whole_number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_VARIABLES: Final = {"q": Bounded(Q, POSITIONS), "k": Bounded(K, POSITIONS)}
_FUNCTIONS: Final[Mapping[str, tuple[int, int]]] = {"abs": (1, 1), "min": (2, 16), "max": (2, 16)}
"""Name -> the least and the most numbers it takes."""
_JOINTS: Final = {"&": "&", "and": "&", "|": "|", "or": "|"}
_STRANGERS: Final = {
    "**": ("powers are not computed", "write q * q"),
    "/": ("a division with / does not stay whole", "use //"),
    "=": ("one = compares nothing", "write == to compare"),
    "!": ("! means nothing alone", "write ~(...) or not (...)"),
    "&&": ("&& is not how conditions are joined", "write &"),
    "||": ("|| is not how conditions are joined", "write |"),
    "^": ("^ is not computed", "join conditions with & and |"),
    "<<": ("<< is not computed", "multiply by a number"),
    ">>": (">> is not computed", "divide with //"),
}
_NAMES: Final = ("q", "k", *_FUNCTIONS, "and", "or", "not")

_Value = Bounded | Comparison | Junction | Truth


class ConditionParser:
    """Recursive descent over the tokens of a condition, from the one after `where(` on."""

    def __init__(self, text: str, tokens: Sequence[Token], at: int) -> None:
        self.text = text
        self.tokens = tokens
        self.at = at
        self.depth = 0

    def condition(self) -> Condition:
        """The condition up to a token that cannot belong to it; `at` is that token."""
        start = self._peek()
        return self._as_condition(self._joined(), start)

    def _joined(self) -> _Value:
        start = self._peek()
        terms, joints = [self._negated()], list[Token]()
        starts = [start]
        while self._peek().text in _JOINTS:
            joints.append(self._next())
            starts.append(self._peek())
            terms.append(self._negated())
        if not joints:
            return terms[0]
        operators = [_JOINTS[joint.text] for joint in joints]
        if len(set(operators)) > 1:
            mixed = next(joint for joint, operator in zip(joints, operators, strict=True) if operator != operators[0])
            self._fail("& and | are mixed without parentheses", mixed, fix="put those that belong together in ( )")
        return junction(operators[0], map(self._as_condition, terms, starts))

    def _negated(self) -> _Value:
        turns = 0
        while self._peek().text in {"~", "not"}:
            self.at += 1
            turns += 1
        start = self._peek()
        found = self._compared()
        if not turns:
            return found
        condition = self._as_condition(found, start)
        return negation(condition) if turns % 2 else condition

    def _compared(self) -> _Value:
        start = self._peek()
        left = self._sum()
        found: list[Condition] = []
        while self._peek().text in COMPARISONS:
            sign = self._next()
            right_start = self._peek()
            right = self._sum()
            numbers = self._as_number(left, start), self._as_number(right, right_start)
            found.append(comparison(sign.text, numbers[0].node, numbers[1].node))
            left, start = right, right_start
        return junction("&", found) if found else left

    def _sum(self) -> _Value:
        return self._chain(("+", "-"), self._product)

    def _product(self) -> _Value:
        product = self._chain(("*", "//", "%"), self._factor)
        if self._peek().text in _STRANGERS:
            self._stranger(self._peek())
        return product

    def _chain(self, signs: tuple[str, ...], inner: Callable[[], _Value]) -> _Value:
        start = self._peek()
        left = inner()
        while self._peek().text in signs:
            sign = self._next()
            right_start = self._peek()
            right = inner()
            left = self._combined(sign, (left, start), (right, right_start))
        return left

    def _factor(self) -> _Value:
        token = self._next()
        if token.text == "-":
            start = self._peek()
            self._enter(token)
            value = self._factor()
            self.depth -= 1
            return self._combined(token, (Bounded(Number(0), Range(0, 0)), token), (value, start))
        if token.text == "(":
            self._enter(token)
            found = self._joined()
            self._close(token)
            self.depth -= 1
            return found
        if token.kind == "number":
            number = whole_number(token, self.text)
            if number >= LIMIT:
                self._fail("a number of 2**40 or more", token, fix="no sequence is that long; use a smaller one")
            return Bounded(Number(number), Range(number, number))
        if token.text in _VARIABLES:
            return _VARIABLES[token.text]
        if token.text in _FUNCTIONS:
            return self._call(token)
        return self._stranger(token)

    def _call(self, name: Token) -> Bounded:
        opening = self._next()
        least, most = _FUNCTIONS[name.text]
        if opening.text != "(":
            self._fail(f"expected ( after {name.text}", opening, fix=f"as in {name.text}(q - k{', 8' * (least > 1)})")
        self._enter(opening)
        numbers: list[tuple[_Value, Token]] = []
        while not numbers or self._peek().text == ",":
            self.at += bool(numbers)
            start = self._peek()
            numbers.append((self._sum(), start))
        self._close(opening)
        self.depth -= 1
        if not least <= len(numbers) <= most:
            count = str(least) if least == most else f"{least} to {most}"
            self._fail(f"{name.text} takes {count} numbers, not {len(numbers)}", name, fix="leave the others out")
        return self._combined(name, *numbers)

    def _combined(self, sign: Token, *terms: tuple[_Value, Token]) -> Bounded:
        numbers = [self._as_number(value, start) for value, start in terms]
        try:
            return bounded(sign.text, *numbers)
        except PatternError as error:
            return self._fail(error.what, sign, fix=error.fix)

    def _as_number(self, value: _Value, start: Token) -> Bounded:
        if isinstance(value, Bounded):
            return value
        return self._fail("a condition stands where a number is due", start, fix="join conditions with & and |")

    def _as_condition(self, value: _Value, start: Token) -> Condition:
        if not isinstance(value, Bounded):
            return value
        return self._fail("a number stands where a condition is due", start, fix="compare it, as in q - k < 8")

    def _stranger(self, token: Token) -> NoReturn:
        if token.text in _STRANGERS:
            what, fix = _STRANGERS[token.text]
            self._fail(what, token, fix=fix)
        if token.kind == "name":
            close = get_close_matches(token.text.lower()[:32], _NAMES, n=1)
            fix = f"did you mean {close[0]!r}?" if close else "use q, k, whole numbers, abs, min and max"
            self._fail(f"there is no {token.text!r} in a condition", token, fix=fix)
        self._fail(f"expected q, k or a number, found {token.shown}", token, fix="as in where((q - k) % 7 == 0)")

    def _enter(self, token: Token) -> None:
        self.depth += 1
        if self.depth > DEEPEST_NESTING:
            self._fail(f"more than {DEEPEST_NESTING} parentheses or signs inside each other", token, fix="nest less")

    def _close(self, opening: Token) -> None:
        token = self._next()
        if token.kind == "end":
            what = f"the parenthesis opened at character {opening.start + 1} is not closed"
            self._fail(what, token, fix="add a )")
        if token.text != ")":
            self._fail(f"expected an operator or ) before {token.shown}", token, fix="join conditions with & or |")

    def close(self, opening: Token) -> Token:
        """Take the parenthesis that ends the condition."""
        self._close(opening)
        return self.tokens[self.at - 1]

    def _peek(self) -> Token:
        return self.tokens[self.at]

    def _next(self) -> Token:
        token = self.tokens[self.at]
        self.at = min(self.at + 1, len(self.tokens) - 1)
        return token

    def _fail(self, what: str, token: Token, *, fix: str) -> NoReturn:
        raise PatternError(what, text=self.text, position=token.start, fix=fix)


__all__ = ["ConditionParser"]
