"""Random conditions on q and k, as text that is both ours and Python's: parentheses around every operation."""

from __future__ import annotations

from hypothesis import strategies as st

SMALL = st.integers(0, 9)
DIVISORS = st.integers(1, 8)
FRIENDLY = ("q", "k", "(q - k)", "(q // 4)", "(k // 4)", "(q % 5)", "(k % 3)", "((q - k) % 6)", "(q // 8 - k // 8)")


@st.composite
def wholes(draw: st.DrawFn, depth: int = 2) -> str:
    """A whole number made of q and k."""
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(FRIENDLY) | SMALL.map(str))
    inner = wholes(depth=depth - 1)
    match draw(st.sampled_from(["sum", "sum", "times", "divided", "rest", "call", "negative", "product", "moving"])):
        case "sum":
            return f"({draw(inner)} {draw(st.sampled_from('+-'))} {draw(inner)})"
        case "times":
            return f"({draw(inner)} * {draw(SMALL)})"
        case "divided":
            return f"({draw(inner)} // {draw(DIVISORS)})"
        case "rest":
            return f"({draw(inner)} % {draw(DIVISORS)})"
        case "call":
            name = draw(st.sampled_from(["abs", "min", "max"]))
            numbers = [draw(inner)] if name == "abs" else [draw(inner), draw(inner)]
            return f"{name}({', '.join(numbers)})"
        case "negative":
            return f"(-{draw(inner)})"
        case "product":
            return f"(({draw(inner)} % 7) * ({draw(inner)} % 5))"
        case _:
            return f"({draw(inner)} % (abs({draw(inner)}) + 1))"


@st.composite
def comparisons(draw: st.DrawFn) -> str:
    """Two or three numbers held against each other."""
    signs = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    text = f"{draw(wholes())} {draw(signs)} {draw(wholes())}"
    return f"({text} {draw(signs)} {draw(SMALL)})" if draw(st.integers(0, 4)) == 0 else f"({text})"


@st.composite
def conditions(draw: st.DrawFn, depth: int = 2) -> str:
    """A condition, in parentheses."""
    if depth == 0 or draw(st.booleans()):
        return draw(comparisons())
    inner = conditions(depth=depth - 1)
    if draw(st.integers(0, 4)) == 0:
        return f"(not {draw(inner)})"
    joint = draw(st.sampled_from([" and ", " or "]))
    return f"({joint.join(draw(st.lists(inner, min_size=2, max_size=3)))})"


@st.composite
def own_sees(draw: st.DrawFn) -> str:
    """A causal pattern with a condition somewhere in it."""
    own = f"where({draw(conditions())})"
    return draw(
        st.sampled_from(
            [
                f"causal & {own}",
                f"causal & ({own} | sliding(3))",
                f"causal & ({own} | global(every=5) | sinks(2))",
                f"sliding(9) & {own}",
                f"causal & block(6) & {own}",
                f"dilated(5, every=3) & {own}",
                f"causal & global(every=4, offset=1) & {own}",
                f"causal & where(q % 3 == 1) & {own}",
            ]
        )
    )


def holds(text: str, q: int, k: int) -> bool:
    """What Python makes of the same text."""
    return bool(eval(text, {"__builtins__": {"abs": abs, "min": min, "max": max}}, {"q": q, "k": k}))
