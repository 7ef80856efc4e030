"""`vitruvius show --backends`: what computes the attention of each block."""

from __future__ import annotations

import json

import pytest


@pytest.mark.slow
def test_show_says_which_backend_each_block_gets_and_why(vitruvius):
    done = vitruvius("show", "longcontext", "--backends")
    assert done.returncode == 0
    header, *rows = done.stdout.split("\n\n")[0].splitlines()
    assert " ".join(header.split()) == (
        "block sublayer train cpu infer cpu decode cpu train cuda infer cuda decode cuda terms sees"
    )
    assert [row.split()[:3] for row in rows] == [
        ["local", "mixer", "chunked"],
        ["dilated", "mixer", "chunked"],
        ["full", "mixer", "chunked"],
    ]
    assert "memory linear in the length" in done.stdout
    assert done.stderr.endswith("next: vitruvius size longcontext\n")


@pytest.mark.slow
def test_the_backends_are_data_too(vitruvius):
    asked, unasked = (
        json.loads(vitruvius("show", "tiny-llama", "--json", *more).stdout) for more in (["--backends"], [])
    )
    assert unasked["backends"] is None
    (block,) = asked["backends"]
    assert (block["block"], block["sees"], block["infer_cpu"]["backend"]) == ("layer", "causal", "sdpa")
    assert block["infer_cpu"]["why"]


def test_a_table_and_a_drawing_do_not_share_standard_output(vitruvius):
    done = vitruvius("show", "tiny-llama", "--backends", "--svg", "-")
    assert done.returncode == 2
    assert "both --backends and --svg -" in done.stderr
