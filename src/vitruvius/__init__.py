"""Vitruvius: one architecture spec is the source of the picture, the bill, the checked model and the run.

    import vitruvius as vt

    arch = vt.preset("llama-moe")               # or vt.read("my-arch.yaml")
    vt.size(arch, context=131_072)              # parameters, memory, FLOPs; no torch
    model = vt.build(arch)                      # a plain torch module
    vt.check(model)
    vt.train(arch, data="data/books", out="runs/first", config=vt.TrainConfig(steps=500))
    vt.load_model("runs/first")

`import vitruvius` costs nothing: each name is imported from its floor of the house when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitruvius.checks import check as check
    from vitruvius.checks import check_callable as check_callable
    from vitruvius.nn import build as build
    from vitruvius.nn.weights import load_model as load_model
    from vitruvius.report import draw as draw
    from vitruvius.sizing import size as size
    from vitruvius.sizing.audit import audit as audit
    from vitruvius.sizing.solve import solve as solve
    from vitruvius.spec import Architecture as Architecture
    from vitruvius.spec import preset as preset
    from vitruvius.spec import preset_names as preset_names
    from vitruvius.spec import read as read
    from vitruvius.spec import shrink as shrink
    from vitruvius.spec import write as write
    from vitruvius.training import TrainConfig as TrainConfig
    from vitruvius.training import resume as resume
    from vitruvius.training import train as train

__version__ = "0.1.0"

_HOME = {
    "Architecture": "vitruvius.spec",
    "TrainConfig": "vitruvius.training",
    "audit": "vitruvius.sizing.audit",
    "build": "vitruvius.nn",
    "check": "vitruvius.checks",
    "check_callable": "vitruvius.checks",
    "draw": "vitruvius.report",
    "load_model": "vitruvius.nn.weights",
    "preset": "vitruvius.spec",
    "preset_names": "vitruvius.spec",
    "read": "vitruvius.spec",
    "resume": "vitruvius.training",
    "shrink": "vitruvius.spec",
    "size": "vitruvius.sizing",
    "solve": "vitruvius.sizing.solve",
    "train": "vitruvius.training",
    "write": "vitruvius.spec",
}
"""Public name -> the module that defines it."""

__all__ = [
    "Architecture",
    "TrainConfig",
    "__version__",
    "audit",
    "build",
    "check",
    "check_callable",
    "draw",
    "load_model",
    "preset",
    "preset_names",
    "read",
    "resume",
    "shrink",
    "size",
    "solve",
    "train",
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
