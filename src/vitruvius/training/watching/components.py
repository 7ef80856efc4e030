"""Time of each kind of component in the forward passes of one update, and the memory it keeps for the backward pass."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.autograd.graph import saved_tensors_hooks

from vitruvius.nn.block import LayerModule
from vitruvius.nn.ffn.moe import Experts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vitruvius.nn import Model

_SUBLAYERS = ("mixer", "cross", "ffn")


class Components:
    """Hooks on the components of a model, from `attach` to `detach`.

    They pass on what they see as it is: a tensor kept for the backward pass is given back with the same memory.
    """

    def __init__(self, model: Model, *, gathers: bool = False) -> None:
        """gathers: whether the weights of a layer come when it computes, and go when it is done (FSDP2)."""
        self.model, self.gathers = model, gathers
        self.is_cuda = model.device.type == "cuda"
        self.spans: list[tuple[str, Any, Any]] = []
        self.kept: dict[str, int] = {}
        self.own_seconds = 0.0
        """What the hooks themselves took."""
        self._stack = ExitStack()
        self._open: list[tuple[str, Any]] = []
        self._seen = set[int]() if gathers else _memory_of(model)
        self._counting = True

    def attach(self) -> None:
        """Begin."""
        self._watch("embedding", self.model.embedding)
        if self.gathers:
            # Before the first of them computes, what stands outside the layers is whole until the update is done.
            self._stack.callback(self.model.embedding.register_forward_pre_hook(self._outside).remove)
        for module in self.model.modules():
            if self.gathers and isinstance(module, LayerModule | Experts):
                self._leave_out(module)
            if isinstance(module, LayerModule):
                for name in _SUBLAYERS:
                    part = getattr(module, name)
                    if part is not None:
                        self._watch(name, part)
        self._watch_head()
        self._stack.enter_context(saved_tensors_hooks(self._pack, self._unpack))

    def detach(self) -> None:
        """Take everything off; doing so twice is harmless."""
        self._stack.close()

    def numbers(self) -> dict[str, float]:
        """`forward_seconds/KIND` and `kept_bytes/KIND`."""
        if self.is_cuda:
            torch.cuda.synchronize()
        seconds: dict[str, float] = {}
        for kind, began, ended in self.spans:
            took = began.elapsed_time(ended) / 1e3 if self.is_cuda else ended - began
            seconds[kind] = seconds.get(kind, 0.0) + took
        found = {f"forward_seconds/{kind}": took for kind, took in seconds.items()}
        return found | {f"kept_bytes/{kind}": float(size) for kind, size in self.kept.items()}

    def _watch(self, kind: str, module: nn.Module) -> None:
        def enter(_module: nn.Module, _inputs: object) -> None:
            self._begin(kind)

        def leave(_module: nn.Module, _inputs: object, _output: object) -> None:
            self._end()

        for handle in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave)):
            self._stack.callback(handle.remove)

    def _outside(self, _module: nn.Module, _inputs: object) -> None:
        self._seen |= _memory_of(self.model)

    def _leave_out(self, layer: nn.Module) -> None:
        """Weights are none of what a layer keeps; where they were, something else may come to lie behind it."""
        mine: set[int] = set()

        def enter(module: nn.Module, _inputs: object) -> None:
            mine.update(_memory_of(module) - self._seen)
            self._seen.update(mine)

        def leave(_module: nn.Module, _inputs: object, _output: object) -> None:
            self._seen.difference_update(mine)
            mine.clear()

        for handle in (layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)):
            self._stack.callback(handle.remove)

    def _watch_head(self) -> None:
        """The head is called by its method `loss`, where hooks of torch hear nothing."""
        head: Any = self.model.head
        method, own = head.loss, vars(head).get("loss")

        def loss(*inputs: Any, **options: Any) -> Any:
            self._begin("head")
            try:
                return method(*inputs, **options)
            finally:
                self._end()

        head.loss = loss
        if own is None:
            self._stack.callback(delattr, head, "loss")
        else:  # an engine's, in the place of the class's
            self._stack.callback(setattr, head, "loss", own)

    def _begin(self, kind: str) -> None:
        began = time.perf_counter()
        self._open.append((kind, self._mark()))
        self.own_seconds += time.perf_counter() - began

    def _end(self) -> None:
        began = time.perf_counter()
        # An error inside a component leaves it open; the pass is over then.
        if self._open:
            kind, mark = self._open.pop()
            self.spans.append((kind, mark, self._mark()))
        self.own_seconds += time.perf_counter() - began

    def _mark(self) -> Any:
        if not self.is_cuda:
            return time.perf_counter()
        event = cast("Any", torch.cuda.Event(enable_timing=True))
        event.record()
        return event

    def _pack(self, tensor: Tensor) -> Tensor:
        began = time.perf_counter()
        if self._counting:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._seen:
                self._seen.add(storage.data_ptr())
                kind = self._open[-1][0] if self._open else "rest"
                self.kept[kind] = self.kept.get(kind, 0) + storage.nbytes()
        # Detached: a tensor that its own operation keeps would else keep itself alive.
        packed = tensor.detach()
        self.own_seconds += time.perf_counter() - began
        return packed

    def _unpack(self, tensor: Tensor) -> Tensor:
        # The first backward pass has begun: from here on memory is given back, and addresses come again.
        self._counting = False
        return tensor


def _memory_of(module: nn.Module) -> set[int]:
    """Where weights lie that are whole."""
    found = (parameter for parameter in module.parameters() if not hasattr(parameter, "to_local"))
    return {parameter.untyped_storage().data_ptr() for parameter in found if parameter.numel()}
