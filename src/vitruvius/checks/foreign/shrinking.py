"""A small twin of a Hugging Face config: the same kinds of layers in the same order, fewer and narrower."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

HEADS, HEAD_WIDTH, EXPERTS, VOCABULARY, STATE = 4, 16, 4, 512, 16
"""Sizes of a twin, where the config's own are larger."""
_WINDOW = 8
_MOST_LAYERS = 12

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_blocks")
_LAYERS += ("num_decoder_layers",)
_WIDTHS = ("hidden_size", "cross_attention_hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "embedding_dim")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "encoder_attention_heads", "decoder_attention_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "num_query_groups")
_HIDDEN = ("intermediate_size", "n_inner", "d_ff", "ffn_dim", "ffn_hidden_size", "encoder_ffn_dim", "decoder_ffn_dim")
_HIDDEN += ("moe_intermediate_size", "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size")
_HIDDEN += ("intermediate_size_mlp", "shared_intermediate_size")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "moe_topk", "moe_top_k")
_WINDOWS = ("sliding_window", "attention_chunk_size", "local_attention", "window_size")
_AT_MOST = {
    "head_dim": HEAD_WIDTH,
    "d_head": HEAD_WIDTH,
    "d_kv": HEAD_WIDTH,
    "v_head_dim": HEAD_WIDTH,
    "qk_nope_head_dim": HEAD_WIDTH,
    "qk_rope_head_dim": HEAD_WIDTH // 2,
    "kv_lora_rank": 2 * HEAD_WIDTH,
    "q_lora_rank": 3 * HEAD_WIDTH,
    "linear_key_head_dim": HEAD_WIDTH,
    "linear_value_head_dim": HEAD_WIDTH,
    "linear_num_key_heads": HEADS // 2,
    "linear_num_value_heads": HEADS,
    "state_size": STATE,
    "mamba_d_state": STATE,
    "ssm_state_size": STATE,
    "mamba_dt_rank": 4,
    "time_step_rank": 4,
    "n_groups": 2,
    "mamba_n_groups": 2,
    "chunk_size": STATE,
    "mamba_chunk_size": STATE,
    "first_k_dense_replace": 1,
    "adapter_rank": STATE,
}
"""Fields that have one size in every twin."""
_PERIODS = ("attn_layer_period", "expert_layer_period", "no_rope_layer_interval", "sliding_window_pattern")
_PERIODS += ("full_attention_interval", "global_attn_every_n_layers", "decoder_sparse_step")


def shrunk(config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The config of a small twin, and what became smaller (`hidden_size 4,096 -> 64`).

    Layers are cut after the shortest prefix that holds every kind of them; query heads keep their ratio to key heads
    where it is at most 4, feed-forward layers theirs to the width.
    """
    small = deepcopy(config)
    heads, kv_heads = _heads(config)
    width = heads * HEAD_WIDTH
    own_width = next((config[name] for name in _WIDTHS if _is_size(config.get(name))), width)
    layers = _layers(config)
    for name, value in config.items():
        if isinstance(value, list):
            if layers is not None and len(value) == layers[0]:
                small[name] = value[: layers[1]]
        elif _is_size(value):
            small[name] = _smaller(name, value, heads, kv_heads, width, own_width, layers)
        elif isinstance(value, dict) and name in {"rope_parameters", "rope_scaling"}:
            small[name] = _shorter(value)
        elif isinstance(value, dict) and any(_is_size(value.get(width_name)) for width_name in _WIDTHS):
            small[name] = shrunk(value)[0]  # an encoder and a decoder, each with a config of its own
    if _is_size(config.get("qk_head_dim")) and _is_size(config.get("qk_nope_head_dim")):
        small["qk_head_dim"] = small["qk_nope_head_dim"] + small["qk_rope_head_dim"]
        if config.get("head_dim") in {config["qk_rope_head_dim"], config["qk_head_dim"]}:
            small["head_dim"] = small[
                "qk_rope_head_dim" if config["head_dim"] == config["qk_rope_head_dim"] else "qk_head_dim"
            ]
    if _is_size(config.get("attention_hidden_size")):
        small["attention_hidden_size"] = max(width, round(config["attention_hidden_size"] / own_width * width))
        if _is_size(config.get("attention_head_dim")):
            small["attention_head_dim"] = small["attention_hidden_size"] // heads
    if _is_size(config.get("rotary_dim")):
        share = config["rotary_dim"] / (config.get("head_dim") or own_width // _own_heads(config))
        small["rotary_dim"] = max(2, round(share * HEAD_WIDTH / 2) * 2)
    _experts(config, small)
    _states(config, small, width)
    _token_ids(small)
    changes = [
        f"{name} {value:,} -> {small[name]:,}"
        for name, value in config.items()
        if _is_size(value) and small[name] != value and not name.endswith("_token_id")
    ]
    return small, changes


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _heads(config: dict[str, Any]) -> tuple[int, int]:
    """Query and key heads of the twin."""
    heads = _own_heads(config)
    kv_heads = next((config[name] for name in _KV_HEADS if _is_size(config.get(name))), heads)
    if kv_heads in {heads, 1}:
        return min(heads, HEADS), min(kv_heads, HEADS)
    return HEADS, 1 if heads // kv_heads >= HEADS else 2


def _own_heads(config: dict[str, Any]) -> int:
    return next((config[name] for name in _HEADS if _is_size(config.get(name))), HEADS)


def _layers(config: dict[str, Any]) -> tuple[int, int] | None:
    """(layers, layers of the twin)."""
    count = next((config[name] for name in _LAYERS if _is_size(config.get(name))), None)
    if count is None:
        return None
    fewest = 2
    for value in config.values():
        if isinstance(value, list) and len(value) == count and all(isinstance(kind, str | int) for kind in value):
            kinds = set(value)
            fewest = max(fewest, next(n for n in range(1, count + 1) if set(value[:n]) == kinds))
    fewest = max([fewest, *(config[name] for name in _PERIODS if _is_size(config.get(name)))])
    if _is_size(config.get("first_k_dense_replace")):
        fewest = max(fewest, 3)
    return count, min(count, fewest, max(_MOST_LAYERS, 2))


def _smaller(
    name: str, value: int, heads: int, kv_heads: int, width: int, own_width: int, layers: tuple[int, int] | None
) -> int:
    if name in _LAYERS and layers is not None:
        return min(value, layers[1])
    if name in _WIDTHS:
        return width
    if name in _HEADS:
        return heads
    if name in _KV_HEADS:
        return kv_heads
    if name in _HIDDEN:
        return min(value, max(HEAD_WIDTH, round(value / own_width * width / HEAD_WIDTH) * HEAD_WIDTH))
    if name in _WINDOWS:
        return min(value, _WINDOW)
    if name in {"vocab_size", "vocab_size_per_layer_input"}:
        return min(value, VOCABULARY)
    return min(value, _AT_MOST[name]) if name in _AT_MOST else value


def _shorter(rope: dict[str, Any]) -> dict[str, Any]:
    """Lists with a number for each pair of channels, as long as the twin's heads have pairs."""
    return {
        name: value[: HEAD_WIDTH // 2]
        if isinstance(value, list)
        else _shorter(value)
        if isinstance(value, dict)
        else value
        for name, value in rope.items()
    }


def _experts(config: dict[str, Any], small: dict[str, Any]) -> None:
    """Fewer experts, of which at most half are chosen."""
    for name in _EXPERTS:
        if not _is_size(config.get(name)):
            continue
        grouped = _is_size(config.get("n_group")) and config["n_group"] > 1
        small[name] = min(config[name], 2 * EXPERTS if grouped else EXPERTS)
        if grouped:
            small["n_group"], small["topk_group"] = 2, 1
        for chosen in _CHOSEN:
            if _is_size(config.get(chosen)):
                small[chosen] = min(config[chosen], max(1, small[name] // 2))


def _states(config: dict[str, Any], small: dict[str, Any], width: int) -> None:
    """Heads of state-space layers: as many as their expanded width has."""
    for heads, size, expand in (
        ("num_heads", "head_dim", "expand"),
        ("mamba_n_heads", "mamba_d_head", "mamba_expand"),
        ("mamba_num_heads", "mamba_head_dim", "expand"),
        ("n_mamba_heads", "mamba_headdim", "mamba_expand"),
    ):
        if _is_size(config.get(heads)) and _is_size(config.get(expand)):
            inner = width * config[expand]
            small[heads] = inner // HEAD_WIDTH
            if _is_size(config.get(size)):
                small[size] = HEAD_WIDTH
    if _is_size(config.get("mamba_d_ssm")):
        small["mamba_d_ssm"] = width * config.get("mamba_expand", 2)


def _token_ids(small: dict[str, Any]) -> None:
    """Special tokens stay within the smaller vocabulary, each its own."""
    size = small.get("vocab_size", VOCABULARY)
    wanted = [name for name, value in small.items() if name.endswith("token_id") and _is_size(value) and value >= size]
    taken = {value for name, value in small.items() if name.endswith("token_id") and isinstance(value, int)}
    free = (number for number in range(size) if number not in taken)
    for name in wanted:
        small[name] = next(free, 0)
    for name, value in small.items():
        if name.endswith("token_id") and isinstance(value, list):
            small[name] = [number % size if isinstance(number, int) else number for number in value]
