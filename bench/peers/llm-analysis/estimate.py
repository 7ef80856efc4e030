"""What llm-analysis says of models: their Hugging Face configs on stdin as JSON, parameters and cache on stdout.

It knows two maps in a feed-forward network; of gated ones, which have three, it is told 3/2 of the width, the most
favourable reading. What has no place in its model (latent attention, states, sliding windows) is left as it is.
"""

import json
import logging
import sys

from llm_analysis.analysis import LLMAnalysis
from llm_analysis.config import ModelConfig, get_dtype_config_by_name, get_gpu_config_by_name

logging.disable(logging.CRITICAL)
GATED = {"llama", "mixtral", "qwen3", "qwen3_moe", "gemma2", "deepseek_v3", "smollm3"}


def estimate(config, context):
    if "num_attention_heads" not in config and "n_head" not in config:
        return {"parameters": None, "kv_cache_bytes": None}
    width = config.get("hidden_size") or config["n_embd"]
    hidden = config.get("moe_intermediate_size") or config.get("intermediate_size") or 4 * width
    experts = config.get("num_local_experts") or config.get("num_experts") or config.get("n_routed_experts") or 1
    gated = config["model_type"] in GATED
    model = ModelConfig(
        name="model",
        max_seq_len=context,
        num_layers=config.get("num_hidden_layers") or config["n_layer"],
        n_head=config.get("num_attention_heads") or config["n_head"],
        num_key_value_heads=config.get("num_key_value_heads"),
        hidden_dim=width,
        vocab_size=config["vocab_size"],
        expansion_ratio=hidden * (1.5 if gated else 1) / width,
        moe_num_experts=experts,
        moe_top_k=config.get("num_experts_per_tok") or 1,
    )
    analysis = LLMAnalysis(model, get_gpu_config_by_name("a100-sxm-80gb"), get_dtype_config_by_name("w16a16e16"))
    cache = analysis.get_memory_kv_cache_per_layer(1, context, kv_cache_dtype_bytes=2) * model.num_layers
    return {"parameters": round(analysis.get_num_params_total()), "kv_cache_bytes": round(cache)}


answers = {}
for name, asked in json.load(sys.stdin).items():
    try:
        answers[name] = estimate(asked["config"], asked["context"])
    except Exception as error:  # noqa: BLE001 (a peer that fails on a model has said so)
        answers[name] = {"parameters": None, "kv_cache_bytes": None, "error": f"{type(error).__name__}: {error}"}
json.dump(answers, sys.stdout)
