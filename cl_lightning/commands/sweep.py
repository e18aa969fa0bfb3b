"""Runs an experiment for several values of an option: `cl-lightning sweep NAME --over OPTION --values V ..`."""

import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cl_lightning.commands import precheck
from cl_lightning.commands.arguments import Arguments, add_cluster
from cl_lightning.commands.experiments import expanded
from cl_lightning.common import stopping
from cl_lightning.common.errors import TrainingError
from cl_lightning.common.jobs import Cluster
from cl_lightning.common.terminal import inform, say

ABOUT = """Run an experiment for several values of an option, one after the other, or as jobs of a cluster.

Other options are those of `cl-lightning run`.
"""
#: Folder of the jobs' output and of submitit's own files.
JOBS = Path("runs/jobs")


def main(argv: Sequence[str]) -> None:
    """Run `sweep NAME`."""
    options, more = parser().parse_known_args(argv)
    runs = [[options.experiment, *more, f"--{options.over}={value}"] for value in options.values]
    for run in runs:  # all of them, before the first one begins
        precheck.check(expanded(run))
    stopping.set_message("finished runs are kept; run the same command again to go on")
    if options.cluster is None:
        _here(runs)
    else:
        _as_jobs(runs, options)


def parser() -> Arguments:
    """Build the argument parser."""
    made = Arguments("sweep", ABOUT)
    made.add_argument("experiment", metavar="NAME", help="an experiment, as `cl-lightning experiments` lists them")
    made.add_argument("--over", required=True, metavar="OPTION", help="such as model.adapter.rank")
    made.add_argument("--values", required=True, nargs="+", metavar="VALUE", help="its values")
    add_cluster(made, "run them as jobs, all at a time,")
    return made


def _command(run: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "cl_lightning", "run", *run]


def _here(runs: Sequence[Sequence[str]]) -> None:
    """Run one after the other. The first one that fails has said why, and ends the sweep with its exit code."""
    for run in runs:
        inform(f"sweep: {run[-1]}")
        with subprocess.Popen(_command(run)) as process, stopping.child_reports(process):
            code = process.wait()
        if code:
            raise SystemExit(code)


def _as_jobs(runs: Sequence[Sequence[str]], options: Namespace) -> None:
    jobs = Cluster(JOBS, dict(options.cluster))
    inform(f"sweep: {len(runs)} jobs, their output in {JOBS}")

    def one(number: int) -> int:
        run, log = runs[number], JOBS / f"{options.experiment}-{options.over}-{number + 1}.log"
        ended = jobs.run(_command(run), log)
        if ended is None:
            return 0
        say(f"{run[-1]}: {'done' if not ended.code else f'failed with exit code {ended.code}'} ({log})")
        return ended.code

    with ThreadPoolExecutor(len(runs)) as pool:
        failed = sum(map(bool, pool.map(one, range(len(runs)))))
    if failed:
        raise TrainingError(f"{failed} of {len(runs)} runs failed; the last line of each one's output says why")
