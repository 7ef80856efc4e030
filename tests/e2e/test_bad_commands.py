"""Command lines that are wrong, places that cannot be written, readers that leave, and what it all may cost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vitruvius.cli.main import run

pytestmark = pytest.mark.timeout(300)

SPEC = """\
name: good
vocab_size: 64
width: 32
context: 48
blocks:
  a:
    mixer: {kind: attention, heads: 4, kv_heads: 2, sees: causal, position: {kind: rope, theta: 1e4}}
    ffn: {kind: swiglu, hidden: 64}
layers: a*2
"""


def shown(text: str) -> str:
    """The text as the name of a test."""
    return text[:50].encode("ascii", "backslashreplace").decode()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with one good spec, to be in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(SPEC)
    return tmp_path


@pytest.fixture
def refused(here, capsys):
    """Run a command that must be refused, with no effect; what it said on stderr."""

    def call(*argv: str) -> str:
        before = sorted(map(str, here.rglob("*")))
        code = run(argv)
        shown = capsys.readouterr()
        assert code == 2, shown.err
        assert shown.out == ""
        assert "Traceback" not in shown.err and "bug in vitruvius" not in shown.err
        assert shown.err.startswith("error: ") and "  fix: " in shown.err
        assert all(letter.isprintable() or letter in "\n\t" for letter in shown.err)
        assert len(shown.err) < 5_000
        assert sorted(map(str, here.rglob("*"))) == before, "a refused command writes nothing"
        assert (here / "good.yaml").read_text() == SPEC
        return shown.err

    return call


# ----------------------------------------------------------------------------------------------------------------------
# SPEC


@pytest.mark.parametrize("verb", ["size", "show", "train", "check"])
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param("", "this name is empty", id="empty"),
        pytest.param("a\0b", "holds a NUL", id="NUL"),
        pytest.param("-", "there is no file or preset '-'", id="dash"),
        pytest.param("x" * 300, "File name too long", id="300 bytes"),
        pytest.param("x/" * 50_000, "File name too long", id="100,000 bytes"),
        pytest.param("../../../../../../etc/passwd", "passwd:1:1\n  a spec is a mapping of fields", id="climbing"),
        pytest.param("god.yaml", "fix: did you mean good.yaml", id="misspelt file"),
        pytest.param("lama-moe", "fix: did you mean llama-moe", id="misspelt preset"),
        pytest.param("good.yaml/x", "there is no file 'good.yaml/x'", id="inside a file"),
        pytest.param("\udcff.yaml", "there is no file '\\udcff.yaml'", id="not UTF-8"),
        pytest.param("a\x1b[31m.yaml", "there is no file 'a\\x1b[31m.yaml'", id="ANSI"),
        pytest.param("a\nerror: b.yaml", "there is no file 'a\\nerror: b.yaml'", id="two lines"),
    ],
)
def test_a_spec_that_is_not_there_is_named_and_answered(verb, spec, message, refused):
    assert message in refused(verb, spec)


def test_a_link_to_itself_is_named(refused, here):
    (here / "loop.yaml").symlink_to("loop.yaml")
    assert "loop.yaml\n  cannot read it: Too many levels of symbolic links" in refused("size", "loop.yaml")


def test_a_file_whose_name_is_not_utf8_is_read(here, vitruvius):
    name = os.fsdecode(b"sp\xffc.yaml")
    try:
        (here / name).write_text(SPEC)
    except OSError:
        pytest.skip("this file system wants UTF-8")
    done = vitruvius("size", name, "--json")
    assert (done.returncode, json.loads(done.stdout)["name"]) == (0, "good")
    (here / name).write_text("width: x")
    done = vitruvius("size", name)
    assert done.returncode == 2
    assert "sp\\udcffc.yaml:1:8  width" in done.stderr


def test_a_file_name_cannot_command_the_terminal(here, refused, capsys):
    name = "\x1b[2Jred.yaml"
    (here / name).write_text("width: x")
    assert "\\x1b[2Jred.yaml:1:8  width" in refused("size", name)
    (here / name).write_text(SPEC)
    assert run(["size", name]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err


# ----------------------------------------------------------------------------------------------------------------------
# --set


@pytest.mark.parametrize(
    ("setting", "place", "message"),
    [
        ("", "--set '':1:1", "no '=' between path and value"),
        ("a", "--set a:1:1", "fix: write `--set PATH=VALUE`, such as `--set width=512`"),
        ("=1", "--set =1:1:1", "an empty name in the path"),
        ("a..b=1", "--set a..b=1:1:3", "an empty name in the path"),
        ("width=", "--set width=:1:7", "no value after the '='"),
        ("a=b=c", "--set a=b=c:1:3  a", "unknown key 'a'"),
        ("widht=3", "--set widht=3:1:7  widht", "did you mean 'width'?"),
        ("width =3", "", "a space in the path"),
        ("width=4.0", "--set width=4.0:1:7  width", "4.0 is not a whole number"),
        ("width=no", "--set width=no:1:7  width", '"no" is not a whole number'),
        ("width=032", "--set width=032:1:7  width", "leading zero"),
        (f"width={'9' * 5000}", "width=999", "has 5,000 digits"),
        ("blocks.a.mixer=3", "--set blocks.a.mixer=3:1:16  blocks.a.mixer", "mapping"),
        ("blocks.a.mixer.heads.x.y.z=1", ":1:22  blocks.a.mixer.heads.x", "is '4', not a mapping"),
        ("blocks.dense.mixer=none", ":1:8  blocks.dense", "no block 'dense'"),
        ("blocks.a.mixer.kind=moe", "blocks.a.mixer.kind", 'there is no mixer kind "moe"'),
        ("blocks.a.mixer.kv_heads=3", "=3:1:25  blocks.a.mixer.kv_heads", "fix: use one of 1, 2, 4"),
        ("blocks.a.extends=a", "blocks.a.extends", "goes in a circle: a -> a"),
        ("blocks=[]", "--set 'blocks=[]':1:8  blocks", "[] where a mapping is due"),
        ("blocks.a={}", "blocks.a", "this block does nothing"),
        ("layers.0=a", ":1:8  layers.0", "not a mapping"),
        ("layers=[a, b]", "--set 'layers=[a, b]':1:12  layers.1", "no block 'b'"),
        ("layers=a*100000000", "--set 'layers=a*100000000':1:8  layers", "100,000,000 layers"),
        ("name=../x", "--set name=../x:1:6  name", "cannot name files and folders"),
        (".".join("a" * 100) + "=1", "--set a.a.a", "nested 100 levels deep"),
        ("x" * 100_000 + "=1", "--set xxx", "a name of 100,000 characters"),
        ("width=" + "[" * 5000, ":1:71", "more than 64 levels"),
        ("width=&x [*x]", "--set 'width=&x [*x]':1:7  width", "anchors (&x) are not read"),
        ("width=!!python/object/apply:os.system [ls]", ":1:7  width", "are not read"),
        ("width=1\n---\n2", ":2:1", "a second document"),
        ("width={a: 1, a: 2}", ":1:14  width", "duplicate key 'a'"),
        ("width=1\x1b[31m", ":1:8  width", "U+001B ESCAPE"),
        ("wi\x1bdth=1", ":1:3", "U+001B ESCAPE"),
        ("width=\0", ":1:7  width", "U+0000 NUL"),
        ("width=\udcff", ":1:7  width", "half of a surrogate pair"),
        ("w\u0456dth=3", ":1:2", "type 'width' in ASCII"),
    ],
    ids=lambda value: shown(value) if isinstance(value, str) else None,
)
def test_a_setting_that_cannot_be_applied_is_refused_at_its_character(setting, place, message, refused):
    said = refused("size", "good.yaml", "--set", setting)
    assert said.startswith("error: --set ")
    assert place in said
    assert message in said


def test_every_wrong_setting_is_reported(refused):
    said = refused("size", "good.yaml", "--set", "widht=3", "--set", "context=0", "--set", "width=48")
    assert "--set widht=3:1:7  widht" in said and "--set context=0:1:9  context" in said
    assert "width=48" not in said


def test_an_index_past_the_end_of_a_list_is_answered(refused):
    said = refused("size", "good.yaml", "--set", "layers=[a*2]", "--set", "layers.7=a")
    assert "'layers' is a list of 1, and '7' is no index into it\n  fix: use 0 to 0" in said


# ----------------------------------------------------------------------------------------------------------------------
# Options


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["size", "good.yaml", "--context", "0"], "there must be at least one token"),
        (["size", "good.yaml", "--context", "-1"], "cannot read '-1'"),
        (["size", "good.yaml", "--context", "1e30"], "fix: use a whole number from 1 to 1,099,511,627,775"),
        (["size", "good.yaml", "--context", "1099511627776"], "is out of range"),
        (["size", "good.yaml", "--context", "abc"], "such as 4096, 128k or 1m (k = 1,024)"),
        (["size", "good.yaml", "--context", "9" * 24], "context=999999999999999999999999 is out of range"),
        (["size", "good.yaml", "--context", "9" * 5000], "not a number with a unit"),
        (["size", "good.yaml", "--context", "1.5"], "1.5 is not a whole number"),
        (["size", "good.yaml", "--context", ""], "cannot read ''"),
        (["size", "good.yaml", "--context", "\u0663"], "not a number with a unit"),
        (["size", "good.yaml", "--batch", "0"], "batch=0 is out of range"),
        (["size", "good.yaml", "--batch", "9" * 30], "is out of range"),
        (["size", "good.yaml", "--batch", "many"], "cannot read 'many'"),
        (["size", "good.yaml", "--dtype", "float99"], "fix: use one of fp64, fp32, bf16, fp16"),
        (["size", "good.yaml", "--mode", "guess"], "fix: use one of inference, train"),
        (["size", "good.yaml", "--json", "--explain"], "fix: give one of the two"),
        (["size", "good.yaml", "--json", "yes"], "unexpected extra argument (yes)"),
        (["size", "good.yaml", "--jsn"], "No such option '--jsn'. (Did you mean one of: '--json'"),
        (["size", "good.yaml", "--contxt", "4"], "'--context'"),
        (["size"], "Missing argument 'SPEC'"),
        (["size", "good.yaml", "good.yaml"], "unexpected extra argument"),
        (["szie", "good.yaml"], "'size'"),
        (["show", "good.yaml", "--json", "--svg", "-"], "fix: name a file: --svg FILE"),
        (["diff", "good.yaml"], "Missing argument 'B'"),
        (["new"], "Missing argument 'NAME'"),
        (["new", "--", "-rf"], "'-rf' cannot name files and folders"),
        (["new", "../x"], "'../x' cannot name files and folders"),
        (["new", "n" * 300], "cannot name files and folders"),
        (["new", "a\x1b[31mb"], "'a\\x1b[31mb' cannot name files and folders"),
        (["new", "\udcff"], "cannot name files and folders"),
        (["new", "mine", "--from", "llama-mo"], "fix: did you mean llama-moe"),
        (["new", "mine", "--from", "../good"], "there is no preset '../good'"),
        (["new", "good"], "fix: choose another name, or replace it with --force"),
        (["completion", "tcsh"], "'bash', 'zsh', 'fish'"),
        (["schema", "x"], "unexpected extra argument"),
        (["check", "good.yaml", "--only", "flop"], "did you mean flops"),
        (["check", "good.yaml", "--lengths", "1,two"], "cannot read 'two'"),
        (["check", "good.yaml", "--seed", "-1"], "'--seed'"),
        (["train"], "name a SPEC to train"),
        (["train", "good.yaml"], "--data is missing"),
        (["train", "good.yaml", "--data", "d", "--out", "o", "--steps", "0"], "--steps  train.steps\n  0 is out of"),
        (["train", "good.yaml", "--data", "d", "--out", "o", "--lr", "nan"], "--lr  train.lr\n  NaN where a finite"),
        (["train", "good.yaml", "--data", "d", "--out", "o", "--batch", "-3"], "--batch  train.batch\n  -3 is out of"),
        (["train", "good.yaml", "--data", "d", "--out", "o", "--seed", "1.5"], "'1.5' is not a valid integer"),
        (["train", "good.yaml", "--data", "d", "--out", "o", "--set", "train.stps=3"], "did you mean 'steps'?"),
        (["train", "--resume", "r", "--steps", "3"], "a resumed run keeps its settings, so --steps cannot be given"),
        (["train", "--resume", "r", "good.yaml"], "so SPEC cannot be given"),
        (["data", "prep"], "Did you mean 'prepare'?"),
        (["data", "prepare", "--out", "o"], "Missing argument 'IN...'"),
        (["data", "prepare", "good.yaml"], "Missing option '--out'"),
        (["generate", "r"], "Missing option '--prompt'"),
        (["generate", "r", "--prompt", "x", "--temperature", "nan"], "temperature=nan is out of range"),
        (["generate", "r", "--prompt", "x", "--temperature", "1e308"], "fix: use a number from 0 to 100"),
        (["generate", "r", "--prompt", "x", "--top-k", "0"], "top_k=0 keeps no token"),
        (["generate", "r", "--prompt", "x", "--top-p", "1.5"], "top_p=1.5 is out of range"),
        (["generate", "r", "--prompt", "x", "--min-p", "-1"], "min_p=-1.0 is out of range"),
        (["generate", "r", "--prompt", "x", "--stop", ""], "a stop string is empty"),
        (["generate", "r", "--prompt", "\udcff"], "the prompt is not UTF-8 (character 1)"),
    ],
    ids=lambda value: shown(" ".join(value)) if isinstance(value, list) else "",
)
def test_a_bad_option_is_one_message_with_the_way_out(argv, message, refused):
    assert message in refused(*argv)


# ----------------------------------------------------------------------------------------------------------------------
# Places that cannot be written. The tests may run as root, whom permissions do not stop; these stop everyone.


@pytest.mark.parametrize("argv", [["show", "good.yaml", "--svg"], ["schema", "--out"]], ids=["show", "schema"])
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("good.yaml/x.svg", "good.yaml/x.svg: Not a directory\n  fix: a part of the path is a file"),
        ("nowhere/x.svg", "nowhere/x.svg: No such file or directory"),
        ("folder", "folder: Is a directory\n  fix: name a file, not a folder"),
        ("", ".: Is a directory"),
        ("pipe", "pipe: Not a regular file\n  fix: name a plain file"),
        ("x" * 300, "xxx: File name too long\n  fix: use a shorter name"),
    ],
)
def test_a_file_that_cannot_be_written_is_named_as_the_user_wrote_it(argv, place, message, here, refused):
    (here / "folder").mkdir()
    os.mkfifo(here / "pipe")
    assert message in refused(*argv, place)


def test_a_pipe_or_device_is_never_replaced_by_a_file(here, refused):
    os.mkfifo(here / "pipe")
    refused("show", "good.yaml", "--svg", "pipe")
    assert (here / "pipe").is_fifo()


def test_a_name_of_250_bytes_can_be_written(here, capsys):
    assert run(["show", "good.yaml", "--svg", "x" * 246 + ".svg"]) == 0
    assert capsys.readouterr().out.endswith(".svg\n")
    assert sorted(len(path.name) for path in here.iterdir()) == [9, 250]


def test_a_disk_that_fills_up_leaves_the_old_file(here, refused, monkeypatch):
    (here / "good.svg").write_text("the old picture")

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    assert "good.svg: No space left on device\n  fix: free some space" in refused(
        "show", "good.yaml", "--svg", "good.svg"
    )
    assert (here / "good.svg").read_text() == "the old picture"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that takes no files")
@pytest.mark.parametrize(
    "argv",
    [
        ["show", "good.yaml", "--svg", "/proc/x.svg"],
        ["schema", "--out", "/proc/x.json"],
        ["new", "mine", "--out", "/proc/x"],
        ["data", "prepare", "good.yaml", "--out", "/proc/x"],
    ],
    ids=lambda argv: argv[0],
)
def test_a_file_system_that_takes_no_files_is_one_clear_message(argv, refused):
    assert "error: /proc/" in refused(*argv)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full on this system")
@pytest.mark.parametrize("argv", [["size", "good.yaml", "--json"], ["show", "good.yaml", "--svg", "-"], ["schema"]])
def test_a_full_disk_under_stdout_is_one_clear_line(argv, here):
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vitruvius", *argv],
            cwd=here,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert "error: standard output: No space left on device\n  fix: free some space" in done.stderr
    assert "Traceback" not in done.stderr


# ----------------------------------------------------------------------------------------------------------------------
# Readers that leave, and people in a hurry


def started(*argv: str, cwd: Path, **streams: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vitruvius", *argv]
    return subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True, **streams)


@pytest.mark.parametrize("argv", [["presets"], ["size", "good.yaml"], ["show", "good.yaml", "--svg", "-"], ["schema"]])
def test_a_reader_that_is_gone_already_is_no_error(argv, here):
    reading, writing = os.pipe()
    os.close(reading)
    with started(*argv, cwd=here, stdout=writing) as process:
        os.close(writing)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 0, said
    assert "Traceback" not in said and "Broken pipe" not in said


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_while_waiting_for_input_is_quiet(times, here):
    with started(
        "generate", "nowhere", "--prompt", "-", cwd=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stderr is not None
        # More than a pipe holds: when this returns, the command is reading.
        process.stdin.write("word " * 100_000)
        process.stdin.flush()
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        code = process.wait()
        assert process.stderr.read() == ""
    # The second one may come after everything is said and done; it then ends the process as a signal does.
    assert code == 130 or (times == 2 and code == -signal.SIGINT)


# ----------------------------------------------------------------------------------------------------------------------
# Memory

MEASURED = """
import contextlib, io, json, sys
from vitruvius.cli.main import run

def peak():  # of this process alone; getrusage would begin with what its parent had at the fork
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))

def silent(argv):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return run(argv)

normal, hostile = json.load(sys.stdin)
assert silent(normal) == 0
rows = [["normal", peak()]]
for argv in hostile:
    code = silent(argv)
    rows.append([code, peak()])
json.dump(rows, sys.stdout)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_no_bad_spec_takes_64_mib_more_than_a_good_one(here):
    longest = SPEC.replace("48", "2147483647")
    hostile = {
        "aliases.yaml": "a: &a [x, x]\n" + "".join(f"a{i}: &a{i} [{'*a, ' * 9}]\n" for i in range(20)),
        "deep.yaml": "a: " + "[" * 500_000,
        "digits.yaml": SPEC.replace("32", "9" * 1_000_000),
        "layers.yaml": SPEC.replace("a*2", f"a*{10**23}"),
        "nested.yaml": SPEC.replace("a*2", "(" * 64 + "a" + ")*9" * 64),
        "wide.yaml": SPEC.replace("heads: 4,", "heads: 4, head_width: 2147483646,"),
        "unknown.yaml": SPEC + "".join(f"k{i}: 1\n" for i in range(12_000)),
        "irregular.yaml": longest.replace("causal", "causal & block(1009) & block(1013) & block(1019)"),
        "rare.yaml": longest.replace("causal", "causal & block(1073741824) & global(every=1073741824)"),
    }  # fmt: skip
    for name, text in hostile.items():
        (here / name).write_text(text)
    with (here / "large.yaml").open("wb") as file:
        file.truncate(1 << 40)
    commands = [["size", name] for name in (*hostile, "large.yaml", "/dev/zero")]
    commands += [["size", "good.yaml", "--set", f"width={'[' * 1_000_000}"], ["size", "x" * 1_000_000]]
    commands += [["show", name] for name in hostile]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED],
        cwd=here,
        input=json.dumps([["size", "good.yaml"], commands]),
        capture_output=True,
        text=True,
        check=True,
    )
    (_, normal), *rows = json.loads(done.stdout)
    assert len(rows) == len(commands)
    for argv, (code, peak) in zip(commands, rows, strict=True):
        assert code == 2, argv
        assert peak <= normal + 64, f"{argv[:2]} took {peak} MiB, a good spec {normal} MiB"
