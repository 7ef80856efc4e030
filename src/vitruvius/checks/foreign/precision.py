"""In which precision a foreign model can be probed, and the bound that follows.

Two correct computations of one thing agree to 1e-9 only when nothing on the way is rounded to fp32. Models of others
do round: norms and softmaxes say `.to(float32)`, whatever the weights are. `Raised` lifts those casts to fp64 while a
probe runs, and notes any operation that still computes in less; then, or where fp64 fails, fp32 and its bound are used.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from math import sqrt
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vitruvius.checks.compare import EXACT, gap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from torch import nn

_PRODUCTS = frozenset({"mm", "bmm", "addmm", "baddbmm", "convolution", "_grouped_mm", "mv", "addmv"})
_LOW = frozenset({torch.float32, torch.bfloat16, torch.float16})
_SLACK = 64.0
_SAME_MODEL = 0.05
_SHOWN = 3


def rounding_bound(dtype: torch.dtype, products: int) -> float:
    """How far two correct computations in one precision may differ, relative to the largest logit (or to one).

    Each matrix product adds up its terms in an order that depends on shapes, with a relative error of a few times the
    format's epsilon; products come one after another, and independent errors add up like sqrt(products). The slack of
    64 covers the greatest of many logits (5 standard deviations), sums of some hundred terms and what norms and sharp
    softmaxes amplify. Measured on ten Hugging Face models at small sizes: a tenth of the bound and less, also with
    first weights made twenty times as wide.
    """
    return _SLACK * torch.finfo(dtype).eps * sqrt(products + 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """The number format of the probes of one model."""

    dtype: torch.dtype
    raised: bool
    """Whether casts to less than fp64 are lifted to it while the model runs."""
    bound: float
    """For two computations of one thing."""
    products: int
    """Matrix products of one forward pass."""
    note: str
    """Why not fp64, or where less is left in it, and the bound that follows; empty for fp64 throughout."""

    @property
    def name(self) -> str:
        """`fp64` or `fp32`."""
        return {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}.get(
            self.dtype, str(self.dtype)
        )

    @property
    def short(self) -> str:
        """`in fp32`, `in fp64 with fp32 inside`; empty for fp64 throughout."""
        if not self.note:
            return ""
        return "in fp64 with less inside" if self.raised else f"in {self.name}"

    @contextmanager
    def active(self) -> Iterator[Raised]:
        """Computations inside the block are lifted to fp64; gives what watches them."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            with Raised() as watching:
                yield watching
        finally:
            torch.set_default_dtype(before)


@dataclass
class _Seen:
    """What a watched forward pass did."""

    products: int = 0
    low: dict[str, int] = field(default_factory=dict)


class Raised(TorchDispatchMode):
    """Casts and new tensors asked for in fp32, bf16 or fp16 come in fp64; grouped products, without fp64, loop."""

    def __init__(self, *, lift: bool = True) -> None:
        super().__init__()
        self.lift = lift
        self.seen = _Seen()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, lifted."""
        del types
        kwargs = dict(kwargs or {})
        if self.lift and kwargs.get("dtype") in _LOW:
            kwargs["dtype"] = torch.float64
        name = func.overloadpacket.__name__
        if self.lift and name == "_grouped_mm" and args[0].dtype == torch.float64:
            out = _grouped(*args, **kwargs)
        else:
            out = func(*args, **kwargs)
        self.seen.products += name in _PRODUCTS or "attention" in name
        for part in out if isinstance(out, tuple | list) else (out,):
            if isinstance(part, Tensor) and part.dtype in _LOW and part.dim() > 0 and not func.is_view:
                self.seen.low[name] = self.seen.low.get(name, 0) + 1
        return out


def _grouped(a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, **_: Any) -> Tensor:
    """Grouped product of torch as a loop over groups; `offs` are the ends of the groups along the ragged axis."""
    if offs is None:
        out = torch.bmm(a, b)
        return out if bias is None else out + bias
    ends = [0, *offs.tolist()]
    spans = list(pairwise(ends))
    if a.dim() == 2 and b.dim() == 2:
        return torch.stack([a[:, start:stop] @ b[start:stop] for start, stop in spans])
    if a.dim() == 2:
        out = a.new_zeros(a.shape[0], b.shape[-1])
        for group, (start, stop) in enumerate(spans):
            out[start:stop] = a[start:stop] @ b[group]
            if bias is not None:
                out[start:stop] += bias[group]
        return out
    out = b.new_zeros(a.shape[1], b.shape[1])
    for group, (start, stop) in enumerate(spans):
        out[:, start:stop] = a[group] @ b[:, start:stop]
    return out


@torch.no_grad()
def precision_of(
    copy: Callable[[torch.dtype | None], nn.Module], run: Callable[[nn.Module], Tensor], *, refused: str = ""
) -> Precision:
    """The finest precision in which a model computes what it computes in its own.

    `copy` makes a copy in a dtype (None: as given), `run` gives its logits; `refused` says why fp64 is not to be tried.
    Raises what `run` raises on the copy as given.
    """
    model = copy(None)
    with Raised(lift=False) as watched:
        own = run(model)
    products, why = watched.seen.products, refused
    if not refused:
        try:
            return _in_double(copy, run, own, products)
        except _NotInDoubleError as reason:
            why = str(reason)
    dtype = torch.float32 if own.dtype != torch.float32 and _runs_in(torch.float32, copy, run) else own.dtype
    bound = rounding_bound(dtype, products)
    name = str(dtype).removeprefix("torch.")
    note = f"{why}; {name} with a bound of {bound:.1g} from its epsilon and {products} matrix products"
    return Precision(dtype=dtype, raised=False, bound=bound, products=products, note=note)


def _runs_in(
    dtype: torch.dtype, copy: Callable[[torch.dtype | None], nn.Module], run: Callable[[nn.Module], Tensor]
) -> bool:
    """Whether the model computes logits of a format."""
    try:
        return run(copy(dtype)).dtype == dtype
    except Exception:  # noqa: BLE001 (a foreign model may raise anything in a format that it does not know)
        return False


class _NotInDoubleError(Exception):
    """The model does not run in fp64, or computes something else there."""


def _in_double(
    copy: Callable[[torch.dtype | None], nn.Module], run: Callable[[nn.Module], Tensor], own: Tensor, products: int
) -> Precision:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model = copy(torch.float64)
        with Raised() as lifted:
            found = run(model)
    except Exception as error:  # noqa: BLE001 (whatever a foreign model raises in fp64, it is probed in fp32)
        raise _NotInDoubleError(f"fp64 raised {type(error).__name__}: {' '.join(str(error).split())[:80]}") from None
    finally:
        torch.set_default_dtype(before)
    if found.shape != own.shape or not _near(found, own):
        raise _NotInDoubleError("its logits in fp64 are not those of its own precision")
    if found.dtype == torch.float64 and not lifted.seen.low:
        return Precision(dtype=torch.float64, raised=True, bound=EXACT, products=products, note="")
    bound = rounding_bound(torch.float32, products)
    low = ", ".join(list(lifted.seen.low)[:_SHOWN]) or "the logits"
    note = (
        f"fp64 with less inside ({low}); the bound is {bound:.1g}, from fp32's epsilon and {products} matrix products"
    )
    return Precision(dtype=torch.float64, raised=True, bound=bound, products=products, note=note)


def _near(found: Tensor, own: Tensor) -> bool:
    """Whether both are the same model's logits; where neither is a number, nothing can be said against it."""
    if not (found.isfinite().all() and own.isfinite().all()):
        return True
    size = own.double().std().item()
    return gap(found.double(), own.double()) <= max(_SAME_MODEL * size, rounding_bound(own.dtype, 100))


def lifted(precision: Precision) -> AbstractContextManager[Raised | None]:
    """`precision.active()`, or nothing at all where the model runs in its own precision."""
    return precision.active() if precision.raised else nullcontext()
