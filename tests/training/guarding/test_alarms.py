"""Rules for readings: when an alarm is raised, when again, when it is over, and that all of it can be resumed."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import SpecError
from vitruvius.training.checking import from_plain
from vitruvius.training.guarding.alarms import Alarms
from vitruvius.training.guarding.detectors import Reading
from vitruvius.training.settings import Guard
from vitruvius.training.settings.alarms import DEFAULT_RULES, DETECTORS, Rule


def alarms(rule: Rule, **settings) -> Alarms:
    return Alarms(Guard(alarms={"stream-rms": rule}, **settings))


def reading(value: float, key: str = "stream_rms/layers.0") -> Reading:
    return Reading(detector="stream-rms", key=key, value=value, place=key.split("/")[1])


def raised(watching: Alarms, values) -> list[int]:
    """At which of the values an alarm is raised."""
    return [at for at, value in enumerate(values) if watching.sights([reading(value)])]


def test_each_limit_is_an_alarm_by_itself():
    assert raised(alarms(Rule(above=10.0)), [1, 9.9, 10.5]) == [2]
    assert raised(alarms(Rule(below=0.1)), [1, 0.11, 0.09]) == [2]
    assert raised(alarms(Rule(growth=3.0), baseline=2), [1, 2, 4.4, 4.6]) == [3]
    steady = [5.0 + 0.01 * math.sin(number) for number in range(20)]
    assert raised(alarms(Rule(z=6.0)), [*steady, 5.5, 20.0]) == [21]


def test_growth_and_z_say_nothing_before_there_is_a_past_or_under_the_least():
    assert raised(alarms(Rule(growth=2.0), baseline=4), [1, 1, 1, 1e9]) == []
    assert raised(alarms(Rule(z=3.0)), [1.0] * 7 + [1e9]) == []
    assert raised(alarms(Rule(growth=2.0, least=100.0), baseline=1), [1, 50, 99]) == []


def test_an_alarm_that_lasts_is_raised_again_only_when_it_doubles():
    assert raised(alarms(Rule(above=10.0)), [11, 12, 15, 21, 23, 41, 45]) == [0, 4]
    assert raised(alarms(Rule(above=10.0)), [11, 12, 5, 11]) == [0, 3]
    assert raised(alarms(Rule(above=10.0)), [11, 9.5, 11]) == [0]  # it hovers at its limit


def test_a_rule_may_ask_for_several_readings_in_a_row():
    assert raised(alarms(Rule(above=1.0, lasting=3)), [2, 2, 0.5, 2, 2, 2, 2]) == [5]


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_what_is_no_number_is_beyond_every_limit_and_never_part_of_the_past(value):
    watching = alarms(Rule(above=1e30, growth=5.0), baseline=2)
    assert raised(watching, [1.0, 1.0, value]) == [2]
    assert json.loads(json.dumps(watching.state(), allow_nan=False)) == watching.state()


def test_an_alarm_names_value_limit_rule_and_place():
    (sight,) = alarms(Rule(above=10.0)).sights([reading(30.0, "stream_rms/layers.7")])
    assert (sight.what, sight.value, sight.limit, sight.rule, sight.place) == (
        "stream-rms",
        30.0,
        10.0,
        "above",
        "layers.7",
    )


VALUES = st.lists(st.floats(min_value=1e-3, max_value=1e6) | st.just(math.nan), min_size=1, max_size=60)


@given(values=VALUES, cut=st.integers(0, 60))
def test_a_resumed_watch_raises_what_the_straight_one_does(values, cut):
    rule = Rule(above=1e5, growth=4.0, z=5.0, lasting=2)
    straight = alarms(rule, baseline=3, history=8)
    seen = [straight.sights([reading(value)]) for value in values]
    first, second = (alarms(rule, baseline=3, history=8) for _ in range(2))
    again = [first.sights([reading(value)]) for value in values[:cut]]
    first.after(cut, {})
    second.restore(json.loads(json.dumps(first.state())))
    again += [second.sights([reading(value)]) for value in values[cut:]]
    assert repr(again) == repr(seen)
    for each in (second, straight):
        each.after(len(values), {})
    assert second.state() == straight.state()


PAST = {"first": [1.0], "last": [1.0], "broken": 0, "raised": None}


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"past": [], "pending": []},
        {"past": {"a": 1}, "pending": []},
        {"past": {"a": {**PAST, "first": "x"}}, "pending": []},
        {"past": {"a": {**PAST, "last": [True]}}, "pending": []},
        {"past": {"a": {**PAST, "broken": -1}}, "pending": []},
        {"past": {"a": {**PAST, "raised": "far"}}, "pending": []},
        {"past": {}, "pending": [{"detector": "stream-rms"}]},
        {"past": {}, "pending": [{"detector": "stream-rms", "key": "k", "value": "1", "place": ""}]},
        {"past": {}, "pending": [{"detector": "no-such", "key": "k", "value": 1.0, "place": ""}]},
    ],
    ids=str,
)
def test_a_state_that_it_cannot_have_given_is_refused(state):
    with pytest.raises(ValueError, match=r"past|pending|number"):
        alarms(Rule(above=1.0)).restore(state)


# ----------------------------------------------------------------------------------------------------------------------
# The settings


def test_every_detector_has_a_default_rule_that_says_something():
    assert DEFAULT_RULES.keys() == DETECTORS.keys()
    assert all(rule.says_something for rule in DEFAULT_RULES.values())


def test_a_rule_takes_the_place_of_the_default_one_and_null_switches_it_off():
    guard = from_plain({"guard": {"alarms": {"stream-rms": {"above": 7}, "dead-experts": None}}}).guard
    rules = guard.rules()
    assert rules["stream-rms"] == Rule(above=7.0)
    assert "dead-experts" not in rules
    assert rules["attention-logit"] == DEFAULT_RULES["attention-logit"]


@pytest.mark.parametrize(
    ("settings", "path", "told"),
    [
        ({"alarm": "skip"}, "train.guard.alarm", "lower-lr"),
        ({"alarm": "rewind", "every": None}, "train.guard.alarm", "every"),
        ({"alarm": "stop", "every": 5000}, "train.guard.every", "at most"),
        ({"alarms": {"stream-rms": {}}}, "train.guard.alarms.stream-rms", "above"),
        ({"alarms": {"stream-rms": {"lasting": 2}}}, "train.guard.alarms.stream-rms", "above"),
        ({"alarms": {"stream-rms": {"above": -1}}}, "train.guard.alarms.stream-rms.above", "above 0"),
        ({"alarms": {"stream-rms": {"abov": 1}}}, "train.guard.alarms.stream-rms.abov", "above"),
        ({"alarms": {"stream-rsm": {"above": 1}}}, "train.guard.alarms.stream-rsm", "stream-rms"),
        ({"alarms": {"stream-rms": 5}}, "train.guard.alarms.stream-rms", "mapping"),
        ({"alarms": []}, "train.guard.alarms", "mapping"),
        ({"keep": "everything"}, "train.guard.keep", "checkpoint"),
        ({"keep_newest": 0}, "train.guard.keep_newest", "1"),
    ],
    ids=str,
)
def test_alarms_that_cannot_be_meant_are_refused_at_their_setting(settings, path, told):
    with pytest.raises(SpecError) as caught:
        from_plain({"guard": settings})
    (finding,) = [finding for finding in caught.value.findings if finding.path == path]
    assert told in finding.fix
