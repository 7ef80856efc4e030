"""What the verbs of the bill cannot make sense of, they refuse: where, what, and the way out."""

from __future__ import annotations

import pytest

from vitruvius.cli.main import run as vitruvius

DEVICE = """\
memory = "24 GiB"
bandwidth = "1008 GB/s"
flops = {bf16 = "165 TFLOP/s"}
"""
CLAIMS = "spec: llama-3-8b\nclaims:\n  - {about: CLAIM}\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slow.toml").write_text(DEVICE + "efficiency = {compute = 1e-320, bandwidth = 5e-324}\n")
    (tmp_path / "thin.toml").write_text(DEVICE.replace("1008 GB/s", "0.0000000000000001 GB/s"))
    for name, claim in CLAIM.items():
        (tmp_path / f"{name}.yaml").write_text(CLAIMS.replace("CLAIM", claim))


CLAIM = {
    "tokens": "training_price, says: $1M, tokens: 15T, on: h100-80gb",
    "capacity": "kv_cache, says: 1 GB, context: 1099511627776",
    "setting": "parameters, says: 8B, set: [nonsense]",
}


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["size", "tiny-llama", "--on", "./slow.toml", "--json"], "0.001 to 1"),
        (["plan", "tiny-llama", "--on", "./slow.toml", "--tokens", "1B"], "0.001 to 1"),
        (["hardware", "compare", "./slow.toml", "h100-80gb", "--on", "tiny-llama"], "0.001 to 1"),
        (["hardware", "show", "./thin.toml"], "cannot read"),
        (["audit", "capacity.yaml"], "capacity.yaml:3"),
        (["audit", "setting.yaml"], "setting.yaml:3"),
        (["solve", "--parameters", "10M", "--train-context", "999999999"], "--train-context"),
        (["plan", "llama-3-8b", "--on", "h100-80gb", "--mode", "qlora"], "plans are for training all weights"),
        (["hardware", "choose", "tiny-llama", "--top", "0"], "use 1 to 1,000"),
        (["scale-down", "llama-3-8b", "--parameters", "0"], "ask for 1 or more"),
        (["size", "tiny-llama", "--on", "rtx-4090", "--frontier", "picture.png"], ".svg"),
        (["check", "hf:"], "a folder is missing"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else None,
)
def test_it_is_refused_with_the_way_out(argv, what, capsys):
    assert vitruvius(argv) == 2
    said = capsys.readouterr()
    assert what in said.err
    assert "fix:" in said.err
    assert not said.out


def test_a_run_over_as_many_tokens_as_llama_3_saw_can_be_judged(capsys):
    assert vitruvius(["audit", "tokens.yaml"]) in {0, 1}
    assert "says $1M" in capsys.readouterr().out
