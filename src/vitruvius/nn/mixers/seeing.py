"""What the modules of softmax attention share: the position inside, and the store of what was seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.errors import UsageError
from vitruvius.nn.mixers.keyvalue import KeyValueStore
from vitruvius.nn.mixers.recurrent import empty_state
from vitruvius.nn.positions.hooks import ensure_hooks, hooks_of
from vitruvius.nn.registry import Factory, make_position

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.spec import Scope
    from vitruvius.spec.mixers.seeing import Seeing


def position_inside(spec: Seeing, scope: Scope, factory: Factory) -> Any:
    """The module of a mixer's position, or None without one.

    Raises UsageError when attention would pass over what it does, or when it has a kernel that its kind conceals.
    """
    if spec.position is None:
        return None
    module = make_position(spec.position, spec.heads_of(scope), scope, factory)
    ensure_hooks(module)
    if (hooks_of(module).attend is not None) != spec.position.has_kernel:
        what = f"{type(module).__qualname__} and the kind {spec.position.kind!r} disagree on whether there is a kernel"
        fix = "set has_kernel = True in the kind if and only if its module has the hook attend"
        raise UsageError(what, where="mixer.position", fix=fix)
    return module


def empty_store(spec: Seeing, scope: Scope, *, batch: int, capacity: int, like: Tensor) -> KeyValueStore:
    """Room for what `batch` sequences of up to `capacity` tokens leave, with the device and format of `like`."""
    specs = spec.state_tensors(scope, capacity)
    made = empty_state(specs, batch, device=like.device, dtype=like.dtype)
    slots = {name: tensor for name, tensor in made.items() if specs[name].role == "keys"}
    running = {name: tensor for name, tensor in made.items() if specs[name].role == "state"}
    return KeyValueStore(spec.stores(scope, capacity), slots, running, is_lent=bool(scope.readers))
