"""A Hugging Face folder: config.json and safetensors, as a model of transformers' own classes."""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.checks.foreign.adapter import LONGEST, WINDOWS, seeded
from vitruvius.checks.foreign.facts import Facts, facts_of
from vitruvius.checks.foreign.loading import Loaded, LoadError, Values
from vitruvius.checks.foreign.shrinking import shrunk
from vitruvius.checks.foreign.structure import listed
from vitruvius.errors import MissingExtraError, UsageError
from vitruvius.runs.tensorfile import read_header
from vitruvius.units import format_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

LARGEST_BYTES = 256 * 2**20
"""A model whose fp32 weights take more than this is probed through a smaller twin."""
_LARGEST_JSON = 32 * 2**20
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth")


def load_folder(folder: Path, *, seed: int, values: Values) -> Loaded:
    """The model of a folder, its own weights in it where they are there and it is small enough.

    Raises UsageError for a folder without what is needed, RunError for safetensors files that are not whole, LoadError
    when transformers cannot make the model or its weights do not fit.
    """
    data = read_config(folder)
    config = _parsed(data, folder)
    notes: list[str] = []
    text = config.get_text_config()
    if text is not config and not getattr(config, "is_encoder_decoder", False):
        notes.append(f"the language model of {config.model_type}, first weights of seed {seed}")
        config, data, values = text, text.to_dict(), "random"
    if data.get("quantization_config") is not None:
        notes.append(f"its weights are quantised, so first weights of seed {seed}")
        config, values = _without_quantisation(config, data), "random"
    kind = _class_of(config, data, folder)
    whole, count = _counted(kind, config, folder)
    too_big = 4 * count > LARGEST_BYTES or WINDOWS * (whole.reach or 0) > LONGEST
    if too_big:
        module, change = _twin(kind, config, folder, seed, count)
        facts = facts_of(module, {"name": f"twin of {kind.__name__} in {folder}"}, where=str(folder))
        return _loaded(module, facts, (*notes, change), f"a smaller twin with first weights of seed {seed}")
    files = [] if values == "random" else _weight_files(folder)
    given = {"name": f"{kind.__name__} in {folder}"}
    if not files:
        module = _drawn(kind, config, seed)
        if not notes:
            notes.append(f"first weights of seed {seed}")
        facts = facts_of(module, given, where=str(folder))
        return _loaded(module, facts, tuple(notes), f"first weights of seed {seed}")
    module, warning = _read(kind, config, folder)
    facts = facts_of(module, {**given, "weights": "trained"}, where=str(folder))
    size = sum(path.stat().st_size for path in files)
    detail = f"every weight from {listed([path.name for path in files])} ({format_bytes(size)})"
    return _loaded(module, facts, tuple(notes), detail, warning)


def _loaded(module: nn.Module, facts: Facts, notes: tuple[str, ...], detail: str, warning: str = "") -> Loaded:
    from dataclasses import replace

    facts = replace(facts, notes=(*notes, *facts.notes))
    return Loaded(module=module, facts=facts, detail=detail, warning=warning)


# ----------------------------------------------------------------------------------------------------------------------
# The config


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a folder as plain data. Raises UsageError where there is none."""
    where = str(folder)
    if not folder.is_dir():
        fix = "name a folder with config.json on this machine; nothing is downloaded"
        raise UsageError("there is no such folder", where=where, fix=fix)
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError("the folder has no config.json", where=where, fix="name a folder that save_pretrained wrote")
    data = read_json(path)
    if not isinstance(data.get("model_type"), str):
        raise UsageError("config.json names no model_type", where=str(path), fix="name a Hugging Face model's folder")
    return data


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file of bounded size holds. Raises UsageError."""
    where, fix = str(path), "copy the file again"
    if path.stat().st_size > _LARGEST_JSON:
        raise UsageError(f"the file is larger than {format_bytes(_LARGEST_JSON)}", where=where, fix=fix)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the file is not JSON: {str(error)[:120]}", where=where, fix=fix) from None
    if not isinstance(data, dict):
        raise UsageError("the file does not hold a JSON object", where=where, fix=fix)
    return data


def _transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError:
        raise MissingExtraError("hf", "transformers") from None
    return transformers


def _parsed(data: dict[str, Any], folder: Path) -> Any:
    transformers = _transformers()
    known, kind = transformers.CONFIG_MAPPING, data["model_type"]
    where = str(folder / "config.json")
    if kind not in known:
        near = get_close_matches(kind, list(known), n=3, cutoff=0.6)
        brings = bool(data.get("auto_map"))
        own = "it brings code of its own, which is never run" if brings else "transformers does not know it"
        meant = f"did you mean {' or '.join(near)}? Or " if near else ""
        fix = f"{meant}write a factory and use module:path.to:factory"
        raise UsageError(f"model_type {kind!r}: {own}", where=where, fix=fix)
    try:
        return known[kind].from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # noqa: BLE001 (a config class may raise anything about a wrong value)
        raise UsageError(f"{_short(error)}", where=where, fix="correct the config") from None


def _without_quantisation(config: Any, data: dict[str, Any]) -> Any:
    data.pop("quantization_config")
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def _class_of(config: Any, data: dict[str, Any], folder: Path) -> Any:
    """The class that the config names where transformers has it, else the one that belongs to its model_type."""
    transformers = _transformers()
    tables = transformers.models.auto.modeling_auto
    for name in data.get("architectures") or ():
        kind: Any = getattr(transformers, name, None) if isinstance(name, str) else None
        belongs = (
            _derives(kind, transformers.PreTrainedModel) and kind.config_class is type(config) and _reads_ids(kind)
        )
        if belongs:
            return kind
    heads = ["MODEL_FOR_CAUSAL_LM_MAPPING", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING", "MODEL_FOR_MASKED_LM_MAPPING"]
    if getattr(config, "is_encoder_decoder", False):
        heads = heads[1:]
    elif getattr(config, "is_decoder", None) is False:
        heads = heads[::-1]  # BERT and its kin, which are decoders only where the config says so
    for table in (*heads, "MODEL_MAPPING"):
        mapping = getattr(tables, table)
        kind = mapping.get(type(config), None)
        if getattr(kind, "config_class", None) is type(config) and _reads_ids(kind):
            return kind
    raise UsageError(
        f"model_type {config.model_type!r} has no language model in transformers",
        where=str(folder / "config.json"),
        fix="write a factory and use module:path.to:factory",
    )


def _reads_ids(kind: Any) -> bool:
    return getattr(kind, "main_input_name", "input_ids") == "input_ids"


def _derives(kind: Any, base: type) -> bool:
    """Whether something is a class derived from another."""
    return isinstance(kind, type) and issubclass(kind, base)


# ----------------------------------------------------------------------------------------------------------------------
# Weights


def _counted(kind: Any, config: Any, folder: Path) -> tuple[Facts, int]:
    """Facts and parameters at full size, from the meta device, where nothing is allocated."""
    with torch.device("meta"):
        module = _made(kind, config)
    return facts_of(module, {}, where=str(folder)), sum(parameter.numel() for parameter in module.parameters())


def _made(kind: Any, config: Any) -> nn.Module:
    from copy import deepcopy

    try:
        return kind(deepcopy(config))
    except Exception as error:  # noqa: BLE001 (whatever a class raises about its config is told)
        raise LoadError(f"{kind.__name__} cannot be made from its config: {_short(error)}") from None


def _drawn(kind: Any, config: Any, seed: int) -> nn.Module:
    with seeded(seed):
        return _made(kind, config).float().eval()


def _twin(kind: Any, config: Any, folder: Path, seed: int, count: int) -> tuple[nn.Module, str]:
    small, changes = shrunk(config.to_dict())
    try:
        module = _drawn(kind, type(config).from_dict(small), seed)
        tokens = torch.zeros(1, 4, dtype=torch.int64)
        with torch.no_grad():
            if not getattr(config, "is_encoder_decoder", False):
                module(input_ids=tokens, use_cache=False)
    except Exception as error:  # noqa: BLE001 (a class may refuse the smaller config in any way)
        raise UsageError(
            f"{count:,} parameters are too many to probe, and no smaller twin can be made: {_short(error)}",
            where=str(folder),
            fix="save a small config of the same kind into a folder and check that one",
        ) from None
    return module, "; ".join([f"{count:,} parameters at full size", *changes])


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, their headers checked; none where there are no weights."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names or not all(_is_plain(name) for name in names.values()):
            raise UsageError(
                "weight_map does not name files of the folder", where=str(index), fix="copy the folder again"
            )
        files = [folder / name for name in sorted(set(names.values()))]
    elif (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    else:
        pickles = [name for name in _PICKLES if (folder / name).exists()]
        if pickles:
            raise UsageError(
                f"{pickles[0]} is a pickle, which can run code and is never opened",
                where=str(folder),
                fix="convert it to safetensors, or check first weights with --random-weights",
            )
        return []
    for path in files:
        read_header(path)
    return files


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and "/" not in name and "\\" not in name


def _read(kind: Any, config: Any, folder: Path) -> tuple[nn.Module, str]:
    try:
        module, told = kind.from_pretrained(
            str(folder),
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # noqa: BLE001 (as for the config)
        raise LoadError(f"the weights cannot be loaded: {_short(error)}") from None
    missing, mismatched = sorted(told.get("missing_keys", ())), told.get("mismatched_keys", ())
    if missing:
        raise LoadError(f"weights are missing, and would be random: {listed(missing)}")
    if mismatched:
        raise LoadError(f"weights have another shape: {listed([str(m[0]) for m in mismatched])}")
    unused = sorted(told.get("unexpected_keys", ()))
    return module.eval(), f"weights that the model has no place for: {listed(unused)}" if unused else ""


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
