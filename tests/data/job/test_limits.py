"""A job under pressure: a disk that is full, memory that does not grow, a Ctrl-C, texts without end."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vitruvius.data import PrepareOptions, TokenShards, prepare
from vitruvius.data.prepare import work_folder

WORDS = ("the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he")


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def corpus(path: Path, documents: int, words: int = 100) -> Path:
    drawn = random.Random(0)
    with path.open("w") as file:
        for number in range(documents):
            text = f"document {number}: " + " ".join(drawn.choices(WORDS, k=words)) + "\n"
            file.write(json.dumps({"text": text}) + "\n")
    return path


def small_files_only() -> None:
    """What a full disk looks like to a process: no file grows over 60 kB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


def interruptible() -> None:
    """A process that a shell started in the background ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_is_full_is_said_and_the_same_command_goes_on_when_there_is_room(tmp_path, workers):
    source = corpus(tmp_path / "a.jsonl", 400)
    command = [sys.executable, "-m", "vitruvius", "data", "prepare", str(source), "--vocab", "300"]
    command += ["--workers", str(workers), "--out"]
    full = subprocess.run(
        [*command, str(tmp_path / "out")], check=False, capture_output=True, text=True, preexec_fn=small_files_only
    )
    assert full.returncode == 2, full.stderr
    assert "Traceback" not in full.stderr
    assert "File too large" in full.stderr
    assert not (tmp_path / "out").exists()
    subprocess.run([*command, str(tmp_path / "out")], check=True, capture_output=True)
    subprocess.run([*command, str(tmp_path / "straight")], check=True, capture_output=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "straight")


def test_ctrl_c_is_quiet_and_leaves_what_was_done(tmp_path):
    source = corpus(tmp_path / "a.jsonl", 3000)
    command = [sys.executable, "-m", "vitruvius", "data", "prepare", str(source), "--out", str(tmp_path / "out")]
    with subprocess.Popen(
        [*command, "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,  # noqa: PLW1509 (nothing else runs in this process)
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("training"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
        code = process.wait(timeout=120)
    assert "Traceback" not in rest
    assert code in {130, 0}  # it may have been faster than the signal
    assert code == 0 or (work_folder(tmp_path / "out") / "read" / "00000.json").exists()


PEAK = """
import sys
from vitruvius.data import PrepareOptions, prepare
from vitruvius.data.cleaning.recipe import Recipe, read_recipe
from vitruvius.data.dedup.settings import DedupSettings, NearSettings
twins = DedupSettings(exact="text", near=NearSettings())
recipe = Recipe(name="twins", steps=read_recipe("plain").steps, deduplicate=twins)
source, out = sys.argv[1:]
prepare([source], out, PrepareOptions(vocab=300, recipe=recipe), unit_bytes=2**20)
# The peak that getrusage gives begins at that of the process that started this one.
print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    peaks = []
    for times, name in ((4, "small"), (16, "large")):
        source = corpus(tmp_path / f"{name}.jsonl", 2500 * times)
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "MALLOC_ARENA_MAX": "1"}
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(source), str(tmp_path / name)],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        )
        peaks.append(int(done.stdout))
    # Four times the text; the tokenizer's table of words is the same, and maps of files are not counted on twice.
    assert peaks[1] < peaks[0] * 1.35 + 10_000, peaks


def test_a_document_of_more_than_131072_tokens_is_one_document(tmp_path):
    drawn = random.Random(1)
    text = " ".join(drawn.choices(WORDS, k=200_000)) + "\n"
    (tmp_path / "long.txt").write_text(text)
    corpus(tmp_path / "a.jsonl", 20)
    prepare([tmp_path / "long.txt", tmp_path / "a.jsonl"], tmp_path / "out", PrepareOptions(vocab=270, held_out=0))
    shards = TokenShards.open(tmp_path / "out")
    lengths = [len(shards.document(number)) for number in range(shards.documents)]
    assert max(lengths) > 131_072
    assert len(lengths) == 21
    assert shards.tokenizer().decode(shards.document(lengths.index(max(lengths))).tolist()) == text
