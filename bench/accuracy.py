"""What we predict against what is, and what others predict: the tables of docs/accuracy.md.

    python bench/accuracy.py                     parameters and caches, beside llm-analysis, litgpt and hf-mem
    python bench/accuracy.py --write             the same, into docs/accuracy.md
    python bench/accuracy.py --memory rows.json  with the rows that `bench/memory.py --json` measured

What is comes from Hugging Face's own classes, built on the meta device, and from the tensors that our cache allocates.
Each peer runs in an environment of its own under bench/, made on the first run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from accuracy_models import MODELS
from train_step import environment, say

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "accuracy.md"
PEERS = ("llm-analysis", "litgpt", "hf-mem")
LINEAR = ("mamba", "mamba2", "jamba-like", "gated-deltanet-hybrid")
"""Presets of whose caches peers know nothing: with recurrent state."""
OURS_ONLY = ("longcontext", *LINEAR)


def built_parameters(config: dict[str, Any]) -> int:
    """Parameters of Hugging Face's class for a config, tied ones once."""
    import torch
    import transformers

    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    return sum(parameter.numel() for parameter in model.parameters())


def ours(name: str) -> dict[str, int]:
    """What the spec says, without torch: parameters and decode bytes at the preset's context."""
    from vitruvius.sizing import size
    from vitruvius.spec import preset

    bill = size(preset(name))
    return {
        "context": bill.context,
        "parameters": bill.parameters.total,
        "decode_bytes": bill.kv_cache_bytes + bill.state_bytes,
    }


def allocated(name: str) -> dict[str, int]:
    """What the built model has: parameters, and bytes of the tensors of its cache, on the meta device."""
    from vitruvius.nn import build
    from vitruvius.spec import preset

    architecture = preset(name)
    model = build(architecture, device="meta", dtype="bf16")
    apart = set(model.graph.mtp_tensors())
    counted = sum(p.numel() for n, p in model.named_parameters() if n not in apart)
    return {"parameters": counted, "decode_bytes": model.cache(1, capacity=architecture.context).nbytes}


def of_peer(peer: str, asked: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a peer says, from its own environment."""
    python = environment(peer)
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    env.pop("PYTHONPATH", None)
    script = HERE / "peers" / peer / "estimate.py"
    done = subprocess.run(
        [python, script], input=json.dumps(asked), capture_output=True, text=True, env=env, check=False
    )
    if done.returncode:
        raise SystemExit(f"{peer} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout[done.stdout.index("{") :])


def versions() -> dict[str, str]:
    """Of the peers, as their requirements pin them, and of what is held to be true."""
    from importlib import metadata

    pinned = {}
    for peer in PEERS:
        text = (HERE / "peers" / peer / "requirements.txt").read_text()
        pinned |= dict(re.findall(r"^([\w-]+)==([\w.]+)$", text, re.MULTILINE))
    pinned.pop("torch", None)
    return {**pinned, "transformers": metadata.version("transformers"), "torch": metadata.version("torch")}


def measure() -> dict[str, Any]:
    """Every row of the first two tables."""
    asked = {name: {**model, "context": ours(name)["context"]} for name, model in MODELS.items()}
    said = {}
    for peer in PEERS:
        say(f"asking {peer}")
        said[peer] = of_peer(peer, asked)
    rows = {}
    for name in (*MODELS, *(name for name in OURS_ONLY if name not in MODELS)):
        say(name)
        rows[name] = {"ours": ours(name), "allocated": allocated(name)}
        if name in MODELS:
            rows[name]["built"] = built_parameters(MODELS[name]["config"])
            rows[name]["peers"] = {peer: said[peer][name] for peer in PEERS}
    return {"versions": versions(), "rows": rows}


# ----------------------------------------------------------------------------------------------------------------------


def error(found: float | None, true: int) -> str:
    """`+7.7 %`, `0`, or a dash where nothing was said."""
    if found is None:
        return "no answer"
    return "0" if found == true else f"{100 * (found / true - 1):+.1f} %"


def times(found: float | None, true: int) -> str:
    """Ratio of a cache to the one that is needed."""
    if found is None:
        return "no answer"
    return "0" if found == true else f"{found / true:.2f}x"


def parameters_table(rows: dict[str, Any]) -> str:
    """Parameters against the built model."""
    lines = [
        "| model | built by Hugging Face | vitruvius | llm-analysis | litgpt |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, row in rows.items():
        if "built" not in row:
            continue
        true = row["built"]
        peers = [error(row["peers"][peer]["parameters"], true) for peer in ("llm-analysis", "litgpt")]
        lines.append(f"| `{name}` | {true:,} | {error(row['ours']['parameters'], true)} | {' | '.join(peers)} |")
    return "\n".join(lines)


def cache_table(rows: dict[str, Any]) -> str:
    """Decode state against what is allocated."""
    lines = [
        "| model | context | bytes that decoding keeps | vitruvius | hf-mem | llm-analysis |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in rows.items():
        true = row["allocated"]["decode_bytes"]
        peers = ["-", "-"]
        if "peers" in row:
            peers = [times(row["peers"][peer]["kv_cache_bytes"], true) for peer in ("hf-mem", "llm-analysis")]
        mine = error(row["ours"]["decode_bytes"], true)
        lines.append(f"| `{name}` | {row['ours']['context']:,} | {true:,} | {mine} | {' | '.join(peers)} |")
    return "\n".join(lines)


def memory_table(rows: list[dict[str, Any]]) -> str:
    """Peaks of training and decoding against what the allocator counted, and how far they are off at most."""
    parts: list[str] = []
    for work in dict.fromkeys(row["work"] for row in rows):
        mine = [row for row in rows if row["work"] == work]
        errors = [row["error_percent"] for row in mine]
        parts.append(
            f"**{work}**: {len(mine)} rows, errors from {min(errors):+.2f} % to {max(errors):+.2f} %.\n\n"
            "| design | batch x tokens | format | settings | predicted bytes | measured bytes | error |\n"
            "| --- | ---: | --- | --- | ---: | ---: | ---: |\n" + "\n".join(_memory_row(row) for row in mine)
        )
    return "\n\n".join(parts)


def _memory_row(row: dict[str, Any]) -> str:
    usual = {"optimizer": "adamw", "checkpointing": "none", "accumulate": 1}
    settings = ", ".join(f"{k} {row[k]}" for k, v in usual.items() if row.get(k) not in {v, None}) or "-"
    return (
        f"| {row['component']} | {row['batch']} x {row['tokens']:,} | {row['dtype']} | {settings} | "
        f"{row['predicted_bytes']:,} | {row['measured_bytes']:,} | {row['error_percent']:+.2f} % |"
    )


def written(page: str, name: str, table: str) -> str:
    """The page with one marked place filled."""
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    assert place.search(page), f"docs/accuracy.md has no place for {name}"
    return place.sub(lambda match: f"{match[1]}{table}\n{match[2]}", page)


def main() -> None:
    """Measure, print, and write when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="fill the tables of docs/accuracy.md")
    parser.add_argument(
        "--memory", type=Path, action="append", default=[], help="what bench/memory.py --json printed; repeatable"
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    args = parser.parse_args()
    found = measure()
    tables = {"parameters": parameters_table(found["rows"]), "caches": cache_table(found["rows"])}
    tables["versions"] = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    measured = [row for path in args.memory for row in json.loads(path.read_text())["rows"]]
    if measured:
        tables["memory"] = memory_table(measured)
    if args.write:
        page = PAGE.read_text(encoding="utf-8")
        for name, table in tables.items():
            page = written(page, name, table)
        PAGE.write_text(page, encoding="utf-8")
        say(f"wrote {PAGE}")
    if args.json:
        json.dump(found, sys.stdout, indent=1)
    else:
        print("\n\n".join(tables.values()))


if __name__ == "__main__":
    main()
