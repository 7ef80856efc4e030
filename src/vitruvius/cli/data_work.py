"""`vitruvius data work`: one rank's share of one stage, for any scheduler to call."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path

import click

from vitruvius.cli.output import clean_line, emit_json, next_step, say
from vitruvius.cli.verbs import ExampleCommand

SCHEMA = "vitruvius.data-work/1"


@click.command(
    "work",
    cls=ExampleCommand,
    help="""Do one rank's tasks of one stage of a job: what a scheduler of any kind starts on every node.

    JOB is the folder OUT.work that `vitruvius data prepare --executor external` plans in, on a disk that all
    nodes share. Rank R of N does the tasks R, R + N, ... that are not done yet. When every rank of a stage is
    done, the next stage may start; without --stage, the job's stages are listed with what is left of them. At
    the end, the command that planned the job puts the data in place.""",
    examples=[
        "vitruvius data work data.work",
        "vitruvius data work data.work --stage read --rank 0 --of 8",
        "vitruvius data work data.work --stage encode --rank $SLURM_ARRAY_TASK_ID --of 64",
    ],
)
@click.argument("job", type=click.Path(path_type=Path))
@click.option("--stage", help="The stage to work on.")
@click.option("--rank", type=int, default=0, show_default=True, help="Which of the ranks this is, from 0.")
@click.option(
    "--of", "ranks", type=click.IntRange(min=1), default=1, show_default=True, help="How many ranks there are."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(job: Path, *, stage: str | None, rank: int, ranks: int, as_json: bool) -> None:
    """Work, or list the stages."""
    from vitruvius.data.job.ranks import standing, work

    worked = None if stage is None else work(job, stage, rank=rank, ranks=ranks)
    stages = standing(job)
    if as_json:
        emit_json(
            {
                "schema": SCHEMA,
                "job": str(job),
                "worked": None if worked is None else asdict(worked),
                "stages": [asdict(found) for found in stages],
            }
        )
        return
    if worked is not None:
        mine = f"rank {worked.rank} of {worked.ranks} ran {worked.ran:,} tasks"
        say(
            f"{worked.stage}: {mine}, {worked.skipped:,} were done before; {worked.left:,} of {worked.tasks:,} are left"
        )
    else:
        for found in stages:
            tasks = "waits for the stage before" if found.tasks is None else f"{found.done:,} of {found.tasks:,} tasks"
            say(f"{found.name:20} {tasks} done" if found.tasks is not None else f"{found.name:20} {tasks}")
    following = next((found.name for found in stages if found.tasks is None or found.done < found.tasks), None)
    if following is None:
        next_step("the `vitruvius data prepare` command that planned this job, again: it puts the data in place")
    else:
        next_step(f"vitruvius data work {shlex.quote(clean_line(str(job)))} --stage {following} --rank R --of N")
