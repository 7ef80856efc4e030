"""A worker: reads `STAGE TASK` lines, does them, and answers each with a line of JSON."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback

from vitruvius.errors import MissingExtraError, VitruviusError


def main(directory: str) -> int:
    """Work on a job's folder until the input ends."""
    # Ctrl-C reaches every process of the terminal; the one that started this one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one worker, one core
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    from vitruvius.data.job.job import Job
    from vitruvius.data.job.running import run_task, stage_named
    from vitruvius.data.job.stages import stages_of

    job = Job(directory)
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    while True:
        name, task = orders.get().split()
        try:
            run_task(job, stage_named(stages_of(job.options), name), int(task))
            answer = {}
        except VitruviusError as error:
            answer = {"error": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
            if isinstance(error, MissingExtraError):
                answer |= {"extra": error.extra, "module": error.module}
        except OSError as error:
            place = str(error.filename or directory)
            answer = {"error": "DataError", "what": f"{error.strerror or error}", "where": place, "fix": _fix(error)}
        except MemoryError:
            fix = "give the same command again with fewer --workers: it goes on where it stopped"
            answer = {"error": "DataError", "what": "a worker ran out of memory", "where": directory, "fix": fix}
        except Exception:  # noqa: BLE001 (a bug of ours: the trace goes to stderr with the process)
            traceback.print_exc()
            return 70
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _listen(orders: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        orders.put(line)
    # Nobody waits for an answer any more. A task that is cut short is run again by the next one.
    os._exit(0)


def _fix(error: OSError) -> str:
    import errno

    if error.errno == errno.ENOSPC:
        return "make room and give the same command again: it goes on where it stopped"
    return "mend that and give the same command again: it goes on where it stopped"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
