"""What is known about a foreign model before it runs: from its caller, its config, its class."""

from __future__ import annotations

import sys
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Weights = Literal["first", "trained"]
"""Whether the values are those of a fresh model, which the probe of the first loss is about."""

_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "block_size", "context_length", "context")
_REACHES = ("sliding_window", "attention_chunk_size", "chunk_size", "window_size", "local_attention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the probes take for granted about a model."""

    name: str
    vocab_size: int
    """Token ids are drawn from 0 up to this."""
    causal: bool = True
    """False for a model that is meant to see later tokens (masked language models, encoders)."""
    context: int | None = None
    """Longest sequence, where there is one."""
    reach: int | None = None
    """Longest window, chunk or block, in tokens: a probe is longer than that where it can be."""
    weights: Weights = "first"
    pad_id: int | None = None
    """A token that the model may treat as nothing; never drawn."""
    encoder_decoder: bool = False
    """Whether it reads a source beside the tokens that it predicts."""
    shifts: bool = True
    """Whether `labels` are the tokens themselves, each to be predicted from those before it."""
    headless: bool = False
    """Whether it is a body that returns hidden states and no logits."""
    redraw: Callable[[int], nn.Module] | None = None
    """A new model with first weights of a seed, where the way it was made is known."""
    notes: tuple[str, ...] = ()
    """What the report says about the subject: a twin, first weights, a guess."""


_LONGEST_NAME = 300
_GIVEN = ("name", "vocab_size", "causal", "context", "weights")
"""What a caller, or the dictionary beside a factory's module, may say."""
_TYPES: dict[str, tuple[type, str]] = {
    "name": (str, "a text"),
    "vocab_size": (int, "a whole number from 1 on"),
    "causal": (bool, "True or False"),
    "context": (int, "a whole number from 1 on"),
    "weights": (str, "'first' or 'trained'"),
}


def checked(given: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """What was said about a model, once every name and value makes sense. Raises UsageError."""
    kept: dict[str, Any] = {}
    for name, value in given.items():
        if name not in _GIVEN:
            near = get_close_matches(str(name), _GIVEN, n=1, cutoff=0.4)
            fix = f"did you mean {near[0]}?" if near else f"use {', '.join(_GIVEN)}"
            raise UsageError(f"{name!r} is nothing that can be said about a model", where=where, fix=fix)
        if value is None:
            continue
        kind, due = _TYPES[name]
        wrong = not isinstance(value, kind) or (kind is int and (isinstance(value, bool) or value < 1))
        if wrong or (name == "weights" and value not in {"first", "trained"}):
            raise UsageError(f"{name} is {due}, not {value!r}", where=where, fix=f"give {due}")
        if name == "name" and not (str(value).isprintable() and 0 < len(str(value)) <= _LONGEST_NAME):
            due = f"one line of at most {_LONGEST_NAME} printable characters"
            raise UsageError(f"name is {due}", where=where, fix=f"give {due}")
        kept[name] = value
    return kept


def facts_of(module: nn.Module, given: Mapping[str, Any], *, where: str) -> Facts:
    """Facts about a module: what was given, then what its config says, then what its class tells.

    Raises UsageError for a wrong value, and when nothing tells the size of the vocabulary.
    """
    said = checked(given, where=where)
    config: Any = getattr(module, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    guess = Facts(
        name=type(module).__name__,
        vocab_size=_number(text, ("vocab_size", "n_vocab")) or 0,
        causal=_is_causal(type(module).__name__, config),
        context=_number(text, _LENGTHS),
        reach=_number(text, _REACHES),
        pad_id=_pad_id(text),
        encoder_decoder=bool(getattr(config, "is_encoder_decoder", False)),
        shifts=_shifts(type(module).__name__, config),
        headless=_is_headless(type(module).__name__, config),
        redraw=_from_config(module),
    )
    facts = replace(guess, **said)
    if facts.vocab_size >= 1:
        return facts
    tables = [part for part in module.modules() if isinstance(part, nn.Embedding)]
    if not tables:
        raise UsageError(
            "nothing tells how many tokens this model knows",
            where=where,
            fix="pass vocab_size=..., or return (module, {'vocab_size': ...}) from the factory",
        )
    rows = tables[0].num_embeddings
    return replace(facts, vocab_size=rows, notes=("as many as its first embedding has rows",))


def _from_config(module: nn.Module) -> Callable[[int], nn.Module] | None:
    """How Hugging Face's classes make a fresh model: from the config that they keep."""
    home = sys.modules.get("transformers")
    if home is None or not isinstance(module, home.PreTrainedModel):
        return None
    kind: Any = type(module)
    return lambda _: kind(deepcopy(module.config))


def _number(config: Any, names: tuple[str, ...]) -> int | None:
    """The first of some settings that is a whole number from 1 on, of a config object or a dictionary."""
    for name in names:
        value = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
    return None


def _pad_id(config: Any) -> int | None:
    value = getattr(config, "pad_token_id", None)
    return value if isinstance(value, int) and value >= 0 else None


def _names(table: str) -> dict[str, Any]:
    """One of transformers' tables of model type -> class name, where transformers is loaded at all."""
    home = sys.modules.get("transformers.models.auto.modeling_auto")
    return dict(getattr(home, table, {})) if home is not None else {}


def _is_causal(class_name: str, config: Any) -> bool:
    """What transformers' tables of classes tell; a model that they do not know is taken for causal."""
    kind = getattr(config, "model_type", None)
    masked, causal = _names("MODEL_FOR_MASKED_LM_MAPPING_NAMES"), _names("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")
    if kind is None:
        return True
    if class_name in _flat(masked.values()):
        return False
    undecided = kind in masked and getattr(config, "is_decoder", None) is False
    if class_name in _flat(_names("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES").values()):
        return True
    return not undecided and (kind in causal or kind not in masked)


def _shifts(class_name: str, config: Any) -> bool:
    """Hugging Face's convention: causal language models shift labels inside, even where they see later tokens."""
    if getattr(config, "model_type", None) is None:
        return True
    apart = ("MODEL_FOR_MASKED_LM_MAPPING_NAMES", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES")
    if class_name in _flat(_names("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES").values()):
        return not getattr(config, "is_encoder_decoder", False)
    return class_name not in {name for table in apart for name in _flat(_names(table).values())}


def _is_headless(class_name: str, config: Any) -> bool:
    bodies = _flat(_names("MODEL_MAPPING_NAMES").values())
    heads = _flat(
        name
        for table in ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM")
        for name in _names(f"MODEL_FOR_{table}_MAPPING_NAMES").values()
    )
    return getattr(config, "model_type", None) is not None and class_name in bodies and class_name not in heads


def _flat(values: Any) -> set[str]:
    """Class names of a table whose values are names, or several names."""
    return {name for value in values for name in ((value,) if isinstance(value, str) else value)}


assert set(_GIVEN) <= {field.name for field in fields(Facts)}
