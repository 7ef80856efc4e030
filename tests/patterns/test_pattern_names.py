from __future__ import annotations

import pytest

from vitruvius.errors import PatternError
from vitruvius.patterns import (
    NAMED,
    Clause,
    Pattern,
    around,
    block,
    dilated,
    global_,
    parse,
    register,
    shrink_text,
    sinks,
    sliding,
    smaller_by,
    stride,
    stride2d,
)

MAKERS = [
    (sliding, {"window": 8}),
    (around, {"window": 8}),
    (sinks, {"count": 8}),
    (global_, {"every": 8, "offset": 3}),
    (dilated, {"window": 8, "every": 4}),
    (stride, {"every": 8}),
    (block, {"size": 8}),
    (stride2d, {"height": 4, "width": 8}),
]
ARGUMENTS = [(make, arguments, name) for make, arguments in MAKERS for name in arguments]


@pytest.fixture
def table():
    """The table of named patterns, put back as it was after the test."""
    before = dict(NAMED)
    yield NAMED
    NAMED.clear()
    NAMED.update(before)


@pytest.mark.parametrize("value", [-1, 2**40, 10**30, True, False, 8.0, "8", None])
@pytest.mark.parametrize(("make", "arguments", "name"), ARGUMENTS, ids=[f"{m.__name__}-{n}" for m, _, n in ARGUMENTS])
def test_an_argument_is_a_whole_number_in_bounds_and_the_message_names_it(make, arguments, name, value):
    with pytest.raises(PatternError, match=f"^{name} must be") as caught:
        make(**{**arguments, name: value})
    assert caught.value.fix


@pytest.mark.parametrize(("make", "arguments", "name"), ARGUMENTS, ids=[f"{m.__name__}-{n}" for m, _, n in ARGUMENTS])
def test_zero_is_refused_everywhere_but_as_an_offset(make, arguments, name):
    if name == "offset":
        assert make(every=8, offset=0) == make(every=8)
        return
    with pytest.raises(PatternError, match=f"{name} must be at least 1"):
        make(**{**arguments, name: 0})


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: global_(4, offset=4), "offset must be below every"),
        (lambda: dilated(2**30, every=2**30), "window \\* every must be below"),
        (lambda: stride2d(2**30, 2**30), "height \\* width must be below"),
    ],
)
def test_arguments_that_only_fail_together_are_refused_together(call, what):
    with pytest.raises(PatternError, match=what):
        call()


@pytest.mark.parametrize("name", NAMED)
def test_every_entry_has_a_meaning_and_an_example_that_reads_as_itself(name):
    entry = NAMED[name]
    assert entry.example.startswith(name)
    assert isinstance(parse(entry.example), Pattern)
    assert entry.meaning
    assert all(parameter.name in entry.meaning for parameter in entry.parameters)


@pytest.mark.parametrize("name", NAMED)
def test_every_named_pattern_has_its_line_in_the_documentation(name, request):
    page = request.config.rootpath / "docs" / "components" / "patterns.md"
    assert f"`{name}" in page.read_text(encoding="utf-8")


def test_a_registered_pattern_can_be_written_shrunk_and_joined(table):
    def band(near: int, far: int) -> Pattern:
        return Pattern((Clause(distance_low=near, distance_high=far),))

    register(
        "band",
        band,
        meaning="keys between `near` and `far` positions back",
        example="band(4, far=16)",
        least={"near": 0},
        smaller=smaller_by(far=2),
    )
    assert parse("causal & band(0, far=7)") == sliding(8)
    assert shrink_text("band(2, far=64)", 8) == "band(2, far=8)"
    with pytest.raises(PatternError, match="'band' is registered already"):
        register("band", band, meaning="again", example="band(1, 2)")


@pytest.mark.parametrize("name", ["Band", "two words", "", "2d", "bänd", "a-b"])
def test_a_name_that_the_text_form_could_not_read_is_refused(table, name):
    with pytest.raises(PatternError, match="cannot name a pattern"):
        register(name, lambda: sliding(2), meaning="nothing", example="nothing")
