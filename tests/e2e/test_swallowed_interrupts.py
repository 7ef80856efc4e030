"""A Ctrl-C that a library swallows still ends the command as a Ctrl-C, and never as a bug of ours."""

from __future__ import annotations

import signal

import pytest

# torch imports numpy from C++ while it loads itself, and clears every exception there, a KeyboardInterrupt included.
# numpy is then half imported, and the next one to use it fails: with an ImportError, or by recursing without an end.
SWALLOWED = """
import os, signal, sys
import vitruvius.cli.main as entry

{handler}

def dispatch(argv):
    if {sent}:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            pass
    {then}

entry._dispatch = dispatch
sys.exit(entry.main())
"""
HEARD = "signal.signal(signal.SIGINT, signal.default_int_handler)  # the shell of these tests may ignore it"
LATER = {
    "import": "raise ImportError('cannot load module more than once per process')",
    "recursion": "raise RecursionError('maximum recursion depth exceeded')",
    "attribute": "raise AttributeError('partially initialized module')",
}
OURS = "from vitruvius.errors import UsageError; raise UsageError('wrong', fix='right')"


@pytest.mark.parametrize("then", LATER.values(), ids=LATER)
def test_what_fails_after_a_swallowed_interrupt_is_the_interrupt(python, then):
    done = python(SWALLOWED.format(handler=HEARD, sent=True, then=then))
    assert (done.returncode, done.stderr) == (130, "")
    done = python(SWALLOWED.format(handler=HEARD, sent=False, then=then))
    assert done.returncode in {2, 70}
    assert "error: " in done.stderr


def test_bad_input_is_told_also_after_a_swallowed_interrupt(python):
    done = python(SWALLOWED.format(handler=HEARD, sent=True, then=OURS))
    assert done.returncode == 2
    assert "wrong" in done.stderr


def test_a_command_that_ignores_interrupts_goes_on_ignoring_them(python):
    # A shell starts its background jobs so.
    ignored = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    done = python(SWALLOWED.format(handler=ignored, sent=True, then="return 0"))
    assert done.returncode == 0


def test_an_interrupt_that_nobody_swallows_ends_the_command(python):
    then = "os.kill(os.getpid(), signal.SIGINT)"
    done = python(SWALLOWED.format(handler=HEARD, sent=False, then=then))
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr == ""


def test_an_interrupt_while_torch_loads_ends_the_command_before_torch_can_swallow_it(python, tmp_path):
    # What torch does from C++: the interrupt is gone, and what follows may end the process by a signal of its own.
    package = tmp_path / "torch"
    package.mkdir()
    clears = (
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept KeyboardInterrupt:\n    os.abort()\n"
    )
    (package / "__init__.py").write_text(clears, encoding="utf-8")
    then = f"sys.path.insert(0, {str(tmp_path)!r}); import torch"
    done = python(SWALLOWED.format(handler=HEARD, sent=False, then=then))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
