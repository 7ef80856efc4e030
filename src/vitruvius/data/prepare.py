"""Documents to packed token shards: read, split, train or load a tokenizer, encode, pack, account for everything."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vitruvius.data.extras import require
from vitruvius.data.job.folder import check_output, evidence_folder, leave_evidence, publish, rejected_folder, staging
from vitruvius.data.job.spool import HASH_RANGE, Spool
from vitruvius.data.ledger import Ledger, Refusal
from vitruvius.data.packing.shards import DATA_SCHEMA, dtype_for
from vitruvius.data.packing.writing import SplitWriter, fingerprint_of
from vitruvius.data.reading.documents import ReadOptions, read_documents
from vitruvius.data.reading.inputs import InputKind, find_inputs
from vitruvius.data.reading.streams import LINE_LIMIT
from vitruvius.data.tokenization.tokenizer import (
    LARGEST_VOCABULARY,
    SMALLEST_VOCABULARY,
    Tokenizer,
    load_tokenizer,
    train_bpe,
)
from vitruvius.errors import UsageError
from vitruvius.runs.files import write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vitruvius.data.reading.inputs import Inputs

TRAINING_TEXT_BYTES = 256 * 2**20
"""A larger corpus trains its tokenizer on a sample of about this size, drawn by the hash of each document."""

_BATCH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareOptions:
    """Everything that changes what `prepare` writes."""

    vocab: int = 8192
    """Largest vocabulary of the byte-level BPE to train."""
    tokenizer: Path | None = None
    """A `tokenizer.json` to use instead."""
    eos: str | None = None
    """The separator of a loaded tokenizer; None takes the first known name."""
    max_bad_rate: float = 0.001
    """Stop when a larger share of the documents is bad."""
    held_out: float = 0.05
    """Share of the documents to hold out for validation, chosen by the hash of their text."""
    kind: InputKind = "auto"
    """How files are read."""
    field: str = "text"
    """Key of the text in a JSON line."""
    extensions: tuple[str, ...] = (".py",)
    """Suffixes of source files."""
    document_bytes: int = LINE_LIMIT
    """Longer text files are cut into documents at line ends."""
    seed: int = 0
    """Another seed holds out other documents."""
    shard_tokens: int = 100_000_000
    """A shard is closed after the document that reaches this many tokens."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: names the option.
        """
        limits = (
            (
                self.tokenizer is not None or self.vocab >= SMALLEST_VOCABULARY,
                "--vocab",
                f"at least {SMALLEST_VOCABULARY}",
            ),
            (self.vocab <= LARGEST_VOCABULARY, "--vocab", f"at most {LARGEST_VOCABULARY}"),
            (0 <= self.max_bad_rate <= 1, "--max-bad-rate", "from 0 to 1"),
            (0 <= self.held_out < 1, "--held-out", "from 0 to less than 1"),
            (self.document_bytes >= 1, "--document-bytes", "at least 1"),
            (self.shard_tokens >= 1, "shard_tokens", "at least 1"),
        )
        for fine, option, wanted in limits:
            if not fine:
                raise UsageError(
                    f"the value is out of range: it must be {wanted}", where=option, fix=f"use a value {wanted}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What `prepare` made."""

    directory: Path
    """The data folder."""
    counts: dict[str, Any]
    """The content of `counts.json`."""
    index: dict[str, Any]
    """The content of `index.json`."""
    files: int
    """Files read."""
    passed_over: dict[str, int]
    """Files in folders that were not taken: suffix -> count."""


class Progress(Protocol):
    """Told how far a stage is, from time to time."""

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """`done` of `total` (None when nobody knows) in `stage`."""
        ...


def prepare(
    inputs: Sequence[str | Path],
    out: Path | str,
    options: PrepareOptions | None = None,
    *,
    progress: Progress = lambda stage, done, total: None,  # noqa: ARG005 (a listener who does not listen)
) -> Prepared:
    """Turn documents into packed token shards under `out`.

    The same documents give the same bytes, whatever the order of `inputs`. Nothing changes under `out`
    until everything is written; then it appears at once, in the place of earlier data.

    Raises:
        DataError: an input or `out` is wrong, or no document is left.
        TooMuchBadDataError: more is bad than allowed. Counts and quarantine lie in `out`, or in
            `out.rejected` when `out` holds earlier data; there is no index.
        MissingExtraError: numpy or tokenizers is not installed.
    """
    require("numpy", "tokenizers")
    options = options or PrepareOptions()
    out = Path(out)
    check_output(out)
    ours = (out, rejected_folder(out))
    found = find_inputs(inputs, kind=options.kind, extensions=options.extensions, exclude=ours)
    loaded = None if options.tokenizer is None else load_tokenizer(options.tokenizer, eos=options.eos)
    with staging(out) as work:
        ledger, spool = _read(found, work, options, progress)
        counts = ledger.counts() | {"max_bad_rate": options.max_bad_rate}
        evidence = evidence_folder(out)
        try:
            ledger.check(options.max_bad_rate, evidence=str(evidence))
        except BaseException:
            write_json(work / "counts.json", counts)
            leave_evidence(work, evidence)
            raise
        threshold = spool.held_out_below(options.held_out)
        tokenizer = loaded or _train(spool, threshold, options, progress)
        tokenizer.save(work / "tokenizer.json")
        splits = _pack(spool, threshold, tokenizer, work, options, progress)
        spool.path.unlink()
        counts["splits"] = {
            name: {key: split[key] for key in ("documents", "tokens", "text_bytes")} for name, split in splits.items()
        }
        assert ledger.documents_out == sum(split["documents"] for split in splits.values())
        write_json(work / "counts.json", counts)
        index = _index(tokenizer, splits, options)
        write_json(work / "index.json", index)
        publish(work, out)
    return Prepared(directory=out, counts=counts, index=index, files=len(found.files), passed_over=found.passed_over)


def _read(found: Inputs, work: Path, options: PrepareOptions, progress: Progress) -> tuple[Ledger, Spool]:
    """Every document of every file, into the spool or the quarantine."""
    reading = ReadOptions(field=options.field, document_bytes=options.document_bytes)
    spool = Spool(work / "documents", seed=options.seed)
    total = len(found.files)
    with contextlib.closing(spool), (work / "quarantine.jsonl").open("xb") as quarantine:
        ledger = Ledger(quarantine)
        for number, file in enumerate(found.files):
            progress("reading files", number, total)
            for document in read_documents(file, reading):
                if isinstance(document, Refusal):
                    ledger.refuse(document)
                else:
                    ledger.accept()
                    spool.add(document)
        progress("reading files", total, total)
    return ledger, spool


def _train(spool: Spool, threshold: int, options: PrepareOptions, progress: Progress) -> Tokenizer:
    """A tokenizer trained on documents that are not held out."""
    share = int(min(1.0, TRAINING_TEXT_BYTES / max(1, spool.text_bytes)) * HASH_RANGE)

    def texts() -> Iterator[str]:
        done = 0
        for content, place, draw in spool.documents():
            progress("training the tokenizer", done, spool.text_bytes)
            done += len(content)
            if place >= threshold and draw < share:
                yield content.decode()

    tokenizer = train_bpe(texts(), options.vocab)
    progress("training the tokenizer", spool.text_bytes, spool.text_bytes)
    return tokenizer


def _pack(
    spool: Spool, threshold: int, tokenizer: Tokenizer, work: Path, options: PrepareOptions, progress: Progress
) -> dict[str, Any]:
    """Encode every document and write the shards; returns the splits of the index."""
    size = {"vocab_size": tokenizer.vocab_size, "shard_tokens": options.shard_tokens}
    train, validation = SplitWriter(work, "train", **size), SplitWriter(work, "validation", **size)
    done = 0
    for batch in _batches(spool):
        progress("encoding", done, spool.text_bytes)
        encoded = tokenizer.encode_batch([content.decode() for content, _, _ in batch])
        for (content, place, _), ids in zip(batch, encoded, strict=True):
            ids.append(tokenizer.eos_id)
            (validation if place < threshold else train).add(ids, text_bytes=len(content))
            done += len(content)
    progress("encoding", done, spool.text_bytes)
    return {"train": train.close(), "validation": validation.close()}


def _batches(spool: Spool) -> Iterator[list[tuple[bytes, int, int]]]:
    """Documents in groups of about a megabyte: enough work for every core, and never much in memory."""
    batch: list[tuple[bytes, int, int]] = []
    size = 0
    for document in spool.documents():
        batch.append(document)
        size += len(document[0])
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _index(tokenizer: Tokenizer, splits: dict[str, Any], options: PrepareOptions) -> dict[str, Any]:
    settings = asdict(options) | {"tokenizer": None if options.tokenizer is None else options.tokenizer.name}
    index = {
        "schema": DATA_SCHEMA,
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype_for(tokenizer.vocab_size),
        "eos": tokenizer.eos,
        "eos_id": tokenizer.eos_id,
        "tokenizer": {"file": "tokenizer.json", "sha256": hashlib.sha256(tokenizer.text.encode()).hexdigest()},
        "splits": splits,
        "settings": settings | {"extensions": list(options.extensions)},
    }
    return index | {"fingerprint": fingerprint_of(index)}
