"""A run generates with the tokenizer it was trained with, whatever that writes and its separator is called."""

from __future__ import annotations

import json

import pytest

from vitruvius.cli.main import run
from vitruvius.data import TokenShards
from vitruvius.data.tokenization.of_run import tokenizer_of_run
from vitruvius.errors import RunError

SPEC = """\
name: small
vocab_size: 400
width: 16
context: 32
head: {kind: lm, tied: true}
blocks:
  a:
    mixer: {kind: attention, heads: 2, sees: causal, position: {kind: rope}}
    ffn: {kind: swiglu, hidden: 24}
layers: a
"""


def trained(folder, *options: str):
    (folder / "small.yaml").write_text(SPEC)
    lines = [json.dumps({"text": f"{number} arch beam stone river " * 30}) for number in range(12)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    data, out = folder / "data", folder / "run"
    assert run(["data", "prepare", str(folder / "a.jsonl"), "--out", str(data), *options]) == 0
    start = ["train", str(folder / "small.yaml"), "--data", str(data), "--out", str(out), "--steps", "1"]
    assert run([*start, "--batch", "2", "--set", "train.threads=1"]) == 0
    return data, out


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
def test_a_run_of_every_kind_of_tokenizer_generates(tmp_path, capfd, kind):
    data, out = trained(tmp_path, "--vocab", "300", "--tokenizer-kind", kind)
    assert tokenizer_of_run(out).fingerprint == TokenShards.open(data).tokenizer().fingerprint
    capfd.readouterr()
    assert run(["generate", str(out), "--prompt", "arch beam", "--max-tokens", "5", "--temperature", "0"]) == 0
    assert capfd.readouterr().out.strip()


def test_a_separator_with_an_unusual_name_is_found_again(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<the end>"])
    inner.save(str(tmp_path / "mine.json"))
    _, out = trained(tmp_path, "--tokenizer", str(tmp_path / "mine.json"), "--eos", "<the end>")
    assert tokenizer_of_run(out).eos == "<the end>"
    assert run(["generate", str(out), "--prompt", "arch", "--max-tokens", "3"]) == 0


def test_a_run_without_its_tokenizer_says_so(tmp_path):
    _, out = trained(tmp_path, "--vocab", "270")
    (out / "tokenizer.json").unlink()
    with pytest.raises(RunError, match=r"no tokenizer\.json"):
        tokenizer_of_run(out)
