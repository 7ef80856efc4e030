"""What hf-mem says of the caches of models: their Hugging Face configs on stdin as JSON, bytes on stdout."""

import json
import sys

from hf_mem.safetensors.kv_cache import compute_safetensors_kv_cache_size

answers = {}
for name, asked in json.load(sys.stdin).items():
    try:
        bytes_ = compute_safetensors_kv_cache_size(asked["config"], "BF16", asked["context"], 1)
        answers[name] = {"parameters": None, "kv_cache_bytes": bytes_}
    except Exception as error:  # noqa: BLE001 (a peer that fails on a model has said so)
        answers[name] = {"parameters": None, "kv_cache_bytes": None, "error": f"{type(error).__name__}: {error}"}
json.dump(answers, sys.stdout)
