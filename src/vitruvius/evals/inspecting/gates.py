"""What positions that depend on the text make of each token: gates, forgetting, counting, turning."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitruvius.nn.positions.blocks import Sight, grouped_scores
from vitruvius.nn.positions.cope import ContextualPositionModule
from vitruvius.nn.positions.cumulative_rope import CumulativeRotaryPositionModule
from vitruvius.nn.positions.fox import ForgettingPositionModule
from vitruvius.nn.positions.gated import GatedAdditivePositionModule
from vitruvius.nn.positions.path import PathPositionModule
from vitruvius.nn.positions.running import wide_linear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from vitruvius.nn import Model
    from vitruvius.nn.place import Place


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gate:
    """One gate over the first row of the text."""

    path: str
    """The layer, or `embedding`."""
    name: str
    means: str
    """What a value says, in a sentence."""
    most: float | None
    """The largest value it can take; None where there is no bound."""
    values_HT: Tensor
    """By head (or group of keys, or channel) and token."""
    of: str
    """What the rows are: `head`, `key group`, `channel`."""


_FORGET = "what a head keeps of everything before, when it reads this token: 1 keeps all, 0 forgets"


@contextmanager
def gates_of(model: Model, found: list[Gate]) -> Iterator[None]:
    """Inside the block, every position gate of a pass is appended to `found`; methods are put back afterwards."""
    wrapped: list[tuple[nn.Module, str]] = []
    for module in model.modules():
        for kind, (method, make) in _KINDS.items():
            if isinstance(module, kind):
                setattr(module, method, make(module, getattr(module, method), found))
                wrapped.append((module, method))
    try:
        yield
    finally:
        for module, method in wrapped:
            delattr(module, method)  # the class's own method shows again


def _where(place: Place) -> str:
    return "embedding" if place.layer is None else place.layer.path


def _gated(module: Any, method: Any, found: list[Gate]) -> Any:
    def embed(x_BTD: Tensor, place: Place) -> Tensor:
        gate_BTD = module.gate(x_BTD).sigmoid()
        found.append(
            Gate(
                path=_where(place),
                name="gate of the position's vector",
                means="how much of the position's vector the token lets in, channel by channel: 0 none, 1 all",
                most=1.0,
                values_HT=gate_BTD[0].T.detach(),
                of="channel",
            )
        )
        return method(x_BTD, place)

    return embed


def _forgetting(module: Any, method: Any, found: list[Gate]) -> Any:
    def decay(x_BTD: Tensor, place: Place, cache: Any) -> Tensor:
        found.append(_forget_gate(module.gate, x_BTD, place))
        return method(x_BTD, place, cache)

    return decay


def _forget_gate(gate: nn.Module, x_BTD: Tensor, place: Place) -> Gate:
    values_BTH = wide_linear(gate, x_BTD).sigmoid()
    return Gate(
        path=_where(place),
        name="forget gate",
        means=_FORGET,
        most=1.0,
        values_HT=values_BTH[0].T.detach(),
        of="head",
    )


def _mapping(module: Any, method: Any, found: list[Gate]) -> Any:
    def maps(x_BTD: Tensor, place: Place, cache: Any) -> tuple[Tensor, Tensor]:
        w_BGTK, beta_BGT = method(x_BTD, place, cache)
        found.append(
            Gate(
                path=_where(place),
                name="beta",
                means="how much of the direction that this token names all earlier keys lose: 0 nothing, 1 all of it, "
                "2 turns it round",
                most=2.0,
                values_HT=beta_BGT[0].detach(),
                of="key group",
            )
        )
        if module.forget is not None:
            found.append(_forget_gate(module.forget, x_BTD, place))
        return w_BGTK, beta_BGT

    return maps


def _counting(_module: Any, method: Any, found: list[Gate]) -> Any:
    def attend(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, x_BTD: Tensor, request: Any, cache: Any) -> Tensor:
        length = q_BHTK.shape[2]
        mask = Sight.of(request).mask(0, length, slice(0, length))
        gates_BHTS = (grouped_scores(q_BHTK, k_BGTK) * request.scale).sigmoid().masked_fill(~mask, 0.0)
        readers = mask.expand(gates_BHTS.shape).sum(2).clamp_min(1)
        found.append(
            Gate(
                path=_where(request.place),
                name="counting gate",
                means="how much the token counts as a step of distance, as a mean over the queries that see it: 0 is "
                "not counted, 1 is one position",
                most=1.0,
                values_HT=(gates_BHTS.sum(2) / readers)[0].detach(),
                of="head",
            )
        )
        return method(q_BHTK, k_BGTK, v_BGTK, x_BTD, request, cache)

    return attend


def _turning(module: Any, method: Any, found: list[Gate]) -> Any:
    def angles(x_BTD: Tensor, place: Place, cache: Any) -> Tensor:
        rates = wide_linear(module.gate, x_BTD)
        bounded = module.spec.rate == "bounded"
        if bounded:
            rates = 2 * rates.sigmoid()
        by_group_BTG = rates.unflatten(2, (module.groups, -1)).mean(-1)
        found.append(
            Gate(
                path=_where(place),
                name="rate of turning",
                means="how far the token turns what follows it, in steps of an ordinary position: 0 stands still",
                most=2.0 if bounded else None,
                values_HT=by_group_BTG[0].T.detach(),
                of="key group",
            )
        )
        return method(x_BTD, place, cache)

    return angles


_KINDS: dict[type[Any], tuple[str, Callable[[Any, Any, list[Gate]], Any]]] = {
    GatedAdditivePositionModule: ("embed", _gated),
    ForgettingPositionModule: ("decay", _forgetting),
    PathPositionModule: ("maps", _mapping),
    ContextualPositionModule: ("attend", _counting),
    CumulativeRotaryPositionModule: ("angles", _turning),
}
"""Modules whose positions depend on the text: which method sees the text, and what listens there.

The method and not `forward`: these modules are called by their hooks, and a hook of torch would hear nothing.
"""
