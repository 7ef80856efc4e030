"""ZClip: against the algorithm of its paper written out, on recorded norms and an injected spike."""

from __future__ import annotations

import itertools
import math

import pytest
from halves import StopAfter, final_manifest, rows  # pyright: ignore[reportMissingImports]
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import SpecError
from vitruvius.nn import Model
from vitruvius.training import resume
from vitruvius.training.checking import from_plain
from vitruvius.training.clipping import ZClip
from vitruvius.training.settings import ZClipSettings

# Gradient norms of a tiny Llama on text, batch 4, lr 3e-3, and two spikes.
RECORDED = [
    *(1.5183, 1.5035, 1.4770, 1.4262, 1.4085, 1.4112, 1.3571, 1.3394, 1.3266, 1.3125, 1.2878, 1.2969, 1.2853, 1.2789),
    *(1.2547, 1.2681, 1.2419, 1.2365, 1.2512, 1.2108, 1.2033, 1.1871, 1.1924, 1.1605, 1.1712, 1.1480, 1.1533, 9.7310),
    *(1.1392, 1.1415, 1.1207, 1.1033, 1.1118, 1.0954, 24.518, 1.0802, 1.0917, 1.0655, 1.0701, 0.2034, 1.0512, 1.0467),
]


def by_the_paper(norms, z_limit=2.5, alpha=0.97, warmup=25):
    """Kumar et al., 2025: algorithm 1 with reciprocal clipping, one line after another."""
    mean = variance = None
    first, clipped = [], []
    for g in norms:
        if mean is None:
            first.append(g)
            clipped.append(None)
            if len(first) == warmup:
                mean = sum(first) / warmup
                variance = sum((x - mean) ** 2 for x in first) / warmup
            continue
        sigma = math.sqrt(variance)
        z = (g - mean) / (sigma + 1e-6)
        star = g
        if z > z_limit:
            xi = z_limit**2 / z
            star = mean + xi * sigma
        clipped.append(star if star != g else None)
        mean = alpha * mean + (1 - alpha) * star
        variance = alpha * variance + (1 - alpha) * (star - mean) ** 2
    return clipped


def limits(norms, **settings):
    clip, found = ZClip(ZClipSettings(**settings)), []
    for norm in norms:
        found.append(clip.limit(norm))
        clip.applied(norm)
    return found


def same(one, other):
    assert [each is None for each in one] == [each is None for each in other]
    assert [each for each in one if each is not None] == pytest.approx([e for e in other if e is not None], rel=1e-12)


@pytest.mark.parametrize(("z", "decay", "warmup"), [(2.5, 0.97, 25), (1.0, 0.9, 5), (4.0, 0.0, 2)])
def test_limits_on_recorded_norms_are_those_of_the_paper(z, decay, warmup):
    found = limits(RECORDED, z=z, decay=decay, warmup=warmup)
    same(found, by_the_paper(RECORDED, z, decay, warmup))
    assert any(each is not None for each in found)


def test_the_further_out_a_norm_is_the_closer_to_the_mean_it_comes():
    clip = ZClip(ZClipSettings())
    for norm in RECORDED[:25]:
        clip.applied(norm)
    outliers = [clip.limit(norm) for norm in (2.0, 5.0, 100.0, 1e9)]
    mean = sum(RECORDED[:25]) / 25
    assert all(mean < later < earlier for earlier, later in itertools.pairwise(outliers))
    assert outliers[-1] == pytest.approx(mean, rel=1e-6)
    assert clip.limit(0.0) is None


@given(st.lists(st.floats(min_value=0.0, max_value=1e6), min_size=1, max_size=60))
def test_whatever_the_norms_a_limit_lowers_them_and_the_paper_agrees(norms):
    found = limits(norms, warmup=4)
    same(found, by_the_paper(norms, warmup=4))
    for norm, limit in zip(norms, found, strict=True):
        assert limit is None or 0.0 <= limit <= norm


@given(st.lists(st.floats(min_value=0.0, max_value=1e6), max_size=40), st.integers(0, 40))
def test_a_state_goes_on_to_the_same_limits(norms, cut):
    whole, first = ZClip(ZClipSettings(warmup=5)), ZClip(ZClipSettings(warmup=5))
    for norm in norms[:cut]:
        first.applied(norm)
    second = ZClip(ZClipSettings(warmup=5))
    second.restore(first.state())
    for norm in norms[:cut]:
        whole.applied(norm)
    for norm in norms[cut:]:
        assert whole.limit(norm) == second.limit(norm)
        whole.applied(norm)
        second.applied(norm)
    assert whole.state() == second.state()


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"first": [1.0], "mean": 1.0, "variance": 0.0},
        {"first": [], "mean": math.nan, "variance": 0.0},
        {"first": [], "mean": 1.0, "variance": -1.0},
        {"first": [1.0] * 25, "mean": None, "variance": 0.0},
        {"first": ["1"], "mean": None, "variance": 0.0},
        {"first": [], "mean": 1.0, "variance": None},
    ],
)
def test_a_damaged_state_is_refused(wrong):
    with pytest.raises(ValueError, match=r"norms|mean|variance"):
        ZClip(ZClipSettings()).restore(wrong)


# ----------------------------------------------------------------------------------------------------------------------
# In a run

LONG = {"steps": 24, "checkpoint_every": 8, "keep": 3, "schedule": "constant", "warmup": 1, "final_eval_batches": 1}
ZCLIP = {"clipping": "zclip", "clip": None, "zclip": ZClipSettings(warmup=8)}


@pytest.fixture
def spike(monkeypatch):
    """Multiplies the training loss of one update, by its number."""
    original, passes, at = Model.loss, {"n": 0}, {"step": 0, "factor": 1.0}

    def loss(self, *args, **kwargs):
        found = original(self, *args, **kwargs)
        if kwargs.get("per_token"):
            return found
        passes["n"] += 1
        return found * at["factor"] if passes["n"] == at["step"] else found

    monkeypatch.setattr(Model, "loss", loss)

    def plant(step, factor):
        passes["n"] = 0
        at.update(step=step, factor=factor)

    return plant


def test_a_spike_is_scaled_down_to_about_the_norms_before_it(dense, run_of, spike):
    spike(16, 300.0)
    found = rows(run_of(dense, **LONG, **ZCLIP).run)
    before = [row["grad_norm"] for row in found[:15]]
    assert found[15]["grad_norm"] > 100 * max(before)
    assert min(before) < found[15]["clipped_to"] < max(before)
    same([row.get("clipped_to") for row in found], by_the_paper([row["grad_norm"] for row in found], warmup=8))
    assert "clipped_to" not in found[16], "one spike makes no room and no fear"


@pytest.mark.slow
def test_a_spike_moves_the_weights_no_further_than_another_update(dense, run_of, spike):
    """What it is for: with moments of their own the weights recover from a spike only slowly."""
    losses = {}
    for clipping in ("zclip", "none"):
        spike(16, 3000.0)
        chosen = ZCLIP if clipping == "zclip" else {"clip": None}
        losses[clipping] = rows(run_of(dense, clipping, **LONG, **chosen).run)[-1]["loss"]
    spike(0, 1.0)
    straight = rows(run_of(dense, "straight", **LONG, **ZCLIP).run)[-1]["loss"]
    assert abs(losses["zclip"] - straight) < 0.25 * abs(losses["none"] - straight)


@pytest.mark.slow
def test_clip_is_a_ceiling_above_it_and_works_during_its_warm_up(dense, run_of):
    found = rows(run_of(dense, **LONG, **{**ZCLIP, "clip": 0.25}).run)
    assert {row["clipped_to"] for row in found} == {0.25}
    assert all("clipped_to" not in row for row in rows(run_of(dense, "none", **LONG, clip=None).run))
    high = rows(run_of(dense, "high", **LONG, clip=1e6).run)
    assert all("clipped_to" not in row for row in high)


@pytest.mark.parametrize("after", [4, 12])
def test_a_resumed_run_clips_the_same_during_and_after_its_warm_up(after, dense, run_of):
    settings = {**LONG, **ZCLIP, "zclip": ZClipSettings(warmup=6, z=0.1, decay=0.5)}
    straight, listener = run_of(dense, "straight", **settings), StopAfter(after)
    halved = run_of(dense, "halved", stop=listener.stop, listener=listener, **settings)
    assert resume(halved.run).status == "finished"
    assert rows(halved.run) == rows(straight.run)
    assert any("clipped_to" in row for row in rows(straight.run)[after + 1 :])
    assert final_manifest(halved.run) == final_manifest(straight.run)


def test_limits_for_zclip_without_it_and_a_warm_up_longer_than_the_run_are_refused():
    for plain, path in (
        ({"zclip": {"z": 3.0}}, "train.zclip"),
        ({"clipping": "zclip", "steps": 20}, "train.zclip.warmup"),
        ({"clipping": "zclip", "zclip": {"warmup": 1}}, "train.zclip.warmup"),
        ({"clipping": "zscore"}, "train.clipping"),
    ):
        with pytest.raises(SpecError) as caught:
            from_plain(plain)
        assert [finding.path for finding in caught.value.findings] == [path]
