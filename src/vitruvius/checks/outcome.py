"""What a probe measured, and what all of them together say."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import isfinite
from textwrap import wrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SCHEMA = "vitruvius.check/1"
COLUMNS = 80
"""How wide a report is when it is printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What one probe found, before the table adds its name and its advice."""

    passed: bool
    detail: str
    """What was done and seen, in a line."""
    measured: float | None = None
    """The number that was held against the bound, where there is one."""
    bound: float | None = None
    """Where the probe draws the line."""
    applies: bool = True
    """False when the architecture has nothing that this probe could examine."""
    warning: str = ""
    """Worth knowing although nothing is wrong."""
    values: Mapping[str, Any] | None = None
    """What was measured, as plain data. Where it is by layer, `layers` names them and `series` has a number for each
    layer by name (see `by_layer`), which the HTML report draws."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One line of a report."""

    name: str
    passed: bool
    detail: str
    measured: float | None
    bound: float | None
    means: str
    """What a failure would mean."""
    look_at: str
    """Where to look when it fails."""
    applies: bool = True
    warning: str = ""
    values: Mapping[str, Any] | None = None
    seconds: float = 0.0

    @property
    def mark(self) -> str:
        """One character: passed, failed, or does not apply."""
        if not self.applies:
            return "-"
        return "✓" if self.passed else "✗"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as the machine-readable contract has it."""
        return {
            "name": self.name,
            "passed": self.passed,
            "detail": self.detail,
            "measured": _finite(self.measured),
            "bound": _finite(self.bound),
            "applies": self.applies,
            "warning": self.warning or None,
            "means": self.means,
            "look_at": self.look_at,
            "values": _plain(self.values),
            "seconds": round(self.seconds, 3),
        }


def _plain(value: Any) -> Any:
    """Plain data with four significant digits, and null where a number is not finite."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def _finite(value: float | None) -> float | None:
    """JSON knows neither NaN nor infinity; a probe that measured one has failed and says so in its detail."""
    return value if value is not None and abs(value) < float("inf") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the probes say about one architecture or model. Prints as a table."""

    subject: str
    """What was probed; a twin names what was made smaller."""
    seed: int
    checks: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        """Whether no probe failed."""
        return all(outcome.passed for outcome in self.checks)

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The probes that failed."""
        return tuple(outcome for outcome in self.checks if not outcome.passed)

    def __getitem__(self, name: str) -> Outcome:
        """The outcome of one probe by name. Raises KeyError when it did not run."""
        for outcome in self.checks:
            if outcome.name == name:
                return outcome
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable contract `vitruvius.check/1`."""
        return {
            "schema": SCHEMA,
            "subject": self.subject,
            "seed": self.seed,
            "passed": self.passed,
            "checks": [outcome.to_dict() for outcome in self.checks],
        }

    def __str__(self) -> str:
        """A line per probe, or a few where there is much to say, then what each failure means and where to look."""
        width = max((len(outcome.name) for outcome in self.checks), default=0)
        lines = [f"subject: {self.subject}"]
        for outcome in self.checks:
            against = _against(outcome)
            start = f"{outcome.mark} {outcome.name:<{width}}" + (f"  {against:<18}" if against else "")
            lines += _told(start, outcome.detail)
            if outcome.warning:
                lines += wrap(f"warning: {outcome.warning}", COLUMNS, initial_indent="  ", subsequent_indent="    ")
        for outcome in self.failures:
            lines += ["", *wrap(f"✗ {outcome.name}: {outcome.means}", COLUMNS, subsequent_indent="  ")]
            lines += wrap(f"look at: {outcome.look_at}", COLUMNS, initial_indent="  ", subsequent_indent="    ")
        ran = sum(outcome.applies for outcome in self.checks)
        seconds = sum(outcome.seconds for outcome in self.checks)
        verdict = "all passed" if self.passed else f"{len(self.failures)} failed"
        return "\n".join([*lines, "", f"{ran} checks in {seconds:.1f} s: {verdict}"])

    def _repr_html_(self) -> str:
        """The table, as notebooks show it."""
        rows = "".join(
            f"<tr><td>{outcome.mark}</td><td>{escape(outcome.name)}</td><td>{escape(_against(outcome))}</td>"
            f"<td>{escape(outcome.detail)}</td></tr>"
            for outcome in self.checks
        )
        head = "<tr><th></th><th>check</th><th>measured / bound</th><th>detail</th></tr>"
        return f"<p>{escape(self.subject)}</p><table>{head}{rows}</table>"


def _told(start: str, detail: str) -> list[str]:
    """One line where the detail fits beside its start, else the detail below it, within `COLUMNS`."""
    whole = f"{start}  {detail}".rstrip()
    if len(whole) <= COLUMNS:
        return [whole]
    return [start.rstrip(), *wrap(detail, COLUMNS, initial_indent="    ", subsequent_indent="    ")]


def _against(outcome: Outcome) -> str:
    """`3.1e-15 <= 1e-09`, as much of it as there is."""
    if outcome.measured is None:
        return ""
    if outcome.bound is None:
        return f"{outcome.measured:.3g}"
    sign = "<=" if outcome.measured <= outcome.bound else ">"
    return f"{outcome.measured:.2g} {sign} {outcome.bound:.2g}"


def within(
    measured: float, bound: float, detail: str, *, warning: str = "", values: Mapping[str, Any] | None = None
) -> Measure:
    """Passed when the measured number is at most the bound (NaN never is)."""
    return Measure(
        passed=measured <= bound, detail=detail, measured=measured, bound=bound, warning=warning, values=values
    )


def by_layer(layers: Sequence[str], series: Mapping[str, Sequence[float]], **more: Any) -> dict[str, Any]:
    """`values` of a probe that measured something in each layer: names of layers, and a number for each by series."""
    assert all(len(numbers) == len(layers) for numbers in series.values())
    return {"layers": list(layers), "series": {name: list(numbers) for name, numbers in series.items()}, **more}


def does_not_apply(reason: str) -> Measure:
    """Nothing to examine: counted neither for nor against."""
    return Measure(passed=True, detail=reason, applies=False)


def failed(
    detail: str,
    *,
    measured: float | None = None,
    bound: float | None = None,
    values: Mapping[str, Any] | None = None,
) -> Measure:
    """A failure that is no comparison of two numbers."""
    return Measure(passed=False, detail=detail, measured=measured, bound=bound, values=values)


def passed(detail: str, *, warning: str = "", values: Mapping[str, Any] | None = None) -> Measure:
    """A success that is no comparison of two numbers."""
    return Measure(passed=True, detail=detail, warning=warning, values=values)
