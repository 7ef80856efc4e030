"""Probes of a foreign model in a process of its own, which may crash, hang, run out of memory or print what it likes.

Results come over a pipe as they are found. A probe during which the process ends or does not answer in time has
failed, with the signal or exit status and the line it was in; the next probe gets a fresh process.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import selectors
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import vitruvius
from vitruvius.checks.foreign.loading import Values, ensure_found
from vitruvius.checks.foreign.probes import GATE, LOADS, chosen_names, fallen, is_theirs, judged_as, not_run, opens
from vitruvius.checks.outcome import Outcome, Report, failed, passed
from vitruvius.errors import UsageError
from vitruvius.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TIMEOUT = 300.0
"""Seconds that a probe, and loading the model, may take unless the caller says otherwise."""
_START = 300.0
"""Seconds in which the process itself must start: importing torch from a cold disk takes its time."""
_LEAVING = 5.0
_STACK = 0.5
"""Seconds that a hanging process gets to say where it hangs."""
_IN_A_ROW = 3
"""So many probes that end their process one after another are enough to know: the others are not run."""
_TAIL, _WORDS = 16_384, 160
_LINE = 2**24
_FRAME = re.compile(r'File "([^"]+)", line (\d+) in (\S+)')


def check_foreign(
    spec: str,
    *,
    seed: int = 0,
    only: Sequence[str] | None = None,
    timeout: float = TIMEOUT,
    memory: int | None = None,
    values: Values = "given",
    heard: Callable[[Outcome], None] | None = None,
) -> Report:
    """Probe what `hf:DIR` or `module:path:factory` names, in processes of its own.

    `timeout` is in seconds for loading and for each probe; `memory` in bytes beyond what the process itself takes
    (None: three quarters of what is free); `values` chooses the given weights or first ones; `heard` is called with
    each outcome as it comes. Raises UsageError when the model cannot be found or is not what it should be.
    """
    if not 0 < timeout < inf:
        raise UsageError(f"a timeout of {timeout} s", fix="give a number of seconds above zero")
    chosen = chosen_names(only)
    ensure_found(spec)
    limit = _free() * 3 // 4 if memory is None else memory
    run = _Run(spec=spec, seed=seed, values=values, timeout=timeout, memory=limit, heard=heard)
    run.probe(chosen)
    return Report(subject=run.subject, seed=seed, checks=tuple(run.outcomes))


def _free() -> int:
    """Bytes of memory that are free, or half of all where the system does not say."""
    with suppress(OSError, StopIteration, ValueError), Path("/proc/meminfo").open(encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@dataclass(kw_only=True)
class _Run:
    """One report in the making, over as many processes as it takes."""

    spec: str
    seed: int
    values: Values
    timeout: float
    memory: int
    heard: Callable[[Outcome], None] | None
    subject: str = ""
    outcomes: list[Outcome] = field(default_factory=list)
    double: bool = True
    in_a_row: int = 0

    def probe(self, chosen: Sequence[str]) -> None:
        """Run the chosen probes, and the one that decides whether the others can say anything."""
        self.subject = self.spec
        pending = [GATE, *(name for name in chosen if name != GATE)]
        quiet = GATE not in chosen
        while pending:
            done, stopped = self._one_process(pending, quiet=quiet)
            pending = pending[done:]
            if stopped:
                for name in pending:
                    self._tell(not_run(name, f"not run: {stopped}"))
                return

    def _one_process(self, pending: Sequence[str], *, quiet: bool) -> tuple[int, str]:
        """(probes that are done, why the others are not to be run or the empty text)."""
        done, during, began = 0, "loading", monotonic()
        for event in self._events(pending):
            kind = event["event"]
            if kind == "refused":
                raise UsageError(event["what"], where=event["where"], fix=event["fix"])
            if kind == "unloadable":
                self._tell(judged_as(LOADS, failed(event["detail"]), monotonic() - began))
                return 0, "the model could not be loaded"
            if kind == "loaded":
                if not self.outcomes or self.outcomes[0].name != LOADS:
                    measure = passed(event["detail"], warning=event["warning"])
                    self._tell(judged_as(LOADS, measure, monotonic() - began))
                self.subject = event["subject"]
                during = "starting the probes"
            elif kind == "begin":
                during, began = event["name"], monotonic()
            elif kind == "outcome":
                outcome, self.subject = _outcome(event["outcome"], self.memory), event["subject"]
                done, self.in_a_row = done + 1, 0
                if not (quiet and outcome.name == GATE and outcome.passed):
                    self._tell(outcome)
                if outcome.name == GATE and not opens(outcome):
                    return done, f"{GATE} failed"
            elif kind == "ended":
                return self._ended(pending, done, during, event["how"], monotonic() - began)
        return done, ""

    def _ended(self, pending: Sequence[str], done: int, during: str, how: str, seconds: float) -> tuple[int, str]:
        """What follows from the end of a process before it was done."""
        if during == "loading":
            self._tell(judged_as(LOADS, failed(how), seconds))
            return 0, "the model could not be loaded"
        if during == "precision" and self.double:
            self.double = False  # the next process does not try fp64
            return done, ""
        self.in_a_row += 1
        self._tell(fallen(pending[done], how, seconds))
        if pending[done] == GATE:
            return done + 1, f"{GATE} failed"
        if self.in_a_row >= _IN_A_ROW:
            return done + 1, f"{_IN_A_ROW} probes in a row ended the process"
        return done + 1, ""

    def _tell(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if self.heard is not None:
            self.heard(outcome)

    # ------------------------------------------------------------------------------------------------------------------
    # A process

    def _events(self, pending: Sequence[str]) -> Iterator[dict[str, Any]]:
        """What one process says, then how it ended where it had more to say."""
        reading, writing = os.pipe()
        request = {
            "spec": self.spec,
            "seed": self.seed,
            "values": self.values,
            "names": list(pending),
            "double": self.double,
            "memory": self.memory,
            "pipe": writing,
            "key": (key := secrets.token_hex(8)),
        }
        process = subprocess.Popen(  # noqa: S603 (our own interpreter and module, no shell)
            [sys.executable, "-P", "-u", "-m", "vitruvius.checks.foreign.worker", json.dumps(request)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
            start_new_session=True,
            env=_environment(),
        )
        os.close(writing)
        try:
            yield from _Conversation(process, reading, key, self.timeout).events()
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(reading)
            assert process.stdout is not None
            process.stdout.close()


def _environment() -> dict[str, str]:
    """That of this process; nothing is fetched from a network, and this very package is the one imported."""
    home = str(Path(vitruvius.__file__).resolve().parents[1])
    paths = os.pathsep.join(part for part in (home, os.environ.get("PYTHONPATH", "")) if part)
    return {
        **os.environ,
        "PYTHONPATH": paths,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
    }


class _Conversation:
    """Reads a process's events and what it prints until it is done, ends, or stays silent for too long."""

    def __init__(self, process: subprocess.Popen[bytes], reading: int, key: str, timeout: float) -> None:
        self.process = process
        self.reading = reading
        self.key = key
        self.timeout = timeout
        self.printed = b""
        self.rest = b""

    def events(self) -> Iterator[dict[str, Any]]:
        """Each event, and `ended` with how where the process did not say that it was done."""
        assert self.process.stdout is not None
        printing = self.process.stdout.fileno()
        deadline, silent = monotonic() + _START, False
        with selectors.DefaultSelector() as selector:
            for source in (self.reading, printing):
                os.set_blocking(source, False)
                selector.register(source, selectors.EVENT_READ)
            while True:
                left = deadline - monotonic()
                if left <= 0:
                    silent = True
                    break
                for key, _ in selector.select(left):
                    data = _read(key.fd)
                    if key.fd == printing:
                        self.printed = (self.printed + data)[-_TAIL:]
                        if not data:
                            selector.unregister(printing)
                        continue
                    if not data:
                        yield {"event": "ended", "how": self._how(silent=False)}
                        return
                    for event in self._parsed(data):
                        yield event
                        if event["event"] == "done":
                            return
                        deadline = monotonic() + self.timeout
        yield {"event": "ended", "how": self._how(silent=silent)}

    def _parsed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Whole lines that are events: what a model writes to every file it can find has no key."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        self.rest = self.rest[-_LINE:]
        for line in lines:
            with suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and event.get("key") == self.key:
                    yield event

    def _how(self, *, silent: bool) -> str:
        """In words: the signal, the exit status, or that it hung, and where."""
        if silent:
            self._ask_where()
            return f"no answer within {self.timeout:g} s, so its process was ended{self._where()}"
        try:
            code = self.process.wait(_LEAVING)
        except subprocess.TimeoutExpired:
            return "the process closed every file it had, the one for results included"
        self._drain()
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            memory = " (the system ends what takes too much memory)" if -code == signal.SIGKILL else ""
            return f"the process was ended by {name}{memory}{self._where()}"
        return f"the process left with exit status {code} in the middle of the probe{self._where() or self._said()}"

    def _ask_where(self) -> None:
        """Ask for the stack: the worker's faulthandler answers SIGUSR1."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGUSR1)
        end = monotonic() + _STACK
        while monotonic() < end and not _FRAME.search(self.printed.decode(errors="replace")):
            with selectors.DefaultSelector() as selector:
                assert self.process.stdout is not None
                selector.register(self.process.stdout.fileno(), selectors.EVENT_READ)
                if selector.select(0.05):
                    self._drain()

    def _drain(self) -> None:
        assert self.process.stdout is not None
        while data := _read(self.process.stdout.fileno()):
            self.printed = (self.printed + data)[-_TAIL:]

    def _said(self) -> str:
        """`; its last words: ...`: the last line that it printed."""
        lines = [line.strip() for line in self.printed.decode(errors="replace").splitlines() if line.strip()]
        words = "".join(ch if ch.isprintable() else "?" for ch in lines[-1][:_WORDS]) if lines else ""
        return f"; its last words: {words}" if words else ""

    def _where(self) -> str:
        """` (model.py, line 12 in forward)`: the innermost frame that is no library's."""
        frames = _FRAME.findall(self.printed.decode(errors="replace"))
        own = [frame for frame in frames if is_theirs(frame[0])]
        if not own:
            return ""
        path, line, function = own[0]
        return f" ({Path(path).name}, line {line} in {function})"


def _read(source: int) -> bytes:
    """What there is to read now; empty at the end, and where there is nothing yet."""
    try:
        return os.read(source, 65_536)
    except BlockingIOError:
        return b""


def _outcome(given: dict[str, Any], memory: int) -> Outcome:
    detail = str(given["detail"])
    if not given["passed"] and ("can't allocate memory" in detail or "raised MemoryError" in detail):
        given["detail"] = f"ran out of memory: it may take {format_bytes(memory)} (--memory)"
    return Outcome(**given)
