"""Holds what the training chapter promises against runs that `any_run` draws; prints what became of each as JSON.

python any_run_promises.py FOLDER SEED [SEED ...]           a line for each: {"seed": 3, "broken": null, ...}
python any_run_promises.py FOLDER quick SEED [SEED ...]     of small architectures, without the dearer promises

A process of its own, since runs are killed in children of it: a child of a process with many threads may hang.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "contracts")]

import any_run  # noqa: E402  # pyright: ignore[reportMissingImports]
import torch  # noqa: E402
from any_run_world import Faults, FileWatch, Told, corpora  # noqa: E402  # pyright: ignore[reportMissingImports]
from halves import final_manifest, rows  # noqa: E402  # pyright: ignore[reportMissingImports]

from vitruvius.checks.memory import measured_on  # noqa: E402
from vitruvius.cli.main import run as command  # noqa: E402
from vitruvius.errors import CorruptCheckpointError, SpecError, UsageError, VitruviusError  # noqa: E402
from vitruvius.nn.weights import load_model  # noqa: E402
from vitruvius.runs import RunReader  # noqa: E402
from vitruvius.spec import to_yaml  # noqa: E402
from vitruvius.training import TrainConfig, resume, train  # noqa: E402
from vitruvius.training.batch_worker import Updates  # noqa: E402
from vitruvius.training.request import read_request  # noqa: E402
from vitruvius.training.room import memory_of_run  # noqa: E402
from vitruvius.training.settings import EngineSettings  # noqa: E402
from vitruvius.training.shaping.signals import OF_WATCH  # noqa: E402
from vitruvius.training.stopping import StopRequest  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

ENDINGS = re.compile(
    "the update was not applied|overflows in a row|out of memory|the gradients overflow|no scale", re.IGNORECASE
)
"""What a run may say that ends before its last step, because its settings or a planted fault make it."""


FAULTS, WATCH = Faults(), FileWatch()


# ----------------------------------------------------------------------------------------------------------------------
# One run, and what must be equal


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that a run has come to which does not depend on the clock or the machine's paths."""

    ended: str
    """`finished`, or the error."""
    rows: list[dict[str, Any]]
    saved: int
    """Step of the last checkpoint."""
    manifest: str
    """Hashes of it."""

    def differs_from(self, other: Outcome, *, watched_otherwise: bool = False) -> str:
        """What is another in words; empty where nothing is. watched_otherwise: rows may have other keys."""
        if self.ended != other.ended:
            return f"it ended {self.ended!r} instead of {other.ended!r}"
        for mine, theirs in zip(self.rows, other.rows, strict=False):
            known = {key for key in {**mine, **theirs} if not (watched_otherwise and _is_watched(key))}
            keys = [key for key in known if not _same(mine.get(key), theirs.get(key))]
            if keys:
                return f"row {theirs['step']}: " + ", ".join(f"{k} {mine.get(k)} not {theirs.get(k)}" for k in keys[:5])
        if len(self.rows) != len(other.rows):
            return f"{len(self.rows)} rows instead of {len(other.rows)}"
        # Memory that runs out between two updates leaves nothing to save: a stop may then have saved more.
        is_lost = self.saved != other.saved and self.ended.startswith("out of memory")
        if self.manifest != other.manifest and not is_lost:
            mine, theirs = json.loads(self.manifest)["files"], json.loads(other.manifest)["files"]
            return f"files differ: {[name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]}"
        return ""


def _is_watched(key: str) -> bool:
    """Whether `train.watch` may be what put a key into a row; those of places are of it or of the guard's readings."""
    stem, place, _ = key.partition("/")
    return stem in OF_WATCH or (bool(place) and stem != "shape") or stem.startswith(("output_lse", "position_"))


def _same(one: Any, other: Any) -> bool:
    return one == other or (one != one and other != other)


def outcome(folder: Path, ended: str) -> Outcome:
    """What a run folder holds."""
    checkpoints = RunReader(folder).checkpoints()
    if checkpoints:
        checkpoints[-1].verify()
    steady = [{k: v for k, v in row.items() if not k.startswith("kept_bytes/")} for row in rows(folder)]
    manifest, saved = (final_manifest(folder), checkpoints[-1].step) if checkpoints else ("", 0)
    return Outcome(ended=ended, rows=steady, saved=saved, manifest=manifest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A drawn run with its places."""

    drawn: any_run.AnyRun
    config: TrainConfig
    data: Path
    folder: Path

    def begin(self, name: str, listener: Told | None = None, stop: StopRequest | None = None, **other: Any) -> str:
        """Train into a folder; how it ended. Raises what it raises before there is a run."""
        config = replace(self.config, **other)
        return self._ended(
            name,
            lambda: train(
                self.drawn.architecture,
                data=self.data,
                out=self.folder / name,
                config=config,
                listener=listener,
                stop=stop,
            ),
        )

    def go_on(
        self, name: str, changes: Any = None, listener: Told | None = None, stop: StopRequest | None = None
    ) -> str:
        """Resume; a run that was killed before there was any is begun."""
        run = self.folder / name
        if not (run / "run.json").exists():
            shutil.rmtree(run, ignore_errors=True)
            return self.begin(name, listener, stop)
        return self._ended(name, lambda: resume(run, changes=changes, listener=listener, stop=stop))

    def _ended(self, name: str, work: Callable[[], Any]) -> str:
        try:
            return work().status
        except VitruviusError as error:
            if isinstance(error, (SpecError, UsageError, CorruptCheckpointError)) or not ENDINGS.search(error.what):
                raise
            assert error.fix, error
            # Which checkpoint is the newest depends on where a run was stopped.
            said = re.sub(r"(checkpoint step-\d+ is whole|nothing is saved).*", "", error.what)
            return re.sub(r"\s+", " ", said.replace(str(self.folder / name), "RUN"))


def hold(drawn: any_run.AnyRun, folder: Path, *, quick: bool) -> str:
    """Hold every promise against a run; how it ended. Raises AssertionError with what is broken."""
    paths = corpora(folder / "data")
    hooks = tuple(replace(use, hook=use.hook.replace("HOOKS", str(folder / "data"))) for use in drawn.config.preprocess)
    here = folder / f"seed-{drawn.seed}"
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir(parents=True)
    data = paths["pairs" if drawn.wants_pairs else "text"]
    plan = Plan(drawn=drawn, config=replace(drawn.config, preprocess=hooks), data=data, folder=here)
    refused_requests(plan)
    if plan.config.engine.kind != "local":
        refused_at_start(plan)
        plan = replace(plan, config=replace(plan.config, engine=EngineSettings()))
    FAULTS.fault = drawn.fault
    WATCH.start(here / "straight")
    try:
        ended = plan.begin("straight")
    except VitruviusError as error:
        assert not (here / "straight" / "run.json").exists(), f"begun, and then: {error}"
        assert error.what, repr(error)
        assert error.fix, repr(error)
        return f"refused: {error.what}"
    operations = WATCH.seen
    straight = outcome(here / "straight", ended)
    runs_to_the_end(plan, straight)
    stopped_and_killed(plan, straight, operations)
    if ended == "finished":
        damaged(plan, straight)
        verbs(plan, straight, quick=quick)
    FAULTS.fault = None
    if not quick:
        pieces(plan, straight)
        memory(plan)
    shutil.rmtree(here)
    return ended


# ----------------------------------------------------------------------------------------------------------------------
# The promises


def refused_requests(plan: Plan) -> None:
    """What findings refuse the command refuses with exit code 2; what they accept is read from a file as it is."""
    request = {"data": str(plan.data), "out": str(plan.folder / "asked")}
    (plan.folder / "spec.yaml").write_text(to_yaml(plan.drawn.architecture), encoding="utf-8")
    file = plan.folder / "run.yaml"

    def write(settings: dict[str, Any]) -> None:
        text = json.dumps({"spec": "spec.yaml", **request, "train": settings})
        file.write_text(text.replace("HOOKS", str(plan.folder.parent / "data")), encoding="utf-8")

    if plan.drawn.refused:
        write(plan.drawn.asked)
        code, said = told("train", str(file))
        assert code == 2, f"exit code {code}: {said}"
        assert not (plan.folder / "asked").exists(), "a refused run left a folder"
        assert "Traceback" not in said, said
        assert "train." in said, said
    write(plan.drawn.settings)
    assert read_request(str(file)).config == plan.config, "a run file is read as another config"
    code, said = told("train", str(file), "--dry-run", "--json")
    assert code == 0 or (code == 2 and "fix: " in said), said


def refused_at_start(plan: Plan) -> None:
    """An engine that this launch is not."""
    try:
        plan.begin("launched")
    except VitruviusError as error:
        assert error.fix, error
    else:
        raise AssertionError(f"{plan.config.engine} went without torchrun")
    assert not (plan.folder / "launched").exists()


def runs_to_the_end(plan: Plan, straight: Outcome) -> None:
    """Every step is done and every loss is a number, unless something was planted or is to stop the run."""
    guard = plan.config.guard
    if plan.drawn.fault is None:
        bad = [row["step"] for row in straight.rows if not math.isfinite(row["loss"])]
        assert not bad, f"no fault, and no loss in steps {bad}"
        if not {guard.spike, guard.alarm} - {"note"} and plan.config.dtype != "fp16":
            assert straight.ended == "finished", straight.ended
    if straight.ended == "finished":
        assert [row["step"] for row in straight.rows] == list(range(1, plan.config.steps + 1))


def stopped_and_killed(plan: Plan, straight: Outcome, operations: int) -> None:
    """Stopped, or killed in an update or before a file operation, and resumed: the same bits."""
    changes: Any = None
    last = "finished"
    for halt in plan.drawn.halts:
        step, stop = int(halt.at * (plan.config.steps + 1)), StopRequest()
        if halt.how == "stop":
            if step == 0:
                stop.ask(signal.SIGTERM)
            last = resumed(plan, changes, Told(step, lambda stop=stop: stop.ask(signal.SIGTERM)), stop)
        else:
            at_file = halt.how == "kill at a file"
            killed(plan, changes, row=-1 if at_file else step, file=int(halt.at * operations) if at_file else -1)
        changes = dict(halt.changes)
        if plan.drawn.fault is not None and plan.drawn.fault.kind == "memory":
            changes.pop("recovery", None)  # it says what a lack of memory does
    last = resumed(plan, changes, None, None)
    watched = any("watch" in halt.changes for halt in plan.drawn.halts)
    difference = outcome(plan.folder / "halted", last).differs_from(straight, watched_otherwise=watched)
    assert not difference, f"halted ({', '.join(h.how for h in plan.drawn.halts)}) and resumed: {difference}"


def resumed(plan: Plan, changes: Any, listener: Told | None, stop: StopRequest | None) -> str:
    """Begin or go on; a change that does not go together with the rest is refused, and nothing is lost by it."""
    try:
        return plan.go_on("halted", changes, listener, stop)
    except (SpecError, UsageError) as error:
        assert changes, error
        if isinstance(error, SpecError):
            for finding in error.findings:
                any_run.check_finding(finding)
        else:
            assert error.fix, error
        return plan.go_on("halted", None, listener, stop)


def killed(plan: Plan, changes: Any, *, row: int, file: int) -> None:
    """The same in a child, which ends by SIGKILL or, where that moment does not come, by itself."""

    def work() -> None:
        WATCH.start(plan.folder / "halted", kill_at=file)
        listener = Told(row, lambda: os.kill(os.getpid(), signal.SIGKILL))
        resumed(plan, changes, listener, None)

    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 (the child ends here either way)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "a child failed; its traceback is on stderr"


def damaged(plan: Plan, straight: Outcome) -> None:
    """One flipped bit in the newest checkpoint: it is named, and the one before is taken."""
    dice = random.Random(plan.drawn.seed)
    run = shutil.copytree(plan.folder / "straight", plan.folder / "damaged")
    checkpoints = RunReader(run).checkpoints()
    file = dice.choice(sorted(checkpoints[-1].path.iterdir()))
    content = bytearray(file.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    file.write_bytes(content)
    listener = Told()
    try:
        ended = plan.go_on("damaged", None, listener)
    except CorruptCheckpointError as error:
        assert len(checkpoints) == 1, f"{len(checkpoints)} checkpoints, and: {error}"
        assert str(file) in str(error), error
        assert error.fix, error
        return
    assert len(checkpoints) > 1, "there was one checkpoint, and it was damaged"
    assert any(f"is damaged ({file}" in note for note in listener.notes), (file.name, listener.notes)
    difference = outcome(run, ended).differs_from(straight)
    assert not difference, f"a flipped bit in {file.name}, and then: {difference}"


def verbs(plan: Plan, straight: Outcome, *, quick: bool) -> None:
    """What a run folder is for."""
    dice = random.Random(plan.drawn.seed)
    run, halted, model = (str(plan.folder / name) for name in ("straight", "halted", "model"))
    step = str(dice.choice(straight.rows)["step"])
    weights = "ema" if plan.config.ema is not None and dice.random() < 0.5 else "last"
    prompt = "The [MASK]" if plan.config.objective == "masked-lm" else "The"
    asked = [
        ["runs", "show", run, "--verify"],
        ["runs", "compare", run, halted],
        ["runs", "samples", run, "--step", step, "--text"],
        ["runs", "export", run, "--out", model, "--weights", weights],
        ["generate", model, "--prompt", prompt, "--max-tokens", "3", "--seed", "1"],
    ]
    for words in asked[3:] if quick else asked:
        code, said = told(*words)
        assert code == 0, f"vitruvius {' '.join(words[:2])}: exit code {code}: {said}"
    if weights == "last":
        again, before = (load_model(each, dtype=plan.config.dtype).state_dict() for each in (model, run))
        assert again.keys() == before.keys()
        unequal = [name for name in again if not torch.equal(again[name], before[name])]
        assert not unequal, f"exported otherwise: {unequal}"


def pieces(plan: Plan, straight: Outcome) -> None:
    """The same batch in another number of pieces has the same loss, up to the order of sums."""
    batch, now = plan.config.batch, plan.config.accumulate
    others = [n for n in any_run_divisors(batch) if n != now]
    text = to_yaml(plan.drawn.architecture)
    if not others or "expert-choice" in text or "capacity" in text or plan.drawn.fault is not None:
        return
    stop = StopRequest()
    plan.begin(
        "pieces", Told(1, lambda: stop.ask(signal.SIGTERM)), stop, accumulate=random.Random(batch).choice(others)
    )
    loss, whole = rows(plan.folder / "pieces")[0]["loss"], straight.rows[0]["loss"]
    most = 2e-6 if plan.config.dtype == "fp32" else 1e-3
    assert abs(loss / whole - 1) <= most, f"in pieces {loss}, whole {whole} ({abs(loss / whole - 1):.1e})"


def any_run_divisors(number: int) -> list[int]:
    """Every number of pieces that a batch can be computed in."""
    return [n for n in range(1, number + 1) if number % n == 0]


def memory(plan: Plan) -> None:
    """A step of some size takes what the plan says, and no less than it is refused for."""
    if plan.config.curriculum or plan.config.shape or plan.config.packing != "stream" or plan.drawn.seed % 4:
        return
    architecture = plan.drawn.architecture
    config = replace(plan.config, context=architecture.context, batch=24 * plan.config.accumulate)
    said = memory_of_run(architecture, config)
    took = measured_on("cpu", lambda: Updates(architecture, config, str(plan.data))).peak
    share = 0.05 if config.dtype == "fp16" else 0.02
    # docs/training/memory.md: where documents are kept apart, masks are counted at their most.
    over = 0.2 if config.documents == "separate" else share
    assert said.peak - said.unsure <= took * (1 + over) + SLACK, f"refused at {said.peak:,} less, and it takes {took:,}"
    assert took <= said.peak * (1 + share) + SLACK, f"planned {said.peak:,}, and it takes {took:,}"


SLACK = 2**19
"""Bytes that a plan may be off whatever the size of a step: what a head takes to add up its gradient."""


def told(*words: str) -> tuple[int, str]:
    """Exit code and output of the command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command(words)
    return code, out.getvalue() + err.getvalue()


def main(folder: Path, *words: str) -> None:
    """Every seed in turn; a line of JSON for each."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    quick = words[0] == "quick"
    for seed in map(int, words[1:] if quick else words):
        began, line = time.perf_counter(), {"seed": seed, "ended": None, "broken": None}
        try:
            line["ended"] = hold(any_run.draw(seed, quick=quick), folder, quick=quick)
        except Exception as error:  # noqa: BLE001 (whatever it is, the other seeds go on)
            line["broken"] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        line["seconds"] = round(time.perf_counter() - began, 2)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
