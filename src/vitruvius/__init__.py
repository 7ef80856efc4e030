"""Vitruvius: one architecture spec is the source of the picture, the bill, the checked model and the run.

    import vitruvius as vt

    arch = vt.preset("llama-moe")               # or vt.read("my-arch.yaml")
    vt.size(arch, context=131_072)              # parameters, memory, FLOPs; no torch
    model = vt.build(arch)                      # a plain torch module
    vt.check(model)

`import vitruvius` costs nothing: each name is imported from its floor of the house when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitruvius.checks import check as check
    from vitruvius.checks import check_callable as check_callable
    from vitruvius.nn import build as build
    from vitruvius.report import draw as draw
    from vitruvius.sizing import size as size
    from vitruvius.spec import Architecture as Architecture
    from vitruvius.spec import preset as preset
    from vitruvius.spec import preset_names as preset_names
    from vitruvius.spec import read as read
    from vitruvius.spec import shrink as shrink
    from vitruvius.spec import write as write

__version__ = "0.1.0"

_HOME = {
    "Architecture": "vitruvius.spec",
    "build": "vitruvius.nn",
    "check": "vitruvius.checks",
    "check_callable": "vitruvius.checks",
    "draw": "vitruvius.report",
    "preset": "vitruvius.spec",
    "preset_names": "vitruvius.spec",
    "read": "vitruvius.spec",
    "shrink": "vitruvius.spec",
    "size": "vitruvius.sizing",
    "write": "vitruvius.spec",
}
"""Public name -> the module that defines it."""

__all__ = [
    "Architecture",
    "__version__",
    "build",
    "check",
    "check_callable",
    "draw",
    "preset",
    "preset_names",
    "read",
    "shrink",
    "size",
    "write",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
