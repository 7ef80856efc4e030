"""The command as a whole: help, typing mistakes, and every way in which a run can end."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import click
import pytest

import vitruvius as package
from vitruvius.cli import output
from vitruvius.cli.front import VERBS
from vitruvius.cli.main import run
from vitruvius.cli.verbs import ExampleCommand, ExampleGroup
from vitruvius.errors import ExaminedFailedError, Finding, SpecError, TooMuchBadDataError, UsageError

NAMES = [verb.name for verb in VERBS]


@pytest.fixture
def size_raises(monkeypatch):
    """Put a verb in the place of `size` that raises what the test gives it."""

    def put(error):
        @click.command(cls=ExampleCommand)
        def command():
            raise error

        module = types.ModuleType("vitruvius.cli.size")
        module.command = command  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "vitruvius.cli.size", module)

    return put


# ----------------------------------------------------------------------------------------------------------------------
# Help


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_verb_in_the_order_of_the_journey_and_ends_with_the_next_command(flag, vitruvius):
    done = vitruvius(flag)
    table = done.stdout[done.stdout.index("\nDesign:\n") :].splitlines()
    listed = [line.split()[0] for line in table if line.startswith("  ") and line.split()[0] in NAMES]
    assert listed == NAMES
    assert done.stdout.splitlines()[-1].strip() == "next: vitruvius new my-arch --from llama-moe"
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["sise"], []])
def test_the_front_imports_neither_pydantic_nor_rich_nor_yaml_nor_numpy(argv, python):
    code = """
import sys
from vitruvius.cli.main import run
run(sys.argv[1:])
heavy = {"numpy", "pydantic", "rich", "tokenizers", "torch", "transformers", "yaml"} & set(sys.modules)
print("imported:", sorted(heavy), file=sys.stderr)
"""
    assert python(code, *argv).stderr.endswith("imported: []\n")


@pytest.mark.parametrize("name", NAMES)
def test_every_verb_has_help_with_three_examples(name, capsys):
    assert run([name, "-h"]) == 0
    shown = capsys.readouterr().out
    examples = shown.partition("Examples:\n")[2].splitlines()
    commands = [line.strip() for line in examples if line.strip().startswith("vitruvius ")]
    assert len(commands) >= 3, shown
    assert all(command.split()[1] == name for command in commands)


def test_version_is_printed_on_stdout(vitruvius):
    assert vitruvius("--version").stdout == f"vitruvius {package.__version__}\n"


def test_a_group_shows_the_examples_of_its_own(capsys):
    @click.group(cls=ExampleGroup, examples=["vitruvius data prepare a.txt --out shards"], epilog="the end")
    def group():
        """Hold verbs."""

    group.main(["-h"], standalone_mode=False)
    assert "Examples:\n  vitruvius data prepare a.txt --out shards\n\n  the end" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_and_how_to_install_it(shell, capsys):
    assert run(["completion", shell]) == 0
    shown = capsys.readouterr()
    assert "_VITRUVIUS_COMPLETE" in shown.out
    assert shown.err.startswith(f"install: vitruvius completion {shell} > ")


def test_a_tab_completes_verbs_and_imports_none_of_them(python):
    code = """
import os, sys
os.environ.update(_VITRUVIUS_COMPLETE="bash_complete", COMP_WORDS="vitruvius s", COMP_CWORD="1")
from vitruvius.cli.main import run
run([])
print([name for name in sys.modules if name in ("vitruvius.cli.size", "vitruvius.cli.show")], file=sys.stderr)
"""
    done = python(code)
    assert {line.split(",")[1] for line in done.stdout.splitlines()} == {
        "show",
        "size",
        "solve",
        "scale-down",
        "schema",
        "score",
        "sweep",
    }
    assert done.stderr == "[]\n"


# ----------------------------------------------------------------------------------------------------------------------
# Typing mistakes


@pytest.mark.parametrize(
    ("typed", "meant"), [("sise", "size"), ("trian", "train"), ("shwo", "show"), ("pre-sets", "presets")]
)
def test_a_mistyped_verb_is_answered_with_the_nearest_one(typed, meant, capsys):
    assert run([typed]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"error: No such command '{typed}'.") and f"'{meant}'" in shown.err
    assert "fix: see `vitruvius --help`" in shown.err


def test_a_mistyped_option_is_answered_with_the_nearest_one(capsys):
    assert run(["completion", "--hlep"]) == 2
    assert "No such option '--hlep'. Did you mean '--help'?" in capsys.readouterr().err


def test_no_verb_at_all_shows_the_help_on_stderr_and_is_bad_usage(vitruvius):
    done = vitruvius()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: vitruvius ")


@pytest.mark.parametrize("typed", ["x\x1b[2Jy", "x\x9b2Jy", "x\u202ey", "\ud800", "x\ry"])
def test_what_a_terminal_would_obey_is_shown_and_not_sent(typed, capsys):
    assert run([typed]) == 2
    shown = capsys.readouterr().err
    assert shown.replace("\n", "").isprintable()


@pytest.mark.parametrize("typed", ["-rf", "--", "", " ", "../x", "x" * 100_000])
def test_a_strange_verb_is_bad_usage(typed, capsys):
    assert run([typed]) == 2
    assert "Traceback" not in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------------------
# Endings


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError("no such preset", where="llama-mo", fix="use llama-moe"), 2, "error: llama-mo\n  no such preset\n"),
        (ExaminedFailedError("2 of 9 checks failed"), 1, "error: 2 of 9 checks failed\n"),
        (TooMuchBadDataError("3 of 4 documents are bad"), 3, "error: 3 of 4 documents are bad\n"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.yaml"), 2, "error: a.yaml: No such file"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "fix: check its permissions, or choose another"),
        (OSError(errno.EROFS, "Read-only file system", "/x/y"), 2, "error: /x/y: Read-only file system\n  fix: "),
        (IsADirectoryError(errno.EISDIR, "Is a directory", b"d"), 2, "error: d: Is a directory\n  fix: name a file"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "n" * 300), 2, "fix: use a shorter name"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: No space left on device\n  fix: free some"),
        (RecursionError(), 2, "error: the input is nested too deeply"),
        (MemoryError(), 2, "error: out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 1 EB"), 2, "error: out of memory"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 2, "pip install 'vitruvius[run]'"),
        (ModuleNotFoundError("No module named 'vitruvius.x'", name="vitruvius.x"), 70, "this is a bug in vitruvius"),
        (ZeroDivisionError("a\x1b[31m"), 70, "error: this is a bug in vitruvius: ZeroDivisionError: a\\x1b[31m\n"),
        (KeyboardInterrupt(), 130, ""),
        (click.exceptions.Abort(), 130, ""),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 0, ""),
        (SystemExit(5), 5, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)  # fmt: skip
def test_an_exception_becomes_one_message_and_an_exit_code(error, code, message, size_raises, capsys):
    size_raises(error)
    assert run(["size"]) == code
    shown = capsys.readouterr()
    assert message in shown.err
    assert bool(shown.err) == bool(message)
    assert shown.out == "" and "Traceback" not in shown.err and "\x1b" not in shown.err


def test_every_finding_of_a_spec_is_reported_where_it_stands(size_raises, capsys):
    heads = Finding(
        file="a.yaml", line=14, column=3, path="blocks.x.kv_heads", what="3 does not divide heads=8", fix="use 4"
    )
    name = Finding(file="a.yaml", line=20, column=1, path="nam\x1be", what="unknown key")
    size_raises(SpecError([heads, name]))
    assert run(["size"]) == 2
    assert capsys.readouterr().err == (
        "error: a.yaml:14:3  blocks.x.kv_heads\n  3 does not divide heads=8\n  fix: use 4\n\n"
        "error: a.yaml:20:1  nam\\x1be\n  unknown key\n"
    )


def test_a_traceback_is_shown_only_when_it_is_asked_for(size_raises, capsys, monkeypatch):
    monkeypatch.setenv("VITRUVIUS_TRACEBACK", "1")
    size_raises(ZeroDivisionError("x"))
    assert run(["size"]) == 70
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_the_code_that_a_verb_returns_is_the_exit_code(monkeypatch):
    module = types.ModuleType("vitruvius.cli.train")
    module.command = click.Command("train", callback=lambda: 75)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vitruvius.cli.train", module)
    assert run(["train"]) == 75


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize(
    ("flags", "argv"),
    [("", ["completion", "zsh"]), ("", ["--help"]), ("", ["--version"]), ("-u", ["completion", "zsh"])],
)
def test_a_full_disk_under_stdout_is_one_clear_line(flags, argv):
    command = [sys.executable, *filter(None, [flags]), "-m", "vitruvius", *argv]
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(
        "error: standard output: No space left on device\n  fix: free some space, or choose another place\n"
    )
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("flags", [[], ["-u"]], ids=["buffered", "unbuffered"])
def test_a_full_disk_under_stderr_still_gives_the_exit_code(flags):
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        command = [sys.executable, *flags, "-m", "vitruvius", "sise"]
        done = subprocess.run(command, stdout=full, stderr=full, check=False)
    assert done.returncode == 2


def test_a_closed_stdout_is_no_traceback():
    command = f'"{sys.executable}" -m vitruvius --version >&-'
    done = subprocess.run(["/bin/sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert "Traceback" not in done.stderr


TALKER = """
import sys, types, click
from vitruvius.cli import main
module = types.ModuleType("vitruvius.cli.size")
@click.command()
def talk():
    {body}
module.command = talk
sys.modules["vitruvius.cli.size"] = module
sys.argv = ["vitruvius", "size"]
sys.exit(main.main())
"""


def _start(body: str) -> subprocess.Popen[str]:
    code = TALKER.format(body=body)
    return subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("speak", ["print('word' * 100)", "__import__('rich').print('word' * 100)"])
def test_a_closed_pipe_is_quiet(speak):
    process = _start(f"while True: {speak}")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert (process.wait(), process.stderr.read()) == (0, "")


def test_ctrl_c_is_quiet():
    process = _start("print('ready'); import time; time.sleep(600)")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert (process.wait(), process.stderr.read()) == (130, "")


@pytest.mark.parametrize("cleanup", ["time.sleep(600)", "[time.sleep(0.01) for _ in iter(int, 1)]"])
def test_ctrl_c_twice_is_quiet(cleanup):
    body = f"""import time
    try:
        print('ready'); time.sleep(600)
    finally:
        print('cleaning'); {cleanup}"""
    process = _start(body)
    assert process.stdout is not None and process.stderr is not None
    for line in ("ready\n", "cleaning\n"):
        assert process.stdout.readline() == line
        process.send_signal(signal.SIGINT)
    assert (process.wait(), process.stderr.read()) == (130, "")


def test_a_ctrl_c_while_the_interpreter_leaves_is_quiet():
    body = "import atexit, time; atexit.register(lambda: (print('leaving'), time.sleep(600)))"
    process = _start(body)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "leaving\n"
    process.send_signal(signal.SIGINT)
    assert process.wait() == -signal.SIGINT
    assert process.stderr.read() == ""


# ----------------------------------------------------------------------------------------------------------------------
# Output


def test_text_from_outside_keeps_its_lines_and_letters():
    assert output.clean("Größe\t漢字\n✓") == "Größe\t漢字\n✓"
    assert output.clean("a\x1b[2J\u202eb\x07\x9b\u200b\ud800") == r"a\x1b[2J\u202eb\x07\x9b\u200b\ud800"


def test_a_name_cannot_fake_a_line_of_ours():
    assert output.clean_line("a\nerror: b\tc") == r"a\nerror: b\tc"


def test_json_is_strict_and_keeps_the_order_of_its_keys(capsys):
    output.emit_json({"schema": "vitruvius.size/1", "b": None, "a": "é\x9b\u202e"})
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert list(json.loads(shown)) == ["schema", "b", "a"]
    with pytest.raises(ValueError, match="JSON compliant"):
        output.emit_json({"loss": float("nan")})


def test_talk_goes_to_stderr(capsys):
    output.say("hello")
    output.next_step("vitruvius size my-arch.yaml")
    assert capsys.readouterr() == ("", "hello\nnext: vitruvius size my-arch.yaml\n")


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_color_is_for_terminals_whose_user_wants_it(variable, value, monkeypatch):
    terminal = types.SimpleNamespace(isatty=lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert output.wants_color(terminal)  # type: ignore[arg-type]
    monkeypatch.setenv(variable, value)
    assert not output.wants_color(terminal)  # type: ignore[arg-type]


def test_characters_that_the_terminal_lacks_are_escaped(vitruvius):
    done = vitruvius("größe", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 2
    assert "gr\\xf6\\xdfe" in done.stderr


def test_the_module_is_the_command(vitruvius):
    script = Path(sys.executable).with_name("vitruvius")
    assert os.access(script, os.X_OK), "pip installs the command"
    shown = subprocess.run([script, "--help"], capture_output=True, text=True, check=False).stdout
    assert shown == vitruvius("--help").stdout
