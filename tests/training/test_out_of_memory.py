"""A run whose memory runs out goes on in smaller pieces, to the bits of a run that had them from there on."""

from __future__ import annotations

import json
import math
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import torch

from vitruvius.errors import RunError
from vitruvius.runs import RunReader
from vitruvius.training import TrainConfig, resume
from vitruvius.training.averaging import WeightAverage
from vitruvius.training.master import MasterOptimizer
from vitruvius.training.objectives.base import TokenObjective
from vitruvius.training.pieces import LEFT_FILE, Pieces, fitting
from vitruvius.training.settings import Guard, Recovery, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CPU = "[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes."
ERRORS: dict[str, Callable[[], Exception]] = {
    "cpu": lambda: RuntimeError(CPU),
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 KiB."),
    "python": MemoryError,
}


class _Fails(torch.autograd.Function):
    """Runs out of memory in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        del ctx
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        del ctx, grad
        torch.rand(7)
        raise RuntimeError(CPU)


@contextmanager
def room_for(rows: int, *, since: int = 1, error: str = "cpu", at: str = "forward") -> Iterator[None]:
    """Memory for passes over so many rows, from a pass on (from 1); larger ones fail when most of them is done."""
    passes, train = 0, TokenObjective.train

    def limited(self: Any, model: Any, piece: Any) -> Any:
        nonlocal passes
        passes += 1
        result = train(self, model, piece)
        if passes >= since and len(piece.tokens) > rows:
            if at == "forward":
                torch.rand(7)  # as dropout would have
                raise ERRORS[error]()  # noqa: RSE102 (it makes one)
            object.__setattr__(result, "objective", _Fails.apply(result.objective))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenObjective, "train", limited)
        yield


@contextmanager
def in_pieces(pieces: int, *, since: int) -> Iterator[None]:
    """Batches in so many pieces from a step on, where nothing has failed."""
    before = Pieces.before

    def cut(self: Pieces, step: int) -> None:
        if step >= since:
            self.accumulate = max(self.accumulate, pieces)
        before(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pieces, "before", cut)
        yield


def bits(run: Path, step: int = 6) -> dict[str, Any]:
    """The tensors of a checkpoint by their hashes, and its state."""
    folder = run / "checkpoints" / f"step-{step}"
    files = json.loads((folder / "manifest.json").read_text())["files"]
    state = json.loads((folder / "state.json").read_text())
    return {
        "files": {name: entry["sha256"] for name, entry in files.items() if name != "state.json"},
        "state": {name: value for name, value in state.items() if name != "belongs_to"},
    }


def rows_of(run: Path) -> list[dict[str, Any]]:
    """Rows of metrics without what was timed."""
    timed = re.compile(r"second|_ms|_share|memory|bytes_peak")
    return [{k: v for k, v in row.items() if not timed.search(k)} for row in RunReader(run).metrics()]


def shortages(run: Path) -> list[dict[str, Any]]:
    return [event for event in RunReader(run).events() if event["kind"] == "out-of-memory"]


class Hearing:
    """A listener that keeps the notes."""

    def __init__(self, *, dies_after: int | None = None) -> None:
        self.notes: list[str] = []
        self.dies_after = dies_after

    def note(self, text: str) -> None:
        self.notes.append(text)

    def row(self, row: dict[str, Any]) -> None:
        if row["step"] == self.dies_after:
            raise SystemExit(9)

    def started(self, *, step: int, steps: int) -> None: ...
    def saved(self, checkpoint: Any) -> None: ...
    def ended(self) -> None: ...


@pytest.mark.slow
@pytest.mark.parametrize("error", sorted(ERRORS))
def test_a_run_that_never_has_room_is_the_run_with_smaller_pieces_bit_for_bit(error, run_of, dense) -> None:
    with room_for(2, error=error):
        halved = run_of(dense, "halved").run
    smaller = run_of(dense, "smaller", accumulate=2).run
    assert bits(halved) == bits(smaller)
    assert rows_of(halved) == rows_of(smaller)


@pytest.mark.parametrize("at", ["forward", "backward"])
def test_from_the_step_on_that_runs_out_it_is_the_run_with_smaller_pieces_bit_for_bit(at, run_of, mixture) -> None:
    with room_for(2, since=4, at=at):
        halved = run_of(mixture, "halved").run
    with in_pieces(2, since=4):
        smaller = run_of(mixture, "smaller").run
    assert bits(halved) == bits(smaller)
    assert rows_of(halved) == rows_of(smaller)
    assert [event["step"] for event in shortages(halved)] == [4]


@pytest.mark.slow
def test_what_an_earlier_piece_of_the_same_update_has_left_is_taken_back(run_of, mixture) -> None:
    # Passes 1 to 4 are those of two updates in two pieces; the second piece of the third update fails.
    with room_for(1, since=6):
        halved = run_of(mixture, "halved", accumulate=2).run
    with in_pieces(4, since=3):
        smaller = run_of(mixture, "smaller", accumulate=2).run
    assert bits(halved) == bits(smaller)


def test_it_differs_from_the_run_that_has_room_by_the_order_of_sums_alone(run_of, dense) -> None:
    with room_for(2, since=3):
        halved = run_of(dense, "halved", dtype="fp32").run
    straight = run_of(dense, "straight", dtype="fp32").run
    for one, other in zip(rows_of(halved), rows_of(straight), strict=True):
        assert one["samples"] == other["samples"]
        assert one["tokens"] == other["tokens"]
        assert one["lr"] == other["lr"]
        assert one["loss"] == pytest.approx(other["loss"], rel=2e-6)
        assert one["loss"] == other["loss"] or one["step"] >= 3


def test_detectors_and_what_is_watched_see_the_update_that_was_applied(run_of, mixture) -> None:
    looked = {"guard": Guard(every=1), "watch": Watch(every=1)}
    with room_for(2, since=2):
        halved = run_of(mixture, "halved", steps=3, **looked).run
    with in_pieces(2, since=2):
        smaller = run_of(mixture, "smaller", steps=3, **looked).run
    assert rows_of(halved) == rows_of(smaller)


@pytest.mark.slow
def test_the_event_and_the_line_say_what_happened(run_of, dense) -> None:
    heard = Hearing()
    with room_for(1, since=3):
        run = run_of(dense, listener=heard, batch=6).run
    first, second = shortages(run)
    told = {name: first[name] for name in ("step", "where", "asked_bytes", "accumulate", "next_accumulate", "process")}
    assert told == {
        "step": 3, "where": "update", "asked_bytes": 4096, "accumulate": 1, "next_accumulate": 2, "process": 0,
    }  # fmt: skip
    assert (second["accumulate"], second["next_accumulate"], second["samples_at_a_time"]) == (2, 6, 1)
    notes = [note for note in heard.notes if "out of memory" in note]
    assert notes[0].startswith("warning: step 3: out of memory (4.096 KB asked for): the batch is computed again")
    assert "in 2 pieces of 3 samples instead of 1 of 6 (train.accumulate=2)" in notes[0]
    assert "in 6 pieces of 1 sample instead of 2 of 3" in notes[1]


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_smaller_pieces_without_falling_over_again(run_of, dense) -> None:
    with room_for(2, since=3):
        straight = run_of(dense, "straight").run
    with room_for(2, since=3), pytest.raises(SystemExit):
        run_of(dense, "killed", listener=Hearing(dies_after=5))
    killed = straight.with_name("killed")
    with room_for(2):
        resume(killed)
    assert len(shortages(killed)) == 1
    assert bits(killed) == bits(straight)
    assert rows_of(killed) == rows_of(straight)


@pytest.mark.slow
def test_it_does_so_when_it_died_before_a_checkpoint_knew_of_it(run_of, dense) -> None:
    with room_for(2, since=3):
        straight = run_of(dense, "straight").run
    with room_for(2, since=3), pytest.raises(SystemExit):
        run_of(dense, "killed", listener=Hearing(dies_after=3))
    killed = straight.with_name("killed")
    assert max(checkpoint.step for checkpoint in RunReader(killed).checkpoints()) == 2
    resume(killed)  # with room: what it does follows from its folder alone
    assert bits(killed) == bits(straight)
    assert rows_of(killed) == rows_of(straight)


def test_events_that_were_written_by_somebody_else_are_no_stumbling_block(run_of, dense) -> None:
    with pytest.raises(SystemExit):
        run_of(dense, listener=Hearing(dies_after=3))
    run = run_of(dense, "straight").run.with_name("run")
    odd = [{"step": "3", "next_accumulate": 2}, {"step": 3, "next_accumulate": True}, {"step": 3}]
    odd += [{"step": 4, "next_accumulate": 0}, {"step": 3, "next_accumulate": 3}]
    with (run / "events.jsonl").open("a") as file:
        file.writelines(json.dumps({"kind": "out-of-memory", "where": "update", **each}) + "\n" for each in odd)
    (run / LEFT_FILE).write_text("[1, 2")
    assert resume(run).status == "finished"
    assert RunReader(run).checkpoints()[-1].path.joinpath("state.json").read_text().count('"accumulate": 4') == 1


@pytest.mark.slow
def test_a_sample_that_does_not_fit_by_itself_ends_the_run_with_ways_out_and_saves_what_was_done(run_of, dense) -> None:
    with room_for(0, since=4), pytest.raises(RunError) as ended:
        run_of(dense)
    said = str(ended.value)
    assert "step 4: out of memory (4.096 KB asked for) with one sample at a time" in said
    assert "checkpoint step-3 is whole" in said
    for way in ("--resume", "train.checkpointing=layers", "--context 16", "adamw-8bit"):
        assert way in ended.value.fix
    run = ended.value.where
    assert [event["next_accumulate"] for event in shortages(run)] == [2, 4]
    assert RunReader(run).record()["status"] == "failed"
    assert resume(run).status == "finished"


def test_a_run_that_asks_for_it_stops_with_its_checkpoint_intact(run_of, dense) -> None:
    with room_for(2, since=4), pytest.raises(RunError, match="checkpoint step-2 is whole") as ended:
        run_of(dense, recovery=Recovery(out_of_memory="stop"))
    assert shortages(ended.value.where) == []
    assert resume(ended.value.where).status == "finished"


def test_weights_that_may_be_half_changed_are_not_trained_on(run_of, dense, monkeypatch) -> None:
    straight = run_of(dense, "straight").run
    apply = MasterOptimizer.apply

    def fails(self: MasterOptimizer, *args: Any, **kwargs: Any) -> None:
        apply(self, *args, **kwargs)
        if self.steps == 4:
            raise RuntimeError(CPU)

    with monkeypatch.context() as patch:
        patch.setattr(MasterOptimizer, "apply", fails)
        with pytest.raises(RunError, match="step 4, while the optimizer changed the weights: checkpoint step-2") as end:
            run_of(dense)
    resume(end.value.where)
    assert bits(straight.with_name("run")) == bits(straight)


def test_memory_that_runs_out_between_updates_ends_the_run_in_our_words(run_of, dense, monkeypatch) -> None:
    def fails(self: WeightAverage, optimizer: MasterOptimizer) -> None:
        raise MemoryError

    monkeypatch.setattr(WeightAverage, "_put", fails)
    with pytest.raises(RunError, match=r"out of memory \(MemoryError\), after step 2: nothing is saved"):
        run_of(dense, ema=0.9, eval_every=2)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_validation_is_done_in_fewer_windows_at_a_time(rows, run_of, dense, monkeypatch) -> None:
    straight = run_of(dense, "straight", eval_every=2, eval_batches=2, batch=4).run
    judge = TokenObjective.judge

    def limited(self: Any, model: Any, piece: Any) -> Any:
        if len(piece.tokens) > rows:
            raise RuntimeError(CPU)
        return judge(self, model, piece)

    heard = Hearing()
    monkeypatch.setattr(TokenObjective, "judge", limited)
    run = run_of(dense, listener=heard, eval_every=2, eval_batches=2, batch=4).run
    assert bits(run)["files"] == bits(straight)["files"]
    for one, other in zip(rows_of(run), rows_of(straight), strict=True):
        assert one.get("val_tokens") == other.get("val_tokens")
        assert one.get("val_loss", 0.0) == pytest.approx(other.get("val_loss", 0.0), rel=1e-3)
    event = shortages(run)[0]
    assert (event["where"], event["windows"], event["next_windows"]) == ("validation", 4, 2)
    assert any("2 instead of 4 windows are scored at a time" in note for note in heard.notes)
    assert bits(run)["state"]["companions"]["pieces"] == {"accumulate": 1, "windows": 1 if rows == 1 else 2}


@pytest.mark.slow
def test_a_window_that_does_not_fit_by_itself_ends_the_run(run_of, dense, monkeypatch) -> None:
    def fails(self: Any, model: Any, piece: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(TokenObjective, "judge", fails)
    with pytest.raises(
        RunError, match=r"validation after step 4: out of memory \(MemoryError\) with one window at a time"
    ):
        run_of(dense, eval_every=4)


def test_an_error_that_is_none_of_memory_goes_on_its_way(run_of, dense, monkeypatch) -> None:
    def fails(self: Any, model: Any, piece: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(TokenObjective, "train", fails)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run_of(dense)


def test_pieces_divide_the_share_of_every_process() -> None:
    for batch in range(1, 40):
        for shares in (n for n in range(1, batch + 1) if batch % n == 0):
            for wanted in range(1, 45):
                found = fitting(batch, shares, at_least=wanted)
                assert batch % (found * shares) == 0
                assert found >= min(wanted, batch // shares)


def test_state_that_is_none_is_refused() -> None:
    pieces = Pieces(TrainConfig())
    for wrong in (
        {},
        {"accumulate": 0},
        {"accumulate": True},
        {"accumulate": 2, "windows": -1},
        {"accumulate": math.inf},
    ):
        with pytest.raises(ValueError, match="no whole number from 1 on"):
            pieces.restore(wrong)
