"""What each sublayer of one forward pass read, where it looked, and which experts it chose."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from vitruvius.checks.causality import backend
from vitruvius.nn import Signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from vitruvius.nn import Model
    from vitruvius.nn.place import Place
    from vitruvius.spec import Layer

Part = Literal["mixer", "cross"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Look:
    """One sublayer that mixes positions, in one pass."""

    layer: Layer
    """The resolved layer."""
    part: Part
    """`mixer`, or `cross` for the attention of a decoder to its source."""
    weights_BHTS: Tensor | None
    """Its attention weights, as the readable reference computes them; None where it makes no such map."""
    x_BTD: Tensor
    """What it read, behind its norm."""
    place: Place
    module: nn.Module

    @property
    def path(self) -> str:
        """The name of the module: `layers.3.mixer`."""
        return f"{self.layer.path}.{self.part}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choice:
    """One mixture of experts in one pass."""

    layer: Layer
    chosen_NE: Tensor
    """Whether an expert works on a token, bool; tokens of all rows one after another."""


@dataclass(slots=True, kw_only=True, eq=False)
class Heard:
    """What one pass left."""

    stream: dict[str, Tensor] = field(default_factory=dict[str, Any])
    """The residual stream [B, T, D]: `embedding` as it enters the first layer, then after each layer, by path."""
    choices: list[Choice] = field(default_factory=list[Choice])


class Listener:
    """Hooks on every sublayer of a model; each mixer and cross-attention is given to `look` as soon as it is done.

    Nothing of a map is kept here, so that a pass needs the memory of one layer's maps and not of all.
    """

    def __init__(self, model: Model, look: Callable[[Look], object] | None) -> None:
        self.model, self.look = model, look
        self.heard = Heard()
        self.maps: list[Tensor] = []
        self.routing: list[Tensor] = []
        self.signals = Signals(attention=self.maps, routing=self.routing)

    @contextmanager
    def listening(self) -> Iterator[Signals]:
        """Hooks are in place inside the block; pass the signals to the call."""
        handles: list[Any] = []
        stacks = [self.model.layers] if self.model.encoder is None else [self.model.encoder.layers, self.model.layers]
        modules = {id(module): module for stack in stacks for module in stack}
        for module in modules.values():
            handles += [
                module.register_forward_pre_hook(self._enter),
                module.register_forward_hook(self._leave),
            ]
            parts: list[tuple[Part, Any]] = [("mixer", module.mixer), ("cross", module.cross)]
            for name, part in parts:
                if part is not None:
                    handles.append(part.register_forward_hook(self._looked(name)))
            ffn: Any = module.ffn
            if ffn is not None:
                handles.append(ffn.register_forward_hook(self._chose))
        try:
            yield self.signals
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        name = "encoder.embedding" if inputs[1].layer.path.startswith("encoder.") else "embedding"
        self.heard.stream.setdefault(name, inputs[0].detach())

    def _leave(self, _module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.heard.stream[inputs[1].layer.path] = output.detach()

    def _looked(self, part: Part) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], _output: object) -> None:
            weights = self.maps[-1] if self.maps else None
            self.maps.clear()
            if self.look is not None:
                place: Place = inputs[1]
                assert place.layer is not None, "the model says which layer computes"
                self.look(
                    Look(
                        layer=place.layer,
                        part=part,
                        weights_BHTS=weights,
                        x_BTD=inputs[0].detach(),
                        place=place,
                        module=module,
                    )
                )

        return hook

    def _chose(self, _module: nn.Module, inputs: tuple[Any, ...], _output: object) -> None:
        if not self.routing:
            return
        layer: Layer = inputs[1].layer
        chosen = self.routing[-1].detach()
        self.routing.clear()
        if chosen.dtype != torch.bool:
            mixture: Any = layer.ffn
            flags = torch.zeros(chosen.shape[0], mixture.experts, dtype=torch.bool, device=chosen.device)
            chosen = flags.scatter_(1, chosen, value=True)
        self.heard.choices.append(Choice(layer=layer, chosen_NE=chosen.cpu()))


@torch.no_grad()
def listen(
    model: Model,
    tokens_BT: Tensor,
    *,
    source_BS: Tensor | None = None,
    look: Callable[[Look], object] | None = None,
    beside: Callable[[], Any] | None = None,
) -> Heard:
    """One forward pass over the readable reference path; `beside` makes a context that is entered around it."""
    listener = Listener(model, look)
    options: dict[str, Any] = {} if source_BS is None else {"source": source_BS}
    with ExitStack() as stack:
        stack.enter_context(backend(model, "reference"))
        if beside is not None:
            stack.enter_context(beside())
        signals = stack.enter_context(listener.listening())
        model.hidden(tokens_BT, signals=signals, **options)
    return listener.heard
