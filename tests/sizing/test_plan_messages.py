"""Messages of a training step against what each kind of parallelism is known to send, by hand."""

from __future__ import annotations

from vitruvius.sizing.parallel import Degrees, Schedule
from vitruvius.sizing.parallel.messages import Messages
from vitruvius.spec import preset, resolve


def graph_of(name: str):
    return resolve(preset(name))


def schedule_of(**changes: object) -> Schedule:
    fields = {"tokens": 4096, "micro_batch": 1, "micro_batches": 8, "checkpointing": "none", "sequence_parallel": "off"}
    return Schedule(**(fields | changes))  # type: ignore[arg-type]


def sent(degrees: Degrees, schedule: Schedule, name: str = "llama-3-8b", **more: int) -> dict[str, int]:
    graph = graph_of(name)
    fields = {"stage": 0, "per_node": 8} | more
    messages = Messages(graph, graph.layers, degrees, schedule, **fields).all(8_030_261_248, 0)
    return {f"{m.what} {m.collective}": m.volume.total for m in messages}


def test_ddp_sends_gradients_twice_around() -> None:
    found = sent(Degrees(data=8), schedule_of())
    assert found == {"gradients all-reduce": 2 * 7 * (8_030_261_248 * 2 // 8)}


def test_fsdp_sends_three_times_the_weights_for_each_micro_batch() -> None:
    one = 7 * (8_030_261_248 * 2 // 8)
    found = sent(Degrees(data=8, zero=3), schedule_of(micro_batches=1))
    assert sum(found.values()) == 3 * one
    assert sum(sent(Degrees(data=8, zero=3), schedule_of(micro_batches=5)).values()) == 15 * one
    assert sum(sent(Degrees(data=8, zero=1), schedule_of(micro_batches=5)).values()) == 2 * one


def test_tensor_parallel_layers_sum_twice_forward_and_twice_backward() -> None:
    stream = 4096 * 4096 * 2
    found = sent(Degrees(tensor=8, pipeline=2), schedule_of(micro_batches=1), stage=1)
    each = 2 * 7 * stream // 8
    assert found["activations all-reduce"] == (32 * 4 + 1) * each
    again = sent(Degrees(tensor=8, pipeline=2), schedule_of(micro_batches=1, checkpointing="layers"), stage=1)
    assert again["activations all-reduce"] == (32 * 6 + 1) * each


def test_stages_send_the_stream_there_and_its_gradient_back() -> None:
    stream = 4096 * 4096 * 2
    middle = sent(Degrees(pipeline=4), schedule_of(micro_batches=8), stage=1)
    first = sent(Degrees(pipeline=4), schedule_of(micro_batches=8), stage=0)
    assert middle["between stages send"] == 2 * 8 * stream
    assert first["between stages send"] == 8 * stream


def test_tokens_travel_to_their_experts_and_back_in_both_passes() -> None:
    graph = graph_of("mixtral-8x7b")
    degrees, schedule = Degrees(data=8, expert=8), schedule_of(micro_batches=1)
    messages = Messages(graph, graph.layers, degrees, schedule, stage=0, per_node=8).all(10**9, 8 * 10**9)
    found = {f"{m.what} {m.collective}": m.volume.total for m in messages}
    one_way = 32 * 2 * 4096 * 4096 * 2 // 8 * 7
    assert found["tokens to experts all-to-all"] == 2 * one_way
    assert found["experts to tokens all-to-all"] == 2 * one_way
    # Each rank has experts of its own, so that none of their gradients are summed.
    assert "gradients of experts all-reduce" not in found


def test_context_ranks_pass_keys_and_values_around() -> None:
    found = sent(Degrees(context=4), schedule_of(micro_batches=1))
    keys = 32 * 2 * 8 * 128 * 1024 * 2
    assert found["keys and values all-gather"] == 3 * 3 * keys
