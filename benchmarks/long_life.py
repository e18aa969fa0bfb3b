"""Fifty tasks in one process: what grows with the number of tasks, under folded, stacked and gated branches.

Tiny random model, tiny tasks, all seen tasks scored after each by one prompt; a fresh process for each strategy. After
every task: resident memory once freed memory went back, open files, seconds since the last task without those of
scoring (medians of ten tasks), bytes of the run folder (of which stored branches), and bytes of the record. Ratios: the
last task over the tenth.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import CLOCKS, finish, machine, options

from callbacks import GateOrthogonalization
from cl_lightning.adapters import GainLoRA, IncLoRA, SeqLoRA
from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.commands.trainer import ContinualTrainer
from cl_lightning.common.memory import release_memory
from cl_lightning.data.benchmarks.dataset_tasks import DatasetTask, DatasetTasks
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.settings import SequenceSettings

TASKS, EXAMPLES, RANK = 50, 8, 4
SHOWN = (1, 10, 25, 50)
STRATEGIES: dict[str, tuple[Callable[[], AdapterStrategy], Callable[[], dict[str, TaskCallback]]]] = {
    "folded": (lambda: SeqLoRA(rank=RANK, fold_into="weight"), dict),
    "stacked": (lambda: IncLoRA(rank=RANK), dict),
    "gated": (
        lambda: GainLoRA(IncLoRA(rank=RANK), width=8),
        lambda: {"gates": GateOrthogonalization(samples=EXAMPLES, probes=1)},
    ),
}
Curve = dict[str, list[float]]


class Meter(TaskCallback):
    """Measures the process and the run folder after each task."""

    def __init__(self, folder: Path, clock: str) -> None:
        self.folder, self.clock = folder, CLOCKS[clock]
        self.rows: list[dict[str, float]] = []
        self.stage, self.since, self.seconds = "", self.clock(), 0.0

    def on_stage(self, run: Any, stages: Any) -> None:
        self._count()
        self.stage = stages.current.name

    def _count(self) -> None:
        now = self.clock()
        self.seconds += 0.0 if self.stage == "scoring" else now - self.since
        self.since = now

    def on_task_scored(self, run: Any, task: int) -> None:
        self._count()
        seconds, sizes = self.seconds, {p: p.stat().st_size for p in self.folder.rglob("*") if p.is_file()}
        branches = sum(size for path, size in sizes.items() if path.is_relative_to(self.folder / "adapters"))
        release_memory()
        self.rows.append(
            {
                "resident_mib": _resident() / 2**20,
                "open_files": len(os.listdir("/proc/self/fd")) - 1,
                "seconds": seconds,
                "disk_kib": sum(sizes.values()) / 2**10,
                "branches_kib": branches / 2**10,
                "record_kib": sizes[self.folder / "sequence.json"] / 2**10,
            }
        )
        self.stage, self.since, self.seconds = "", self.clock(), 0.0


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmRSS:")))


def live(kind: str, tasks: int, clock: str) -> Curve:
    """Run the sequence in this process; one value a task for each quantity."""
    strategy, boundary = STRATEGIES[kind]
    rows = {k: [(f"task {k}: {i}?", "yes" if i % 2 else "no") for i in range(EXAMPLES)] for k in range(tasks)}
    made = [DatasetTask(f"t{k:02}", train, test=train[:1], max_new_tokens=1) for k, train in rows.items()]
    data = TaskSequence(DatasetTasks(made), batch_size=4, validation_samples=0)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        meter = Meter(run, clock)
        settings = SequenceSettings(run_dir=str(run), wandb="off", threads=1, report=False, zero_shot=False)
        trainer = ContinualTrainer(boundary(), {"meter": meter}, settings)
        trainer.fit(ContinualLM(Backbone("random-llama", dtype="float32"), strategy()), data)
    return {name: [row[name] for row in meter.rows] for name in meter.rows[0]}


def measured(kind: str, tasks: int, clock: str) -> Curve:
    """Run it in a fresh process."""
    command = [sys.executable, __file__, "--of", kind, "--tasks", str(tasks), "--clock", clock]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def at(name: str, values: list[float], task: int) -> float:
    """Return a quantity after a task; of seconds, the median of ten tasks up to it."""
    return statistics.median(values[max(0, task - 10) : task]) if name == "seconds" else values[task - 1]


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--of", choices=STRATEGIES, help=argparse.SUPPRESS)
    parser.add_argument("--tasks", type=int, help=f"number of tasks (default: {TASKS}, 12 with --quick)")
    arguments = parser.parse_args()
    tasks = arguments.tasks or (12 if arguments.quick else TASKS)
    if arguments.of:
        print(json.dumps(live(arguments.of, tasks, arguments.clock)))
        return 0
    arguments.dtype = "float32"
    torch.set_num_threads(1)  # as in the runs
    print(f"{machine()}; random-llama in float32; {arguments.clock} seconds")
    curves = {kind: measured(kind, tasks, arguments.clock) for kind in STRATEGIES}
    shown = [n for n in SHOWN if n < tasks] + [tasks]
    for kind, curve in curves.items():
        print(f"{kind:<16}" + "".join(f"{n:>10}" for n in shown))
        for name, values in curve.items():
            print(f"  {name:<14}" + "".join(f"{at(name, values, n):>10.2f}" for n in shown))
    ratios = {
        f"{kind}_{name}": at(name, curve[name], tasks) / at(name, curve[name], min(10, tasks))
        for kind, curve in curves.items()
        for name in ("resident_mib", "open_files", "seconds")
    }
    finish(arguments, "long_life", ratios, {"tasks": tasks, "curves": curves}, ratios)
    return 0


if __name__ == "__main__":
    sys.exit(main())
