"""`vitruvius train --plan`: how a run is spread over devices, as settings and a command."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from vitruvius.cli.arguments import say_findings
from vitruvius.cli.output import clean, emit, emit_json, next_step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FAILED = 1
_NOWHERE = "-"


def place_run(
    spec: str,
    *,
    data: str | None,
    out: str | None,
    flags: Mapping[str, Any],
    settings: Sequence[str],
    on: str | None,
    count: int,
    as_json: bool,
) -> int:
    """Print what sizing chose; 1 where nothing fits that can be run."""
    from vitruvius.report.placing_text import placing_text
    from vitruvius.sizing.hardware import device_named
    from vitruvius.training.placing import place
    from vitruvius.training.request import is_run_file, kind_named, read_request

    # Where data and run folder are does not matter here, and need not be known.
    request = read_request(spec, data=_NOWHERE, out=_NOWHERE, flags=flags, settings=settings)
    is_run = is_run_file(spec)
    device, kind = device_named(on or "this-machine"), kind_named(request)
    found = place(request.reading.architecture, request.config, device, count, kind=kind)
    # What is written into the file must not be taken back by what was said before.
    written = () if found.chosen is None else tuple(f"train.{name}" for name in found.settings())
    kept = [text for text in settings if not _is_about(text, written)]
    arguments = _arguments(spec if is_run else "run.yaml", data, out, flags, kept)
    told = found.to_dict(arguments)
    if told["yaml"] is not None and not is_run:
        told["yaml"] = f"spec: {_scalar(spec)}\n{told['yaml']}"
    if as_json:
        emit_json(told)
    else:
        emit(clean(placing_text(told)))
    say_findings(request.reading.findings)
    if found.chosen is None:
        next_step(f"vitruvius plan {shlex.quote(clean(spec))} --on {found.device.name} --count {count}")
        return _FAILED
    next_step(clean(found.launch(arguments)))
    return 0


def _is_about(text: str, names: Sequence[str]) -> bool:
    """Whether a `--set` text changes one of these settings, or a part of it."""
    path = text.partition("=")[0].strip()
    return any(path == name or path.startswith(f"{name}.") for name in names)


def _scalar(text: str) -> str:
    """A name as YAML reads it back."""
    import json

    plain = all(c.isalnum() or c in "._-/" for c in text) and text[:1].isalpha()
    return text if plain else json.dumps(text)


def _arguments(spec: str, data: str | None, out: str | None, flags: Mapping[str, Any], settings: Sequence[str]) -> str:
    """The arguments of `vitruvius train` that were given here, as a shell reads them."""
    words = [spec]
    for name, value in {"data": data, "out": out, **flags}.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    for text in settings:
        words += ["--set", text]
    return shlex.join(words)
