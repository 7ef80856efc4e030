"""What pydantic finds wrong in the settings of a run, in our words. No torch."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from vitruvius.errors import Finding
from vitruvius.spec.reporting import did_you_mean, listed
from vitruvius.training.config import CurriculumStage, TrainConfig
from vitruvius.training.other_names import called_here
from vitruvius.training.settings import SECTIONS
from vitruvius.training.settings.alarms import Rule as AlarmRule
from vitruvius.training.settings.preprocess import HookUse
from vitruvius.training.settings.shape import Plateau, ShapeSchedule, Signal

_TAGS = {"function-after", "constrained-int", "constrained-float", "int", "float"}
"""What pydantic puts into the path of a value that may be of several types."""
_BOUNDS = {"greater_than": ("gt", "above"), "greater_than_equal": ("ge", "from"), "less_than": ("lt", "below")}
_BOUNDS |= {"less_than_equal": ("le", "at most")}
_TYPES = {"int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number"}
_TYPES |= {"string_type": "text", "tuple_type": "a list", "finite_number": "a finite number"}
_TYPES |= {"too_short": "a list of two numbers", "too_long": "a list of two numbers", "missing": "two numbers"}
_TYPES |= {"dict_type": "a mapping", "dataclass_type": "a mapping"}


def explain(entry: Any) -> Finding:
    """One of pydantic's errors in our words."""
    keys = [str(key) for key in entry["loc"] if key not in _TAGS]
    kind, context = entry["type"], entry.get("ctx", {})
    if not keys:  # JSON that the parser itself refuses: half a character, or numbers without an end
        what = f"the settings cannot be read: {entry['msg']}"
        return Finding(
            path="train", what=what, fix="look for a text that is not UTF-8, or a number that is far too long"
        )
    in_stage = keys[0] == "curriculum"
    owner = CurriculumStage if in_stage else SECTIONS.get(keys[0], TrainConfig) if len(keys) > 1 else TrainConfig
    if keys[0] == "shape" and len(keys) > 2:
        owner = {"when": Signal, "plateau": Plateau}.get(keys[-2], ShapeSchedule)
        if kind == "missing":
            path = ".".join(["train", *keys])
            return Finding(path=path, what=f"{keys[-1]} is missing", fix="see docs/training/architecture-schedules.md")
    if keys[0] == "preprocess":
        owner = HookUse if len(keys) > 2 else owner
        if kind == "missing":
            path = ".".join(["train", *keys])
            return Finding(
                path=path, what=f"{keys[-1]} is missing", fix="write {hook: fim}, or {hook: file.py:function}"
            )
    if keys[:2] == ["guard", "alarms"]:
        keys = [key for key in keys if key != "[key]"]
        owner = AlarmRule if len(keys) > 3 else owner
    if kind == "missing" and in_stage:
        path = ".".join(["train", *keys])
        return Finding(path=path, what=f"{keys[-1]} is missing", fix="write both: {until: 0.3, context: 512}")
    if kind == "missing":  # the second of two numbers: the pair is what is wrong
        keys = keys[:-1]
    path = ".".join(["train", *keys])
    known = [f.name for f in fields(owner)]
    if kind in {"unexpected_keyword_argument", "extra_forbidden"}:
        key = keys[-1]
        fix = called_here(key) if owner is TrainConfig else ""
        fix = fix or did_you_mean(key, known) or f"the settings are {listed(known, limit=99)}"
        return Finding(path=path, what=f"there is no setting {key!r}", fix=fix)
    shown = json.dumps(entry.get("input"), ensure_ascii=False, default=str)[:40]
    if kind == "literal_error":
        return Finding(path=path, what=f"{shown} is not one of the choices", fix=f"use {context['expected']}")
    if kind in _BOUNDS:
        name, word = _BOUNDS[kind]
        return Finding(path=path, what=f"{shown} is out of range", fix=f"use a number {word} {context[name]:g}")
    due = _TYPES.get(kind)
    if due is None:
        return Finding(path=path, what=f"{shown}: {entry['msg'].lower()}", fix="see docs/training.md")
    by_name = {f.name: str(f.type) for f in fields(owner)}
    may_be_null = "None" in by_name.get(keys[-1], "") and entry.get("input") in ("None", "none", "nil", "off")
    fix = f"write null for none, or {due}" if may_be_null else f"write {due}"
    return Finding(path=path, what=f"{shown} where {due} is due", fix=fix)
