"""Encoders and encoder-decoders with Hugging Face's weights: BERT's masked LM, and T5's two stacks."""

from __future__ import annotations

import pytest
import torch

from vitruvius.nn import build
from vitruvius.spec import read_text

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

BERT = """
name: bert
vocab_size: 61
width: 32
context: 40
embedding: {position: learned, norm: {kind: layernorm, eps: 1e-12}}
norm: {kind: layernorm, eps: 1e-12}
head: {kind: mlm, tied: true, transform: gelu, bias: true}
blocks:
  layer:
    norm_place: post
    mixer: {kind: attention, heads: 4, sees: everything, bias: all}
    ffn: {kind: mlp, hidden: 48, activation: gelu, bias: true}
layers: layer*2
"""

T5 = """
name: t5
vocab_size: 61
width: 32
context: 160
norm: {kind: rmsnorm, eps: 1e-6}
head: {kind: lm, tied: false}
blocks:
  encode:
    mixer:
      {kind: attention, heads: 4, head_width: 6, sees: everything, score_scale: 1.0,
       position: {kind: t5, direction: both}}
    ffn: {kind: geglu, hidden: 48}
  decode:
    mixer: {kind: attention, heads: 4, head_width: 6, sees: causal, score_scale: 1.0, position: t5}
    cross: {kind: attention, heads: 4, head_width: 6, score_scale: 1.0}
    ffn: {kind: geglu, hidden: 48}
encoder: {layers: encode}
layers: decode
"""


def taken(model, names: dict[str, str], theirs) -> None:
    """Give our model the weights of theirs: names are theirs -> ours, and together cover all of ours."""
    own, values = dict(model.named_parameters()), theirs.state_dict()
    assert set(names.values()) == set(own)
    with torch.no_grad():
        for source, target in names.items():
            own[target].copy_(values[source])


def bert_names() -> dict[str, str]:
    names = {
        "bert.embeddings.word_embeddings.weight": "embedding.tokens.weight",
        "bert.embeddings.position_embeddings.weight": "embedding.position.weight",
        "cls.predictions.bias": "head.bias",
    }
    for end in ("weight", "bias"):
        names |= {
            f"bert.embeddings.LayerNorm.{end}": f"embedding.norm.{end}",
            f"cls.predictions.transform.dense.{end}": f"head.dense.{end}",
            f"cls.predictions.transform.LayerNorm.{end}": f"head.norm.{end}",
        }
        for i in range(2):
            theirs, ours = f"bert.encoder.layer.{i}", f"layers.{i}"
            names |= {
                f"{theirs}.attention.self.query.{end}": f"{ours}.mixer.q.{end}",
                f"{theirs}.attention.self.key.{end}": f"{ours}.mixer.k.{end}",
                f"{theirs}.attention.self.value.{end}": f"{ours}.mixer.v.{end}",
                f"{theirs}.attention.output.dense.{end}": f"{ours}.mixer.out.{end}",
                f"{theirs}.attention.output.LayerNorm.{end}": f"{ours}.mixer_norm.{end}",
                f"{theirs}.intermediate.dense.{end}": f"{ours}.ffn.up.{end}",
                f"{theirs}.output.dense.{end}": f"{ours}.ffn.down.{end}",
                f"{theirs}.output.LayerNorm.{end}": f"{ours}.ffn_norm.{end}",
            }
    return names


def test_an_encoder_with_an_mlm_head_is_bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=61,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
        attn_implementation="eager",
    )
    theirs = transformers.BertForMaskedLM(config).double().eval()
    with torch.no_grad():
        # Types of segments: ours has none, which is theirs with a row of zeros.
        theirs.bert.embeddings.token_type_embeddings.weight.zero_()
        theirs.cls.predictions.bias.normal_()
    ours = build(read_text(BERT).architecture, dtype="fp64")
    taken(ours, bert_names(), theirs)
    tokens = torch.randint(61, (2, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=0, atol=1e-9)
        mask = torch.ones_like(tokens)
        mask[1, 11:] = 0
        padded = theirs(tokens, attention_mask=mask).logits[1, :11]
        documents = torch.where(mask == 1, 0, -1)
        torch.testing.assert_close(ours(tokens, documents=documents)[1, :11], padded, rtol=0, atol=1e-9)


def t5_names() -> dict[str, str]:
    names = {
        "shared.weight": "embedding.tokens.weight",
        "lm_head.weight": "head.weight",
        "encoder.final_layer_norm.weight": "encoder.final_norm.weight",
        "decoder.final_layer_norm.weight": "final_norm.weight",
    }
    stacks = {
        "encoder": ("encoder.layers.0", {0: ("SelfAttention", "mixer"), 1: ("DenseReluDense", "ffn")}),
        "decoder": (
            "layers.0",
            {0: ("SelfAttention", "mixer"), 1: ("EncDecAttention", "cross"), 2: ("DenseReluDense", "ffn")},
        ),
    }
    for stack, (ours, parts) in stacks.items():
        for index, (part, sublayer) in parts.items():
            theirs = f"{stack}.block.0.layer.{index}"
            names[f"{theirs}.layer_norm.weight"] = f"{ours}.{sublayer}_norm.weight"
            maps = {"q": "q", "k": "k", "v": "v", "o": "out"}
            if sublayer == "ffn":
                maps = {"wi_0": "gate", "wi_1": "up", "wo": "down"}
            names |= {f"{theirs}.{part}.{a}.weight": f"{ours}.{sublayer}.{b}.weight" for a, b in maps.items()}
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        names[bias] = f"{ours}.mixer.position.weight"
    return names


def test_an_encoder_decoder_with_relative_biases_is_t5(monkeypatch):
    # Theirs takes the variance in fp32 whatever the model's format, which alone would differ by 1e-6.
    norm = transformers.models.t5.modeling_t5.T5LayerNorm
    exact = torch.nn.functional.rms_norm
    monkeypatch.setattr(norm, "forward", lambda self, x: exact(x, x.shape[-1:], self.weight, self.variance_epsilon))
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=61,
        d_model=32,
        d_kv=6,
        d_ff=48,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        dropout_rate=0.0,
        attn_implementation="eager",
    )
    theirs = transformers.T5ForConditionalGeneration(config).double().eval()
    ours = build(read_text(T5).architecture, dtype="fp64")
    taken(ours, t5_names(), theirs)
    generator = torch.Generator().manual_seed(1)
    # Longer than 128 tokens, so that the farthest distances share a class.
    source, target = (torch.randint(61, (2, length), generator=generator) for length in (150, 140))
    lengths, mask = [150, 90], torch.ones_like(source)
    mask[1, 90:] = 0
    with torch.no_grad():
        expected = theirs(input_ids=source, attention_mask=mask, decoder_input_ids=target).logits
        found = ours(target, source=source, source_lengths=lengths)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        cache = ours.cache(2, capacity=150)
        steps = [ours(target[:, :100], source=source, source_lengths=lengths, cache=cache)]
        steps += [ours(target[:, t : t + 1], cache=cache) for t in range(100, 140)]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=0, atol=1e-9)
