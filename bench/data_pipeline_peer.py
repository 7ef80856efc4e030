"""The datatrove side of `data_pipeline.py`: run by the Python that has datatrove, one process, one task per stage.

    python data_pipeline_peer.py PLAN.json

PLAN.json: `pages` (a folder of JSONL), `work` (an empty folder), `tokenizer` (a tokenizer.json), `eos`,
`language_model` (a fastText model), `extractor` (trafilatura, inscriptis or none). Writes `work/result.json`:
documents after each step.

Everything is as fast as datatrove lets it be: one process without a pool, no compression of intermediate files, no
shuffling, signatures taken while documents are written.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.extractors.base import BaseExtractor
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils import lid
from datatrove.utils.hashing import HashConfig
from datatrove.utils.logging import logger


class Inscriptis(BaseExtractor):
    """The whole text of a page by inscriptis: the layout engine of datatrove's ReadabilityInscriptis.

    Without its choice of the main part, for which it needs a fork of readability-lxml that no registry has."""

    name = "⛏ Inscriptis"

    def __init__(self, timeout):
        super().__init__(timeout)

    def extract(self, text):
        from inscriptis import get_text
        from inscriptis.css_profiles import CSS_PROFILES
        from inscriptis.model.config import ParserConfig

        return get_text(text, ParserConfig(css=CSS_PROFILES["strict"])).strip()


EXTRACTORS = {
    "trafilatura": lambda timeout: Trafilatura(favour_precision=True, timeout=timeout),
    "inscriptis": lambda timeout: Inscriptis(timeout=timeout),
    "none": lambda timeout: None,  # noqa: ARG005
}


class LocalModel:
    """Makes datatrove's language filter read a model from disk, which it would download."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.loaded = None

    def __get__(self, instance, owner):
        if self.loaded is None:
            from fasttext.FastText import _FastText

            self.loaded = _FastText(self.path)
        return self.loaded


def stages(plan: dict) -> dict[str, tuple[list, int]]:
    """Name -> (steps, tasks)."""
    work, rules = Path(plan["work"]), plan["rules"]
    minhash = MinhashConfig(
        n_grams=plan["minhash"]["n_grams"],
        num_buckets=plan["minhash"]["bands"],
        hashes_per_bucket=plan["minhash"]["rows"],
        hash_config=HashConfig(precision=64),
    )
    bands = minhash.num_buckets
    extract = EXTRACTORS[plan["extractor"]](plan["timeout"])
    cleaning = [
        JsonlReader(plan["pages"]),
        *([] if extract is None else [extract]),
        LanguageFilter(**rules["language"]),
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(**rules["c4"]),
        FineWebQualityFilter(),
        JsonlWriter(str(work / "kept"), compression=None),
        MinhashDedupSignature(str(work / "signatures"), config=minhash),
    ]
    return {
        "clean": (cleaning, 1),
        "buckets": ([MinhashDedupBuckets(str(work / "signatures"), str(work / "buckets"), config=minhash)], bands),
        "cluster": ([MinhashDedupCluster(str(work / "buckets"), str(work / "remove"), config=minhash)], 1),
        "tokens": (
            [
                JsonlReader(str(work / "kept")),
                MinhashDedupFilter(str(work / "remove")),
                DocumentTokenizer(
                    str(work / "tokens"), plan["tokenizer"], eos_token=plan["eos"], shuffle_documents=False
                ),
            ],
            1,
        ),
    }


def run_alone(steps: list, tasks: int, logs: Path) -> None:
    """The tasks one after the other in this process: what LocalPipelineExecutor does, without its manager process."""
    executor = LocalPipelineExecutor(steps, tasks=tasks, workers=1, logging_dir=str(logs), skip_completed=False)
    for rank in range(tasks):
        executor._run_for_rank(rank)  # noqa: SLF001


def counted(steps: list) -> list[dict]:
    """What each step counted and how long it says it took."""
    rows = []
    for step in steps:
        stats = {name: stat.total for name, stat in step.stats.stats.items() if "/" not in name}
        rows.append({"step": step.name, "counts": stats, "seconds": round(step.stats.time_stats.total, 3)})
    return rows


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    logger.remove()
    lid.FastTextLID.model = LocalModel(plan["language_model"])
    if (extractor := EXTRACTORS[plan["extractor"]](plan["timeout"])) is not None:
        # In its sandbox a missing library would cost a timeout for every page, and no page would come out.
        extractor.extract("<html><body><p>A page to see whether the libraries are there.</p></body></html>")
    work = Path(plan["work"])
    found = {}
    for name, (steps, tasks) in stages(plan).items():
        begun = time.process_time(), time.perf_counter()
        run_alone(steps, tasks, work / "logs" / name)
        own = time.process_time() - begun[0]
        found[name] = {"own_cpu_seconds": round(own, 2), "seconds": round(time.perf_counter() - begun[1], 2)}
        found[name]["steps"] = counted(steps)
    documents = sum(file.stat().st_size // 8 for file in (work / "tokens").glob("*.index"))
    token_files = [file for file in (work / "tokens").iterdir() if file.suffix == ".ds"]
    tokens = sum(file.stat().st_size for file in token_files) // plan["token_bytes"]
    names = (
        "datatrove",
        "trafilatura",
        "inscriptis",
        "spacy",
        "tokenizers",
        "numpy",
        "fasttext-numpy2-wheel",
        "xxhash",
    )
    result = {
        "stages": found,
        "documents_out": documents,
        "tokens": tokens,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }
    (work / "result.json").write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
