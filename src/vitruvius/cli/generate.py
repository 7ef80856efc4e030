"""`vitruvius generate`: text from a trained run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from vitruvius.cli.arguments import json_option
from vitruvius.cli.output import STDOUT, emit_json, say
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader
    from pathlib import Path

    from vitruvius.data import Tokenizer
    from vitruvius.inference import Generation, Sampler
    from vitruvius.nn import Model

SCHEMA = "vitruvius.generate/1"
_MOST_PROMPT = 4 << 20
_MASK = "[MASK]"


@click.command(
    cls=ExampleCommand,
    help="Write text with the newest checkpoint of RUN. Only the text goes to stdout, as it comes; with --json one "
    "document at the end. A model trained to fill in "
    "hidden tokens puts them where the prompt says [MASK].",
    examples=[
        "vitruvius generate runs/first --prompt 'def main(' --max-tokens 200",
        "vitruvius generate runs/first --prompt 'import ' --temperature 0",
        "vitruvius generate runs/first --prompt - --top-p 0.9 --seed 7 --stop 'class ' < start.txt",
    ],
)
@click.argument("run")
@click.option("--prompt", required=True, help="The text to continue; - reads it from standard input.")
@click.option("--max-tokens", type=int, default=256, show_default=True, help="Tokens to generate at most.")
@click.option("--temperature", type=float, default=0.8, show_default=True, help="0 takes the likeliest token.")
@click.option("--top-k", type=int, help="Draw among the k likeliest tokens.")
@click.option("--top-p", type=float, help="Draw among the likeliest tokens that reach this probability.")
@click.option("--min-p", type=float, help="Drop tokens below this fraction of the likeliest one's probability.")
@click.option("--seed", type=int, default=0, show_default=True, help="Equal seeds give equal text.")
@click.option("--stop", multiple=True, help="End before this text; may be given several times.")
@click.option("--echo", is_flag=True, help="Print the prompt too.")
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Number format to run in.",
)
@click.option(
    "--weights",
    type=click.Choice(["last", "ema"]),
    default="last",
    show_default=True,
    help="ema: the averages of a run with train.ema.",
)
@json_option
def command(
    *,
    run: str,
    prompt: str,
    max_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    seed: int,
    stop: tuple[str, ...],
    echo: bool,
    dtype: str,
    weights: Literal["last", "ema"],
    as_json: bool,
) -> None:
    """Load the run, stream its continuation, say on stderr why it ended."""
    from pathlib import Path

    from vitruvius.data.tokenization.of_run import tokenizer_of_run
    from vitruvius.inference import Generation, Sampler, StopText
    from vitruvius.nn.weights import load_model

    sampler = Sampler(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    StopText(stop)  # raises, before a model is loaded, where a stop text is empty
    text = _prompt(prompt)
    model = load_model(Path(run), dtype=dtype, weights=weights)
    tokenizer = tokenizer_of_run(run)
    if not model.architecture.head.causal:
        whole = _filled(Path(run), model, tokenizer, text, sampler, _seed(seed))
        if as_json:
            emit_json(_document(run, prompt=text, text=whole, tokens=None, finish=None))
        else:
            _write(whole + "\n")
        return
    ids = tokenizer.encode(text) or [tokenizer.eos_id]
    if _reads_pairs(Path(run)) and ids[-1] != tokenizer.eos_id:
        ids.append(tokenizer.eos_id)  # what a source ends with, and a target starts from
    generation = Generation(
        model,
        ids,
        max_tokens=max_tokens,
        sampler=sampler,
        seed=_seed(seed),
        stop_tokens=[tokenizer.eos_id],
        vocabulary=tokenizer.vocab_size,
    )
    parts: list[str] = []
    found = _stream(generation, tokenizer, stop, text if echo else "", parts.append if as_json else _write)
    if as_json:
        reason = "stop-text" if found else None if generation.finish is None else generation.finish.reason
        tokens = 0 if generation.finish is None else generation.finish.tokens
        emit_json(_document(run, prompt=text, text="".join(parts), tokens=tokens, finish=reason))
    else:
        _write("\n")
    say(_ending(generation, found=found))


def _stream(
    generation: Generation, tokenizer: Tokenizer, stop: tuple[str, ...], before: str, give: Callable[[str], object]
) -> bool:
    """Give the text piece by piece; returns whether a stop text ended it."""
    from vitruvius.inference import StopText

    stops, decoder = StopText(stop), tokenizer.stream(after=generation.prompt)
    give(before)
    for token in generation:
        give(stops.push(decoder.push(token)))
        if stops.found:
            break
    give(stops.push(decoder.finish()) + stops.flush())
    return stops.found


def _document(run: str, *, prompt: str, text: str, tokens: int | None, finish: str | None) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "run": run,
        "prompt": prompt,
        "text": text,
        "tokens": tokens,
        "finish_reason": finish,
    }


def _filled(run: Path, model: Model, tokenizer: Tokenizer, text: str, sampler: Sampler, seed: int) -> str:
    """The text with each [MASK] replaced by what a masked language model puts there."""
    from vitruvius.inference import fill
    from vitruvius.nn.weights import find_checkpoint

    mask = find_checkpoint(run)[0].record()["config"]["train"]["mask_token"]
    ids: list[int] = []
    for index, piece in enumerate(text.split(_MASK)):
        ids += [mask] * (index > 0) + tokenizer.encode(piece)
    return tokenizer.decode(fill(model, ids, mask=mask, sampler=sampler, seed=seed, vocabulary=tokenizer.vocab_size))


def _reads_pairs(run: Path) -> bool:
    from vitruvius.nn.weights import find_checkpoint

    config: dict[str, Any] = find_checkpoint(run)[0].record().get("config") or {}
    settings: dict[str, Any] = config.get("train") or {}
    return settings.get("objective") == "seq2seq"


def _prompt(prompt: str) -> str:
    from vitruvius.errors import UsageError

    if prompt != "-":
        text = prompt
    else:
        raw = _standard_input(_MOST_PROMPT)
        if len(raw) > _MOST_PROMPT:
            raise UsageError("the prompt on standard input is longer than 4 MiB", fix="send a shorter one")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"the prompt is not UTF-8 (byte {error.start})", fix="send UTF-8 text") from None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"the prompt is not UTF-8 (character {error.start + 1})", fix="send UTF-8 text") from None
    return text


def _standard_input(most: int) -> bytes:
    """What stands on standard input, or the first `most` bytes of it and some more.

    Piece by piece: a Ctrl-C that arrives in the middle of one long read may wait for its end.
    """
    stream = cast("BufferedReader", sys.stdin.buffer)
    raw = bytearray()
    while len(raw) <= most and (piece := stream.read1(1 << 16)):
        raw += piece
    return bytes(raw)


def _seed(seed: int) -> int:
    from vitruvius.errors import UsageError

    if not 0 <= seed < 2**63:
        raise UsageError(f"seed={seed} is out of range", fix="use a whole number from 0 to 2^63 - 1")
    return seed


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        error.filename = STDOUT
        raise


def _ending(generation: Generation, *, found: bool) -> str:
    finish = generation.finish
    if found:
        return "ended at a stop text"
    if finish is None:
        return "nothing was generated"
    words = {"stop": "the model ended the text", "length": "max-tokens reached", "context": "the context is full"}
    return f"{finish.tokens} tokens; {words[finish.reason]}"
