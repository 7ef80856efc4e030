"""Published models as their Hugging Face configs have them, beside the preset that describes each."""

from __future__ import annotations

MODELS: dict[str, dict] = {
    "llama-3-8b": {
        "litgpt": "Llama-3-8B",
        "config": {
            "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
            "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
        },
    },
    "smollm2-135m": {
        "litgpt": "SmolLM2-135M",
        "config": {
            "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
            "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
            "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
        },
    },
    "gpt2": {
        "litgpt": None,
        "config": {
            "model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
        },
    },
    "pythia-160m": {
        "litgpt": "pythia-160m",
        "config": {
            "model_type": "gpt_neox", "vocab_size": 50304, "hidden_size": 768, "intermediate_size": 3072,
            "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
        },
    },
    "falcon-7b": {
        "litgpt": "falcon-7b",
        "config": {
            "model_type": "falcon", "vocab_size": 65024, "hidden_size": 4544, "num_hidden_layers": 32,
            "num_attention_heads": 71, "multi_query": True, "parallel_attn": True, "bias": False, "alibi": False,
            "new_decoder_architecture": False, "num_key_value_heads": 1, "max_position_embeddings": 2048,
        },
    },
    "gemma-2-2b": {
        "litgpt": "Gemma-2-2b",
        "config": {
            "model_type": "gemma2", "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216,
            "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
            "max_position_embeddings": 8192, "sliding_window": 4096,
            "layer_types": ["sliding_attention", "full_attention"] * 13, "tie_word_embeddings": True,
        },
    },
    "mixtral-8x7b": {
        "litgpt": "Mixtral-8x7B-v0.1",
        "config": {
            "model_type": "mixtral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8,
            "num_experts_per_tok": 2, "max_position_embeddings": 32768, "tie_word_embeddings": False,
        },
    },
    "qwen3-30b-a3b": {
        "litgpt": "Qwen3-30B-A3B",
        "config": {
            "model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144,
            "moe_intermediate_size": 768, "num_hidden_layers": 48, "num_attention_heads": 32,
            "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
            "max_position_embeddings": 40960, "tie_word_embeddings": False,
        },
    },
    "deepseek-v3": {
        "litgpt": None,
        "config": {
            "model_type": "deepseek_v3", "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432,
            "moe_intermediate_size": 2048, "num_hidden_layers": 61, "num_attention_heads": 128,
            "num_key_value_heads": 128, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
            "n_group": 8, "topk_group": 4, "first_k_dense_replace": 3, "q_lora_rank": 1536, "kv_lora_rank": 512,
            "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "max_position_embeddings": 163840,
            "tie_word_embeddings": False,
        },
    },
    "mamba": {
        "litgpt": None,
        "config": {
            "model_type": "mamba", "vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 24, "state_size": 16,
            "expand": 2, "conv_kernel": 4, "time_step_rank": 48, "tie_word_embeddings": True,
        },
    },
    "mamba2": {
        "litgpt": None,
        "config": {
            "model_type": "mamba2", "vocab_size": 50288, "hidden_size": 768, "num_hidden_layers": 24, "state_size": 128,
            "expand": 2, "conv_kernel": 4, "head_dim": 64, "num_heads": 24, "n_groups": 1, "tie_word_embeddings": True,
        },
    },
}  # fmt: skip
"""Preset -> its config.json, and its name in litgpt; a peer gets what it can read of it."""
