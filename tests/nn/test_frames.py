"""Encoders, encoder-decoders, prefixes, parallel blocks, streams, and tokens ahead."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from vitruvius.checks import check
from vitruvius.errors import SpecError, UsageError
from vitruvius.nn import Signals, build
from vitruvius.sizing import count_parameters, kv_cache_bytes, size, weights_bytes
from vitruvius.spec import read_text, resolve

ENCODER_DECODER = """
name: both
vocab_size: 61
width: 32
context: 48
blocks:
  encode:
    mixer: {kind: attention, heads: 4, kv_heads: 2, sees: everything, position: rope}
    ffn: {kind: mlp, hidden: 48}
  decode:
    mixer: {kind: attention, heads: 4, sees: causal, position: rope}
    cross: {kind: attention, heads: 4, kv_heads: 2, bias: all}
    ffn: {kind: mlp, hidden: 48}
encoder: {layers: encode*2}
layers: decode*2
"""

PLAIN = """
name: plain
vocab_size: 61
width: 32
context: 48
blocks:
  a:
    mixer: {kind: attention, heads: 4, kv_heads: 2, sees: causal, position: rope}
    ffn: {kind: swiglu, hidden: 48}
layers: a*4
"""


def architecture(text: str, **changes: object):
    return replace(read_text(text).architecture, **changes)


def ids(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(61, (batch, length), generator=torch.Generator().manual_seed(seed))


# ----------------------------------------------------------------------------------------------------------------------
# Encoder and decoder


def test_a_decoder_reads_the_whole_source_and_nothing_beyond_its_length():
    model = build(architecture(ENCODER_DECODER), dtype="fp64")
    source, target = ids(1, 9, seed=1), ids(1, 6)
    with torch.no_grad():
        plain = model(target, source=source)
        for place in range(9):
            other = source.clone()
            other[0, place] = (other[0, place] + 1) % 61
            assert not torch.allclose(model(target, source=other), plain), f"source token {place} is not read"
        padded = F.pad(source, (0, 5), value=3)
        torch.testing.assert_close(model(target, source=padded, source_lengths=[9]), plain, rtol=0, atol=1e-12)


def test_decoding_with_sources_of_different_lengths_equals_full_passes_and_keeps_what_size_says():
    spec = architecture(ENCODER_DECODER)
    model = build(spec, dtype="fp64")
    sources, lengths, target = ids(3, 10, seed=2), [10, 4, 7], ids(3, 8)
    cache = model.cache(3, capacity=10)
    assert cache.nbytes == kv_cache_bytes(resolve(spec), 10, 3, "fp64")
    with torch.no_grad():
        full = model(target, source=sources, source_lengths=lengths)
        steps = [model(target[:, :3], source=sources, source_lengths=lengths, cache=cache)]
        steps += [model(target[:, t : t + 1], cache=cache) for t in range(3, 8)]
        alone = model(target[1:2], source=sources[1:2, :4])
    torch.testing.assert_close(torch.cat(steps, dim=1), full, rtol=0, atol=1e-12)
    torch.testing.assert_close(full[1:2], alone, rtol=0, atol=1e-12)


def test_a_row_that_is_reset_reads_its_new_source():
    model = build(architecture(ENCODER_DECODER), dtype="fp64")
    first, second, target = ids(2, 6, seed=3), ids(2, 6, seed=4), ids(2, 4)
    cache = model.cache(2, capacity=12)
    with torch.no_grad():
        model(target, source=first, cache=cache)
        cache.reset([0])
        mixed = model(target, source=second, cache=cache)
        fresh = model(target[:1], source=second[:1])
        longer = model(torch.cat([target, target], dim=1)[1:], source=first[1:])
    torch.testing.assert_close(mixed[:1], fresh, rtol=0, atol=1e-12)
    torch.testing.assert_close(mixed[1:], longer[:, 4:], rtol=0, atol=1e-12)


def test_a_missing_or_foreign_source_is_refused_with_the_way_out():
    model = build(architecture(ENCODER_DECODER))
    with pytest.raises(UsageError, match="reads a source") as missing:
        model(ids(1, 4))
    assert "source=" in missing.value.fix
    with pytest.raises(UsageError, match="2 sources for 3 rows"):
        model(ids(3, 4), source=ids(2, 4))
    with pytest.raises(UsageError, match="lengths"):
        model(ids(1, 4), source=ids(1, 4), source_lengths=[5])
    with pytest.raises(UsageError, match="no encoder"):
        build(architecture(PLAIN))(ids(1, 4), source=ids(1, 4))
    with pytest.raises(UsageError, match="holds sources of 4 tokens"):
        model(ids(1, 2), source=ids(1, 6), cache=model.cache(1, capacity=4))


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (("encoder: {layers: encode*2}", ""), "the architecture has none"),
        (
            ("    cross: {kind: attention, heads: 4, kv_heads: 2, bias: all}\n", ""),
            "no block of layers reads the encoder",
        ),
        (("encoder: {layers: encode*2}", "encoder: {layers: decode*2}"), "stands in the encoder and reads it too"),
        (("encoder: {layers: encode*2}", "encoder: {layers: nobody*2}"), "nobody"),
        (("heads: 4, kv_heads: 2, bias", "heads: 4, kv_heads: 3, bias"), "3 does not divide heads=4"),
        (("sees: causal", "sees: everything"), "lets a token see later ones"),
    ],
)
def test_frames_that_do_not_fit_together_are_refused_by_a_rule(damage, what):
    with pytest.raises(SpecError, match=what):
        read_text(ENCODER_DECODER.replace(*damage))


def test_the_bill_counts_both_stacks_once_and_names_them():
    bill = size(architecture(ENCODER_DECODER))
    by = bill.parameters.by_component
    assert by["cross-attention"] == 2 * (2 * 32 * 32 + 2 * 16 * 32 + 32 + 16 + 16 + 32)
    assert by["norms"] == 32 * (2 * 2 + 2 * 3 + 2)
    assert sum(by.values()) == bill.parameters.total
    assert {row.name: row.layers for row in bill.layers} == {"encode": 2, "decode": 2}
    assert {row.name: row.kv_cache_bytes > 0 for row in bill.layers} == {"encode": False, "decode": True}


def test_an_encoder_has_no_decode_cache_and_generates_nothing():
    text = PLAIN.replace("sees: causal", "sees: everything") + "head: {kind: mlm, transform: gelu, bias: true}\n"
    model = build(read_text(text).architecture, dtype="fp64")
    with pytest.raises(UsageError, match="sees later tokens"):
        model.cache(1, capacity=4)
    tokens = ids(2, 12)
    with torch.no_grad():
        before = model(tokens)
        tokens[0, 11] = (tokens[0, 11] + 1) % 61
        after = model(tokens)
    assert not torch.allclose(before[0, 0], after[0, 0]), "the first token does not see the last"
    torch.testing.assert_close(before[1], after[1], rtol=0, atol=0)


# ----------------------------------------------------------------------------------------------------------------------
# Blocks


@pytest.mark.parametrize("order", ["parallel", "parallel-one-norm"])
def test_parallel_sublayers_read_the_stream_as_it_came_in(order):
    text = PLAIN.replace("swiglu, hidden: 48}", f"swiglu, hidden: 48}}\n    order: {order}")
    model = build(read_text(text).architecture, dtype="fp64")
    layer, read, streams = model.layers[0], [], []
    layer.ffn.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    layer.register_forward_pre_hook(lambda _, args: streams.append(args[0]))
    with torch.no_grad():
        model(ids(2, 5))
        norm = layer.mixer_norm if order == "parallel-one-norm" else layer.ffn_norm
        torch.testing.assert_close(read[0], norm(streams[0]), rtol=0, atol=1e-12)
    assert (layer.ffn_norm is not None) == (order == "parallel")


def test_a_residual_scale_of_zero_leaves_the_stream_alone():
    spec = read_text(
        PLAIN.replace("swiglu, hidden: 48}", "swiglu, hidden: 48}\n    residual_scale: 1e-30")
    ).architecture
    model = build(spec, dtype="fp64")
    with torch.no_grad():
        tokens = ids(1, 6)
        assert model.final_norm is not None
        torch.testing.assert_close(
            model.hidden(tokens), model.final_norm(model.embedding.tokens(tokens)), rtol=0, atol=1e-12
        )


def test_shared_weights_are_one_set_wherever_the_block_stands_and_each_layer_keeps_its_own_cache():
    text = PLAIN.replace("layers: a*4", "  b: {extends: a, weights: shared}\nlayers: b a b a b")
    spec = read_text(text).architecture
    graph, model = resolve(spec), build(spec)
    assert [layer.weights for layer in graph.layers] == [0, 1, 0, 3, 0]
    assert model.layers[0] is model.layers[2] is model.layers[4]
    assert len(list(model.cache(1, capacity=8).parts())) == 5
    assert count_parameters(graph).total == sum(p.numel() for p in model.parameters())


def test_skips_add_the_first_half_to_the_second_innermost_first():
    spec = read_text(PLAIN + "streams: {skips: unet, embedding: learned}\n").architecture
    model = build(spec, dtype="fp64")
    assert model.streams.skip.shape == (2,)
    outputs, inputs = {}, {}
    for index, layer in enumerate(model.layers):
        layer.register_forward_hook(
            lambda _, args, out, i=index: (inputs.update({i: args[0]}), outputs.update({i: out}))[0]
        )
    with torch.no_grad():
        model.streams.embedding.fill_(0.25)
        model.streams.skip.copy_(torch.tensor([0.5, 2.0]))
        tokens = ids(1, 6)
        model(tokens)
        embedded = model.embedding.tokens(tokens)
    for index, mate, scale in ((2, 1, 0.5), (3, 0, 2.0)):
        expected = outputs[index - 1] + scale * outputs[mate] + 0.25 * embedded
        torch.testing.assert_close(inputs[index], expected, rtol=0, atol=1e-12)


# ----------------------------------------------------------------------------------------------------------------------
# Tokens ahead


def test_multi_token_prediction_is_counted_apart_and_takes_part_in_training_alone():
    plain, ahead = read_text(PLAIN).architecture, read_text(PLAIN + "mtp: {block: a, depth: 2}\n").architecture
    counts = count_parameters(resolve(ahead))
    assert counts.total == count_parameters(resolve(plain)).total
    assert counts.mtp == sum(p.numel() for n, p in build(ahead).named_parameters() if n.startswith("mtp."))
    assert weights_bytes(resolve(ahead), "bf16", "train") - weights_bytes(resolve(ahead), "bf16") == 2 * counts.mtp
    assert size(ahead, mode="train").forward_flops > size(ahead).forward_flops == size(plain).forward_flops


def test_each_head_ahead_predicts_its_own_token_and_does_not_cross_documents():
    spec = read_text(PLAIN + "mtp: {block: a, depth: 2, loss_weight: 0.5}\n").architecture
    model = build(spec, dtype="fp64")
    tokens = ids(2, 12)
    signals = Signals()
    plain = model.loss(tokens[:, :-1], tokens[:, 1:], signals=signals)
    assert plain == model.loss(tokens[:, :-1], tokens[:, 1:])
    (extra,) = signals.losses
    assert extra.item() == pytest.approx(0.5 * signals.metrics["mtp_loss"][0].item())
    documents = torch.arange(11).expand(2, -1)  # each token a document of its own: nothing lies ahead
    signals = Signals()
    model.loss(tokens[:, :-1], tokens[:, 1:], documents=documents, signals=signals)
    assert not signals.losses


def test_a_head_ahead_sees_no_token_beyond_those_it_stands_on():
    spec = read_text(PLAIN + "mtp: {block: a, depth: 1}\n").architecture
    model, tokens = build(spec, dtype="fp64"), ids(1, 12)
    heard: list[torch.Tensor] = []
    model.mtp[0].register_forward_hook(lambda *args: heard.append(args[2]))
    for place in (11, 7):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % 61
        heard.clear()
        for row in (tokens, changed):
            model.loss(row, row, signals=Signals())
        moved = (heard[0] - heard[1]).abs().amax(dim=-1)[0]
        assert moved[: place - 1].max() <= 1e-12
        assert moved[place - 1] > 1e-9, "the token ahead is not read"


@pytest.mark.parametrize(
    "text", [ENCODER_DECODER, PLAIN + "mtp: {block: a, depth: 2}\nstreams: {skips: unet, embedding: learned}\n"]
)
def test_every_probe_holds_on_frames(text):
    report = check(read_text(text).architecture)
    assert report.passed, str(report)
