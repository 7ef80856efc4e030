"""The environment and the reproducibility record: versions, runtime, data, observed output, constraints."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest

from vitruvius.runs import reproducibility_record
from vitruvius.runs.environment import environment
from vitruvius.runs.files import write_atomically, write_json


def test_the_environment_is_json_and_names_versions_hardware_and_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = json.loads(json.dumps(environment()))
    assert found["packages"]["click"] == importlib.metadata.version("click")
    assert found["variables"]["OMP_NUM_THREADS"] == "3"
    assert found["cores_usable"] >= 1
    assert found["memory_bytes"] > 2**20
    assert found["time_utc"].endswith("Z")


def test_asking_for_versions_imports_nothing_heavy():
    code = (
        "import sys; from vitruvius.runs.environment import environment; environment(); "
        "print(sorted({'torch', 'numpy', 'tokenizers', 'safetensors', 'pydantic'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.fixture
def record():
    return reproducibility_record(
        "Learned positions grown to 512",
        command=["vitruvius", "check", "my arch.yaml"],
        data={"directory": "data", "fingerprint": "abc"},
        observed={"loss": 2.34567891, "a|b": "x\ny", "missing": None},
        constraints=["one machine, one thread count"],
        seeds={"init": 1},
    )


def test_the_record_holds_all_five_parts(record):
    plain = json.loads(json.dumps(record.to_json()))
    assert plain["schema"] == "vitruvius.record/1"
    assert plain["environment"]["packages"] and plain["environment"]["platform"]
    assert plain["data"]["directory"] == "data"
    assert plain["observed"]["loss"] == 2.34567891
    assert plain["constraints"] == ["one machine, one thread count"]
    assert plain["command"] == ["vitruvius", "check", "my arch.yaml"]


def test_the_markdown_shows_the_command_as_it_would_be_typed(record):
    text = record.to_markdown()
    assert "vitruvius check 'my arch.yaml'" in text
    assert "| loss | 2.34568 |" in text
    assert "| missing | unknown |" in text
    assert "- one machine, one thread count" in text


def test_a_value_cannot_break_the_table(record):
    assert r"| a\|b | x y |" in record.to_markdown()


def test_an_empty_part_makes_no_table():
    text = reproducibility_record("Nothing", environment={"python": "3.11"}).to_markdown()
    assert "Seeds" not in text and "Data" not in text and "| Python | 3.11 |" in text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(TypeError):
        write_atomically(path, "text")  # pyright: ignore[reportArgumentType]
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]
