"""The record of a run: its scores so far, the contents of sequence.json, and the exports for other programs."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from cl_lightning.common import distributed
from cl_lightning.common.files import to_csv, to_json
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.evaluation.baselines import BASELINES, baseline_items
from cl_lightning.metrics.bootstrap import Interval, interval
from cl_lightning.metrics.registry import mean_score
from cl_lightning.metrics.scored import Scored
from cl_lightning.sequence.costs import Costs
from cl_lightning.sequence.loggers import Clock
from cl_lightning.sequence.stages import Stages
from cl_lightning.sequence.unfinished import Unfinished
from cl_lightning.sequence.versions import installed

#: Predictions of a task that loggers may show.
SAMPLES = 8


class Record:
    """Scores of the tasks done so far.

    Attributes:
        matrix: R, one list per finished task; R[i][j] = score on column j after task i, None if not scored.
        zero_shot: scores of the untrained model, None until they are known.
        trained: number of parameters trained in each finished task.
        intervals: 95 % bootstrap intervals of the scores, [after][task].
        further: mean and interval of further metrics, [after][task][metric], if a task has any.
        clock: the run's monotone axes.
        costs: seconds, memory and parameters of each task; no part of the results.
        stages: what the run is doing; its clock counts the costs.
        samples: the first predictions of each task's last scoring, by task.
        cells: the cells of the task that is worked on, as in `Unfinished.cells`.
        attempts: number of earlier processes that worked on this run.
        facts: identity and provenance.
    """

    def __init__(self, data: TaskSequence, facts: dict[str, Any]) -> None:
        self.data, self.facts = data, facts
        self.matrix: list[list[float | None]] = []
        self.zero_shot: list[float] | None = None
        self.trained: list[int] = []
        self.intervals: dict[str, dict[str, Interval]] = {}
        self.further: dict[str, dict[str, Any]] = {}
        self.clock = Clock()
        self.costs = Costs()
        self.stages = Stages(data.order, costs=self.costs)
        self.samples: dict[str, list[dict[str, Any]]] = {}
        self.cells: dict[str, dict[str, dict[str, Any]]] = {}
        self.attempts = 0
        self._curves: list[dict[str, float | None]] = []

    def restore(self, stored: dict[str, Any]) -> None:
        """Restore the output of `content`."""
        self.matrix, self.zero_shot, self.attempts = stored["R"], stored["zero_shot"], stored["attempts"]
        metrics = stored["metrics"]
        self.trained, self.intervals, self.further = metrics["trained"], metrics["intervals"], metrics["further"]
        self.costs.tasks = stored.get("costs", {})  # optional, as record_check has it
        vars(self.clock).update(stored["clock"])  # update in place: others hold a reference

    def restore_inside(self, inside: Unfinished) -> None:
        """Restore what was saved inside a task, after `restore`."""
        self.attempts, self.cells = inside.attempts, inside.cells
        vars(self.clock).update(inside.clock)

    def add(self, after: str, task: str, scored: Scored) -> None:
        """Add one cell, and keep its first predictions for loggers."""
        cell = {"score": scored.score, "interval": scored.interval, "further": scored.further}
        self.cells.setdefault(after, {})[task] = cell
        self.show(task, scored.rows)

    def show(self, task: str, rows: list[dict[str, Any]]) -> None:
        """Keep a task's first predictions for loggers."""
        self.samples[task] = rows[:SAMPLES]

    def scores(self, after: str, tasks: Iterable[str]) -> list[float]:
        """Return the scores of complete cells after a task, and keep their intervals and further metrics."""
        cells = {task: self.cells[after][task] for task in tasks}
        for task, cell in cells.items():
            self.intervals.setdefault(after, {})[task] = cell["interval"]
            if cell["further"]:
                self.further.setdefault(after, {})[task] = cell["further"]
        return [cell["score"] for cell in cells.values()]

    def summary(self) -> dict[str, float | None]:
        """Compute the sequence metrics of the finished tasks; None for those that the protocol leaves undefined."""
        return self.data.protocol.summary(self.matrix, self.zero_shot)

    def curves(self) -> list[dict[str, float | None]]:
        """Return the sequence metrics after each finished task. Those of earlier tasks stay as they are."""
        for done in range(len(self._curves), len(self.matrix)):
            self._curves.append(self.data.protocol.summary(self.matrix[: done + 1]))
        return self._curves

    @cached_property
    def baselines(self) -> dict[str, Any]:
        """Means and intervals of the baselines on each task, which no training changes."""
        found = [baseline_items(t.spec.metric, t.raw_train, [e.example for e in t.test]) for t in self.data.evaluated]
        means = {name: [mean_score(items[name]) for items in found] for name in BASELINES}
        return {**means, "baseline_intervals": {name: [interval(items[name]) for items in found] for name in BASELINES}}

    def metrics(self) -> dict[str, Any]:
        """Compute the sequence metrics and the facts needed to read them."""
        done, tasks = len(self.matrix), self.data.evaluated
        return {
            **self.summary(),
            "tasks": self.data.order[:done],
            "data": self.facts["data"],
            "complete": done == len(self.data.order),
            "thinning": vars(self.data.thinning),
            "metric_of_task": {t.spec.name: t.spec.metric for t in tasks},
            "by_likelihood": [t.spec.name for t in tasks if not t.generated],
            "trained": self.trained,
            "zero_shot": self.zero_shot,
            "intervals": self.intervals,
            **self.baselines,
            "further": self.further,
            "budgets": {t.spec.name: t.budget for t in tasks if t.generated},
        }

    def content(self) -> dict[str, Any]:
        """Return the contents of sequence.json, without the callbacks' tables."""
        return {
            **self.facts,
            "done": len(self.matrix),
            "order": self.data.order,
            "columns": self.data.columns,
            "protocol": self.data.protocol.name,
            "R": self.matrix,
            "zero_shot": self.zero_shot,
            "seed": self.data.seed,
            "world_size": distributed.world_size(),
            "attempts": self.attempts,
            "clock": vars(self.clock),
            "costs": {name: of for name, of in self.costs.tasks.items() if name in self.data.order[: len(self.matrix)]},
            "versions": installed(),
            "metrics": self.metrics(),
            "tables": {},
            "unfinished": None,
        }

    def exports(self) -> dict[str, bytes]:
        """Return the contents of matrix.csv, curves.csv and metrics.json."""
        said = self.data.thinning.note(self.data.protocol)
        order, after = self.data.order, f"after ({self.facts['data']}{f'; {said}' if said else ''})"
        rows = [[name, *row] for name, row in zip(order, self.matrix, strict=False)]
        summaries = self.curves()
        curves = [[name, n, *s.values()] for name, n, s in zip(order, self.trained, summaries, strict=False)]
        names = list(summaries[0]) if summaries else []
        return {
            "matrix.csv": to_csv([after, *self.data.columns], rows),
            "curves.csv": to_csv([after, "trained parameters", *names], curves),
            "metrics.json": to_json(self.metrics()),
        }
