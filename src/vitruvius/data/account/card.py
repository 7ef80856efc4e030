"""The facts of a dataset card: what prepared data knows of itself, and what people have stated."""

from __future__ import annotations

import shlex
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vitruvius.data.account.about import QUESTIONS
from vitruvius.data.account.folder import PreparedFolder, count_of, number_of, text_of
from vitruvius.data.account.statistics import PARTS, statistics
from vitruvius.data.reading.corpora import CORPORA
from vitruvius.data.reading.reasons import DAMAGE
from vitruvius.errors import VitruviusError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.data.cleaning.recipe import Recipe

NAMES_SHOWN = 12
"""Input files of a source that are named; the others are in the index."""
_FLAGS = {
    "tokenizer_kind": ("--tokenizer-kind", "bpe"),
    "eos": ("--eos", None),
    "max_bad_rate": ("--max-bad-rate", 0.001),
    "held_out": ("--held-out", 0.05),
    "kind": ("--kind", "auto"),
    "field": ("--field", "text"),
    "url_field": ("--url-field", "url"),
    "markup": ("--markup", "plain"),
    "document_bytes": ("--document-bytes", 16 * 2**20),
    "line_bytes": ("--line-bytes", 16 * 2**20),
    "shard_tokens": ("--shard-tokens", 100_000_000),
    "seed": ("--seed", 0),
}
"""Setting -> option of `data prepare`, and its value where it is not given."""


def card_facts(directory: Path | str, *, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Everything a dataset card says, as plain JSON; what nobody stated is null.

    Raises:
        DataError: the folder is damaged.
    """
    folder = PreparedFolder(directory)
    found = statistics(directory, skip=PARTS)
    sources = _sources(folder)
    stated = dict(about or {})
    return {
        "directory": str(directory),
        "title": stated.get("title") or Path(directory).resolve().name,
        "about": {key: {"question": question, "answer": stated.get(key)} for key, question in QUESTIONS.items()},
        "statistics": found,
        "sources": sources,
        "tokenizer": _tokenizer(folder),
        "splits": {"held_out": number_of(folder.settings, "held_out"), "seed": count_of(folder.settings, "seed")},
        "files": _files(folder),
        "limits": _limits(folder, sources),
        "repeat": _repeat(folder, sources),
        "versions": _versions(),
    }


# ------------------------------------------------------------------------------------------------------------ sources


def _sources(folder: PreparedFolder) -> list[dict[str, Any]]:
    """What was read for each source, and everything that was done to it."""
    inputs = _rows(folder.settings.get("inputs"))
    rows: list[dict[str, Any]] = []
    for part in _rows(folder.settings.get("parts")):
        name = str(part.get("name"))
        files = [row for row in inputs if row.get("source") == name]
        sizes = [count_of(row, "size_bytes") for row in files]
        counts = folder.source_counts.get(name, {})
        rows.append(
            {
                "name": name,
                "weight": number_of(part, "weight"),
                "files": len(files),
                "bytes": None if None in sizes else sum(filter(None, sizes)),
                "kinds": sorted({str(row.get("kind")) for row in files}),
                "names": [str(row.get("name")) for row in files[:NAMES_SHOWN]],
                "reading": part.get("reading"),
                "dropped": counts.get("dropped"),
                "changed": counts.get("changed"),
                "recipe": _recipe(part.get("recipe")),
            }
        )
    return rows


def _recipe(content: Any) -> dict[str, Any] | None:
    """A recipe step by step: every setting, where its limits are from, and why it may drop a document."""
    recipe = _read_recipe(content)
    if recipe is None:
        return None
    plain = cast("dict[str, Any]", recipe.as_json())
    steps: list[dict[str, Any]] = []
    for step, settings in zip(recipe.steps, plain["steps"], strict=True):
        steps.append(
            {
                "kind": step.kind,
                "source": step.source,
                "settings": {key: value for key, value in settings.items() if key != "kind"},
                "reasons": dict(getattr(step, "reasons", {})),
                "changes": dict(getattr(step, "counts", {})),
            }
        )
    near = recipe.deduplicate.near
    return {
        "name": recipe.name,
        "built_in": _is_built_in(recipe),
        "steps": steps,
        "duplicates": plain["duplicates"],
        "near_in_words": None if near is None else near.describe(),
    }


def _read_recipe(content: Any) -> Recipe | None:
    from vitruvius.data.cleaning.recipe import recipe_from_json

    if not isinstance(content, dict):
        return None
    try:
        return recipe_from_json(cast("dict[str, Any]", content))
    except VitruviusError:  # of another version, or with a list of words that is gone
        return None


def _is_built_in(recipe: Recipe) -> bool:
    from vitruvius.data.cleaning.recipe import BUILT_IN, read_recipe

    if recipe.name not in BUILT_IN:
        return False
    try:
        return read_recipe(recipe.name).as_json() == recipe.as_json()
    except (VitruviusError, FileNotFoundError):
        return False


# -------------------------------------------------------------------------------------------------------------- facts


def _tokenizer(folder: PreparedFolder) -> dict[str, Any]:
    settings = folder.settings
    loaded = text_of(settings, "tokenizer")
    return {
        "trained_here": loaded is None,
        "loaded_from": loaded,
        "kind": text_of(settings, "tokenizer_kind") if loaded is None else None,
        "asked_vocab_size": count_of(settings, "vocab") if loaded is None else None,
        "vocab_size": folder.index["vocab_size"],
        "separator": folder.index["eos"],
        "separator_id": folder.index["eos_id"],
        "sha256": folder.index["tokenizer"]["sha256"],
    }


def _files(folder: PreparedFolder) -> list[dict[str, Any]]:
    """Every shard with its hash."""
    return [
        {
            "file": entry["tokens_file"],
            "source": entry["source"],
            "documents": entry["documents"],
            "tokens": entry["tokens"],
            "sha256": entry["sha256"],
        }
        for split in folder.splits
        for entry in folder.index["splits"][split]["shards"]
    ]


def _limits(folder: PreparedFolder, sources: list[dict[str, Any]]) -> list[str]:
    """What a reader should not take for granted, as far as the data can tell."""
    limits: list[str] = []
    for source in sources:
        if not folder.index["splits"]["train"]["sources"].get(source["name"], {}).get("documents"):
            limits.append(f"of source {source['name']} no document is left to train on")
        recipe = source["recipe"]
        name = f"source {source['name']}: " if len(sources) > 1 else ""
        if recipe is None:
            limits.append(f"{name}the recipe is not in the index, or this version cannot read it")
            continue
        steps = {step["kind"] for step in recipe["steps"]}
        reasons = {reason for step in recipe["steps"] for reason in step["reasons"]}
        if not reasons:
            limits.append(f"{name}no rule of quality was applied: every readable document was kept")
        if not any("language" in kind for kind in steps):
            limits.append(f"{name}no language was asked for, so any may be in it")
        if not any("pii" in kind for kind in steps):
            limits.append(f"{name}personal data was neither looked for nor masked")
        if recipe["duplicates"]["exact"] == "off":
            limits.append(f"{name}duplicates were not looked for")
        elif recipe["duplicates"]["near"] is None:
            limits.append(f"{name}only exact duplicates were dropped; near duplicates are in it")
    damaged = sum(count for reason, count in folder.counts["dropped"].items() if reason in DAMAGE)
    if damaged:
        limits.append(f"{damaged:,} damaged records were left out; quarantine.jsonl says where they were")
    if folder.index["splits"]["validation"]["documents"] == 0:
        limits.append("nothing is held out for validation")
    return limits


def _versions() -> dict[str, str | None]:
    return {name: _version(name) for name in ("vitruvius", "numpy", "tokenizers")}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# ------------------------------------------------------------------------------------------------------------- repeat


def _repeat(folder: PreparedFolder, sources: list[dict[str, Any]]) -> dict[str, Any]:
    """The command that makes the same data again, and the recipe where it has no name."""
    settings = folder.settings
    words = ["vitruvius", "data", "prepare"]
    recipe: Any = None
    notes: list[str] = []
    if settings.get("sources"):
        words += ["--sources", "sources.yaml"]
        notes.append("sources.yaml names each source with its inputs, its recipe and its weight, as they are above")
    else:
        names, note = _inputs(folder)
        words += names
        notes += [note] if note else []
        first = sources[0]["recipe"] if sources else None
        if first is not None and first["name"] != "plain":
            words += ["--recipe", first["name"] if first["built_in"] else "recipe.yaml"]
        if first is not None and not first["built_in"]:
            recipe = settings.get("recipe")
            notes.append("recipe.yaml is the recipe below")
    if (loaded := settings.get("tokenizer")) is not None:
        words += ["--tokenizer", str(loaded)]
    elif (vocab := settings.get("vocab")) is not None:
        words += ["--vocab", str(vocab)]
    extensions = settings.get("extensions")
    if isinstance(extensions, list) and extensions != [".py"]:
        words += [word for suffix in cast("list[object]", extensions) for word in ("--ext", str(suffix))]
    for key, (flag, default) in _FLAGS.items():
        value = settings.get(key, default)
        if value is not None and value != default:
            words += [flag, str(value)]
    words += ["--out", "DATA"]
    return {"command": " ".join(_word(word) for word in words), "recipe": recipe, "notes": notes}


_LISTED = "$(jq -r '.settings.inputs[].name' index.json)"


def _word(word: str) -> str:
    """A word of a command as a shell reads it; what does not print is spelt out, as `bash` and `zsh` understand it."""
    if word == _LISTED or word.isprintable():
        return word if word == _LISTED else shlex.quote(word)
    spelt = (ch if ch.isprintable() and ch not in "\\'" else ch.encode("unicode_escape").decode() for ch in word)
    return "$'" + "".join(spelt).replace("'", "\\'") + "'"


def _inputs(folder: PreparedFolder) -> tuple[list[str], str | None]:
    """(the input files as arguments, what else to know)."""
    names = [str(row.get("name")) for row in _rows(folder.settings.get("inputs"))]
    corpora = sorted({corpus for corpus in CORPORA for name in names if name.startswith(f"{corpus}/")})
    others = [name for name in names if not any(name.startswith(f"{corpus}/") for corpus in corpora)]
    if len(others) <= NAMES_SHOWN:
        return [*corpora, *others], None
    if corpora or any(shlex.quote(name) != name for name in others):
        return [*corpora, "FILES"], f"FILES are the {len(others):,} files that index.json lists under settings.inputs"
    return [_LISTED], f"the {len(others):,} input files are listed in index.json"


def _rows(value: Any) -> list[dict[str, Any]]:
    """The mappings of a list."""
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", item) for item in items if isinstance(item, dict)]
