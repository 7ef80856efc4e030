"""The one place where an exception becomes a message and an exit code.

     0  done, or the reader of our output went away (a closed pipe)
     1  the thing examined failed
     2  bad input or usage, or a file that cannot be read or written
     3  too much bad data
    70  a bug of ours
    75  stopped by SIGTERM with a resumable checkpoint (returned by the verb itself)
   130  interrupted

A verb raises, or returns its code; it never prints an error or exits by itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback

import click

from vitruvius.cli.output import STDOUT, abandon, clean, clean_line, fails, say
from vitruvius.errors import MissingExtraError, SpecError, VitruviusError

DONE, BAD_INPUT, BUG, INTERRUPTED = 0, 2, 70, 130

_WAY_OUT = {
    errno.EACCES: "check its permissions, or choose another place",
    errno.EDQUOT: "free some of your quota, or choose another place",
    errno.EEXIST: "choose another name",
    errno.EINVAL: "name a plain file",
    errno.EISDIR: "name a file, not a folder",
    errno.ELOOP: "a link points at itself; name the file it should point at",
    errno.EMFILE: "raise the limit with `ulimit -n`, or name fewer files",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ENOENT: "check the spelling; paths are relative to the folder you are in",
    errno.ENOSPC: "free some space, or choose another place",
    errno.ENOTDIR: "a part of the path is a file; check the spelling",
    errno.EPERM: "check its permissions, or choose another place",
    errno.EROFS: "this file system is read-only; choose another place",
}

_EXTRA = {
    "accelerate": "hf",
    "gguf": "gguf",
    "jaxtyping": "run",
    "numpy": "run",
    "peft": "hf",
    "safetensors": "run",
    "tokenizers": "run",
    "torch": "run",
    "transformers": "hf",
}
"""Optional dependency -> the extra that brings it."""


def report(error: BaseException, *, interrupted: bool = False) -> int:
    """Print what `error` means on stderr, and return the exit code. VITRUVIUS_TRACEBACK=1 shows where it came from.

    interrupted: somebody pressed Ctrl-C before, so that what looks like a bug comes from being interrupted.
    """
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if interrupted and isinstance(error, Exception) and not _is_told(error):
        return INTERRUPTED
    if _is_closed_pipe(error):
        abandon(sys.stdout)
        return DONE
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    message = _explain(error)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr may be full or closed too
        if os.environ.get("VITRUVIUS_TRACEBACK"):
            say(clean("".join(traceback.format_exception(error))))
        say(message)
    if isinstance(error, OSError):
        abandon(sys.stdout)
    return _exit_code(error)


def _is_told(error: BaseException) -> bool:
    """Whether it is about the input or the machine, whatever else has happened."""
    return isinstance(error, VitruviusError | click.ClickException | OSError)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, VitruviusError | click.ClickException):
        return error.exit_code
    if isinstance(error, OSError | RecursionError) or _missing_extra(error):
        return BAD_INPUT
    if _is_out_of_memory(error) or _is_of_the_compiler(error):
        return BAD_INPUT
    return BUG


def _explain(error: BaseException) -> str:
    if isinstance(error, SpecError):
        return "\n\n".join(f"error: {clean(str(finding))}" for finding in error.findings)
    if isinstance(error, VitruviusError):
        return f"error: {clean(str(error))}"
    if isinstance(error, click.ClickException):
        return _usage_message(error)
    if isinstance(error, OSError):
        return f"error: {_os_message(error)}"
    if isinstance(error, RecursionError):
        return "error: the input is nested too deeply\n  fix: write it with fewer levels"
    if missing := _missing_extra(error):
        return f"error: {missing}"
    if _is_out_of_memory(error):
        return "error: out of memory\n  fix: use a smaller --batch or --context, or a smaller architecture"
    if _is_of_the_compiler(error):
        first = clean_line(str(error).partition("\n")[0])
        return f"error: torch.compile: {first}\n  fix: use train.compile=none; VITRUVIUS_TRACEBACK=1 shows all of it"
    return (
        f"error: this is a bug in vitruvius: {type(error).__name__}: {clean_line(str(error))}\n"
        "  fix: run it again with VITRUVIUS_TRACEBACK=1 and report what it prints"
    )


def _usage_message(error: click.ClickException) -> str:
    """What was used wrongly, and the way to the help; a group called without a verb gets its help instead."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error.format_message()
    message = f"error: {clean(error.format_message())}"
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    return message if ctx is None else f"{message}\n  fix: see `{ctx.command_path} --help`"


def _os_message(error: OSError) -> str:
    name = error.filename if error.filename2 is None else error.filename2
    if name is not None:
        where = clean_line(os.fsdecode(name) if isinstance(name, bytes) else str(name)) + ": "
    else:
        where = f"{STDOUT}: " if fails(sys.stdout) else ""
    way_out = _WAY_OUT.get(error.errno or 0, "check the path and the device it is on")
    return f"{where}{clean_line(error.strerror or str(error))}\n  fix: {way_out}"


def _is_closed_pipe(error: BaseException) -> bool:
    """Whether our reader went away; rich turns that into an exit of its own, with the reason as its context."""
    return isinstance(error, BrokenPipeError) or (
        isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError)
    )


def _missing_extra(error: BaseException) -> MissingExtraError | None:
    """The error that names the extra, where `error` is the failed import of an optional dependency."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    package = error.name.partition(".")[0]
    return MissingExtraError(_EXTRA[package], package) if package in _EXTRA else None


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out."""
    from vitruvius.runs.shortage import is_out_of_memory

    return is_out_of_memory(error)


def _is_of_the_compiler(error: BaseException) -> bool:
    """Whether torch.compile gave up, on a compiler of this machine or on a model."""
    return any(kind.__module__.startswith(("torch._dynamo.exc", "torch._inductor.exc")) for kind in type(error).__mro__)
