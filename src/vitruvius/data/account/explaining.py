"""Everything that happened to one document: where it lay, what each step measured, and where it ended."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitruvius.data.account.changes import short_diff, word_diff
from vitruvius.data.account.finding import Packed, dropped_for, find, kept_document
from vitruvius.data.account.folder import PreparedFolder, count_of, id_of, number_of, scalar_of, text_of
from vitruvius.data.account.reread import Originals, SourceGoneError, decoded, packed_tokens
from vitruvius.data.account.statistics import sort_of
from vitruvius.data.extras import require
from vitruvius.errors import VitruviusError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.data.cleaning.recipe import Recipe
    from vitruvius.data.cleaning.run import Look
    from vitruvius.data.dedup.settings import NearSettings
    from vitruvius.data.document import Document

_TWINS_SHOWN = 10
_LINES_SHOWN = 6
_START = 400
"""Characters of the text that are shown."""


def explain(directory: Path | str, document_id: str, *, root: Path | str = ".") -> dict[str, Any]:
    """What happened to the document of this id, as plain JSON.

    The document is read again from its file (`root` is where relative names begin) and taken through every step, going
    on after one that drops it; what came out is held against what the data says. Where the file is gone or has
    changed, `notes` say so, and what the data itself knows is told.

    Raises:
        DataError: the folder is damaged, or has no such document; says which ids come near.
    """
    require("numpy", "tokenizers")
    folder = PreparedFolder(directory)
    found = find(folder, document_id)
    notes: list[str] = []
    originals = Originals(folder, root=Path(root))
    packed = found if isinstance(found, Packed) else None
    row = packed.origin if packed else found
    assert isinstance(row, dict)
    name = id_of(row) if packed is None else text_of(row, "id")
    assert name is not None
    tokens = None if packed is None else packed_tokens(packed.shard, packed.number, dtype=folder.index["dtype"])[0]
    text = None if packed is None or tokens is None else decoded(folder.tokenizer, tokens, packed.shard.tokens_path)
    document = _again(originals, name, row, notes)
    recipe = _recipe(originals, name, row, notes)
    looks = _looks(document, recipe, notes)
    cleaned = looks[-1].document.text if looks else (document.text if document and recipe else None)
    end = _kept_end(packed) if packed else _dropped_end(row)
    return {
        "directory": str(directory),
        "fingerprint": folder.index["fingerprint"],
        "id": name,
        "kept": packed is not None,
        "end": end,
        "place": _place(originals, name, row, document),
        "text": _shown(text, document, looks) if text is not None or document is not None else _raw(originals, row),
        "recipe": None if recipe is None else recipe.name,
        "steps": None if looks is None else _steps(document, looks),
        "agrees": _agrees(folder, end, looks, tokens, cleaned, notes),
        "duplicate": _duplicate(folder, originals, row, recipe, cleaned, notes),
        "duplicates_dropped": _twins(folder, name) if packed else None,
        "notes": notes,
    }


# --------------------------------------------------------------------------------------------------- where it ended


def _kept_end(packed: Packed) -> dict[str, Any]:
    return {
        "split": packed.split,
        "shard": f"{packed.split}/{packed.shard.tokens_path.name}",
        "document": packed.document,
        "document_in_shard": packed.number,
        "source": packed.shard.source,
        "tokens": count_of(packed.origin, "tokens"),
        "text_bytes": count_of(packed.origin, "text_bytes"),
        "url": text_of(packed.origin, "url"),
    }


def _dropped_end(row: dict[str, Any]) -> dict[str, Any]:
    reason = text_of(row, "reason") or ""
    rule: dict[str, Any] = {key: text_of(row, key) for key in ("step", "relation")}
    rule |= {key: scalar_of(row, key) for key in ("value", "limit")}
    return {"reason": reason, "sort": sort_of(reason), "detail": text_of(row, "detail"), **rule}


def _place(originals: Originals, name: str, row: dict[str, Any], document: Document | None) -> dict[str, Any]:
    entry = originals.file_of(name) or originals.entry(text_of(row, "file") or "")
    line = count_of(row, "line")
    return {
        "file": text_of(row, "file") or (None if entry is None else entry.name),
        "kind": None if entry is None else entry.kind,
        "source": None if entry is None else entry.source,
        "line": line if document is None else document.line,
        "byte_offset": count_of(row, "byte_offset") if document is None else document.byte_offset,
    }


def _raw(originals: Originals, row: dict[str, Any]) -> dict[str, Any]:
    """What the file has where a record could not be read."""
    found: dict[str, Any] = {"of": None, "characters": None, "bytes": None, "start": None}
    file = text_of(row, "file")
    if row.get("id") is None and file is not None:
        try:
            content, _, _ = originals.bytes_at(file, count_of(row, "byte_offset") or 0, _START)
            found |= {"of": "bytes", "start": content.decode("utf-8", "backslashreplace")}
        except SourceGoneError:
            pass  # said by `_again` or of no use
    return found


def _shown(text: str | None, document: Document | None, looks: Sequence[Look] | None) -> dict[str, Any]:
    """The text as it was packed; of what was dropped, as the first rule that it failed saw it, or the steps left it."""
    of, shown = "shard", text
    if text is None and looks:
        failed = next((look for look in looks if not look.passed), None)
        of, shown = ("steps", looks[-1].document.text) if failed is None else ("rule", failed.document.text)
    elif text is None:
        of, shown = "source", None if document is None else document.text
    return {
        "of": of,
        "characters": None if shown is None else len(shown),
        "bytes": None if shown is None else len(shown.encode("utf-8", "surrogatepass")),
        "start": None if shown is None else shown[:_START],
    }


# --------------------------------------------------------------------------------------------------------- run again


def _again(originals: Originals, name: str, row: dict[str, Any], notes: list[str]) -> Document | None:
    if "id" in row and row["id"] is None:
        notes.append("the record could not be read, so there is no document to take through the steps")
        return None
    try:
        return originals.read(name)
    except SourceGoneError as error:
        notes.append(f"not read again: {error}")
        return None


def _recipe(originals: Originals, name: str, row: dict[str, Any], notes: list[str]) -> Recipe | None:
    entry = originals.file_of(name)
    label = text_of(row, "source") or (None if entry is None else entry.source)
    try:
        source = None if label is None else originals.source(label)
    except SourceGoneError as error:
        notes.append(str(error))
        return None
    if source is None:
        notes.append("the index does not hold the recipe that the document went through")
        return None
    return source.recipe


def _looks(document: Document | None, recipe: Recipe | None, notes: list[str]) -> list[Look] | None:
    from vitruvius.data.cleaning.run import trace

    if document is None or recipe is None:
        return None
    try:
        return trace(document, recipe)
    except VitruviusError as error:  # a list of words that is gone, a package that is missing
        notes.append(f"the steps could not be run again: {error}")
        return None


def _steps(document: Document | None, looks: Sequence[Look]) -> list[dict[str, Any]]:
    """Every step with its measures, and what it changed in the text."""
    from vitruvius.data.cleaning.table import kinds

    known = kinds()
    before = document.text if document else ""
    markup = document.markup if document else "plain"
    rows: list[dict[str, Any]] = []
    for look in looks:
        after = look.document.text
        rows.append(
            {
                "index": look.index,
                "step": look.step,
                "source": getattr(known.get(look.step), "source", None),
                "passed": look.passed,
                "measures": [
                    {
                        "reason": measure.reason,
                        "value": measure.value,
                        "relation": measure.relation,
                        "limit": measure.limit,
                        "passed": measure.passed,
                    }
                    for measure in look.measures
                ],
                "changes": dict(look.changes),
                "characters_before": len(before),
                "characters_after": len(after),
                "difference": None
                if before == after
                else _difference(before, after, freed=markup != look.document.markup),
            }
        )
        before, markup = after, look.document.markup
    return rows


def _difference(before: str, after: str, *, freed: bool) -> dict[str, Any]:
    """What a step changed; of a text that it freed of markup, which differs everywhere, how it begins now."""
    return (
        short_diff("", "\n".join(after.split("\n", _LINES_SHOWN)[:_LINES_SHOWN]))
        if freed
        else short_diff(before, after)
    )


def _agrees(
    folder: PreparedFolder,
    end: dict[str, Any],
    looks: list[Look] | None,
    tokens: list[int] | None,
    cleaned: str | None,
    notes: list[str],
) -> bool | None:
    """Whether running the steps again ends as the data says; None where they could not be run."""
    if looks is None or cleaned is None:
        return None
    failed = next((measure for look in looks for measure in look.measures if not measure.passed), None)
    reason = end.get("reason")
    ruled = reason is not None and end["sort"] != "duplicate"
    if ruled:
        fine = failed is not None and (failed.reason, failed.value) == (reason, end["value"])
        if not fine:
            now = "passes" if failed is None else f"fails {failed.reason} with {failed.value}"
            notes.append(f"the document {now} now: its file, a list or this version has changed since")
        return fine
    if failed is not None:
        notes.append(f"the document fails {failed.reason} now: its file, a list or this version has changed since")
        return False
    # Tokens, because some tokenizers do not give the text back as it was.
    if tokens is not None and folder.tokenizer.encode(cleaned) != tokens:
        notes.append("the text in the shard is not the text that the steps give now: the file has changed since")
        return False
    return True


# -------------------------------------------------------------------------------------------------------- duplicates


def _duplicate(
    folder: PreparedFolder,
    originals: Originals,
    row: dict[str, Any],
    recipe: Recipe | None,
    cleaned: str | None,
    notes: list[str],
) -> dict[str, Any] | None:
    """The document that stayed for a duplicate, and how alike the two are, computed anew."""
    keeper = text_of(row, "keeper")
    if keeper is None:
        return None
    near = None if recipe is None else recipe.deduplicate.near
    theirs, where = _text_of_keeper(folder, originals, keeper, notes)
    both = cleaned is not None and theirs is not None
    return {
        "reason": text_of(row, "reason"),
        "keeper": keeper,
        "jaccard": number_of(row, "jaccard"),
        "threshold": None if near is None else near.threshold,
        "ngram_words": None if near is None else near.ngram,
        "jaccard_again": _similarity(cleaned, theirs, near) if both else None,
        "keeper_text_of": where,
        "keeper_text": None if theirs is None else theirs[:_START],
        "difference": word_diff(theirs or "", cleaned or "") if both and cleaned != theirs else None,
    }


def _text_of_keeper(
    folder: PreparedFolder, originals: Originals, keeper: str, notes: list[str]
) -> tuple[str | None, str | None]:
    """(the text of a document that stays, whether from its `source` or from a `shard`), as far as it can be had."""
    from vitruvius.data.cleaning.run import Kept, clean

    packed = kept_document(folder, keeper)
    if packed is None:
        notes.append(f"the document that was kept, {keeper!r}, is not in the shards")
        return None, None
    try:
        source = originals.source(packed.shard.source)
        cleaned = None if source is None else clean(originals.read(keeper), source.recipe)
        if isinstance(cleaned, Kept):
            return cleaned.document.text, "source"
    except (SourceGoneError, VitruviusError):
        pass
    tokens, _ = packed_tokens(packed.shard, packed.number, dtype=folder.index["dtype"])
    return decoded(folder.tokenizer, tokens, packed.shard.tokens_path), "shard"


def _similarity(one: str | None, other: str | None, near: NearSettings | None) -> float | None:
    if one is None or other is None or near is None:
        return 1.0 if one is not None and one == other else None
    from vitruvius.data.dedup.shingles import jaccard, shingles

    return float(jaccard(shingles(one, ngram=near.ngram), shingles(other, ngram=near.ngram)))


def _twins(folder: PreparedFolder, name: str) -> dict[str, Any]:
    count, rows = dropped_for(folder, name, most=_TWINS_SHOWN)
    shown = [{"id": id_of(row), "reason": text_of(row, "reason"), "jaccard": number_of(row, "jaccard")} for row in rows]
    return {"count": count, "first": shown}
