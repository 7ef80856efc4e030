"""From what `train.preprocess` says to functions: built in, installed, or from a file. No torch.

A file is read once: what is hashed is what runs. Its folder comes last in the search for modules, so that it may import
its neighbours, which are no part of the hash.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vitruvius.errors import RunError, UsageError
from vitruvius.training.preprocessing.base import Hook
from vitruvius.training.preprocessing.builtin import BUILTIN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vitruvius.training.preprocessing.use import HookUse

GROUP = "vitruvius.hooks"
"""The group of entry points that installed packages offer hooks under."""
MOST_BYTES = 4 << 20
"""No hook's file is larger."""


def find_hooks(uses: Sequence[HookUse]) -> tuple[Hook, ...]:
    """The hooks in their order.

    Raises:
        UsageError: there is no such hook, file or function, or it does not take these options.
        RunError: the source is not the one that the settings name by its SHA-256.
    """
    seen: Counter[str] = Counter()
    found: list[Hook] = []
    for number, use in enumerate(uses):
        where = f"train.preprocess.{number} ({use.hook})"
        name, function, source = _found(use.hook, where)
        sha256 = None if source is None else hashlib.sha256(source).hexdigest()
        if use.sha256 is not None and use.sha256 != sha256:
            raise RunError(
                f"the source of the hook has changed: its SHA-256 is {sha256}, and {use.sha256} is due",
                where=where,
                fix="put the file back (the folder of the run keeps a copy under hooks/), or train into a new folder",
            )
        _ensure_takes(function, use.options, where)
        found.append(
            Hook(
                name=name,
                use=use.hook,
                function=function,
                options=dict(use.options),
                sha256=sha256,
                source=source,
                occurrence=seen[name],
            )
        )
        seen[name] += 1
    return tuple(found)


def pinned(uses: Sequence[HookUse]) -> tuple[HookUse, ...]:
    """The hooks with absolute paths and the SHA-256 of their sources. Raises as `find_hooks`."""
    return tuple(
        replace(use, hook=_absolute(use.hook), sha256=hook.sha256)
        for use, hook in zip(uses, find_hooks(uses), strict=True)
    )


def _absolute(hook: str) -> str:
    file, colon, function = hook.rpartition(":")
    return f"{Path(file).resolve()}:{function}" if colon else hook


def _found(hook: str, where: str) -> tuple[str, Callable[..., Any], bytes | None]:
    file, colon, function = hook.rpartition(":")
    if colon:
        return function, *_from_file(Path(file), function, where)
    if hook in BUILTIN:
        return hook, BUILTIN[hook], None
    from importlib.metadata import entry_points

    installed = {point.name: point for point in entry_points(group=GROUP)}
    if hook not in installed:
        from vitruvius.spec.reporting import did_you_mean, listed

        known = sorted({*BUILTIN, *installed})
        fix = did_you_mean(hook, known) or f"use {listed(known)}, or file.py:function"
        raise UsageError(f"there is no hook {hook!r}", where=where, fix=fix)
    try:
        loaded = installed[hook].load()
        source = Path(inspect.getsourcefile(loaded) or sys.modules[loaded.__module__].__file__ or "").read_bytes()
    except Exception as error:  # noqa: BLE001 (whatever the package raises)
        what = f"the installed hook cannot be loaded: {type(error).__name__}: {error}"
        raise UsageError(what, where=where, fix=f"mend or reinstall {installed[hook].value}") from None
    return hook, loaded, source


def _from_file(path: Path, function: str, where: str) -> tuple[Callable[..., Any], bytes]:
    try:
        if not path.is_file():
            raise FileNotFoundError("there is no such file")
        with path.open("rb") as file:
            source = file.read(MOST_BYTES + 1)
    except OSError as error:
        what = f"the hook's file {path} cannot be read: {error.strerror or error}"
        raise UsageError(what, where=where, fix="name a Python file; a path in a run file is relative to it") from None
    if len(source) > MOST_BYTES:
        raise UsageError(f"{path} is larger than {MOST_BYTES >> 20} MiB", where=where, fix="name a Python file")
    module = _module(path, source, where)
    found = getattr(module, function, None)
    if not callable(found):
        from vitruvius.spec.reporting import did_you_mean, listed

        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        fix = did_you_mean(function, known) or f"its functions are {listed(known) or '(none)'}"
        raise UsageError(f"{path} has no function {function!r}", where=where, fix=fix)
    return found, source


def _module(path: Path, source: bytes, where: str) -> ModuleType:
    """The file as a module of a name of its own, made once for each content."""
    name = f"vitruvius_hook_{hashlib.sha256(source).hexdigest()[:16]}"
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path.resolve()):
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path.resolve())
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    sys.modules[name] = module
    try:
        exec(compile(source, str(path), "exec"), vars(module))  # noqa: S102 (the user's own file, named by the user)
    except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever the file raises)
        del sys.modules[name]
        line = _line_in(error, str(path))
        what = f"the hook's file cannot be run: {type(error).__name__}: {error}{line}"
        raise UsageError(what, where=where, fix=f"python {path} shows where") from None
    return module


def _line_in(error: BaseException, file: str) -> str:
    """`, line 12` where that is the file's, else nothing."""
    if isinstance(error, SyntaxError):
        return ""  # it says so itself
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f", line {lines[-1]}" if lines else ""


def _ensure_takes(function: Callable[..., Any], options: dict[str, Any], where: str) -> None:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return  # a function without one is asked when it is called
    try:
        signature.bind(None, None, **options)
    except TypeError as error:
        from vitruvius.spec.reporting import listed

        takes = [parameter.name for parameter in list(signature.parameters.values())[2:]]
        fix = f"its options are {listed(takes)}" if takes else "write it as hook(sample, draw); it has no options"
        raise UsageError(f"it cannot be called so: {error}", where=where, fix=fix) from None
