"""Weight files: what comes back is what went in, and nothing a file says is believed before it is checked."""

from __future__ import annotations

import json
import pickle
import zipfile

import pytest
import torch

from vitruvius.errors import CorruptCheckpointError, RunError
from vitruvius.nn import build
from vitruvius.nn.weights import load_model, load_weights, read_tensors, weights_of, write_tensors
from vitruvius.runs.checkpoints import latest_checkpoint
from vitruvius.runs.tensorfile import read_header
from vitruvius.spec import preset


def raw(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8]
)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 0, 4)])
def test_a_tensor_comes_back_as_it_was(tmp_path, dtype, shape):
    tensor = (torch.randn(shape) * 50).abs().to(dtype)
    write_tensors(tmp_path / "t.safetensors", {"x": tensor})
    back = read_tensors(tmp_path / "t.safetensors")["x"]
    assert back.dtype == dtype
    assert torch.equal(back, tensor)


def test_our_files_read_in_the_library_and_the_librarys_files_read_here(tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = {"b": torch.randn(3, 2).bfloat16(), "a": torch.randn(5), "c": torch.arange(3)}
    write_tensors(tmp_path / "ours", tensors)
    save_file(tensors, tmp_path / "theirs")
    for back in (load_file(tmp_path / "ours"), read_tensors(tmp_path / "theirs")):
        assert back.keys() == tensors.keys()
        assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_a_view_is_written_as_what_it_shows(tmp_path):
    matrix = torch.arange(12.0).view(3, 4)
    write_tensors(tmp_path / "t", {"turned": matrix.T, "part": matrix[1:, 1:3]})
    back = read_tensors(tmp_path / "t")
    assert torch.equal(back["turned"], matrix.T)
    assert torch.equal(back["part"], matrix[1:, 1:3])


def test_every_tensor_starts_at_a_multiple_of_its_width(tmp_path):
    write_tensors(
        tmp_path / "t", {"a": torch.zeros(3, dtype=torch.uint8), "b": torch.zeros(3), "c": torch.zeros(1).double()}
    )
    widths = {"U8": 1, "F32": 4, "F64": 8}
    assert all(e.start % widths[e.dtype] == 0 for e in read_header(tmp_path / "t").values())


HOSTILE = {
    "a header of 2^63 bytes": ((1 << 63).to_bytes(8, "little") + b"{}", "no safetensors file"),
    "an empty file": (b"", "no safetensors file"),
    "seven bytes": (b"\0" * 7, "no safetensors file"),
    "a pickle": (pickle.dumps({"weights": list(range(100))}), "this is a pickle"),
    "text": (b"just some text, nothing else at all", "no safetensors file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_of_another_kind_is_named_as_what_it_is(name, tmp_path):
    content, what = HOSTILE[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(RunError, match=what) as caught:
        read_header(path)
    assert caught.value.where == str(path)


def test_a_torch_zip_renamed_is_named_as_the_pickle_it_is(tmp_path):
    path = tmp_path / "model.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps([1]))
    with pytest.raises(RunError, match="this is a pickle"):
        read_header(path)


@pytest.mark.parametrize(
    ("header", "data", "what"),
    [
        ({"a": entry(), "b": entry(offsets=(4, 12))}, 12, "overlaps"),
        ({"a": entry(), "b": entry(offsets=(16, 24))}, 24, "leaves a hole"),
        ({"a": entry()}, 4, "end at byte 8"),
        ({"a": entry()}, 12, "end at byte 8"),
        ({"a": entry(offsets=(0, 2**63))}, 8, "do not hold it"),
        ({"a": entry(shape=(2**40, 2**40), offsets=(0, 8))}, 8, "do not hold it"),
        ({"a": entry(shape=(-2,))}, 8, "whole numbers"),
        ({"a": entry(shape=(True,), offsets=(0, 4))}, 4, "whole numbers"),
        ({"a": entry(offsets=(8, 0))}, 8, "do not hold it"),
        ({"a": entry(dtype="F31")}, 8, "unknown dtype 'F31'"),
        ({"a": entry(dtype=["F32"])}, 8, "unknown dtype"),
        ({"a": {"dtype": "F32"}}, 0, "does not have"),
        ({"a": 7}, 0, "does not have"),
        ([1], 0, "not a JSON object"),
        (b"{", 0, "not JSON"),
        (b"\xff\xfe", 0, "not JSON"),
        (b'{"a": 1, "a": 2}', 0, "not JSON"),
        (b"[" * 100_000, 0, "not JSON"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(header, data, what, tmp_path):
    with pytest.raises(RunError, match=what):
        read_header(raw(tmp_path / "t", header, b"\0" * data))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunError, match="no such file"):
        read_header(tmp_path / "gone")


# ----------------------------------------------------------------------------------------------------------------------
# Models


def test_tied_and_shared_weights_are_written_once(tmp_path):
    shared = preset("tiny-llama", overrides=["layers=layer*2 layer^2", "width=32", "vocab_size=64"])
    model = build(shared)
    names = weights_of(model).keys()
    assert names == dict(model.named_parameters()).keys() == model.graph.tensors().keys()
    write_tensors(tmp_path / "model.safetensors", weights_of(model))
    other = build(shared, seed=1)
    load_weights(other, tmp_path)
    tokens = torch.arange(8)[None]
    assert torch.equal(other(tokens), model(tokens))


def test_weights_of_another_architecture_are_refused_whole(tmp_path, dense):
    write_tensors(tmp_path / "model.safetensors", weights_of(build(dense)))
    wider = build(preset("tiny-llama", overrides=["width=48", "vocab_size=320", "layers=layer*3"]))
    before = {name: tensor.clone() for name, tensor in weights_of(wider).items()}
    with pytest.raises(RunError, match="do not fit") as caught:
        load_weights(wider, tmp_path)
    assert "is missing" in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(wider).items())


def test_whole_numbers_where_weights_are_due_are_refused(tmp_path, dense):
    model = build(dense)
    whole = {name: tensor.to(torch.int64) for name, tensor in weights_of(model).items()}
    write_tensors(tmp_path / "model.safetensors", whole)
    with pytest.raises(RunError, match=r"is I64, expected torch\.float32"):
        load_weights(model, tmp_path)


def test_a_run_or_one_of_its_checkpoints_loads_in_any_dtype(run_of, dense):
    result = run_of(dense, steps=4, checkpoint_every=2)
    assert load_model(result.run).dtype == torch.bfloat16
    assert load_model(result.run, dtype="fp32").dtype == torch.float32
    older = load_model(result.run / "checkpoints" / "step-2")
    newer = load_model(latest_checkpoint(result.run).path)
    names = weights_of(older)
    assert any(not torch.equal(weights_of(newer)[name], tensor) for name, tensor in names.items())


def test_a_table_that_grew_in_training_is_as_long_when_it_is_loaded(run_of):
    growing = preset(
        "tiny-gpt2",
        overrides=[
            "embedding.position={kind: learned, size: 32, start: 8}",
            *("width=32", "vocab_size=320", "context=32", "layers=layer"),
        ],
    )
    model = load_model(run_of(growing, steps=1).run)
    assert model(torch.zeros(1, 32, dtype=torch.int64)).shape == (1, 32, 320)


def test_a_damaged_checkpoint_is_not_loaded(run_of, dense):
    result = run_of(dense)
    path = result.checkpoint / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match="SHA-256"):
        load_model(result.run)


def test_a_run_without_a_checkpoint_says_so(run_of, dense):
    result = run_of(dense, steps=2)
    result.checkpoint.rename(result.checkpoint.with_name("elsewhere"))
    with pytest.raises(RunError, match="no checkpoint yet"):
        load_model(result.run)
