"""Mines conflicting sequences: trains the first task, compares the pool's gradients there, and searches the sets."""

import math
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from cl_lightning.common import stopping
from cl_lightning.common.console import Screen, tables
from cl_lightning.common.errors import ConfigError, StateError, first_three
from cl_lightning.common.files import to_csv, write_output
from cl_lightning.common.terminal import say
from cl_lightning.common.yaml_files import dump_yaml
from cl_lightning.data.task_data import TaskData
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.mining.conflicts import Conflicts, compare, task_sketches
from cl_lightning.mining.count_sketch import CountSketch
from cl_lightning.mining.options import MiningOptions
from cl_lightning.mining.search import (
    MOST_SETS,
    TaskSet,
    least_conflicting,
    most_conflicting,
    number_of_sets,
    worst_order,
)
from cl_lightning.model.backbone import set_threads
from cl_lightning.sequence.folder import read_record
from cl_lightning.sequence.load import LoadedRun, load_run


def mine(options: MiningOptions, cli: Any, argv: list[str]) -> None:
    """Train the first task unless a run is given, compare the pool, search, then write and print the results.

    Raises:
        UserError: unusable options, data or run.
        SystemExit: the run of the first task failed with this code, after reporting why.
    """
    data, out = cli.datamodule, Path(options.out)
    _check_pool(options, data.order)
    # Before any training, so that faults of the pool's data show now.
    data.prepare(cli.model.backbone.load_tokenizer(), encoder_decoder=False)
    run = Path(options.run) if options.run else _learn(data.order[0], out / "first", argv)
    learnt = _learnt(run, data.order)
    set_threads(1, cli.config_init.sequence.threads)
    loaded = load_run(run, base=options.base, allow=options.allow, trust_remote_code=options.trust_remote_code)
    if torch.accelerator.is_available():
        loaded.module.to(torch.accelerator.current_accelerator())
    data.encoder_decoder = loaded.module.encoder_decoder
    first = data.tasks[data.order.index(learnt)]
    if data.fingerprint([first]) != loaded.record["fingerprints"][learnt]:
        raise StateError(f"{run}: learnt other data for {learnt} than these options give; use the run's own options")
    say(_first_line(options, data, loaded, learnt))
    sketch = CountSketch(options.width, data.seed)
    conflicts = compare(
        {t.spec.name: task_sketches(loaded.module, _batches(t, data, options, loaded), sketch) for t in data.tasks}
    )
    _print_cosines(conflicts, learnt)
    # The root may come from the environment, and the orders found must not be shuffled.
    data_options = {**yaml.safe_load(cli.resolved())["data"], "random_order": False}
    data_options["root"] = None if data.root is None else str(data.root.resolve())
    files = {
        out / "cosines.csv": _csv(conflicts.tasks, conflicts.cosines),
        out / "negative_share.csv": _csv(conflicts.tasks, conflicts.negative),
    }
    start = data.order.index(learnt) if options.start == "learnt" else None
    for kind, search in (("conflict", most_conflicting), ("control", least_conflicting)):
        found = search(conflicts.cosines, options.length, options.count, start)
        files |= _experiments(kind, found, conflicts, start, data_options, learnt, out)
    _write(files, out)
    for file in [file for file in files if file.suffix == ".yaml"][:1]:
        # The same options, but not the folder of the run that they were taken from.
        afresh = ["--sequence.run_dir=null"] if options.run else []
        say(f"run one: {shlex.join(['cl-lightning', 'run', *argv, *afresh, f'--config={file}'])}")


def _check_pool(options: MiningOptions, pool: list[str]) -> None:
    if len(pool) < options.length:
        raise ConfigError(f"data.order: a pool of {len(pool)} tasks has no sequence of --length={options.length}")
    sets = number_of_sets(len(pool), options.length, 0 if options.start == "learnt" else None)
    if sets > MOST_SETS:
        raise ConfigError(
            f"data.order: a pool of {len(pool)} tasks has {sets} sets of --length={options.length}, "
            f"at most {MOST_SETS} are searched; narrow the pool, or shorten the sequence"
        )


def _learn(task: str, run: Path, argv: list[str]) -> Path:
    """Train the first task in a process of its own, because the run may start further ones; return its folder."""
    command = [sys.executable, "-m", "cl_lightning", "run", *argv, *_of_first(task, run)]
    with subprocess.Popen(command) as process, stopping.child_reports(process):
        code = process.wait()
    if code:
        raise SystemExit(code)
    stopping.set_message(f"what was learnt first is kept in {run}; run the same command again")
    return run


def _of_first(task: str, run: Path) -> list[str]:
    """Return the options that train only the first task. Its name is quoted, as it may be "1", "null" or "a, b"."""
    order = yaml.safe_dump([task], default_style='"', default_flow_style=True, width=math.inf).strip()
    return [f"--data.order={order}", f"--sequence.run_dir={run}"]


def _learnt(run: Path, pool: Sequence[str]) -> str:
    record = read_record(run)
    if record["done"] != 1:
        raise StateError(
            f"{run}: has {record['done']} finished tasks; gradients are compared after one task, "
            "so give the folder of a run with one"
        )
    learnt = record["order"][0]
    if learnt not in pool:
        raise ConfigError(
            f"data.order: the pool lacks {learnt}, the task that {run} has learnt; it is {', '.join(pool)}"
        )
    return learnt


def _batches(task: TaskData, data: TaskSequence, options: MiningOptions, loaded: LoadedRun) -> Iterable[dict[str, Any]]:
    """Yield batches of a task's training examples, weighted to the mean over answer tokens."""
    examples, module = task.train[: options.samples], loaded.module
    weight = 1 / sum(e.labelled for e in examples)
    for batch in data.boundary_loader(examples, data.batch_size, 0, 1):
        batch["sample_weight"] = torch.full((len(batch.pop("index")),), weight)
        yield module.transfer_batch_to_device(batch, module.llm.device, 0)


def _write(files: dict[Path, bytes], out: Path) -> None:
    """Write all results. If a signal stops this, the message says what may be incomplete."""
    stopping.set_message(
        f"{out} may hold a part of what was found ({first_three([file.name for file in files])}); "
        "move that away, then run the same command again"
    )
    for file, content in files.items():
        write_output(file, content)
    stopping.set_message(f"all that was found is in {out}")


def _experiments(
    kind: str, sets: list[TaskSet], conflicts: Conflicts, start: int | None, data: Any, learnt: str, out: Path
) -> dict[Path, bytes]:
    """Build one experiment file per set, in its worst order and with the data it was mined on; print a line for each.

    A set with no conflict on average, as a small pool may yield, is marked as such.
    """
    files = {}
    if not sets:
        say(f"{kind}: none, no set of this length has positive cosines only")
    for number, found in enumerate(sets, 1):
        order = worst_order(conflicts.cosines, found.members, start)
        names = [conflicts.tasks[i] for i in order.members]
        about = f"mean cosine {found.score:+.3f} after learning {learnt}, cumulative conflict {order.conflict:.3f}"
        if kind == "conflict" and found.score >= 0:
            about += " (on average no conflict)"
        content = dump_yaml({"data": {**data, "order": names}})
        files[out / f"{kind}-{number}.yaml"] = f"# Mined {kind} of {len(names)} tasks: {about}\n{content}".encode()
        say(f"{kind}-{number}: {about}: {' > '.join(names)}")
    return files


def _csv(tasks: list[str], values: Tensor) -> bytes:
    return to_csv(["task", *tasks], [[t, *row] for t, row in zip(tasks, values.tolist(), strict=True)])


def _first_line(options: MiningOptions, data: TaskSequence, loaded: LoadedRun, learnt: str) -> str:
    zero_shot = loaded.record["zero_shot"]
    before = "" if zero_shot is None else f" (zero-shot {zero_shot[0]:.1f})"
    return (
        f"mine: DATA = {data.source}; a pool of {len(data.order)} tasks after learning {learnt} to "
        f"{loaded.matrix[0][0]:.1f}{before}; answer-only gradients of up to {options.samples} examples each, "
        f"sketched to {options.width} numbers a matrix, seed {data.seed}"
    )


def _print_cosines(conflicts: Conflicts, learnt: str) -> None:
    say(f"cosine with {learnt}, and the share of {conflicts.matrices} matrices in which it is negative:")
    row = conflicts.tasks.index(learnt)
    others = sorted(
        (i for i in range(len(conflicts.tasks)) if i != row), key=lambda i: float(conflicts.cosines[row, i])
    )
    cosines, shares = conflicts.cosines[row].tolist(), conflicts.negative[row].tolist()
    rows = [[conflicts.tasks[i], f"{cosines[i]:+.3f}", f"{100 * shares[i]:.0f} %"] for i in others]
    screen = Screen()
    for made in tables(["task", "cosine", "negative"], rows, width=screen.width):
        screen.print(made)
