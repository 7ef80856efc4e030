"""The process in which a foreign model runs: `python -m vitruvius.checks.foreign.worker REQUEST`.

It loads what the request names, runs the probes it lists and writes what happens as JSON lines to a pipe of its own,
so that whatever the model prints is no data. It may crash or hang at any time; see `isolation`.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def main(argument: str) -> None:
    """Answer one request, JSON: spec, seed, values, names, double, memory, pipe, and a key that marks our own lines."""
    request: dict[str, Any] = json.loads(argument)
    pipe: int = request["pipe"]
    os.set_inheritable(pipe, False)
    # What the model left to be done at exit may hang or crash, and nobody waits for it.
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=False)
    for event in _events(request):
        data = json.dumps({**event, "key": request["key"]}).encode() + b"\n"
        while data:
            data = data[os.write(pipe, data) :]
    os._exit(0)


def _events(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from vitruvius.checks.foreign.loading import HF

    if request["spec"].startswith(HF):
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
    _limit_memory(request["memory"])
    yield {"event": "alive"}
    yield from _answers(request)
    yield {"event": "done"}


def _limit_memory(allowed: int | None) -> None:
    """Allocations past what the process has now and `allowed` bytes fail, instead of taking the machine's memory."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if allowed is None:
        return
    now = 0
    try:
        with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 (read once, line by line)
            now = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
    except (OSError, StopIteration, ValueError):
        pass
    resource.setrlimit(resource.RLIMIT_DATA, (now + allowed, now + allowed))


def _answers(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from vitruvius.checks.foreign.adapter import Foreign, settings_kept
    from vitruvius.checks.foreign.loading import LoadError, load
    from vitruvius.checks.foreign.probes import GATE, NEEDS_PRECISION, judged
    from vitruvius.checks.table import one_thread
    from vitruvius.errors import MissingExtraError, VitruviusError

    try:
        with settings_kept():
            loaded = load(request["spec"], seed=request["seed"], values=request["values"])
            subject = Foreign(loaded.module, loaded.facts, seed=request["seed"], double=request["double"])
    except MissingExtraError as error:
        yield {"event": "refused", "what": error.what, "where": "", "fix": error.fix}
        return
    except VitruviusError as error:
        yield {"event": "refused", "what": error.what, "where": error.where, "fix": error.fix}
        return
    except LoadError as error:
        yield {"event": "unloadable", "detail": str(error)}
        return
    yield {
        "event": "loaded",
        "subject": subject.description,
        "detail": loaded.detail,
        "warning": loaded.warning,
    }
    names: list[str] = request["names"]
    with settings_kept(), one_thread():
        if GATE not in names:
            yield {"event": "begin", "name": names[0]}
            subject.answers()
        for name in names:
            if name in NEEDS_PRECISION and not subject.has_precision:
                yield {"event": "begin", "name": "precision"}
                subject.find_precision()
            yield {"event": "begin", "name": name}
            outcome = judged(name, subject)
            yield {"event": "outcome", "subject": subject.description, "outcome": asdict(outcome)}


if __name__ == "__main__":
    main(sys.argv[1])
