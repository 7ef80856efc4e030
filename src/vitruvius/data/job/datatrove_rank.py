"""One rank of a stage in a process of its own, run by datatrove's local executor: what `run_with_datatrove` starts."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading

from vitruvius.data.job.cluster import StageWork
from vitruvius.data.job.ranks import LOGS


def main(directory: str, stage: str, rank: str, ranks: str) -> int:
    """Do the rank's share of a stage. Errors are left as notes in the job's folder."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    importlib.import_module("loguru").logger.disable("datatrove")
    importlib.import_module("datatrove.executor.local").LocalPipelineExecutor(
        [StageWork(directory, stage, "record")],
        tasks=int(ranks),
        # With more than one it would start a pool, which waits for ever when the system kills one of its processes.
        workers=1,
        local_tasks=1,
        local_rank_offset=int(rank),
        logging_dir=os.path.join(directory, LOGS, stage, rank),  # noqa: PTH118 (datatrove wants text)
        # What is done is known task by task; datatrove's marks are by rank.
        skip_completed=False,
    ).run()
    return 0


def _end_with_the_parent() -> None:
    """Nothing is ever written to the input: it ends when the process that started this one is gone."""
    os.read(0, 1)  # not through sys.stdin, whose lock the interpreter wants when it ends
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
