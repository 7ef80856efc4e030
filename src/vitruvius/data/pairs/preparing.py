"""Pairs to token shards: two documents each, the source and then the target, both ended by the separator."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitruvius.data.extras import require
from vitruvius.data.job.folder import check_output, evidence_folder, leave_evidence, publish
from vitruvius.data.ledger import COUNTS_SCHEMA, HELD_IN_TRAINING, Refusal, Tally, meaning_of, refusal_row
from vitruvius.data.packing.index import index_of, read_index
from vitruvius.data.packing.writing import SplitWriter
from vitruvius.data.pairs.options import PairOptions
from vitruvius.data.pairs.reading import Fields, Pair, read_pairs
from vitruvius.data.pairs.splitting import Splitter
from vitruvius.data.reading.inputs import find_inputs
from vitruvius.data.tokenization.tokenizer import load_tokenizer, train_bpe
from vitruvius.errors import DataError
from vitruvius.runs.files import write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vitruvius.data.progress import Progress
    from vitruvius.data.reading.inputs import Inputs
    from vitruvius.data.tokenization.tokenizer import Tokenizer

SHARD_TOKENS = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedPairs:
    """What `prepare_pairs` made."""

    directory: Path
    counts: dict[str, Any]
    """The content of `counts.json`; its documents are pairs."""
    index: dict[str, Any]
    """The content of `index.json`; its documents are texts, two of each pair."""


def prepare_pairs(
    inputs: Sequence[str | Path],
    out: Path | str,
    options: PairOptions | None = None,
    *,
    progress: Progress = lambda stage, done, total: None,  # noqa: ARG005 (a listener who does not listen)
) -> PreparedPairs:
    """Turn JSON lines with a source and a target into prepared data under `out`, which appears at once when whole.

    Pairs of one group are all trained on or all held out. Of pairs with the same source and target the first stays;
    a held-out pair whose source (but for case and white space) stands in training is dropped. The same inputs give the
    same bytes. Every pair that does not come out has a line in `quarantine.jsonl`.

    Raises:
        DataError: an input or `out` is wrong, or no pair is left.
        TooMuchBadDataError: more records are damaged than allowed; counts and quarantine are left as evidence.
        UsageError: an option is out of range.
        MissingExtraError: a package is not installed.
    """
    require("numpy", "tokenizers")
    options, out = options or PairOptions(), Path(out)
    check_output(out)
    given = None if options.tokenizer is None else load_tokenizer(options.tokenizer, eos=options.eos)
    found = find_inputs(inputs, kind="jsonl", exclude=(out,))
    _refuse_others(found)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".vitruvius-pairs-", dir=out.parent, ignore_cleanup_errors=True) as top:
        work = Path(top, "data")
        work.mkdir()
        spool, whole = Path(top, "pairs.jsonl"), Splitter(options.seed)
        dropped = _read(found, options, whole, spool, work / "quarantine.jsonl", progress)
        sides = whole.split(options.held_out)
        leaks = sides.count("leak")
        tally = Tally(
            kept=len(sides) - leaks,
            dropped=dict(sorted((dropped + Counter({HELD_IN_TRAINING: leaks} if leaks else {})).items())),
            changed={},
        )
        counts = {"schema": COUNTS_SCHEMA, **tally.counts(), "max_bad_rate": options.max_bad_rate, "unit": "pairs"}
        counts["sources"] = {"all": tally.counts()}
        write_json(work / "counts.json", counts)
        evidence = evidence_folder(out)
        try:
            tally.check(options.max_bad_rate, evidence=str(evidence))
            _refuse_untrained(sides, evidence)
        except DataError:
            leave_evidence(work, evidence)
            raise
        tokenizer = given or train_bpe(_texts(spool, sides), options.vocab)
        tokenizer.save(work / "tokenizer.json")
        splits = _write(spool, sides, work, tokenizer, progress)
        counts["splits"] = {name: {"documents": split["documents"] // 2} for name, split in splits.items()}
        write_json(work / "counts.json", counts)
        write_json(work / "index.json", _index(tokenizer, splits, options, found))
        publish(work, out)
    return PreparedPairs(directory=out, counts=counts, index=read_index(out))


def _refuse_untrained(sides: Sequence[str], evidence: Path) -> None:
    if "train" not in sides:
        raise DataError("no pair is left to train on", where=str(evidence), fix="lower --held-out")


def _refuse_others(found: Inputs) -> None:
    other = next((file for file in found.files if file.kind != "jsonl"), None)
    if other is not None:
        raise DataError("pairs are read from JSON lines", where=other.name, fix="name .jsonl files, compressed or not")


def _read(
    found: Inputs, options: PairOptions, whole: Splitter, spool: Path, quarantine: Path, progress: Progress
) -> Counter[str]:
    """Every input once: kept pairs into the spool, others into the quarantine; returns what was dropped, by reason."""
    fields = Fields(source=options.source, target=options.target, group=options.group)
    dropped: Counter[str] = Counter()
    with spool.open("xb") as kept, quarantine.open("xb") as out:
        for number, file in enumerate(found.files):
            progress("reading", number, len(found.files))
            for one in read_pairs(file, fields):
                if isinstance(one, Refusal):
                    dropped[one.reason] += 1
                    out.write(_line(refusal_row(one)))
                    continue
                keeper = whole.add(one)
                if keeper is None:
                    row = [one.id, one.file, one.line, one.byte_offset, one.source, one.target]
                    kept.write(_line(row))
                else:
                    dropped["exact_duplicate"] += 1
                    out.write(_line(_row(one, "exact_duplicate") | {"keeper": keeper, "jaccard": 1.0}))
        progress("reading", len(found.files), len(found.files))
    return dropped


def _row(pair: Pair, reason: str) -> dict[str, Any]:
    return {
        "id": pair.id,
        "file": pair.file,
        "line": pair.line,
        "byte_offset": pair.byte_offset,
        "reason": reason,
        "detail": meaning_of(reason),
    }


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _spooled(spool: Path) -> Iterator[Pair]:
    with spool.open("rb") as file:
        for line in file:
            name, file_name, number, offset, source, target = json.loads(line)
            yield Pair(id=name, file=file_name, line=number, byte_offset=offset, source=source, target=target, group="")


def _texts(spool: Path, sides: Iterable[str]) -> Iterator[str]:
    """What the tokenizer is trained on: both texts of every pair that is trained on."""
    for pair, side in zip(_spooled(spool), sides, strict=True):
        if side == "train":
            yield pair.source
            yield pair.target


def _write(
    spool: Path, sides: Sequence[str], work: Path, tokenizer: Tokenizer, progress: Progress
) -> dict[str, dict[str, Any]]:
    """The shards of both splits; held-out pairs whose source stands in training go to the quarantine."""
    size: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "shard_tokens": SHARD_TOKENS}
    writers = {name: SplitWriter(work, name, **size) for name in ("train", "validation")}
    with (work / "quarantine.jsonl").open("ab") as quarantine:
        encoded = tokenizer.encode_documents(
            text
            for pair, side in zip(_spooled(spool), sides, strict=True)
            if side != "leak"
            for text in (pair.source, pair.target)
        )
        for number, (pair, side) in enumerate(zip(_spooled(spool), sides, strict=True), 1):
            if number % 1000 == 0 or number == len(sides):
                progress("encoding", number, len(sides))
            if side == "leak":
                quarantine.write(_line(_row(pair, HELD_IN_TRAINING)))
                continue
            for part, text in (("source", pair.source), ("target", pair.target)):
                writers[side].add(
                    [*next(encoded).tolist(), tokenizer.eos_id],
                    text_bytes=len(text.encode()),
                    origin={"id": f"{pair.id}#{part}"},
                )
    return {name: writer.close() for name, writer in writers.items()}


def _index(tokenizer: Tokenizer, splits: dict[str, Any], options: PairOptions, found: Inputs) -> dict[str, Any]:
    inputs = [{"name": file.name, "size_bytes": file.path.stat().st_size} for file in found.files]
    keys = {"source": options.source, "target": options.target, "group": options.group}
    return index_of(tokenizer, splits, options.as_json() | {"inputs": inputs}, pairs=keys)
