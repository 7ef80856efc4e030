"""No false alarm on Hugging Face's own models at small sizes; what cannot apply is skipped with a reason."""

from __future__ import annotations

import json

import pytest
import torch

import vitruvius as vt
from vitruvius.checks.foreign.folder import load_folder
from vitruvius.checks.foreign.loading import LoadError
from vitruvius.checks.foreign.probes import check_module
from vitruvius.checks.foreign.shrinking import shrunk
from vitruvius.errors import RunError, UsageError

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
MIXTURE = {"num_experts_per_tok": 2, "head_dim": 8}


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED))


def mistral():
    return transformers.MistralForCausalLM(transformers.MistralConfig(**GROUPED, sliding_window=8))


def mixtral():
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**GROUPED, num_local_experts=4, **MIXTURE))


def qwen3():
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**GROUPED, head_dim=8))


def qwen3_moe():
    sizes = {**GROUPED, **MIXTURE, "num_experts": 4, "moe_intermediate_size": 16}
    return transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**sizes))


def gemma3():
    kinds = ["sliding_attention", "full_attention"]
    config = transformers.Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=8, layer_types=kinds)
    return transformers.Gemma3ForCausalLM(config)


def mamba2():
    sizes = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "expand": 2}
    config = transformers.Mamba2Config(**sizes, num_heads=8, head_dim=8, n_groups=2, chunk_size=8)
    return transformers.Mamba2ForCausalLM(config)


def bert():
    return transformers.BertForMaskedLM(transformers.BertConfig(**SIZES))


def gpt2():
    sizes = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2))


def t5():
    config = transformers.T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    return transformers.T5ForConditionalGeneration(config)


ALL = (llama, mistral, mixtral, qwen3, qwen3_moe, gemma3, mamba2, bert, gpt2, t5)
NO_SPEC = "no spec to hold the module against"
SKIPPED = {
    "mamba2": {"attention-distribution", "backends", "packed-documents", "length-stress"},
    "bert": {"future-leak", "cached-decode"},
    "t5": {"packed-documents", "length-stress"},
}
"""What is skipped besides the probes that need a spec."""


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_no_false_alarm(make):
    torch.manual_seed(0)
    report = vt.check(make())
    assert report.passed, str(report)
    skipped = {outcome.name for outcome in report.checks if not outcome.applies and outcome.detail != NO_SPEC}
    assert skipped == SKIPPED.get(make.__name__, set())
    assert all(outcome.detail for outcome in report.checks)
    assert {outcome.bound for outcome in report.checks if outcome.name == "batch-invariance"} == {1e-9}


def test_a_masked_model_is_known_by_its_class_and_a_decoder_by_its_config():
    from vitruvius.checks.foreign.facts import facts_of

    config = transformers.BertConfig(**SIZES)
    assert not facts_of(transformers.BertForMaskedLM(config), {}, where="").causal
    assert not facts_of(transformers.BertLMHeadModel(config), {}, where="").causal
    decoder = transformers.BertConfig(**SIZES, is_decoder=True)
    assert facts_of(transformers.BertLMHeadModel(decoder), {}, where="").causal
    body = facts_of(transformers.BertModel(config), {}, where="")
    assert body.headless and not body.causal
    assert facts_of(llama().model, {}, where="").headless


def test_a_body_without_a_head_is_probed_by_its_hidden_states():
    report = vt.check(llama().model, only=["output-shape", "future-leak", "cached-decode", "gradients", "loss"])
    assert report.passed, str(report)
    assert "hidden states" in report["output-shape"].detail
    assert report["cached-decode"].applies and not report["loss"].applies


def test_a_window_shows_in_the_receptive_field():
    field = vt.check(mistral(), only=["receptive-field"])["receptive-field"].values
    assert field["positions"][-1] == 2 * (8 - 1) + 1


def test_tied_weights_are_named_and_a_broken_promise_to_tie_is_told():
    assert "transformer.wte.weight = lm_head.weight" in vt.check(gpt2(), only=["parameters"])["parameters"].detail
    broken = gpt2()
    broken.lm_head.weight = torch.nn.Parameter(broken.lm_head.weight.detach().clone())
    outcome = vt.check(broken, only=["parameters"])["parameters"]
    assert "they are two tensors" in outcome.detail and not outcome.passed


def test_a_model_in_bf16_is_probed_in_fp64_with_its_own_weights():
    report = vt.check(llama().to(torch.bfloat16), only=["batch-invariance", "future-leak"])
    assert report.passed and report["batch-invariance"].bound == 1e-9


# ----------------------------------------------------------------------------------------------------------------------
# Bugs planted in their classes


def test_a_mask_that_a_layer_never_gets_is_caught():
    model = gpt2()
    block = model.transformer.h[1]
    forward = block.attn.forward
    block.attn.forward = lambda *args, attention_mask=None, **more: forward(*args, attention_mask=None, **more)
    assert not check_module(model, only=["padding-invariance"]).passed


def test_a_head_that_is_trained_apart_from_what_is_saved_is_caught():
    model = llama()
    model.register_buffer("bias", torch.randn(97), persistent=False)
    model.lm_head.register_forward_hook(lambda _m, _i, out: out + model.bias)
    report = check_module(model, only=["round-trip", "future-leak"])
    assert report["future-leak"].passed


# ----------------------------------------------------------------------------------------------------------------------
# Folders


def saved(tmp_path, make=llama):
    torch.manual_seed(0)
    make().save_pretrained(tmp_path)
    return tmp_path


def load(path, values="given"):
    return load_folder(path, seed=0, values=values)


@pytest.mark.parametrize("make", [llama, mamba2, bert, t5], ids=lambda make: make.__name__)
def test_a_folder_gives_the_very_model_that_was_saved(tmp_path, make):
    torch.manual_seed(0)
    model = make()
    model.save_pretrained(tmp_path)
    found = load(tmp_path)
    assert type(found.module) is type(model)
    assert "every weight from model.safetensors" in found.detail
    assert all(torch.equal(value, found.module.state_dict()[name]) for name, value in model.state_dict().items())
    assert found.facts.weights == "trained" and found.facts.redraw is not None


def test_without_weights_first_ones_are_drawn_and_the_report_says_so(tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    found = load(tmp_path)
    assert found.facts.notes == ("first weights of seed 0",)
    again = load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(found.module.parameters(), again.module.parameters(), strict=True))


def test_random_weights_leave_the_files_alone(tmp_path):
    saved(tmp_path)
    found = load(tmp_path, "random")
    trained = load(tmp_path)
    assert found.facts.notes == ("first weights of seed 0",)
    assert not torch.equal(found.module.lm_head.weight, trained.module.lm_head.weight) or found.detail != trained.detail


BIG = [
    ("llama", {}),
    ("mixtral", {}),
    ("qwen3_moe", {}),
    ("gemma3_text", {}),
    ("mamba2", {}),
    ("deepseek_v3", {}),
    ("qwen3_next", {}),
    ("jamba", {}),
]


@pytest.mark.parametrize(("kind", "changes"), BIG, ids=[kind for kind, _ in BIG])
def test_what_is_too_big_gets_a_small_twin_with_every_kind_of_layer(tmp_path, kind, changes):
    config = transformers.CONFIG_MAPPING[kind](**changes)
    config.save_pretrained(tmp_path)
    found = load(tmp_path)
    assert sum(parameter.numel() for parameter in found.module.parameters()) < 3_000_000
    assert "twin" in found.facts.name and "parameters at full size" in found.facts.notes[0]
    kinds = getattr(config, "layer_types", None)
    if kinds:
        assert set(found.module.config.layer_types) == set(kinds)
    assert check_module(found.module, only=["output-shape", "future-leak"]).passed


def test_a_twin_keeps_the_ratio_of_heads_and_says_what_became_smaller():
    small, changes = shrunk(transformers.LlamaConfig(num_key_value_heads=8).to_dict())
    assert (small["num_attention_heads"], small["num_key_value_heads"]) == (4, 1)
    assert small["intermediate_size"] / small["hidden_size"] == pytest.approx(11008 / 4096, rel=0.05)
    assert "num_hidden_layers 32 -> 2" in changes
    assert shrunk(small)[0] == small


def test_a_long_window_is_probed_in_a_twin_with_a_short_one(tmp_path):
    config = transformers.MistralConfig(**GROUPED | {"max_position_embeddings": 8192}, sliding_window=4096)
    transformers.MistralForCausalLM(config).save_pretrained(tmp_path)
    found = load(tmp_path)
    assert found.module.config.sliding_window == 8
    assert "sliding_window 4,096 -> 8" in found.facts.notes[0]


INDEX = "model.safetensors.index.json"


def config_of(tmp_path, **changes):
    data = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**data, **changes}))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: (p / "config.json").unlink(), "no config.json"),
        (lambda p: (p / "config.json").write_text("{"), "not JSON"),
        (lambda p: (p / "config.json").write_text("[" * 200_000), "not JSON"),
        (lambda p: (p / "config.json").write_text("[]"), "does not hold a JSON object"),
        (lambda p: (p / "config.json").write_text("{}"), "names no model_type"),
        (lambda p: config_of(p, model_type="lama"), "did you mean"),
        (lambda p: config_of(p, model_type="mine", auto_map={"AutoModel": "x.Y"}), "code of its own"),
        (lambda p: config_of(p, hidden_size="wide"), "hidden_size"),
        (lambda p: config_of(p, model_type="vit"), "no language model in transformers"),
        (lambda p: (p / "model.safetensors").rename(p / "pytorch_model.bin"), "a pickle, which can run code"),
        (lambda p: (p / INDEX).write_text('{"weight_map": {"a": "../x.safetensors"}}'), "weight_map"),
        (lambda p: (p / INDEX).write_text('{"weight_map": {}}'), "weight_map"),
    ],
    ids=[
        "no config", "cut off", "deep", "a list", "empty", "unknown", "own code", "a word", "no language", "pickle",
        "outside", "no files",
    ],
)  # fmt: skip
def test_a_folder_without_what_is_needed_is_refused_with_the_way_out(tmp_path, spoil, words):
    spoil(saved(tmp_path))
    with pytest.raises(UsageError) as caught:
        load(tmp_path)
    assert words in str(caught.value)
    assert caught.value.fix and caught.value.where


def test_no_folder_is_told_that_nothing_is_downloaded(tmp_path):
    with pytest.raises(UsageError, match="nothing is downloaded"):
        load(tmp_path / "meta-llama")


def test_a_pickle_with_another_name_and_half_a_file_are_refused_before_they_are_read(tmp_path):
    path = saved(tmp_path) / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(b"PK\x03\x04" + whole)
    with pytest.raises(RunError, match="pickle"):
        load(tmp_path)
    path.write_bytes(whole[:-100])
    with pytest.raises(RunError, match="the tensors end at byte"):
        load(tmp_path)


def test_weights_that_do_not_fit_are_a_finding_about_the_model(tmp_path):
    config_of(saved(tmp_path), num_hidden_layers=3)
    with pytest.raises(LoadError, match=r"weights are missing.*layers\.2"):
        load(tmp_path)
    config_of(tmp_path, num_hidden_layers=1)
    assert "no place for" in load(tmp_path).warning
    config_of(tmp_path, num_hidden_layers=2, intermediate_size=64)
    with pytest.raises(LoadError):
        load(tmp_path)


def test_quantised_weights_are_not_loaded_and_the_report_says_so(tmp_path):
    config_of(saved(tmp_path), quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert "quantised" in load(tmp_path).facts.notes[0]


def test_the_language_model_of_several_senses_is_probed_alone(tmp_path):
    text = {**GROUPED, "head_dim": 8, "sliding_window": 8}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(text_config=text, vision_config={**vision, "image_size": 32, "patch_size": 16})
    config.save_pretrained(tmp_path)
    found = load(tmp_path)
    assert "the language model of gemma3" in found.facts.notes[0]
    assert type(found.module).__name__ == "Gemma3ForCausalLM"
