"""Presets with random damage: each is refused with findings, or right in everything that follows from it."""

from __future__ import annotations

import copy
import json
import re
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import SpecError
from vitruvius.nn import build
from vitruvius.report.bill import bill_text
from vitruvius.report.diagram import diagram_of
from vitruvius.report.diagram_svg import draw_svg
from vitruvius.report.diagram_text import Look, draw_text
from vitruvius.sizing import count_parameters, size
from vitruvius.spec import findings, preset, preset_names, read_text, resolve, shrink, to_data, to_yaml
from vitruvius.spec.reading import presets_folder

pytestmark = pytest.mark.timeout(300)

SOURCES = ("gpt2", "longcontext", "llama-moe", "qwen3-30b-a3b", "tiny-llama", "tiny-gpt2")
assert set(SOURCES) <= set(preset_names())

BUILDABLE = 10**7
"""Parameters up to which a twin is built, on the meta device."""
LARGEST_TWIN = 2**28
"""A twin of few layers is probed on any machine, so it has at most this many parameters."""


def holds(text: str) -> None:
    """The text is refused with findings at their places, or everything works that follows from it."""
    try:
        architecture = read_text(text, file="arch.yaml").architecture
    except SpecError as error:
        assert error.findings
        for finding in error.findings:
            assert finding.what and finding.file == "arch.yaml"
            assert finding.line or finding.what.startswith(("the document is empty", "and "))
        return
    written = to_yaml(architecture)
    assert read_text(written).architecture == architecture
    assert to_yaml(read_text(written).architecture) == written
    bill = size(architecture)
    assert bill.parameters.total >= bill.parameters.active > 0
    assert bill.dense_flops >= bill.forward_flops > 0
    json.dumps(bill.to_dict(), allow_nan=False)
    assert bill_text(bill)
    assert size(architecture, context=min(architecture.context, 7), mode="train").kv_cache_bytes == 0
    diagram = diagram_of(architecture)
    assert draw_svg(diagram).startswith("<svg")
    assert draw_text(diagram, Look(width=80, color=False, ascii_only=True))
    twin = shrink(architecture)
    assert not [finding for finding in findings(twin) if finding.severity == "error"]
    parameters = count_parameters(resolve(twin)).total
    few_layers = len(resolve(twin).layers) <= 100
    assert parameters <= LARGEST_TWIN or not few_layers
    if parameters <= BUILDABLE and few_layers:
        model = build(twin, device="meta")
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters


# ----------------------------------------------------------------------------------------------------------------------
# Damage to the text

WORD = re.compile(r"\s+|[A-Za-z_][\w-]*|\d[\w.]*|.", re.DOTALL)
WRITTEN = (
    *("0", "-1", "1", "2", "3", "7", "2147483647", "2147483648", "9" * 19, "9" * 25, "1e4", "1e-3", "4.0", "1e308"),
    *("5e-324", "true", "no", "null", "none", "''", "[]", "{}", "[1]", "{kind: rope}", "rope", "moe", "mlp", "alibi"),
    *("attention", "learned", "sinusoidal", "yarn", "layernorm", "post", "causal", "sliding(4)", "everything"),
    *("'causal & global(every=3, offset=2)'", "'causal & dilated(3, every=5)'", "block(7)", "around(3)", "(", "*", "^"),
    *("&", "extends", "kind", "position", "hidden", "heads", "width", "layers", "sqrt(width)", "\n", "  ", "- ", ": "),
    *(", ", "'", '"', "#", "\u00e9", "\t", "\u0430", "\x00"),
)
"""What is put in the place of a word."""


@cache
def words_of(name: str) -> tuple[str, ...]:
    lines = (presets_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return tuple(WORD.findall("\n".join(line for line in lines if not line.lstrip().startswith("#"))))


@st.composite
def damaged_texts(draw, name: str) -> str:
    words = list(words_of(name))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(words) - 1))
        match draw(st.sampled_from(["drop", "double", "replace", "borrow", "swap", "cut"])):
            case "drop":
                words[place] = ""
            case "double":
                words[place] *= 2
            case "replace":
                words[place] = draw(st.sampled_from(WRITTEN))
            case "borrow":
                words[place] = draw(st.sampled_from(words))
            case "swap":
                other = draw(st.integers(0, len(words) - 1))
                words[place], words[other] = words[other], words[place]
            case _:
                words[place : place + draw(st.integers(1, 20))] = [""]
    return "".join(words)


@pytest.mark.parametrize("name", SOURCES)
@given(data=st.data())
def test_a_preset_with_damaged_words_is_refused_or_right(name, data):
    for text in data.draw(st.lists(damaged_texts(name), min_size=2, max_size=8)):
        holds(text)


# ----------------------------------------------------------------------------------------------------------------------
# Damage to the values

NUMBERS = (
    *(1, 2, 3, 4, 5, 7, 8, 16, 31, 48, 64, 100, 257, 1024, 4096, 65_536, 2**30, 2**31 - 2, 2**31 - 1, 2**31, 0, -1),
    *(1.0, 0.5, 1e-3, 1e308, 5e-324, 1e30, 1e4, 0.999, 2.0000001),
)
PATTERNS = (
    *("causal", "causal & sliding(1)", "everything", "causal & block(5)", "causal & (sinks(2) | sliding(4))"),
    *("causal & dilated(3, every=7)", "causal & global(every=4)", "causal & (global(every=4, offset=3) | sliding(2))"),
    *("causal & stride(9)", "causal & stride2d(3, 5)", "around(4)", "causal & sinks(1)", "sliding(2147483647)"),
    *("causal & (block(7) & global(every=7))", "causal & block(3) & block(7)", "dilated(3, 5) | dilated(4, 6)"),
)
POSITIONS: tuple[dict[str, Any] | None, ...] = (
    None,
    *({"kind": kind} for kind in ("rope", "alibi", "learned", "sinusoidal")),
    *({"kind": "rope", "theta": theta} for theta in (1.0, 0.5, 1e308, 5e-324)),
    {"kind": "rope", "scaling": {"kind": "yarn", "factor": 4.0, "original_context": 1}},
    {"kind": "rope", "scaling": {"kind": "yarn", "factor": 0.5, "original_context": 64, "temperature": 1e308}},
    {"kind": "rope", "theta": 1.0, "scaling": {"kind": "yarn", "factor": 4.0, "original_context": 100}},
    {"kind": "rope", "scaling": {"kind": "linear", "factor": 5e-324}},
    {"kind": "rope", "theta": 0.5, "scaling": {"kind": "yarn", "factor": 4.0, "original_context": 100}},
    {"kind": "rope", "scaling": {"kind": "llama3", "factor": 1e-9, "original_context": 2**31 - 1}},
    {"kind": "rope", "scaling": {"kind": "linear", "factor": 1e9}},
)
TEXTS = (
    "none",
    "pre",
    "post",
    "qkv",
    "all",
    "relu",
    "tanh",
    "1 + weight",
    "lm",
    "moe",
    "causal",
    "1/sqrt(width)",
    "x",
    "",
)
LINES = ("{0}*2", "{0}^3 {1}", "({0}^2 {1})^2", "({0} {1})^3*2", "{0}*10000", "{0}*10001", "{0} {1} nobody")


TELLING = frozenset({"experts", "head_width", "heads", "hidden", "kv_heads", "layers", "position", "sees", "top_k"})
"""Keys whose values other values must fit to: they are changed as often as all others together."""


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of everything inside plain data."""
    pairs: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    return [place for key, inner in pairs for place in [(*path, key), *places(inner, (*path, key))]]


def at(value: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def another(draw, key: str | int, value: object, spec: dict[str, Any]) -> object:
    """Something else that might stand there."""
    if key == "sees":
        return draw(st.sampled_from(PATTERNS))
    if key == "position":
        return copy.deepcopy(draw(st.sampled_from(POSITIONS)))
    if key == "layers":
        blocks = spec.get("blocks")
        names = list(blocks) if isinstance(blocks, dict) and blocks else ["a"]
        return draw(st.sampled_from(LINES)).format(names[0], names[-1])
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return type(value)(draw(st.sampled_from(NUMBERS)))
    if isinstance(value, str):
        return draw(st.sampled_from(TEXTS))
    return draw(st.sampled_from([*NUMBERS, *TEXTS, None, {}, [], {"kind": "rmsnorm"}, {"kind": "rope"}]))


@st.composite
def damaged_values(draw, name: str) -> str:
    spec = to_data(preset(name), defaults=draw(st.sampled_from(["keep", "omit"])))
    for _ in range(draw(st.integers(1, 3))):
        every = places(spec)
        telling = [path for path in every if path[-1] in TELLING] or every
        path = draw(st.sampled_from(draw(st.sampled_from([every, telling]))))
        parent, key = at(spec, path[:-1]), path[-1]
        if draw(st.integers(0, 9)) == 0 and isinstance(parent, dict):
            del parent[key]
        else:
            parent[key] = another(draw, key, parent[key], spec)
        if draw(st.booleans()):
            spec["width"] = draw(st.sampled_from([1, 8, 16, 64, 96, 128]))
    return json.dumps(spec)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
@given(data=st.data())
def test_a_preset_with_other_values_is_refused_or_right(name, data):
    for text in data.draw(st.lists(damaged_values(name), min_size=2, max_size=8)):
        holds(text)


@pytest.mark.parametrize(
    "override",
    [
        "blocks.moe.ffn.experts=100000",
        "blocks.moe.ffn.expert.hidden=100000000",
        "blocks.dense.mixer={kind: attention, heads: 100000000, kv_heads: 1, head_width: 64, sees: causal}",
        "context=2147483647",
        "layers=(dense moe)*5000",
        "width=64",
    ],
)
def test_the_twin_of_an_extreme_architecture_is_small(override):
    width = "blocks.dense.mixer={kind: attention, heads: 8, kv_heads: 1, head_width: 64, sees: causal}"
    twin = shrink(preset("llama-moe", overrides=[width, "layers=dense moe", override]))
    assert len(resolve(twin).layers) <= 4
    assert count_parameters(resolve(twin)).total <= LARGEST_TWIN
