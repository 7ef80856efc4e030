"""`train.compile=default`: the same run, through torch.compile, in one process after the other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from vitruvius.runs import RunReader

SPEC = """
name: small
vocab_size: 320
width: 32
context: 64
head: {kind: lm, tied: true}
blocks:
  dense:
    mixer: {kind: attention, heads: 2, kv_heads: 1, sees: causal, position: {kind: rope}}
    ffn: {kind: swiglu, hidden: 48}
  mixture:
    extends: dense
    ffn: {kind: moe, experts: 4, top_k: 2, expert: {kind: swiglu, hidden: 24}}
layers: dense*2 mixture
"""
ASK = [sys.executable, "-m", "vitruvius", "train", "small.yaml", "--steps", "2", "--set", "train.compile=default"]
ASK += ["--set", "train.batch=2", "--set", "train.context=16"]
SETTINGS = ("batch=2", "context=16", "dtype=fp32", "eval_every=0", "final_eval_batches=1", "lr=0.001", "warmup=0")


@pytest.fixture(scope="module")
def corpus(data_of_words):
    return data_of_words(20, 300)


def trained(tmp_path, name, *args):
    """What the command said, and the losses of the run."""
    done = subprocess.run(
        [sys.executable, "-m", "vitruvius", "train", "small.yaml", "--out", name, *map(str, args)],
        cwd=tmp_path,
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "VITRUVIUS_SHAPES": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr, [row["loss"] for row in RunReader(tmp_path / name).metrics()]


def refused(tmp_path, corpus, **variables):
    """What the command says where it cannot compile."""
    (tmp_path / "small.yaml").write_text(SPEC)
    done = subprocess.run(
        [*ASK, "--data", str(corpus), "--out", "run"],
        cwd=tmp_path,
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "a bug in" not in done.stderr
    return done.stderr


@pytest.mark.slow
def test_without_a_compiler_the_way_out_is_named_before_a_folder_is_made(corpus, tmp_path):
    said = refused(tmp_path, corpus, CXX=str(tmp_path / "nowhere"))
    assert "error: train.compile\n  torch.compile finds no C++ compiler\n  fix: install g++" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the compiler here is a shell script")
def test_a_compiler_that_fails_is_no_bug_of_ours(corpus, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exec echo "g++ 12.0"\nexit 1\n')
    broken.chmod(0o755)
    said = refused(tmp_path, corpus, CXX=str(broken))
    assert "error: torch.compile: " in said and "use train.compile=none" in said


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_runs_have_the_losses_of_the_plain_one_the_first_and_the_second_time(corpus, tmp_path):
    (tmp_path / "small.yaml").write_text(SPEC)
    sets = [word for each in SETTINGS for word in ("--set", f"train.{each}")]
    common = ("--data", corpus, "--steps", 4, *sets)
    _, plain = trained(tmp_path, "plain", *common)
    for name in ("first", "second"):
        said, losses = trained(tmp_path, name, *common, "--set", "train.compile=default")
        assert losses == pytest.approx(plain, rel=1e-5)
        assert "Graph break" not in said and "[0/0]" not in said
    assert any((tmp_path / "cache").rglob("*.so"))
