"""Trains with detectors in two processes and says what came of it; prints JSON.

python guarded_ranks.py DATA FOLDER
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ranks import DDP, architecture_of, config_of, in_ranks

from vitruvius.runs import RunReader
from vitruvius.runs.anomalies import anomalies_of
from vitruvius.training import train
from vitruvius.training.settings import Guard
from vitruvius.training.settings.alarms import DETECTORS, Rule


def main() -> None:
    data, folder = Path(sys.argv[1]), Path(sys.argv[2])
    rules = {**dict.fromkeys(DETECTORS), "expert-load": Rule(above=1.0), "stream-rms": Rule(above=1e-6)}
    config = config_of(guard=Guard(every=2, alarm="lower-lr", alarms=rules))
    architecture = architecture_of("mixture")
    alone = train(architecture, data=data, out=folder / "alone", config=config).run

    def work(rank: int) -> str:
        del rank
        return str(train(architecture, data=data, out=folder / "two", config=replace(config, engine=DDP)).run)

    ended = in_ranks(work, folder / "ranks")
    told = {
        name: {
            "rows": list(RunReader(run).metrics()),
            "alarms": [event for event in RunReader(run).events() if event["kind"] == "alarm"],
            "anomalies": [str(anomaly) for anomaly in anomalies_of(run)],
            "samples": [
                json.loads(line)
                for anomaly in anomalies_of(run)
                for line in (anomaly.path / "samples.jsonl").read_text().splitlines()
            ],
        }
        for name, run in (("alone", alone), ("two", folder / "two"))
    }
    print(json.dumps({"ended": ended, **told}))


if __name__ == "__main__":
    main()
