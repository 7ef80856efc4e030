"""`vitruvius demo`: one small file becomes a picture, a bill, a proof, a training run and text.

Each step is a command that the user could type, and is shown as one.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.output import clean, emit, next_step, say, wants_color
from vitruvius.cli.verbs import ExampleCommand
from vitruvius.errors import UsageError, VitruviusError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.report.run_page import CheckRow, Sample
    from vitruvius.spec import Architecture

PRESET = "tiny-llama-moe"
NAME = "my-arch"
STEPS = 400
BATCH = 16
CONTEXT = 256
EXPECTED = (1.85, 2.25)
"""Bits per byte on the held-out text that a full run reaches; the corpus differs a little between Python versions."""
PROMPTS = (("def __init__(self", 0.8), ("import ", 0.8), ("    for i in ", 0.2))
MARKER = ".vitruvius-demo"


@click.command(
    cls=ExampleCommand,
    help="Take one small file through everything: picture, bill, proof, training on real source code, text.",
    examples=[
        "vitruvius demo",
        "vitruvius demo --out /tmp/demo",
        "vitruvius demo --steps 60",
    ],
)
@click.option("--out", default="demo", show_default=True, help="Folder for what the demo writes.")
@click.option("--steps", type=click.IntRange(1, 100_000), default=STEPS, show_default=True, help="Training steps.")
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Draws weights and data order."
)
def command(*, out: str, steps: int, seed: int) -> int:
    """Run the journey, then write the page."""
    folder = _own(Path(out))
    spec, corpus, run = folder / f"{NAME}.yaml", folder / "corpus", folder / "run"

    _title("1", "A published design, and what it really costs")
    _verb("size", "llama-moe")

    _title("2", "A small design of the same kind, from one file")
    _verb("new", NAME, "--from", PRESET, "--out", str(folder))
    emit(clean(spec.read_text(encoding="utf-8")))
    _verb("show", str(spec))
    _verb("size", str(spec))

    _title("3", "Is the model right?")
    checks = _check(spec)

    _title("4", "Real text: the source of Python's standard library")
    _verb("data", "prepare", "python-stdlib", "--vocab", "1024", "--out", str(corpus))
    scores = _baselines(corpus)

    _title("5", "Training")
    budget = ["--steps", str(steps), "--batch", str(BATCH), "--context", str(CONTEXT), "--seed", str(seed)]
    # Every validation scores all of the held-out text, so that the points of the curve are comparable.
    whole = ["--set", "train.eval_batches=null", "--set", f"train.eval_every={max(1, steps // 8)}"]
    _verb("train", str(spec), "--data", str(corpus), "--out", str(run), *budget, *whole)
    scores = _curve(run, scores, full=steps == STEPS)

    _title("6", "What it writes")
    samples = [_sample(run, prompt, temperature) for prompt, temperature in PROMPTS]

    page = _page(folder, spec, run, checks, scores, samples)
    _title("7", "The same on one page")
    emit(f"  {page}")
    next_step(f"vitruvius show longcontext, or change {spec} and check, train and compare again")
    return 0


def _own(folder: Path) -> Path:
    """A folder that belongs to the demo, empty of an earlier one; nobody else's folder is touched."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", where="--out", fix="name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise UsageError(
            f"{folder} holds something that is not a demo's", where="--out", fix="name an empty or new folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text("made by vitruvius demo; running it again replaces what is here\n", encoding="utf-8")
    for name in ("corpus", "run"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / f"{NAME}.yaml").unlink(missing_ok=True)
    return folder


def _title(number: str, text: str) -> None:
    line = f"{number}. {text}"
    if wants_color():
        line = f"\x1b[1m{line}\x1b[0m"
    emit(f"\n{line}\n")


class _Tee:
    """A stdout that keeps what it shows."""

    def __init__(self, shown: Any) -> None:
        self.shown = shown
        self.parts: list[str] = []

    def write(self, text: str) -> int:
        self.parts.append(text)
        return self.shown.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.shown, name)


def _verb(*argv: str) -> str:
    """Show and run a command; return what it printed. Raises VitruviusError when it fails."""
    from vitruvius.cli.main import run

    emit(f"$ vitruvius {shlex.join(argv)}")
    sys.stdout.flush()
    tee = _Tee(sys.stdout)
    with redirect_stdout(tee):  # pyright: ignore[reportArgumentType]
        code = run(argv)
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise VitruviusError(f"the demo stops here: vitruvius {argv[0]} left with {code}")
    emit("")
    return "".join(tee.parts)


def _check(spec: Path) -> list[CheckRow]:
    from vitruvius.checks import check
    from vitruvius.report.run_page import CheckRow
    from vitruvius.spec import read

    emit(f"$ vitruvius check {spec}")
    report = check(read(spec))
    emit(clean(str(report)))
    if not report.passed:
        raise VitruviusError("the demo stops here: a check failed")
    return [CheckRow(name=row.name, passed=row.passed, detail=row.detail) for row in report.checks if row.applies]


def _baselines(corpus: Path) -> list[tuple[str, float]]:
    """Bits per byte of simple predictors of the held-out text."""
    from vitruvius.data import TokenShards
    from vitruvius.data.baselines import baselines

    found = baselines(TokenShards.open(corpus, "train"), TokenShards.open(corpus, "validation"))
    words = {
        "unigram": "unigram over the same tokens",
        "gzip": "gzip -9 of the held-out text",
        "trigram": "trigram over the same tokens",
    }
    scores = [(text, found[name]) for name, text in words.items()]
    say("bits per byte on the held-out text, to beat: " + ", ".join(f"{name} {bits:.3f}" for name, bits in scores))
    return scores


def _curve(run: Path, scores: list[tuple[str, float]], *, full: bool) -> list[tuple[str, float]]:
    """Draw the loss curve and say where the run stands among the predictors."""
    from vitruvius.report.curve import Series, curve_text

    style = "blocks" if (sys.stdout.encoding or "").lower().startswith("utf") else "ascii"
    losses = [(float(row["step"]), row["loss"]) for row in _metrics(run)]
    emit(curve_text(Series(name="training loss, nats per token, by step", points=tuple(losses)), style=style))
    bits = _bits(run)[-1][1]
    ranked = sorted([*scores, ("this model", bits)], key=lambda entry: entry[1])
    emit("\n  bits per byte on the held-out text:")
    for name, value in ranked:
        emit(f"    {value:.3f}  {name}")
    if full:
        low, high = EXPECTED
        where = "inside" if low <= bits <= high else "outside"
        emit(f"  expected of this run: {low:.2f} to {high:.2f}; {bits:.3f} is {where}")
    return ranked


def _metrics(run: Path) -> list[dict[str, Any]]:
    from vitruvius.runs import RunReader

    return list(RunReader(run).metrics())


def _bits(run: Path) -> list[tuple[float, float]]:
    rows = [(float(row["step"]), row["val_bits_per_byte"]) for row in _metrics(run) if "val_bits_per_byte" in row]
    if not rows:
        raise VitruviusError("the run measured no held-out text")
    return rows


def _sample(run: Path, prompt: str, temperature: float) -> Sample:
    from vitruvius.report.run_page import Sample

    settings = ("--temperature", str(temperature), "--max-tokens", "160", "--seed", "1")
    text = _verb("generate", str(run), "--prompt", prompt, *settings)
    return Sample(prompt=prompt, text=text.rstrip("\n"), settings=" ".join(settings))


def _page(
    folder: Path,
    spec: Path,
    run: Path,
    checks: Sequence[CheckRow],
    scores: Sequence[tuple[str, float]],
    samples: Sequence[Sample],
) -> Path:
    from vitruvius.report.curve import Level, Series, curve_svg
    from vitruvius.report.run_page import RunPage
    from vitruvius.runs import RunReader
    from vitruvius.sizing import size
    from vitruvius.spec import read

    architecture: Architecture = read(spec)
    curve = curve_svg(
        [Series(name="this model", points=tuple(_bits(run)))],
        [Level(name=name, y=bits) for name, bits in scores if name != "this model"],
        title="Bits per byte on held-out text by training step",
        x_label="step",
        y_label="bits per byte",
    )
    page = RunPage(
        bill=size(architecture),
        description=architecture.description,
        drawing=_drawing(architecture),
        curve=curve,
        checks=checks,
        scores=scores,
        samples=samples,
        spec=spec.read_text(encoding="utf-8"),
        record=RunReader(run).record(),
    )
    path = folder / "index.html"
    path.write_text(page.html(), encoding="utf-8")
    return path


def _drawing(architecture: Architecture) -> str:
    from vitruvius.report import draw

    return draw(architecture).svg
