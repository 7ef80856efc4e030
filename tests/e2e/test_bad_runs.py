"""Data, runs and checkpoints that are damaged or made to hurt: the commands name the file, and nothing else happens."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vitruvius.cli.main import run
from vitruvius.data.packing.shards import read_index
from vitruvius.data.packing.writing import SplitWriter, fingerprint_of
from vitruvius.runs.manifest import write_manifest

pytestmark = pytest.mark.timeout(600)

SPEC = """\
name: small
vocab_size: 320
width: 16
context: 16
blocks:
  a:
    mixer: {kind: attention, heads: 2, sees: causal, position: {kind: rope}}
    ffn: {kind: swiglu, hidden: 24}
layers: a
"""
QUICK = ["--batch", "2", "--set", "train.threads=1", "--set", "train.eval_every=0", "--checkpoint-every", "1"]


@pytest.fixture(scope="session")
def made(with_data):
    """A spec, prepared data and a run of two steps with a checkpoint after each."""
    folder = with_data("bad-runs", SPEC)
    start = ["train", str(folder / "small.yaml"), "--data", str(folder / "data"), "--out", str(folder / "run")]
    assert run([*start, "--steps", "2", *QUICK]) == 0
    return folder


@pytest.fixture
def here(made, copied):
    """A folder of the test's own with a copy of all that, to be in."""
    return copied(made)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def refused(here, capsys):
    """Run a command that must be refused and change no file; what it said on stderr."""

    def call(*argv: str, code: int = 2) -> str:
        capsys.readouterr()
        before = contents(here)
        assert run(argv) == code, capsys.readouterr().err
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "Traceback" not in shown.err and "bug in vitruvius" not in shown.err
        assert "error: " in shown.err and "  fix: " in shown.err
        assert all(letter.isprintable() or letter in "\n\t" for letter in shown.err)
        assert contents(here) == before, "a refused command leaves every file as it was"
        return shown.err

    return call


GENERATE = ("generate", "run", "--prompt", "arch", "--max-tokens", "2")
RESUME = ("train", "--resume", "run")
TRAIN = ("train", "small.yaml", "--data", "data", "--out", "new", "--steps", "1", *QUICK)


# ----------------------------------------------------------------------------------------------------------------------
# Documents


BAD_LINES = {
    b"\x00\x01\x02\xff\xfe": "binary",
    b'{"text": "a\xffb"}': "invalid_utf8",
    b'{"text": NaN}': "nan_or_infinity",
    b'{"text": "x", "score": Infinity}': "nan_or_infinity",
    b'{"text": 3}': "wrong_type",
    b'{"text": ["a"]}': "wrong_type",
    b'{"txet": "a"}': "missing_field",
    b'["text"]': "not_an_object",
    b"[" * 5000: "invalid_json",
    b'{"text": "unfinished': "invalid_json",
    b'{"text": "\\ud800"}': "lone_surrogate",
    b"": "blank_line",
}
GOOD_LINE = b'{"text": "the arch carries the beam"}'


def mixed(path: Path, separator: bytes = b"\n") -> list[tuple[int, int, str]]:
    """A file of good and bad lines, its last one cut off; line, byte offset and reason of the bad ones."""
    lines, places, offset = [], [], 0
    for bad, reason in BAD_LINES.items():
        lines += [GOOD_LINE, bad]
        offset += len(GOOD_LINE + separator)
        places.append((len(lines), offset, reason))
        offset += len(bad + separator)
    places.append((len(lines) + 1, offset, "truncated_last_line"))
    path.write_bytes(separator.join([*lines, b'{"text": "cut of']))
    return places


@pytest.mark.parametrize("separator", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_each_bad_line_is_lost_alone_and_quarantined_at_its_place(separator, here, capsys):
    places = mixed(here / "mixed.jsonl", separator)
    assert run(["data", "prepare", "mixed.jsonl", "--out", "out", "--vocab", "300", "--max-bad-rate", "1"]) == 0
    capsys.readouterr()
    rows = [json.loads(line) for line in (here / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [(row["line"], row["byte_offset"], row["reason"]) for row in rows] == places
    assert {row["file"] for row in rows} == {"mixed.jsonl"}
    counts = json.loads((here / "out" / "counts.json").read_text())
    assert counts["documents_in"] == counts["documents_out"] + sum(counts["dropped"].values())
    assert counts["documents_out"] == len(BAD_LINES)


def test_too_much_bad_data_is_exit_3_and_the_earlier_data_stays(here, capsys):
    mixed(here / "mixed.jsonl")
    before = contents(here / "data")
    assert run(["data", "prepare", "mixed.jsonl", "--out", "data", "--vocab", "300"]) == 3
    said = capsys.readouterr().err
    assert "Traceback" not in said and "--max-bad-rate" in said
    after = contents(here / "data")
    assert {name: after[name] for name in before} == before
    assert run(TRAIN) == 0, "the earlier data still trains"


def test_a_document_of_any_damage_is_one_line_of_talk_that_cannot_command_the_terminal(here, capsys):
    (here / "\x1b[2Jred.jsonl").write_bytes(b"\x00\n" + GOOD_LINE + b"\n")
    assert run(["data", "prepare", "\x1b[2Jred.jsonl", "--out", "out", "--vocab", "300", "--max-bad-rate", "1"]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nothing.txt", "--out", "out"], "nothing.txt\n  there is no such file or folder"),
        (["", "--out", "out"], "a name is empty"),
        (["/dev/zero", "--out", "out"], "/dev/zero\n  this is not a regular file"),
        (["pipe", "--out", "out"], "pipe\n  this is not a regular file"),
        (["texts", "--out", "small.yaml"], "small.yaml"),
        (["texts", "--out", "run"], "run"),
        (["texts", "--out", "."], "it cannot be the one you are in"),
        (["texts", "--out", "small.yaml/out"], "small.yaml"),
        (["texts", "--out", "out", "--vocab", "0"], "--vocab\n  the value is out of range: it must be at least 257"),
        (["texts", "--out", "out", "--vocab", "99999999999"], "at most 16777216"),
        (["texts", "--out", "out", "--max-bad-rate", "nan"], "--max-bad-rate\n  the value is out of range"),
        (["texts", "--out", "out", "--held-out", "1"], "--held-out\n  the value is out of range"),
        (["texts", "--out", "out", "--document-bytes", "0"], "--document-bytes\n  the value is out of range"),
        (["texts", "--out", "out", "--tokenizer", "nothing.json"], "nothing.json\n  the tokenizer cannot be read"),
        (["texts", "--out", "out", "--tokenizer", "small.yaml"], "small.yaml\n  this is no tokenizer.json"),
        (["texts", "--out", "out", "--tokenizer", "t", "--vocab", "300"], "exclude each other"),
        (["texts", "--out", "out", "--eos", "<s>"], "--eos belongs to --tokenizer"),
        (["texts", "--out", "out", "--kind", "pdf"], "'pdf' is not one of"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_data_prepare_refuses_what_it_cannot_mean(argv, message, here, refused):
    os.mkfifo(here / "pipe")
    assert message in refused("data", "prepare", *argv)


HUNDRED_MB = """
import sys
from vitruvius.cli.main import run

def peak():  # of this process alone; getrusage would begin with what its parent had at the fork
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))

def prepare(name):
    return run(["data", "prepare", name, "--out", "out-" + name, "--vocab", "300", "--max-bad-rate", "1", "--json"])

assert prepare("short.jsonl") == 0
before = peak()
assert prepare("long.jsonl") == 0
print(peak() - before, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_a_line_of_100_mb_is_lost_alone_and_never_held_in_memory(here):
    (here / "short.jsonl").write_bytes(GOOD_LINE + b"\n")
    with (here / "long.jsonl").open("wb") as file:
        file.write(GOOD_LINE + b"\n")
        file.seek(100_000_000, os.SEEK_CUR)  # a hole: it takes no room on the disk
        file.write(b"\n" + GOOD_LINE + b"\n")
    done = subprocess.run([sys.executable, "-c", HUNDRED_MB], cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = json.loads((here / "out-long.jsonl" / "counts.json").read_text())
    assert (counts["documents_out"], counts["dropped"]) == (2, {"too_long": 1})
    assert int(done.stderr.splitlines()[-1]) <= 64


# ----------------------------------------------------------------------------------------------------------------------
# Prepared data


def changed(file: Path, *keys: str | int, value: object = ...) -> None:
    """Put a value into a JSON file, or with none take the key out."""
    document = json.loads(file.read_text())
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    file.write_text(json.dumps(document))


@pytest.mark.parametrize("command", [TRAIN, (*TRAIN, "--dry-run")], ids=["train", "dry run"])
@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["splits"], ..., "splits is missing"),
        (["splits"], [], "splits is [] where a mapping is due"),
        (["splits", "validation"], ..., "splits.validation is missing"),
        (["splits", "train", "tokens"], "4364", 'splits.train.tokens is "4364" where a whole number'),
        (["splits", "train", "tokens"], True, "splits.train.tokens is true where"),
        (["splits", "train", "tokens"], 10**30, "where a whole number"),
        (["splits", "train", "tokens"], float("nan"), "NaN is no JSON"),
        (["splits", "train", "shards", 0, "tokens_file"], "../../../etc/passwd", "where the name of a shard is due"),
        (["splits", "train", "shards", 0, "blocks"], None, "where a list is due"),
        (["tokenizer", "file"], "/etc/passwd", "where one of tokenizer.json is due"),
        (["dtype"], "O", "dtype is"),
        (["eos"], 3, "eos is 3 where text is due"),
        (["vocab_size"], -1, "vocab_size is -1 where"),
        (["schema"], "vitruvius.data/9", "this version reads"),
    ],
    ids=str,
)
def test_an_index_that_is_not_as_it_was_written_is_named(command, keys, value, message, here, refused):
    changed(here / "data" / "index.json", *keys, value=value)
    said = refused(*command)
    assert "data/index.json\n" in said
    assert message in said


def test_a_whole_that_its_parts_do_not_add_up_to_is_named(here, refused):
    changed(here / "data" / "index.json", "splits", "train", "tokens", value=9999)
    assert "splits.train has 9,999 tokens, and its sources have" in refused(*TRAIN)


@pytest.mark.parametrize("name", ["data", "run", "texts", "nowhere", "small.yaml", ""])
def test_a_folder_that_is_something_else_is_named(name, refused):
    if name != "data":
        says = f"{name}\n  there is no index.json" if name else "--data\n  the name is empty"
        assert says in refused(*TRAIN[:3], name, *TRAIN[4:])
    if name != "run":
        assert f"{name or '.'}\n  there is no run.json" in refused("train", "--resume", name)
        assert f"{name or '.'}\n  there is no run.json" in refused("generate", name, "--prompt", "x")


@pytest.mark.parametrize("file", ["train/shard-00000.bin", "train/shard-00000.idx"])
def test_one_flipped_bit_of_the_data_is_found_before_training(file, here, refused):
    flip(here / "data" / file)
    said = refused(*TRAIN)
    assert f"data/{file}" in said
    assert "(SHA-256)" in said


def flip(file: Path, place: int = -1) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_a_token_of_two_to_the_31_is_named_where_it_is_read(here, capsys):
    folder = here / "forged"
    folder.mkdir()
    writer = SplitWriter(folder, "train", vocab_size=70_000, shard_tokens=10**9)
    writer.add([1, 2, 2**31 - 1] * 100 + [0], text_bytes=300)
    index = read_index("data") | {"vocab_size": 270, "dtype": "<u4"}
    empty = SplitWriter(folder, "validation", vocab_size=70_000, shard_tokens=10**9)
    index["splits"] = {"train": writer.close(), "validation": empty.close()}
    index["fingerprint"] = fingerprint_of(index)
    (folder / "index.json").write_text(json.dumps(index))
    shutil.copy("data/tokenizer.json", folder)
    capsys.readouterr()
    assert run([*TRAIN[:3], "forged", *TRAIN[4:]]) == 2
    said = capsys.readouterr().err
    assert "forged/train/shard-00000.bin\n  token 2147483647 at byte " in said
    assert "is not below the vocabulary size 270" in said and "Traceback" not in said
    assert run([*TRAIN[:5], "another", *TRAIN[6:]]) == 0, "the next valid command works"


def test_a_vocabulary_larger_than_the_specs_is_refused_with_both_ways_out(refused):
    said = refused(*TRAIN, "--set", "vocab_size=256")
    assert "the data's vocabulary has 270 tokens, the architecture's vocab_size is 256" in said
    assert "fix: --set vocab_size=270, or prepare the data with --vocab 256" in said


# ----------------------------------------------------------------------------------------------------------------------
# Tokenizers


@pytest.mark.parametrize("command", ["generate", "prepare"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "this is no tokenizer.json"),
        (b"{}", "this is no tokenizer.json"),
        (b"\xff\xfe\x00", "this is no tokenizer.json"),
        (pickle.dumps({"model": "BPE"}), "this is no tokenizer.json"),
        (b'{"a":' * 100_000, "this is no tokenizer.json"),
    ],
    ids=["empty", "nothing", "binary", "pickle", "deep"],
)
def test_a_tokenizer_that_is_none_is_named(command, content, message, here, refused):
    (here / "run" / "tokenizer.json").write_bytes(content)
    argv = (
        GENERATE
        if command == "generate"
        else ("data", "prepare", "texts", "--out", "o", "--tokenizer", "run/tokenizer.json")
    )
    said = refused(*argv)
    assert f"run/tokenizer.json\n  {message}" in said


@pytest.mark.parametrize(
    "argv", [GENERATE, ("data", "prepare", "texts", "--out", "o", "--tokenizer", "run/tokenizer.json")]
)
def test_a_token_id_of_two_to_the_31_makes_no_table_of_that_size(argv, here, refused):
    changed(here / "run" / "tokenizer.json", "model", "vocab", "zzz", value=2**31 - 1)
    assert "run/tokenizer.json\n  the tokenizer has the token id 2,147,483,647" in refused(*argv)


# ----------------------------------------------------------------------------------------------------------------------
# Runs and checkpoints


@pytest.mark.parametrize("command", [GENERATE, RESUME], ids=["generate", "resume"])
@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["spec"], ..., "spec is missing"),
        (["spec"], [], "spec is [] where a mapping is due"),
        (["spec", "data"], "x", 'spec.data is "x" where a mapping or null is due'),
        (["spec", "data"], None, "run.json has no "),
        (["config"], -1, "config is -1 where a mapping is due"),
        (["data"], 3, "data is 3 where a mapping or null is due"),
        (["status"], "dancing", "status is"),
        (["environment"], float("inf"), "Infinity is no JSON"),
        (["schema"], 1, "this version reads"),
    ],
    ids=str,
)
def test_a_record_that_is_not_as_it_was_written_is_named(command, keys, value, message, here, refused):
    changed(here / "run" / "run.json", *keys, value=value)
    said = refused(*command)
    assert "error: run" in said
    assert message in said


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["width"], -1, "width\n  -1 is out of range"),
        (["blocks", "a", "mixer", "heads"], 3, "blocks.a.mixer.heads\n  3 does not divide width=16"),
        (["layers"], f"a*{10**23}", "layers\n  repeats 100,000"),
        (["layers"], None, "layers\n  null where text or a list is due"),
        (["vocab_size"], 2**30, "embedding.tokens.weight is [320, 16], expected [1073741824, 16]"),
        (["blocks", "a", "ffn", "hidden"], 2**30, "the weights do not fit the architecture: layers.0.ffn."),
    ],
    ids=str,
)
def test_a_recorded_architecture_is_not_believed(keys, value, message, here, refused):
    changed(here / "run" / "run.json", "spec", "data", *keys, value=value)
    assert message in refused(*GENERATE)


@pytest.mark.parametrize("key", ["context", "device"])
def test_a_recorded_config_that_lacks_what_a_run_settles_is_refused(key, here, refused):
    changed(here / "run" / "run.json", "config", "train", key)
    assert "config.train lacks its context or device" in refused(*RESUME)


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "optimizer.safetensors", "manifest.json"])
def test_one_flipped_bit_of_a_checkpoint_is_named_when_generating(name, here, refused):
    flip(here / "run" / "checkpoints" / "step-2" / name, 100)
    assert f"run/checkpoints/step-2/{name}" in refused(*GENERATE)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_resumes(here, capsys):
    flip(here / "run" / "checkpoints" / "step-2" / "model.safetensors")
    assert run(RESUME) == 0
    said = capsys.readouterr().err
    assert "step-2 is damaged (run/checkpoints/step-2/model.safetensors: the content differs" in said
    assert "going on from step 1" in said
    assert run(GENERATE) == 0


def header(entries: dict[str, object]) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def some_bytes(start: int, shape: int = 4) -> dict[str, object]:
    """A tensor of bytes that starts there."""
    return {"dtype": "U8", "shape": [shape], "data_offsets": [start, start + shape]}


EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
FORGED = {
    "a header of 2^63 bytes": ((2**63).to_bytes(8, "little") + b"{}", "its header has 9,223,372,036,854,775,808"),
    "a header of 100 MB": ((10**8).to_bytes(8, "little") + b"{}", "says that its header has 100,000,000"),
    "a pickle": (pickle.dumps({"weights": [1.0]}), "this is a pickle, not a safetensors file"),
    "a torch zip": (b"PK\x03\x04" + bytes(100), "this is a pickle, not a safetensors file"),
    "nothing": (b"", "it is no safetensors file, or cut off"),
    "a header that is no JSON": ((4).to_bytes(8, "little") + b"{{{{", "the header is not JSON"),
    "a header of 50,000 levels": ((10**5).to_bytes(8, "little") + b"[" * 10**5, "the header is not JSON"),
    "a name twice": ((24).to_bytes(8, "little") + b'{"a": 1, "a": 2}        ', "a name appears twice"),
    "overlapping offsets": (
        header({"a": some_bytes(0), "b": some_bytes(2)}) + bytes(6),
        "overlaps the tensor before it",
    ),
    "a hole": (header({"a": some_bytes(4)}) + bytes(8), "leaves a hole before it"),
    "offsets past the end": (header({"a": some_bytes(0, shape=9)}), "the tensors end at byte 9"),
    "offsets from the end": (header({"a": {**EMPTY, "data_offsets": [4, 0]}}), "bytes do not hold it"),
    "a shape of 2^93": (header({"a": {**EMPTY, "shape": [2**31] * 3}}), "bytes do not hold it"),
    "a negative shape": (header({"a": {**EMPTY, "shape": [-1]}}), "are not whole numbers from 0 on"),
    "a shape of 2^63 axes": (header({"a": {**EMPTY, "shape": [1] * 1000}}), "are not whole numbers from 0 on"),
    "a type there is not": (header({"a": {**EMPTY, "dtype": "PICKLE"}}), "unknown dtype"),
    "tensors of another model": (header({"a": EMPTY}), "the weights do not fit the architecture"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_weights_file_is_refused_though_its_hash_is_right(name, here, refused):
    content, message = FORGED[name]
    checkpoint = here / "run" / "checkpoints" / "step-2"
    (checkpoint / "model.safetensors").write_bytes(content)
    write_manifest(checkpoint)
    said = refused(*GENERATE)
    assert "run/checkpoints/step-2/model.safetensors\n" in said
    assert message in said


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["random"], ..., "random is missing"),
        (["random", "cpu"], 3, "random.cpu is 3 where text is due"),
        (["random", "cpu"], "x", "the random state is damaged"),
        (["random", "cpu"], "", "the random state is damaged"),
        (["random", "cpu"], "AAAA", "the random state is damaged"),
        (["tokens"], "many", 'tokens is "many" where a whole number from 0 is due'),
        (["tokens"], float("nan"), "NaN is no JSON"),
        (["step"], ..., "step-2/state.json"),
        (["belongs_to"], ..., "belongs_to is missing"),
        (["lr_factor"], 10**399, "where a number is due"),
        (["companions"], {}, "which this version keeps"),
        (["companions", "pieces"], 3, "it is no mapping"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_forged_state_is_refused_though_its_hash_is_right(keys, value, message, here, refused):
    checkpoint = here / "run" / "checkpoints" / "step-2"
    changed(checkpoint / "state.json", *keys, value=value)
    write_manifest(checkpoint)
    said = refused(*RESUME)
    assert "run/checkpoints/step-2/state.json\n" in said
    assert message in said


@pytest.mark.parametrize(
    "content", ["", "{}", "not JSON", '{"pid": 1, "host": "x", "since": "2020"}', "\0" * 100], ids=repr
)
def test_the_lock_of_a_process_that_is_gone_is_not_in_the_way(content, here):
    (here / "run" / ".lock").write_text(content)
    assert run(RESUME) == 0


@pytest.mark.parametrize("out", ["run", "texts", "small.yaml", "small.yaml/new"])
def test_a_run_is_not_made_where_something_else_is(out, refused):
    assert f"error: {out}" in refused(*TRAIN[:5], out, *TRAIN[6:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-tokens", "0"], "max_tokens"),
        (["--max-tokens", "-1"], "max_tokens"),
        (["--seed", "-1"], "seed=-1 is out of range"),
        (["--seed", str(2**63)], "is out of range"),
        (["--prompt", "arch " * 100], "context"),
        (["--dtype", "int4"], "'int4' is not one of"),
    ],
    ids=lambda value: " ".join(value)[:20] if isinstance(value, list) else "",
)
def test_generate_refuses_what_it_cannot_do(options, message, refused):
    assert message in refused(*GENERATE, *options)


def test_a_prompt_of_any_characters_is_text(here, capsys):
    for prompt in ("", "\0", "<|endoftext|>", "\x1b[2J", "\u202e", "x" * 10):
        assert run([*GENERATE, "--prompt", prompt]) == 0, capsys.readouterr().err
