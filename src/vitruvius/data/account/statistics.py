"""What is in prepared data: counts, lengths, tokens, what was dropped, duplicates, hosts, and what the splits share."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vitruvius.data.account.duplicates import Duplicates
from vitruvius.data.account.folder import PreparedFolder, text_of
from vitruvius.data.account.lengths import LengthTable, PackedCuts, document_bounds, summary
from vitruvius.data.account.overlap import Overlap, default_ngram
from vitruvius.data.account.tally import Tally
from vitruvius.data.account.tokens import add_counts, document_blocks, frequency_summary
from vitruvius.data.extras import require
from vitruvius.data.ledger import DUPLICATES, meaning_of
from vitruvius.data.packing.index import AGAIN
from vitruvius.data.reading.reasons import DAMAGE, HARMLESS
from vitruvius.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    import numpy as np

    from vitruvius.data.progress import Progress

PARTS = ("tokens", "overlap", "hosts", "duplicates")
"""What takes a while: the tokens are read for the first two, origins for hosts, the quarantine for duplicates."""
HOSTS_SHOWN = 40
_PLAIN_HOST = re.compile(r"https?://(?:www\.)?([a-z0-9][a-z0-9-]*+(?:\.[a-z0-9-]++)*+\.?)(?:[/?#]|\Z)")
"""What nearly every address begins with: there the host can be read without taking the address apart."""


def statistics(
    directory: Path | str,
    *,
    skip: Collection[str] = (),
    ngram: int | None = None,
    progress: Progress = lambda stage, done, total: None,  # noqa: ARG005 (a listener who does not listen)
) -> dict[str, Any]:
    """What there is to say about prepared data, as plain JSON; memory does not grow with it.

    skip: those of `PARTS` that are left out, and null in the answer. ngram: tokens of the n-grams that the splits are
    compared by; None takes as many as span about 65 bytes.

    Raises:
        DataError: the folder is damaged; names file and place.
        UsageError: `skip` or `ngram` is wrong.
        MissingExtraError: numpy or tokenizers is not installed.
    """
    require("numpy", "tokenizers")
    unknown = sorted(set(skip) - set(PARTS))
    if unknown:
        raise UsageError(f"there is no part {unknown[0]!r}", where="--skip", fix=f"use one of {', '.join(PARTS)}")
    if ngram is not None and not 1 <= ngram <= 1024:
        raise UsageError(f"n-grams of {ngram:,} tokens", where="--ngram", fix="use a whole number from 1 to 1,024")
    folder = PreparedFolder(directory)
    splits = [_split(folder, name) for name in folder.splits]
    whole = _part(*(sum(split[key] for split in splits) for key in ("documents", "tokens", "text_bytes")))
    lengths, packing = _lengths(folder, progress)
    frequencies, overlap = _token_parts(folder, whole["bytes_per_token"], ngram=ngram, skip=skip, progress=progress)
    return {
        "directory": str(directory),
        "fingerprint": folder.index["fingerprint"],
        "vocab_size": folder.index["vocab_size"],
        "eos": folder.index["eos"],
        "whole": whole,
        "splits": splits,
        "sources": _sources(folder),
        "funnel": funnel(folder.counts),
        "changed": changes(folder.counts),
        "lengths": lengths,
        "packing": packing,
        "tokens": frequencies,
        "overlap": overlap,
        "hosts": None if "hosts" in skip else _hosts(folder, progress),
        "duplicates": None if "duplicates" in skip else _duplicates(folder, progress),
    }


# ------------------------------------------------------------------------------------------------------------- counts


def _part(documents: int, tokens: int, text_bytes: int) -> dict[str, Any]:
    """Counts of a part of the data; a token of text is one that is no separator."""
    text_tokens = tokens - documents
    return {
        "documents": documents,
        "tokens": tokens,
        "text_tokens": text_tokens,
        "text_bytes": text_bytes,
        "bytes_per_token": text_bytes / text_tokens if text_tokens > 0 else None,
    }


def _split(folder: PreparedFolder, name: str) -> dict[str, Any]:
    here = folder.index["splits"][name]
    shards = here["shards"]
    return {"name": name, **_part(here["documents"], here["tokens"], here["text_bytes"]), "shards": len(shards)}


def _sources(folder: PreparedFolder) -> list[dict[str, Any]]:
    """What each source gave, to each split and in all."""
    splits = {name: folder.index["splits"][name]["sources"] for name in folder.splits}
    names = sorted({*folder.source_counts, *(name for sources in splits.values() for name in sources)})
    rows: list[dict[str, Any]] = []
    for name in names:
        parts = {
            split: _part(*(sources.get(name, {}).get(key, 0) for key in ("documents", "tokens", "text_bytes")))
            for split, sources in splits.items()
        }
        whole = _part(*(sum(part[key] for part in parts.values()) for key in ("documents", "tokens", "text_bytes")))
        weights = [sources[name]["weight"] for sources in splits.values() if name in sources]
        rows.append(
            {
                "name": name,
                "weight": weights[0] if weights else None,
                **whole,
                "documents_in": folder.source_counts.get(name, {}).get("documents_in"),
                "splits": parts,
            }
        )
    return rows


def funnel(counts: dict[str, Any]) -> dict[str, Any]:
    """In = out + dropped, the reasons by their sort and the most frequent first."""
    dropped: list[dict[str, Any]] = [
        {"reason": reason, "sort": sort_of(reason), "meaning": _meaning(reason), "documents": count}
        for reason, count in counts["dropped"].items()
    ]
    order = ("damage", "harmless", "rule", "duplicate")
    dropped.sort(key=lambda row: (order.index(row["sort"]), -row["documents"], row["reason"]))
    return {"documents_in": counts["documents_in"], "documents_out": counts["documents_out"], "dropped": dropped}


def sort_of(reason: str) -> str:
    """`damage`, `harmless`, `duplicate` or `rule`."""
    tables = {"damage": DAMAGE, "harmless": HARMLESS, "duplicate": DUPLICATES}
    return next((name for name, table in tables.items() if reason in table), "rule")


def _meaning(reason: str) -> str | None:
    try:
        return meaning_of(reason)
    except KeyError:
        return None


def changes(counts: dict[str, Any]) -> list[dict[str, Any]]:
    """What rewriting changed in documents that passed every rule, the most frequent first."""
    from vitruvius.data.cleaning.table import kinds

    rows: list[dict[str, Any]] = []
    for name, count in counts["changed"].items():
        step, _, what = name.partition(".")
        meanings = getattr(kinds().get(step), "counts", {})
        rows.append({"name": name, "step": step, "meaning": meanings.get(what), "count": count})
    return sorted(rows, key=lambda row: (-row["count"], row["name"]))


# ------------------------------------------------------------------------------------------------------------- shards


def _lengths(folder: PreparedFolder, progress: Progress) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(lengths by split and of all, what cutting the training stream into windows does)."""
    tables = {name: LengthTable() for name in folder.splits}
    cuts = PackedCuts()
    total = sum(folder.index["splits"][name]["documents"] for name in folder.splits)
    done = 0
    for name, table in tables.items():
        for shard in folder.shards(name):
            for starts, ends in document_bounds(shard):
                table.add(ends - starts)
                done += len(ends)
                if name == "train":
                    cuts.add(shard.source, starts, ends)
                progress("measuring documents", done, total)
            if name == "train":
                cuts.end_shard(shard.source, shard.tokens)
    every = LengthTable()
    for table in tables.values():
        every.add_counted(*table.table())
    return {name: summary(table) for name, table in (tables | {"all": every}).items()}, cuts.counts()


def _token_parts(
    folder: PreparedFolder,
    bytes_per_token: float | None,
    *,
    ngram: int | None,
    skip: Collection[str],
    progress: Progress,
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """(how often tokens occur, what the splits share); reads every token of training once, of validation twice."""
    import numpy as np

    if "tokens" in skip and "overlap" in skip:
        return None, None
    validation, train = folder.shards("validation"), folder.shards("train")
    # Of the tokenizer: an index may claim a vocabulary of any size.
    shape: dict[str, Any] = {"dtype": folder.index["dtype"], "vocab_size": folder.tokenizer.vocab_size}
    both = bool(validation) and bool(train) and "overlap" not in skip
    size = ngram or default_ngram(bytes_per_token)
    overlap = Overlap(validation, **shape, ngram=size) if both else None
    counts = {name: np.zeros(shape["vocab_size"], dtype=np.int64) for name in folder.splits}
    total = sum(folder.index["splits"][name]["tokens"] for name in folder.splits)
    done = 0
    for name in folder.splits:
        for shard in folder.shards(name):
            for tokens, lengths in document_blocks(shard, **shape):
                add_counts(counts[name], tokens)
                if overlap is not None and name == "train":
                    overlap.see(tokens, lengths)
                done += len(tokens)
                progress("counting tokens", done, total)
    shared = None
    if overlap is not None:
        shared = overlap.summary(bytes_per_token=bytes_per_token)
        _name_documents(folder, shared["worst"])
    return (None if "tokens" in skip else _frequencies(folder, counts)), shared


def _frequencies(folder: PreparedFolder, counts: dict[str, np.ndarray]) -> dict[str, Any]:
    tokenizer = folder.tokenizer
    told: dict[str, Any] = {"token_bytes": tokenizer.token_bytes, "eos_id": tokenizer.eos_id}
    unseen = (counts["validation"] > 0) & (counts["train"] == 0)
    return {
        "train": frequency_summary(counts["train"], **told),
        "validation": frequency_summary(counts["validation"], **told),
        "validation_only": int(unseen.sum()),
        "validation_only_tokens": int(counts["validation"][unseen].sum()),
    }


def _name_documents(folder: PreparedFolder, rows: list[dict[str, Any]]) -> None:
    """Write the ids of documents of the validation split into `rows`, by their numbers."""
    wanted = {row["document"]: row for row in rows}
    for number, origin in enumerate(folder.origins("validation")):
        if number in wanted:
            wanted.pop(number)["id"] = text_of(origin, "id")
            if not wanted:
                return


# ------------------------------------------------------------------------------------------------------- rows of JSON


def _hosts(folder: PreparedFolder, progress: Progress) -> dict[str, Any]:
    """The hosts of the documents that have an address, by documents."""
    tally = Tally()
    without = done = 0
    total = folder.counts["documents_out"]
    for name in folder.splits:
        for origin in folder.origins(name):
            host = host_of(text_of(origin, "url"))
            if host is None:
                without += 1
            else:
                tally.add(host)
            done += 1
            if done % 10_000 == 0:
                progress("counting hosts", done, total)
    return {"documents_without": without, **tally.summary(HOSTS_SHOWN)}


def host_of(url: str | None) -> str | None:
    """The host of an address, in lower case and without `www.`; None where it has none."""
    if url is None:
        return None
    if plain := _PLAIN_HOST.match(url):
        return plain[1].rstrip(".")
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return None
    return (host.rstrip(".").removeprefix("www.") or None) if host else None


def _duplicates(folder: PreparedFolder, progress: Progress) -> dict[str, Any]:
    """Clusters of duplicates; the quarantine is held against the counts on the way."""
    rows: Counter[str] = Counter()
    with contextlib.closing(Duplicates()) as duplicates:
        total = sum(folder.counts["dropped"].values())
        for done, row in enumerate(folder.quarantine(), 1):
            rows[text_of(row, "reason") or ""] += 1
            duplicates.add(row)
            if done % 10_000 == 0:
                progress("reading the quarantine", done, total)
        found = duplicates.summary()
    dropped = {reason: count for reason, count in folder.counts["dropped"].items() if count}
    if rows != dropped:
        reason = next(name for name in sorted({*rows, *dropped}) if rows[name] != dropped.get(name, 0))
        what = f"it has {rows[reason]:,} rows of {reason!r}, and counts.json says {dropped.get(reason, 0):,}"
        raise DataError(what, where=str(folder.quarantine_path), fix=AGAIN)
    return found
