"""A trained encoder-decoder on held-out pairs, beside two baselines on the same ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitruvius.data import TokenShards
from vitruvius.data.pairs.telling import ensure_pairs
from vitruvius.data.tokenization.of_run import tokenizer_of_run
from vitruvius.errors import DataError, RunError
from vitruvius.evals.matching import Match, match
from vitruvius.evals.pair_baselines import Nearest, most_frequent
from vitruvius.evals.pairs import Limits, Written, match_of, pairs_of, texts_of, write
from vitruvius.nn.weights import find_checkpoint, load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vitruvius.data.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What came of it."""

    run: Path
    step: int
    """Updates that the weights have seen."""
    data: Path
    split: str
    model: Match
    baselines: dict[str, Match]
    """`most_frequent` and `nearest_source`; empty where the pairs are those of training."""
    written: tuple[Written, ...]

    def to_dict(self, show: int = 0) -> dict[str, Any]:
        """As JSON data, with `show` of the pairs, spread evenly."""
        count = min(show, len(self.written))
        shown = [self.written[number * len(self.written) // count] for number in range(count)]
        names = ("most_frequent", "nearest_source")
        return {
            "run": str(self.run),
            "step": self.step,
            "data": str(self.data),
            "split": self.split,
            "pairs": self.model.pairs,
            "model": self.model.to_dict(),
            "baselines": {name: self.baselines[name].to_dict() if name in self.baselines else None for name in names},
            "shown": [asdict(one) for one in shown],
        }


def score(
    run: Path | str,
    *,
    data: Path | str | None = None,
    split: str = "validation",
    most: int | None = None,
    told: Callable[[int, int], None] | None = None,
) -> Scored:
    """Write the targets of a split's pairs with a run's model, and hold them against the right ones.

    data: the run's own when not given. most: score so many, spread evenly. told: how many are written. Limits of
    length are those of training.

    Raises:
        RunError: the folder is no run of objective seq2seq, or has no whole checkpoint.
        DataError: the data has no pairs, was made with another tokenizer, or is damaged.
    """
    reader, checkpoint = find_checkpoint(run)
    record = reader.record()
    settings: dict[str, Any] = (record.get("config") or {}).get("train") or {}
    if settings.get("objective") != "seq2seq":
        raise RunError(
            f"this run learned {settings.get('objective') or 'something else'}, and only pairs can be scored so",
            where=str(run),
            fix="train an encoder-decoder with --set train.objective=seq2seq",
        )
    folder = Path(data or record["data"]["path"])
    shards, tokenizer = _pairs_for(reader.path, folder, split)
    context, pairs = settings["context"], settings["pairs"]
    limits = Limits(source=pairs["source"] or context, target=pairs["target"] or context)

    def progress(done: int, total: int) -> bool:
        if told is not None:
            told(done, total)
        return True

    model = load_model(run)
    written = write(model, pairs_of(shards, most=most), tokenizer, limits, progress=progress)
    return Scored(
        run=reader.path,
        step=checkpoint.step,
        data=folder,
        split=split,
        model=match_of(written),
        baselines={} if split == "train" else _baselines(folder, tokenizer, written),
        written=tuple(written),
    )


def _pairs_for(run: Path, folder: Path, split: str) -> tuple[TokenShards, Tokenizer]:
    """The pairs of a split and the run's tokenizer, which has to be the one that encoded them."""
    ensure_pairs(folder)
    shards = TokenShards.open(folder, split)
    tokenizer = tokenizer_of_run(run)
    if tokenizer.fingerprint != shards.tokenizer().fingerprint:
        raise DataError(
            "these pairs were encoded with another tokenizer than the run's",
            where=str(folder),
            fix=f"prepare them with --tokenizer {run}/tokenizer.json",
        )
    return shards, tokenizer


def _baselines(folder: Path, tokenizer: Tokenizer, written: Sequence[Written]) -> dict[str, Match]:
    """What two answers reach that need no model: the most frequent target, and that of the nearest source."""
    known = texts_of(TokenShards.open(folder, "train"), tokenizer)
    frequent, nearest = most_frequent([target for _, target in known]), Nearest(known)
    return {
        "most_frequent": match((frequent, one.target) for one in written),
        "nearest_source": match((nearest.target(one.source), one.target) for one in written),
    }
