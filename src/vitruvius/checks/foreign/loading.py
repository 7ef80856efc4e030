"""What `hf:DIR` and `module:path:factory` name, loaded: no pickle, no code from a folder, nothing from a network."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from vitruvius.checks.foreign.adapter import seeded
from vitruvius.checks.foreign.facts import Facts, facts_of
from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType

Values = Literal["given", "random"]
"""Which values the weights get: those that come with the model, or first ones drawn anew."""

HF, MODULE = "hf:", "module:"


class LoadError(Exception):
    """The model could be found and not be made: that is a finding about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model, what is known about it, and how it came to be."""

    module: nn.Module
    facts: Facts
    detail: str
    """Where its values come from."""
    warning: str = ""
    notes: tuple[str, ...] = field(default=())


def is_foreign(spec: str) -> bool:
    """Whether a SPEC names somebody else's model."""
    return spec.startswith((HF, MODULE))


def ensure_found(spec: str) -> None:
    """Refuse at once what needs no process to be found wrong. Raises UsageError."""
    if spec.startswith(HF):
        from vitruvius.checks.foreign.folder import read_config

        if spec == HF:
            raise UsageError("a folder is missing after hf:", fix="write hf:FOLDER, a folder with a config.json")
        read_config(Path(spec.removeprefix(HF)))
    elif spec.startswith(MODULE):
        _parts(spec)
    else:
        raise UsageError(f"{spec!r} names no foreign model", fix="write hf:FOLDER or module:path.to:factory")


def load(spec: str, *, seed: int = 0, values: Values = "given") -> Loaded:
    """The model that a SPEC names.

    Raises UsageError when there is no such folder, file or factory, or it is not what it should be; LoadError when the
    model's own code or weights fail.
    """
    ensure_found(spec)
    if spec.startswith(MODULE):
        return load_factory(spec, seed=seed)
    from vitruvius.checks.foreign.folder import load_folder

    return load_folder(Path(spec.removeprefix(HF)), seed=seed, values=values)


# ----------------------------------------------------------------------------------------------------------------------
# Factories


def load_factory(spec: str, *, seed: int) -> Loaded:
    """What `module:path.to:factory` or `module:./file.py:factory` makes; the factory takes no arguments.

    It gives an nn.Module, or a pair of one and a dictionary: `vocab_size`, `causal`, `context`, `weights`, `name`.
    """
    place, name = _parts(spec)
    found: Any = _attribute(_imported(place, spec), name, spec)
    if isinstance(found, nn.Module):
        made: tuple[nn.Module, Mapping[str, Any]] = (found, {})
        redraw = None
    else:
        _check_callable(found, spec)
        made = _made(found, spec, seed)
        redraw = _redrawing(found, spec)
    module, given = made
    facts = facts_of(module, given, where=spec)
    if given.get("name") is None:
        facts = replace(facts, name=f"{facts.name} of {spec}")
    if redraw is not None and facts.redraw is None and facts.weights == "first":
        facts = replace(facts, redraw=redraw)
    kind = f"{type(module).__name__} from {name}" + ("" if isinstance(found, nn.Module) else "()")
    return Loaded(module=module, facts=facts, detail=f"{kind}, with the values it was made with")


def _parts(spec: str) -> tuple[str, str]:
    """(module or file, factory) of a SPEC."""
    place, _, name = spec.removeprefix(MODULE).rpartition(":")
    if not place or not name:
        raise UsageError("a factory is missing", where=spec, fix="write module:path.to:factory, or module:./file.py:it")
    if _is_file(place) and not Path(place).is_file():
        raise UsageError(f"there is no file {place}", where=spec, fix="check the path; it starts from where you are")
    return place, name


def _is_file(place: str) -> bool:
    return place.endswith(".py") or "/" in place


def _imported(place: str, spec: str) -> ModuleType:
    """The Python module, by dotted name (from the working folder on) or by file."""
    is_file, path = _is_file(place), Path(place)
    for folder in ((str(path.resolve().parent),) if is_file else ()) + (str(Path.cwd()),):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    try:
        return _from_file(path) if is_file else importlib.import_module(place)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")
        if not is_file and error.name and place.split(".")[: len(missing)] == missing:
            fix = "check its name, or give a file: module:./model.py:make"
            raise UsageError(f"there is no Python module {place!r}", where=spec, fix=fix) from None
        raise UsageError(f"importing {place} needs {error.name}", where=spec, fix="install it first") from None
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise UsageError(f"importing {place} raised {_told(error)}", where=spec, fix="make it importable") from None


def _from_file(path: Path) -> ModuleType:
    name = path.stem if path.stem.isidentifier() else "foreign_model"
    if name in sys.modules:
        name = f"foreign_{name}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module


def _attribute(module: ModuleType, name: str, spec: str) -> object:
    value: object = module
    for part in name.split("."):
        if not hasattr(value, part):
            near = get_close_matches(part, [n for n in dir(value) if not n.startswith("_")], n=3, cutoff=0.4)
            fix = f"did you mean {' or '.join(near)}?" if near else "name a function or a class that it defines"
            raise UsageError(f"{getattr(module, '__name__', 'it')} has no {name!r}", where=spec, fix=fix)
        value = getattr(value, part)
    return value


def _check_callable(found: Any, spec: str) -> None:
    if not callable(found):
        fix = "name a function that returns an nn.Module"
        raise UsageError(f"that is a {type(found).__name__}, not a factory", where=spec, fix=fix)
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise UsageError(
            f"the factory cannot be called without arguments ({error})",
            where=spec,
            fix="write one that takes none: def make(): return Model(...), {'vocab_size': 32000}",
        ) from None
    except ValueError:
        return  # builtins have no signature; calling them will tell


def _made(factory: Callable[[], Any], spec: str, seed: int) -> tuple[nn.Module, Mapping[str, Any]]:
    try:
        with seeded(seed):
            found = factory()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise LoadError(f"the factory raised {_told(error)}") from None
    module, given = found if isinstance(found, tuple) and len(found) == 2 else (found, {})
    if not isinstance(module, nn.Module) or not isinstance(given, Mapping):
        from vitruvius.checks.foreign.outputs import described

        raise UsageError(
            f"the factory returned {described(found)}",
            where=spec,
            fix="return an nn.Module, or (module, {'vocab_size': ...})",
        )
    return module, given


def _redrawing(factory: Callable[[], Any], spec: str) -> Callable[[int], nn.Module]:
    return lambda seed: _made(factory, spec, seed)[0]


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
