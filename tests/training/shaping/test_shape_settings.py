"""What `train.shape` asks for is understood before the run starts, or refused at the line where it stands."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import SpecError
from vitruvius.spec import preset
from vitruvius.spec.fields import all_fields, fields_at
from vitruvius.training import TrainConfig
from vitruvius.training.checking import ensure, from_plain
from vitruvius.training.config import to_plain
from vitruvius.training.request import read_request
from vitruvius.training.room import memory_of_run
from vitruvius.training.settings.shape import Plateau, ShapeSchedule, Signal
from vitruvius.training.shaping.costs import costly_shapes, flops_of_run, schedule_lines
from vitruvius.training.shaping.schedule import shaping_of

LOCAL = preset("tiny-longcontext")
WINDOW = "blocks.local.mixer.sees.sliding.window"
SEES = "blocks.local.mixer.sees"
NOISE = "blocks.moe.ffn.router.noise"
MIXTURE = preset("tiny-llama-moe")


def waiting(signal="loss", then=(4,), **condition):
    return {"field": WINDOW, "when": {"signal": signal, **condition}, "then": list(then)}


def refused(shape, architecture=LOCAL, **settings):
    def ask():
        ensure(from_plain({"steps": 100, "eval_every": 10, **settings, "shape": shape}), architecture)

    with pytest.raises(SpecError) as caught:
        ask()
    return {finding.path.removeprefix("train.shape"): str(finding) for finding in caught.value.findings}


@pytest.mark.parametrize(
    ("entry", "path", "words"),
    [
        ({"field": WINDOW}, ".0", "neither steps nor when"),
        ({"steps": {"0": 4}}, ".0.field", "field is missing"),
        ({"field": WINDOW, "steps": {}}, ".0.steps", "no step is given"),
        ({"field": WINDOW, "steps": {"0": 4}, "when": {"signal": "loss", "below": 1}, "then": [4]}, ".0", "both given"),
        ({"field": WINDOW, "steps": {"x": 4}}, ".0.steps.x", "'x' is no step"),
        ({"field": WINDOW, "steps": {"1.5": 4}}, ".0.steps.1.5", "is no step"),
        ({"field": WINDOW, "steps": {"100": 4}}, ".0.steps.100", "the run has 100"),
        ({"field": WINDOW, "steps": {"50": 4, "0.5": 5}}, ".0.steps.0.5", "as that of 50"),
        ({"field": WINDOW, "steps": {"5": 10**9}}, ".0.steps.5", "longer than the context"),
        ({"field": WINDOW, "steps": {"5": 0}}, ".0.steps.5", "at least 1"),
        ({"field": WINDOW, "steps": {"5": 2.5}}, ".0.steps.5", "a whole number is due"),
        ({"field": WINDOW, "steps": {"5": "4) | everything & sliding(4"}}, ".0.steps.5", "a whole number is due"),
        ({"field": WINDOW, "steps": {"5": True}}, ".0.steps.5", "no value of a field"),
        ({"field": WINDOW, "steps": {"5": [4]}}, ".0.steps.5", "no value of a field"),
        ({"field": WINDOW, "steps": {"5": None}}, ".0.steps.5", "a whole number is due"),
        ({"field": WINDOW, "steps": [4]}, ".0.steps", "a mapping"),
        ({"field": WINDOW, "step": {"5": 4}}, ".0.step", "did you mean 'steps'?"),
        ({"field": WINDOW, "steps": {"5": 4}, "between": "spline"}, ".0.between", "not one of the choices"),
        ({"field": WINDOW, "steps": {"5": 4}, "round_to": 2}, ".0.round_to", "they jump"),
        ({"field": WINDOW, "steps": {"5": 4}, "every": 2}, ".0.every", "they jump"),
        ({"field": WINDOW, "steps": {"5": 4}, "round_to": -1, "between": "linear"}, ".0.round_to", "out of range"),
        ({"field": "blocks.local.mixer.heads", "steps": {"5": 4}}, ".0.field", "weights depend on it"),
        ({"field": "width", "steps": {"5": 4}}, ".0.field", "weights depend on it"),
        ({"field": "blocks.lokal.mixer.sees", "steps": {"5": "causal"}}, ".0.field", "did you mean 'local'?"),
        ({"field": "", "steps": {"5": 4}}, ".0.field", "no field"),
        ({"field": "." * 3000, "steps": {"5": 4}}, ".0.field", "names no field"),
        ({"field": "blocks.*.mixer.sees.stride", "steps": {"5": 4}}, ".0.field", "nothing under"),
        ({"field": SEES, "steps": {"5": "causal & slidng(4)"}}, ".0.steps.5", "slidng"),
        ({"field": SEES, "steps": {"5": "everything"}}, ".0.steps.5", "cannot be everything"),
        ({"field": SEES, "steps": {"5": "causal"}, "between": "linear"}, ".0.between", "nothing between"),
        ({"field": "head.softcap", "steps": {"5": 3.0}, "between": "linear"}, ".0.steps", "nothing between"),
        ({"field": "head.softcap", "steps": {"5": -3.0}}, ".0.steps.5", "softcap"),
        ({"field": WINDOW, "when": {"signal": "loss", "below": 3.0}}, ".0", "then is empty"),
        (waiting(), ".0.when", "nothing is waited for"),
        (waiting(below=1, above=2), ".0.when", "both given"),
        (waiting(then=[4, 5], below=1), ".0.when.below", "not as many"),
        (waiting("los", below=1), ".0.when.signal", "did you mean 'loss'"),
        (waiting("tokens_per_second", above=1), ".0.when.signal", "not repeat"),
        (waiting(plateau={"patience": 0}), ".0.when.plateau.patience", "range"),
        (waiting(plateau={}), ".0.when.plateau.patience", "missing"),
        (waiting(plateau={"patients": 3}), ".0.when.plateau.patients", "patience"),
        (waiting(then=[10**9], below=1), ".0.then.0", "longer than the context"),
        ({"field": WINDOW, "steps": {"5": 4}, "then": [4]}, ".0.then", "belongs to when"),
        ("x", ".0", "mapping"),
    ],
)
def test_a_schedule_that_cannot_be_meant_is_refused_where_it_stands(entry, path, words):
    found = refused([entry])
    assert path in found, found
    assert words in found[path], found


def test_numbers_that_are_none_never_reach_a_model():
    config = TrainConfig(steps=10, shape=(ShapeSchedule(field=NOISE, steps={"0": math.nan}),))
    with pytest.raises(SpecError):
        ensure(config, MIXTURE)


def test_signals_that_no_row_will_have_are_refused():
    val = {"field": WINDOW, "when": {"signal": "val_loss", "below": 1}, "then": [4]}
    assert "eval_every is 0" in refused([val], eval_every=0)[".0.when.signal"]
    entropy = {"field": WINDOW, "when": {"signal": "attention_entropy", "below": 1}, "then": [4]}
    assert "watch.every is null" in refused([entropy], watch={"every": None})[".0.when.signal"]


def test_two_schedules_of_one_field_are_refused():
    two = [
        {"field": "blocks.local.mixer.sees", "steps": {"5": "causal"}},
        {"field": "blocks.*.mixer.sees.sliding", "steps": {"5": 4}},
    ]
    assert "changes by train.shape.0 too" in refused(two)[".1.field"]


def test_values_that_do_not_fit_together_are_refused():
    two = [
        {"field": "blocks.moe.ffn.top_k", "steps": {"5": 1}},
        {"field": "blocks.moe.ffn.router.balance_loss", "steps": {"5": 0}},
    ]
    ensure(from_plain({"steps": 10, "shape": two}), MIXTURE)  # a warning of the spec, and no error
    context = LOCAL.context
    two = [
        {"field": "blocks.local.mixer.sees", "steps": {"5": f"causal & sliding({context})"}},
        {"field": "blocks.local.residual_scale", "steps": {"5": 0.5}},
    ]
    ensure(from_plain({"steps": 10, "shape": two}), LOCAL)


def test_more_than_anyone_means_is_refused_before_it_is_checked():
    many = {"field": WINDOW, "steps": {str(number): 4 for number in range(300)}}
    assert "300 values are given" in refused([many], steps=400)[""]
    assert "schedules" in refused([{"field": WINDOW, "steps": {"0": 4}}] * 101)[""]


@pytest.mark.parametrize(
    "shape", ["x", {}, 3, [None], [[]], [[1]], None, [{"field": 3}], [{"field": None, "steps": 1}]]
)
def test_what_is_no_list_of_schedules_is_refused(shape):
    assert refused(shape)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
ENTRIES = st.fixed_dictionaries(
    {"field": st.sampled_from([WINDOW, "head.softcap", "blocks.*.mixer.sees", "blocks.*.residual_scale", "x"]) | JUNK},
    optional={
        "steps": st.dictionaries(st.sampled_from(["0", "5", "0.5", "99", "-1", "x"]), JUNK | st.integers(0, 99)) | JUNK,
        "between": st.sampled_from(["step", "linear", "cosine"]) | JUNK,
        "round_to": JUNK,
        "every": st.integers(0, 5) | JUNK,
        "when": st.fixed_dictionaries({"signal": st.sampled_from(["loss", "val_loss"])}, optional={"below": JUNK})
        | JUNK,
        "then": st.lists(st.integers(1, 64), max_size=3) | JUNK,
    },
)


@given(st.lists(ENTRIES, max_size=3))
def test_whatever_is_written_is_a_schedule_or_is_refused_in_words(shape):
    try:
        config = ensure(from_plain({"steps": 100, "shape": shape}), LOCAL)
    except SpecError as error:
        assert all(finding.fix and finding.path for finding in error.findings)
    else:
        list(shaping_of(config, LOCAL).segments() if shape else ())


def test_a_compiled_run_has_few_changes():
    shape = [{"field": "head.softcap", "steps": {"0": 30.0, "90": 1.0}, "between": "linear"}]
    assert "compiles the model anew" in refused(shape, compile="default")[""]
    ensure(from_plain({"steps": 100, "shape": [{**shape[0], "every": 10}], "compile": "default"}), LOCAL)


def test_a_finding_stands_at_its_line_in_a_run_file(tmp_path):
    run = tmp_path / "run.yaml"
    run.write_text(
        "spec: tiny-longcontext\n"
        "data: data\n"
        "out: out\n"
        "train:\n"
        "  steps: 100\n"
        "  shape:\n"
        "    - field: blocks.local.mixer.sees.sliding\n"
        "      steps:\n"
        "        0: 4\n"
        "        0.5: 1000000\n"
        "    - field: blocks.local.mixer.hedas\n"
        "      steps: {0: 4}\n"
    )
    with pytest.raises(SpecError) as caught:
        read_request(str(run))
    assert {(f.path, f.line) for f in caught.value.findings} == {
        ("train.shape.0.steps.0.5", 10),
        ("train.shape.1.field", 11),
    }


def test_set_takes_schedules_too(tmp_path):
    asked = "train.shape=[{field: blocks.*.mixer.sees.sliding, steps: {0: 4, 0.5: 8}, between: linear}]"
    request = read_request("tiny-longcontext", data="x", out=str(tmp_path), settings=["train.steps=1000", asked])
    (schedule,) = request.config.shape
    assert schedule.steps == {"0": 4, "500": 8}
    assert schedule.every == 10
    assert from_plain(to_plain(request.config)) == request.config


def test_settings_made_in_python_are_those_of_a_file():
    made = ShapeSchedule(field=WINDOW, steps={0: 4, 0.5: 8})
    signal = ShapeSchedule(
        field="head.softcap", when=Signal(signal="loss", plateau=Plateau(patience=3)), then=(30.0, None)
    )
    config = ensure(TrainConfig(steps=10, shape=(made, signal)), LOCAL)
    assert config.shape[0].steps == {"0": 4, "5": 8}
    assert ensure(config, LOCAL) == config


# ------------------------------------------------------------------------------------------------------------- cost


def config_of(*shape, architecture=LOCAL, **settings):
    return ensure(
        TrainConfig(**{"steps": 100, "eval_every": 10, "context": 64, **settings, "shape": shape}), architecture
    )


def test_flops_are_added_up_over_the_schedule():
    plain = config_of()
    alone = {
        window: flops_of_run(LOCAL, config_of(ShapeSchedule(field=WINDOW, steps={0: window}))) for window in (4, 8, 16)
    }
    assert alone[4] < alone[8] < alone[16]
    mixed = config_of(ShapeSchedule(field=WINDOW, steps={0: 4, 25: 8, 75: 16}))
    expected = 0.25 * alone[4] + 0.5 * alone[8] + 0.25 * alone[16]
    assert flops_of_run(LOCAL, mixed) == pytest.approx(expected, rel=1e-12)
    own = fields_at(LOCAL, WINDOW)[0].value
    assert flops_of_run(LOCAL, plain) == pytest.approx(
        flops_of_run(LOCAL, config_of(ShapeSchedule(field=WINDOW, steps={0: own}))), rel=1e-12
    )


def test_a_ramp_is_added_up_as_finely_as_it_is_cut():
    ramp = config_of(ShapeSchedule(field=WINDOW, steps={0: 4, 99: 16}, between="linear", every=1))
    shaping = shaping_of(ramp, LOCAL)
    by_hand = sum(
        flops_of_run(LOCAL, config_of(ShapeSchedule(field=WINDOW, steps={0: shaping.values(done, {})[WINDOW]}))) / 100
        for done in range(100)
    )
    assert flops_of_run(LOCAL, ramp) == pytest.approx(by_hand, rel=1e-9)


def test_of_a_signal_the_costliest_value_counts():
    awaited = config_of(ShapeSchedule(field=WINDOW, when=Signal(signal="loss", below=(3.0, 2.0)), then=(16, 4)))
    most = config_of(ShapeSchedule(field=WINDOW, steps={0: max(16, fields_at(LOCAL, WINDOW)[0].value)}))
    assert flops_of_run(LOCAL, awaited) == pytest.approx(flops_of_run(LOCAL, most))


def test_memory_is_that_of_the_largest_shape():
    grown = config_of(ShapeSchedule(field="blocks.moe.ffn.top_k", steps={0: 1, 50: 6, 80: 2}), architecture=MIXTURE)
    peaks = [
        memory_of_run(
            MIXTURE, config_of(ShapeSchedule(field="blocks.moe.ffn.top_k", steps={0: k}), architecture=MIXTURE)
        ).peak
        for k in (1, 2, 6)
    ]
    assert peaks == sorted(set(peaks))
    assert memory_of_run(MIXTURE, grown).peak == peaks[-1]


def test_fields_that_cost_nothing_make_no_shapes():
    theta = config_of(ShapeSchedule(field="blocks.*.mixer.position.theta", steps={0: 100, 50: 1e6}))
    assert len(list(costly_shapes(LOCAL, theta))) == 1


def test_many_schedules_are_looked_at_in_reasonable_time():
    fields = [field for field in all_fields(MIXTURE) if field.mark.form == "number" and field.value is not None]
    shape = [ShapeSchedule(field=f.path, steps={number: f.value / (2 + number) for number in range(9)}) for f in fields]
    config = config_of(*shape, architecture=MIXTURE)
    assert len(list(shaping_of(config, MIXTURE).meetings())) <= 64


def test_the_plan_says_what_changes_when():
    config = config_of(
        ShapeSchedule(field="blocks.*.mixer.sees.sliding", steps={0: 4, 50: 8}, between="linear"),
        ShapeSchedule(field="head.softcap", when=Signal(signal="loss", below=3.0), then=(30.0,)),
    )
    lines = schedule_lines(LOCAL, config)
    assert f"{WINDOW}: 4 from 0, 8 from 50 (linear)" in lines
    assert lines[-1] == "head.softcap: None, then 30.0, by loss"
