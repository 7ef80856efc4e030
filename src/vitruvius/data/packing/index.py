"""`index.json`: what prepared data on disk consists of, and the check of it.

DIR/index.json                     written last: a folder with an index is whole
DIR/tokenizer.json
DIR/counts.json, quarantine.jsonl
DIR/train/shard-00000.bin          the tokens, little-endian uint16 or uint32, each document ended by the separator
DIR/train/shard-00000.idx          int64, little-endian: where each document starts in the shard, and at last its length
DIR/train/shard-00000.origins.jsonl.gz    a JSON row per document: id, source, text_bytes, tokens, url when there is one
DIR/validation/...                 the documents held out
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from vitruvius.errors import DataError
from vitruvius.runs.files import read_json
from vitruvius.runs.shapes import COUNT, MAPPING, TEXT, Rule, Shape, first_misfit, matching, one_of

if TYPE_CHECKING:
    from vitruvius.data.tokenization.tokenizer import Tokenizer

DATA_SCHEMA = "vitruvius.data/2"
BLOCK_BYTES = 4 * 2**20
"""Each shard is hashed in blocks of this size too, so that damage has an address."""
DEFAULT_SOURCE = "all"
"""The one source of data that nobody named sources of."""
MOST_SOURCES = 128
"""Each source has three open files per split while shards are written, and systems allow about a thousand."""

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")

AGAIN = "prepare the data again, or copy it again"


def dtype_for(vocab_size: int) -> str:
    """The numpy type of a token on disk: two bytes as long as every id fits."""
    return "<u2" if vocab_size <= 65_536 else "<u4"


def _is_weight(value: Any) -> bool:
    return value is None or (type(value) in {int, float} and 0 <= value < float("inf"))


SOURCE_NAME = matching(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "a name of up to 64 letters, digits, - and _")
_WEIGHT = Rule(due="a number from 0, or null", fits=_is_weight)


def _shard_file(suffix: str) -> Rule:
    # A shard lies inside the folder, whatever the index says: `../../etc/passwd` is the name of none.
    return matching(rf"(train|validation)/shard-[0-9]+\.{suffix}", "the name of a shard")


_SOURCE: Shape = {"weight": _WEIGHT, "documents": COUNT, "tokens": COUNT, "text_bytes": COUNT}
_SPLIT: Shape = {
    "documents": COUNT,
    "tokens": COUNT,
    "text_bytes": COUNT,
    "sources": MAPPING,
    "shards": [
        {
            "source": SOURCE_NAME,
            "tokens_file": _shard_file("bin"),
            "starts_file": _shard_file("idx"),
            "origins_file": _shard_file(r"origins\.jsonl\.gz"),
            "tokens": COUNT,
            "documents": COUNT,
            "sha256": TEXT,
            "starts_sha256": TEXT,
            "origins_sha256": TEXT,
            "origins_bytes": COUNT,
            "blocks": [TEXT],
        }
    ],
}
_INDEX: Shape = {
    "vocab_size": COUNT,
    "dtype": one_of("<u2", "<u4"),
    "eos": TEXT,
    "eos_id": COUNT,
    "tokenizer": {"file": one_of("tokenizer.json"), "sha256": TEXT},
    "splits": dict.fromkeys(SPLITS, _SPLIT),
    "fingerprint": TEXT,
}
"""What `index.json` holds besides its schema and what preparing says of itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of tokens, one of document starts and one of origins, as the index lists them."""

    source: str
    """Where its documents are from; a shard holds one source."""
    tokens_path: Path
    """The `.bin` file."""
    starts_path: Path
    """The `.idx` file."""
    origins_path: Path
    """The `.origins.jsonl.gz` file."""
    tokens: int
    """Tokens, separators included."""
    documents: int
    """Documents."""
    sha256: str
    """Of the `.bin` file."""
    starts_sha256: str
    """Of the `.idx` file."""
    origins_sha256: str
    """Of the `.origins.jsonl.gz` file."""
    origins_bytes: int
    """Length of the `.origins.jsonl.gz` file."""
    blocks: tuple[str, ...]
    """SHA-256 of each 4 MiB of the `.bin` file."""


def read_index(directory: Path | str) -> dict[str, Any]:
    """The content of `index.json`.

    Raises:
        DataError: there is none (preparing was stopped), it is not JSON, has another schema, or lacks something.
    """
    path = Path(directory) / "index.json"
    try:
        index: object = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            "there is no index.json, so this is not prepared data",
            where=str(directory),
            fix="name the folder that was given to `vitruvius data prepare --out`",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"the index cannot be read: {error}", where=str(path), fix=AGAIN) from None
    schema = cast("dict[str, Any]", index).get("schema") if isinstance(index, dict) else None
    if schema != DATA_SCHEMA:
        raise DataError(
            f"the schema is {schema!r}, this version reads {DATA_SCHEMA!r}",
            where=str(path),
            fix="prepare the data again",
        )
    misfit = first_misfit(_INDEX, cast("object", index)) or _parts_misfit(cast("dict[str, Any]", index))
    if misfit is not None:
        raise DataError(f"the index is damaged: {misfit}", where=str(path), fix=AGAIN)
    return cast("dict[str, Any]", index)


def _parts_misfit(index: dict[str, Any]) -> str | None:
    """Where sources are not what they should be, and where parts do not add up to the whole; in words, or None."""
    for split in SPLITS:
        whole, place = index["splits"][split], f"splits.{split}"
        for name, source in whole["sources"].items():
            misfit = first_misfit(SOURCE_NAME, name, f"a key of {place}.sources")
            misfit = misfit or first_misfit(_SOURCE, source, f"{place}.sources.{name}")
            if misfit is not None:
                return misfit
        sources = whole["sources"]
        weights = [source["weight"] for source in sources.values()]
        if len({weight is None for weight in weights}) > 1:
            return f"some of {place}.sources have a weight, and some have none"
        if weights and not any(weight is None or weight for weight in weights):
            return f"none of {place}.sources has a weight above 0"
        blocks = (-(-shard["tokens"] * int(index["dtype"][-1]) // BLOCK_BYTES) for shard in whole["shards"])
        wrong = next((n for n, number in enumerate(blocks) if len(whole["shards"][n]["blocks"]) != number), None)
        if wrong is not None:
            return f"{place}.shards.{wrong}.blocks are not as many as the shard has"
        unknown = next((shard["source"] for shard in whole["shards"] if shard["source"] not in sources), None)
        if unknown is not None:
            return f"{place}.shards has the source {unknown!r}, and {place}.sources lacks it"
        for count in ("documents", "tokens"):
            held = dict.fromkeys(sources, 0)
            for shard in whole["shards"]:
                held[shard["source"]] += shard[count]
            wrong = next((name for name, number in held.items() if sources[name][count] != number), None)
            if wrong is not None:
                what = f"{place}.sources.{wrong} has {sources[wrong][count]:,} {count}"
                return f"{what}, and its shards have {held[wrong]:,}"
        for count in ("documents", "tokens", "text_bytes"):
            number = sum(source[count] for source in sources.values())
            if whole[count] != number:
                return f"{place} has {whole[count]:,} {count}, and its sources have {number:,}"
    return None


def shard_of(directory: Path, entry: dict[str, Any]) -> Shard:
    """A shard as the index of `directory` lists it."""
    return Shard(
        source=entry["source"],
        tokens_path=directory / entry["tokens_file"],
        starts_path=directory / entry["starts_file"],
        origins_path=directory / entry["origins_file"],
        tokens=entry["tokens"],
        documents=entry["documents"],
        sha256=entry["sha256"],
        starts_sha256=entry["starts_sha256"],
        origins_sha256=entry["origins_sha256"],
        origins_bytes=entry["origins_bytes"],
        blocks=tuple(entry["blocks"]),
    )


_ESSENTIAL = ("schema", "vocab_size", "dtype", "eos", "eos_id", "tokenizer", "splits")
_NAMES_ALONE = {"origins_file", "origins_sha256", "origins_bytes"}


def index_of(tokenizer: Tokenizer, splits: dict[str, Any], settings: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The index of prepared data: what training reads, what it was made from, and its fingerprint."""
    index: dict[str, Any] = {
        "schema": DATA_SCHEMA,
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype_for(tokenizer.vocab_size),
        "eos": tokenizer.eos,
        "eos_id": tokenizer.eos_id,
        "tokenizer": {"file": "tokenizer.json", "sha256": hashlib.sha256(tokenizer.text.encode()).hexdigest()},
        "splits": splits,
        **more,
        "settings": settings,
    }
    return index | {"fingerprint": fingerprint_of(index)}


def fingerprint_of(index: dict[str, Any]) -> str:
    """Hexadecimal SHA-256 of what training reads: equal tokens, sources and weights, equal fingerprint.

    Where documents came from (ids, addresses) and how they were prepared has no part in it.
    """
    essential = {key: index[key] for key in _ESSENTIAL}
    essential["splits"] = {
        name: {**split, "shards": [_without_names(shard) for shard in split["shards"]]}
        for name, split in index["splits"].items()
    }
    return hashlib.sha256(json.dumps(essential, sort_keys=True).encode()).hexdigest()


def _without_names(shard: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in shard.items() if key not in _NAMES_ALONE}
