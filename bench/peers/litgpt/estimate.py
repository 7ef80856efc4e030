"""What litgpt's estimator says of the models that it knows by name: names on stdin as JSON, parameters on stdout."""

import json
import sys

from litgpt.config import Config
from litgpt.utils import estimate_model_memory

answers = {}
for name, asked in json.load(sys.stdin).items():
    if asked["litgpt"] is None:
        answers[name] = {"parameters": None, "kv_cache_bytes": None}
        continue
    said = estimate_model_memory(Config.from_name(asked["litgpt"]))
    answers[name] = {"parameters": said["param_count"], "kv_cache_bytes": None}
json.dump(answers, sys.stdout)
