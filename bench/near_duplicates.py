"""Near duplicates: ours against datasketch and rensa, on texts whose similarity is known.

    python bench/near_duplicates.py                              # about 20,000 texts
    python bench/near_duplicates.py --families 2000 --json
    python bench/near_duplicates.py --write docs/benchmarks/near-duplicates.md

The labelled set is that of `vitruvius.data.dedup.labelled`: real text, edited so that the exact Jaccard similarity of
every pair is known from how it was made, above, below and exactly at 0.8, with forms and boilerplate that are alike but
no duplicates. Right is what the rule drops, applied to these similarities: texts from the longest to the shortest, each
dropped if one that was kept reaches the threshold. The peers see the texts in that order too and drop a text if their
index has a candidate for it; ours sees them in an order that is shuffled.

Every contestant is a process of its own on one thread and starts from the texts. Word 5-grams are made as each one's
users would: ours in numpy, the peers' with a regular expression and a set of strings. All have 120 hash functions.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from hashlib import sha256
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

THRESHOLD = 0.8
NGRAM = 5
BANDS, ROWS = 20, 6
PERMUTATIONS = BANDS * ROWS
UNIT = 1000
HARDWARE = "2 cores, x86-64 with AVX-512"


# ----------------------------------------------------------------------------------------------------------------------
# The labelled set


def sources() -> Iterator[str]:
    """Python files of the standard library, then of what is installed, each by the hashes of the names."""
    library, installed = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    parts = [
        [path for path in library.rglob("*.py") if "site-packages" not in path.parts],
        list(installed.rglob("*.py")),
    ]
    for part, home in zip(parts, (library, installed), strict=True):
        for path in sorted(part, key=lambda path: sha256(path.relative_to(home).as_posix().encode()).digest()):
            yield path.read_text(encoding="utf-8", errors="replace").replace("\0", "")


def make_corpus(path: Path, families: int) -> dict[str, Any]:
    """Write the texts by rank, and say what is right."""
    from vitruvius.data.dedup.labelled import labelled_families

    texts: list[tuple[str, str]] = []
    right: list[str] = []
    kinds: Counter[str] = Counter()
    groups: list[list[str]] = []
    for number, family in enumerate(islice(labelled_families(sources(), ngram=NGRAM, threshold=THRESHOLD), families)):
        texts += [(f"{number:06}-{member}", text) for member, text in enumerate(family.texts)]
        right += [f"{number:06}-{member}" for member in sorted(family.dropped(THRESHOLD))]
        kinds[family.kind] += len(family.texts)
        groups.append([f"{value.numerator}/{value.denominator}" for value in family.similarities.values()])
    texts.sort(key=lambda item: (-len(item[1]), sha256(item[1].encode()).digest()))
    with path.open("w", encoding="utf-8") as file:
        for item in texts:
            file.write(json.dumps(item) + "\n")
    values = [int(a) / int(b) for group in groups for a, b in [group[0].split("/")]]
    return {
        "families": len(groups),
        "documents": len(texts),
        "bytes": sum(len(text.encode()) for _, text in texts),
        "duplicates": len(right),
        "kinds": dict(sorted(kinds.items())),
        "at_threshold": sum(value == THRESHOLD for value in values),
        "within_0.05": sum(abs(value - THRESHOLD) <= 0.05 for value in values),
        "right": right,
    }


def texts_of(path: Path) -> Iterator[tuple[str, str]]:
    """The texts, one at a time."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            name, text = json.loads(line)
            yield name, text


# ----------------------------------------------------------------------------------------------------------------------
# Contestants: each returns the names of what it drops


def ours(path: Path, *, bands: int = BANDS, rows: int = ROWS) -> list[str]:
    """Sign, write and search as `vitruvius data prepare` does, in one process."""
    from vitruvius.data.dedup.dropped import Dropped
    from vitruvius.data.dedup.settings import DedupSettings, NearSettings
    from vitruvius.data.dedup.signing import Signer
    from vitruvius.data.dedup.stages import stages
    from vitruvius.data.document import Document
    from vitruvius.data.job.job import Job
    from vitruvius.data.job.kept import KeptWriter, suffixes

    near = NearSettings(threshold=THRESHOLD, ngram=NGRAM, bands=bands, rows=rows)
    signer = Signer(near)
    shuffled = path.with_suffix(".shuffled")
    if not shuffled.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        random.Random(0).shuffle(lines)
        shuffled.write_text("".join(lines), encoding="utf-8")
        os.execv(sys.executable, [sys.executable, *sys.argv])  # start again, so that this is not counted
    dropped: list[str] = []
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        job = Job(folder)
        documents = texts_of(shuffled)
        units = 0
        while some := list(islice(documents, UNIT)):
            with job.publishing_all(job.path("read", units), suffixes(signed=True)) as files:
                writer = KeptWriter(files, seed=0, sign=signer.sign)
                for name, text in some:
                    writer.keep(Document(id=name, file=name, line=None, byte_offset=0, text=text))
            units += 1
        job.__dict__["plan"] = SimpleNamespace(units=tuple(range(units)))
        for stage in stages(DedupSettings(exact="text", near=near)):
            for task in range(stage.tasks(job)):
                stage.run(job, task)
        for unit in range(units):
            names = list(job.kept(unit).ids())
            dropped += [names[row] for row in Dropped.of_unit(job, unit)]
    return dropped


def grams(text: str) -> set[str]:
    """The word 5-grams of a text, as Python programs make them."""
    words = re.findall("[a-z0-9]+", text.lower())
    return {" ".join(words[start : start + NGRAM]) for start in range(max(1, len(words) - NGRAM + 1))}


def datasketch(path: Path, *, params: tuple[int, int] | None, fast_hash: bool = False) -> list[str]:
    """MinHashLSH, asked before a text is put in."""
    from datasketch import MinHash, MinHashLSH

    options: dict[str, Any] = {}
    if fast_hash:
        import xxhash

        options["hashfunc"] = xxhash.xxh32_intdigest
    index = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS, params=params)
    dropped: list[str] = []
    for name, text in texts_of(path):
        signature = MinHash(num_perm=PERMUTATIONS, **options)
        signature.update_batch([gram.encode() for gram in grams(text)])
        if index.query(signature):
            dropped.append(name)
        else:
            index.insert(name, signature)
    return dropped


def rensa(path: Path, *, bands: int | None) -> list[str]:
    """RMinHashDeduplicator with its index, which compares estimates with the threshold."""
    from rensa import RMinHash, RMinHashDeduplicator

    found = RMinHashDeduplicator(THRESHOLD, PERMUTATIONS, True, bands, 42)
    dropped: list[str] = []
    for name, text in texts_of(path):
        signature = RMinHash(PERMUTATIONS, 42)
        signature.update(list(grams(text)))
        if not found.add(name, signature):
            dropped.append(name)
    return dropped


def our_signatures(path: Path) -> list[str]:
    """Only signs the texts."""
    from vitruvius.data.dedup.settings import NearSettings
    from vitruvius.data.dedup.signing import Signer

    signer = Signer(NearSettings(threshold=THRESHOLD, ngram=NGRAM, bands=BANDS, rows=ROWS))
    return [name for name, text in texts_of(path) if not len(signer.sign(text))]


def rensa_signatures(path: Path) -> list[str]:
    """The same with rensa."""
    from rensa import RMinHash

    for _, text in texts_of(path):
        signature = RMinHash(PERMUTATIONS, 42)
        signature.update(list(grams(text)))
    return []


def datasketch_signatures(path: Path) -> list[str]:
    """The same with datasketch."""
    from datasketch import MinHash

    for _, text in texts_of(path):
        MinHash(num_perm=PERMUTATIONS).update_batch([gram.encode() for gram in grams(text)])
    return []


def nothing(path: Path) -> list[str]:
    """Only reads the texts: the part that is everybody's."""
    return [name for name, _ in texts_of(path) if not name]


CONTESTANTS: dict[str, Callable[[Path], list[str]]] = {
    "Vitruvius, 20 bands of 6": ours,
    "Vitruvius, 14 bands of 8 (FineWeb)": lambda path: ours(path, bands=14, rows=8),
    "datasketch, 20 bands of 6": lambda path: datasketch(path, params=(BANDS, ROWS)),
    "datasketch, its own bands": lambda path: datasketch(path, params=None),
    "datasketch with xxhash, its own bands": lambda path: datasketch(path, params=None, fast_hash=True),
    "rensa, 20 bands": lambda path: rensa(path, bands=BANDS),
    "rensa, its own bands": lambda path: rensa(path, bands=None),
    "Vitruvius, signatures alone": our_signatures,
    "datasketch, signatures alone": datasketch_signatures,
    "rensa, signatures alone": rensa_signatures,
    "reading alone": nothing,
}


def contest(name: str, path: Path) -> None:
    """Run one contestant in this process and print what it did as JSON."""
    start = time.process_time()
    dropped = CONTESTANTS[name](path)
    seconds = time.process_time() - start
    # Not ru_maxrss: that begins with the memory of the process that started this one.
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    print(json.dumps({"name": name, "cpu_seconds": seconds, "peak_bytes": peak, "dropped": dropped}))


# ----------------------------------------------------------------------------------------------------------------------
# The table


def scored(row: dict[str, Any], corpus: dict[str, Any]) -> dict[str, Any]:
    """Precision, recall and F1 of a contestant's drops, and its speed."""
    right, dropped = set(corpus["right"]), set(row.pop("dropped"))
    hits = len(right & dropped)
    precision = hits / len(dropped) if dropped else None
    recall = hits / len(right)
    f1 = 2 * hits / (len(right) + len(dropped))
    speed = corpus["documents"] / row["cpu_seconds"]
    return row | {"precision": precision, "recall": recall, "f1": f1, "documents_per_cpu_second": speed}


def measured(families: int) -> dict[str, Any]:
    """Make the set and run everyone."""
    quiet = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "corpus.jsonl")
        corpus = make_corpus(path, families)
        rows: list[dict[str, Any]] = []
        for name in CONTESTANTS:
            command = [sys.executable, __file__, "--contestant", name, "--corpus", str(path)]
            done = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{name}: {done.stderr}")
            rows.append(scored(json.loads(done.stdout), corpus))
    del corpus["right"]
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "datasketch", "rensa")}
    return {
        "schema": "vitruvius.bench-near-duplicates/1",
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "hardware": HARDWARE,
        "versions": {"python": platform.python_version(), **versions},
        "threshold": THRESHOLD,
        "corpus": corpus,
        "rows": rows,
    }


def page(found: dict[str, Any]) -> str:
    """The table as Markdown."""
    corpus, versions = found["corpus"], found["versions"]
    kinds = ", ".join(f"{name} {count:,}" for name, count in corpus["kinds"].items())
    lines = [
        "# Near duplicates: Vitruvius, datasketch and rensa",
        "",
        f"Written by `bench/near_duplicates.py` on {found['date']}; {found['hardware']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ". One process and one thread each, in the same run.",
        "",
        (
            f"{corpus['documents']:,} texts ({corpus['bytes'] / 1e6:.1f} MB) in {corpus['families']:,} families; "
            f"at a Jaccard similarity of {found['threshold']:g} the rule drops {corpus['duplicates']:,} of them. "
            f"In {corpus['within_0.05']:,} families the similarity is within 0.05 of the threshold, in "
            f"{corpus['at_threshold']:,} exactly at it. Texts by how they were made: {kinds}."
        ),
        "",
        "| | Precision | Recall | F1 | Documents per CPU second | Peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        scores = ["-"] * 3
        if row["precision"] is not None:
            scores = [f"{row[key]:.4f}" for key in ("precision", "recall", "f1")]
        speed, peak = f"{row['documents_per_cpu_second']:,.0f}", f"{row['peak_bytes'] / 1e6:.0f} MB"
        lines.append(f"| {' | '.join([row['name'], *scores, speed, peak])} |")
    speed = {row["name"]: row["documents_per_cpu_second"] for row in found["rows"]}
    lines += ["", "Documents per CPU second, ours over theirs:", ""]
    for name, own in (("20 bands", "Vitruvius, 20 bands of 6"), ("signatures alone", "Vitruvius, signatures alone")):
        peers = [peer for peer in speed if name in peer and not peer.startswith("Vitruvius")]
        lines += [f"- {peer}: {speed[own] / speed[peer]:.1f}x" for peer in peers]
    lines += ["", *notes()]
    return "\n".join(lines) + "\n"


def notes() -> list[str]:
    """What the numbers mean."""
    return [
        "- Ours includes hashing and writing the texts and signatures to disk, the search for exact duplicates, and",
        "  the exact comparison of every candidate, so what it drops is at the threshold or above; what it misses are",
        "  pairs that share no band. The peers drop on an equal band (datasketch) or on an estimate (rensa).",
        "- Memory: ours keeps texts and signatures in files; the peers' grows with the documents they keep.",
        "- `reading alone` parses the JSON lines and does nothing else; everybody's number includes it.",
    ]


def main() -> None:
    """Run everyone and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", type=int, default=8000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path, help="write the table to this file too")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        contest(options.contestant, options.corpus)
        return
    absent = [name for name in ("datasketch", "rensa") if importlib.util.find_spec(name) is None]
    if absent:
        print(f"skipped: the peers {' and '.join(absent)} are not installed (pip install datasketch rensa)")
        return
    found = measured(options.families)
    text = page(found)
    print(json.dumps(found, indent=2) if options.json else text, end="\n" if options.json else "")
    if options.write:
        options.write.parent.mkdir(parents=True, exist_ok=True)
        options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
