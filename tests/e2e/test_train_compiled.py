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
SETTINGS = ("batch=2", "context=16", "dtype=fp32", "eval_every=0", "final_eval_batches=1", "lr=0.001", "warmup=0")


@pytest.fixture(scope="module")
def corpus(data_of_words):
    return data_of_words(20, 300)


@pytest.fixture
def asked(corpus, tmp_path):
    """Train in a process of its own, and give what came of it."""
    (tmp_path / "small.yaml").write_text(SPEC)
    command = [sys.executable, "-m", "vitruvius", "train", "small.yaml", "--data", str(corpus), "--steps", "4"]
    command += [word for each in SETTINGS for word in ("--set", f"train.{each}")]

    def ask(name, how, **variables):
        return subprocess.run(
            [*command, "--out", name, "--set", f"train.compile={how}"],
            cwd=tmp_path,
            env={
                **os.environ,
                "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
                "VITRUVIUS_SHAPES": "off",
                **variables,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    return ask


def refused(done):
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "a bug in" not in done.stderr
    return done.stderr


@pytest.mark.slow
def test_without_a_compiler_the_way_out_is_named_before_a_folder_is_made(asked, tmp_path):
    said = refused(asked("run", "default", CXX=str(tmp_path / "nowhere")))
    assert "error: train.compile\n  torch.compile finds no C++ compiler\n  fix: install g++" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_compiler_that_fails_is_no_bug_of_ours(asked, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exec echo "g++ 12.0"\nexit 1\n')
    broken.chmod(0o755)
    said = refused(asked("run", "default", CXX=str(broken)))
    assert "error: torch.compile: " in said and "use train.compile=none" in said


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_runs_have_the_losses_of_the_plain_one_the_first_and_the_second_time(asked, tmp_path):
    losses = {}
    for name, how in (("plain", "none"), ("first", "default"), ("second", "default")):
        done = asked(name, how)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "Graph break" not in done.stderr and "[0/0]" not in done.stderr
        losses[name] = [row["loss"] for row in RunReader(tmp_path / name).metrics()]
    assert losses["first"] == pytest.approx(losses["plain"], rel=1e-5)
    assert losses["second"] == pytest.approx(losses["plain"], rel=1e-5)
    assert any((tmp_path / "cache").rglob("*.so"))
