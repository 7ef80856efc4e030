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
