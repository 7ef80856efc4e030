"""Known results: what is trained is what is said, and what is printed is what was measured."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from vitruvius.cli.lab import NAMES
from vitruvius.cli.lab import command as lab
from vitruvius.errors import RunError, RunLockedError
from vitruvius.lab import REPRODUCTIONS, reproduce
from vitruvius.lab.arms import ArmReport, Report, _measured
from vitruvius.lab.table import to_text
from vitruvius.lab.tasks import draw
from vitruvius.runs import RunFolder, RunReader
from vitruvius.spec import read_text

FLIP_FLOP = REPRODUCTIONS["flip-flop"]


def _short(reproduction=FLIP_FLOP, arms: int = 2):
    """The same with few sequences and arms, to be done in a second."""
    measures = tuple(replace(measure, sequences=20) for measure in reproduction.measures)
    return replace(reproduction, arms=reproduction.arms[:arms], measures=measures, batch=4)


def _report(means):
    arms = tuple(ArmReport(arm=arm, steps=arm.steps, values=(tuple(means[arm.name]),)) for arm in FLIP_FLOP.arms)
    return Report(reproduction=FLIP_FLOP, seeds=1, arms=arms, whole=True)


@pytest.mark.parametrize("name", list(REPRODUCTIONS))
def test_every_arm_is_a_spec_with_a_target_for_every_measure(name):
    reproduction = REPRODUCTIONS[name]
    assert reproduction.name == name
    for arm in reproduction.arms:
        architecture = read_text(reproduction.spec_of(arm)).architecture
        assert architecture.width == 64
        assert len(arm.targets) == len(reproduction.measures)
    assert sorted(REPRODUCTIONS) == sorted(NAMES)


def test_the_targets_bear_out_the_claims():
    for reproduction in REPRODUCTIONS.values():
        means = {arm.name: arm.targets for arm in reproduction.arms}
        assert all(claim.holds(means) for claim in reproduction.claims)


def test_a_claim_that_fails_is_said_and_fails_the_whole():
    targets = {arm.name: arm.targets for arm in FLIP_FLOP.arms}
    assert _report(targets).holds
    failing = _report(targets | {"path": (0.0, 30.0, 0.0)})
    assert not failing.holds
    assert "FAILS: PaTH errs" in to_text(failing)


def test_each_model_leaves_a_run_with_its_losses_and_its_record(tmp_path):
    report = reproduce(_short(), out=tmp_path, seeds=2, steps=12)
    assert [found.arm.name for found in report.arms] == ["path", "rope"]
    run = RunReader(tmp_path / "path" / "seed-1")
    record = run.record()
    assert record["status"] == "finished"
    assert record["result"]["sparse"] == report.arms[0].values[1][1]
    assert record["config"]["train"]["seed"] == 1
    assert [row["step"] for row in run.metrics()] == [10, 12]
    text = (tmp_path / "path" / "seed-1" / "record.md").read_text(encoding="utf-8")
    assert "PaTH, seed 1" in text
    assert "| weights and training sequences | 1 |" in text


def test_what_is_done_is_kept_and_another_setting_is_refused(tmp_path):
    first = reproduce(_short(arms=1), out=tmp_path, seeds=1, steps=3)
    (tmp_path / "path" / "seed-0" / "metrics.jsonl").unlink()
    again = reproduce(_short(arms=1), out=tmp_path, seeds=1, steps=3)
    assert again.arms == first.arms
    assert not (tmp_path / "path" / "seed-0" / "metrics.jsonl").exists()
    with pytest.raises(RunError, match="other settings"):
        reproduce(_short(arms=1), out=tmp_path, seeds=1, steps=4)


def test_a_model_whose_training_was_interrupted_is_trained_anew(tmp_path):
    first = reproduce(_short(arms=1), out=tmp_path, seeds=1, steps=3)
    folder = tmp_path / "path" / "seed-0"
    with RunFolder.open(folder) as run:
        run.update(status="running", finished=None, result={})
        with pytest.raises(RunLockedError):
            reproduce(_short(arms=1), out=tmp_path, seeds=1, steps=3)
    assert reproduce(_short(arms=1), out=tmp_path, seeds=1, steps=3).arms == first.arms
    assert RunReader(folder).record()["status"] == "finished"


def test_a_seed_gives_the_same_numbers_and_another_one_others(tmp_path):
    one, two = (reproduce(_short(arms=1), out=tmp_path / name, seeds=2, steps=5) for name in ("a", "b"))
    assert one.arms == two.arms

    def loss(folder: str, seed: int) -> float:
        return RunReader(tmp_path / folder / "path" / f"seed-{seed}").metrics()[0]["loss"]

    assert loss("a", 0) == loss("b", 0)
    assert loss("a", 0) != loss("a", 1)


def test_measures_count_what_a_model_gets_wrong():
    measure = replace(FLIP_FLOP.measures[0], sequences=60)
    batch = draw(measure.of, 60, torch.Generator().manual_seed(2**32))
    answers = torch.nn.functional.one_hot(batch.targets.clamp(min=0), 5).double()
    assert _measured(lambda inputs: answers, measure) == 0.0
    zeros = torch.zeros(60, 63, 5)
    zeros[..., 3] = 1.0
    counted = batch.targets >= 0
    ones = 100 * float((batch.targets[counted] == 4).double().mean())
    assert _measured(lambda inputs: zeros, measure) == pytest.approx(ones)


def test_a_run_cut_short_is_held_against_no_target(tmp_path):
    report = reproduce(_short(arms=1), out=tmp_path, seeds=1, steps=2)
    assert not report.whole
    assert report.claims() == []
    assert report.to_dict()["arms"][0]["measures"][0]["target"] is None
    assert "neither they nor the claims apply" in to_text(report)


def test_the_command_prints_a_plan_and_refuses_what_is_no_folder(tmp_path):
    planned = CliRunner().invoke(lab, ["reproduce", "parity", "--dry-run", "--json"], standalone_mode=False)
    plan = json.loads(planned.stdout)
    assert [arm["name"] for arm in plan["arms"]] == ["positive", "both", "rope"]
    assert "eigenvalues: both" in plan["arms"][1]["spec"]
    (tmp_path / "file").write_text("", encoding="utf-8")
    refused = CliRunner().invoke(lab, ["reproduce", "parity", "--out", str(tmp_path / "file")], standalone_mode=False)
    assert "is a file" in str(refused.exception)
