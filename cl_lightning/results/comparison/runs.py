"""Reads runs for a comparison: rows are methods, columns are task sequences with their data, budget and base model.

Only runs that agree in both count as seeds of one configuration and are averaged. All others are kept apart, and the
notes name the difference.
"""

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_lightning.common.errors import StateError
from cl_lightning.common.options import Options, flat
from cl_lightning.data.protocol import PROTOCOLS, Protocol
from cl_lightning.results import thinned
from cl_lightning.sequence.folder import RECORD, metric_label, read_record
from cl_lightning.sequence.identity import computed
from cl_lightning.sequence.stored import read_config

#: Trainer options that limit the amount of training; they belong to the column, not to the method.
BUDGET = ("max_steps", "min_steps", "max_time", "limit_train_batches", "overfit_batches", "fast_dev_run")


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        method: flat options that define the method: adapter, boundary callbacks, optimisation.
        column: flat options and facts that define the sequence: order, data, budget, base model, metrics.
        base: the base model's name in the configuration.
    """

    path: Path
    record: dict[str, Any]
    method: Options
    column: Options
    base: str

    @property
    def name(self) -> str:
        """The name that the user gave it, or else its experiment's."""
        return self.record.get("name") or self.record["experiment"]

    @property
    def seed(self) -> int:
        """The seed of sampling, initialisation and training."""
        return self.record["seed"]

    @property
    def R(self) -> list[list[float | None]]:
        """The score matrix."""
        return self.record["R"]

    @property
    def protocol(self) -> Protocol:
        """The training protocol."""
        return PROTOCOLS[self.record["protocol"]]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the scored tasks, in training order."""
        return tuple(self.record["columns"])

    @property
    def scored_by(self) -> str:
        """The metric, or each metric with its tasks; also how a view was made, and which scores were left out."""
        tasks: dict[str, list[str]] = {}
        for task in sorted(self.tasks):  # the order may differ between seeds
            tasks.setdefault(metric_label(self.record["metrics"], task), []).append(task)
        metrics = [metric if len(tasks) == 1 else f"{metric} ({', '.join(each)})" for metric, each in tasks.items()]
        return "; ".join(filter(None, (", ".join(metrics), self.record.get("view"), thinned.note(self.record))))

    @property
    def alone(self) -> dict[str, float]:
        """Reference scores by task, of models trained on it alone or on all tasks at once; {} for longer sequences."""
        if self.protocol.builds_on and len(self.tasks) > 1:
            return {}
        rows = [self.R[0]] * len(self.tasks) if self.protocol.together else self.R
        return {task: rows[j][j] for j, task in enumerate(self.tasks)}


def find(patterns: Iterable[str]) -> list[Path]:
    """Find run folders by paths or globs; a folder of run folders means all of those in it.

    A pattern that is the name of an existing path is not expanded.

    Raises:
        StateError: a pattern matches no run folder.
    """
    found: list[Path] = []
    for pattern in patterns:
        named = [Path(p) for p in ([pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern)))]
        runs = [
            run for path in named for run in ([path] if (path / RECORD).exists() else sorted(path.glob(f"*/{RECORD}")))
        ]
        runs = [run.parent if run.name == RECORD else run for run in runs]
        if not runs:
            raise StateError(f"{pattern}: no run folder (none with a {RECORD})")
        found += runs
    return list({path.resolve(): path for path in found}.values())


def read(path: Path) -> Run:
    """Read a run folder and split its options into method and column.

    Raises:
        StateError: no run folder, or a damaged one.
    """
    record = read_record(path)
    config = read_config(path, record)
    kept = computed(config)
    trainer, data = kept["trainer"], {k: v for k, v in kept["data"].items() if k not in ("order", "protocol")}
    tasks = record["columns"]
    model = {k: v for k, v in kept["model"].items() if k != "backbone"}
    drawn = data.get("random_order", False)
    method = {
        "model": model,
        "boundary": config.get("boundary") or {},
        "trainer": {k: v for k, v in trainer.items() if k not in BUDGET},
        "continues": record["continues"],
        "protocol": record["protocol"],
    }
    column = {
        "order": f"{len(tasks)} tasks, drawn by seed" if drawn else " > ".join(tasks),
        "tasks": ", ".join(sorted(tasks)),
        # The benchmark's description without the counts of removed examples: they depend on the order, and follow from
        # the options and the checksums.
        "data": {"what": record["benchmark"], **data},
        "checksum": record["sources"],
        "metric": record["metrics"]["metric_of_task"],
        "base": {"hash": record["base"], **kept["model"]["backbone"]},
        "trainer": {k: v for k, v in trainer.items() if k in BUDGET},
    }
    return Run(path, record, flat(method), flat(column), config["model"]["backbone"]["name"])


def differing(options: Sequence[Options]) -> list[str]:
    """List the options whose values are not all equal."""
    names = dict.fromkeys(name for each in options for name in each)
    return [name for name in names if len({repr(each.get(name)) for each in options}) > 1]
