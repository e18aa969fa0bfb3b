"""What a run is doing: its task, the stage of that task, and the time that the rest takes at the measured costs."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from cl_lightning.sequence.time_left import Costs, Key


@dataclass
class Stage:
    """A part of the work on a task.

    Attributes:
        name: start, gradients, inputs, training, scoring, ...
        item: the task that is scored, in scoring.
        total: units of work (batches, optimiser steps, prompts); None: not known.
        done: units that are done.
        started, advanced: when it began, and when `done` last changed, in seconds.
        loss: of the last optimiser step.
        tokens: training tokens so far, on all ranks.
    """

    name: str
    item: str = ""
    total: float | None = None
    done: float = 0.0
    started: float = 0.0
    advanced: float = 0.0
    loss: float | None = None
    tokens: int = 0

    @property
    def key(self) -> Key:
        return self.name, self.item


@dataclass
class Stages:
    """The stages of a run, one after another.

    Attributes:
        order: names of the tasks.
        plan: for each task, the work that is known before it begins: stage and item -> units. Those of training are
            new examples, whose cost includes that of the examples replayed with them.
        watch: called when a stage begins.
        clock: returns seconds.
        task: the task that is worked on, -1 before the first.
        current: its stage; None between tasks.
        costs: measured so far.
    """

    order: Sequence[str] = ()
    plan: Sequence[dict[Key, float]] = ()
    watch: Callable[["Stages"], None] = lambda stages: None
    clock: Callable[[], float] = time.monotonic
    task: int = -1
    current: Stage | None = None
    costs: Costs = field(default_factory=Costs)

    def begin_task(self, task: int) -> None:
        """Begin a task, with no stage yet."""
        self._close()
        self.task = task

    def end_task(self) -> None:
        """End a task; its costs are those of later tasks."""
        self._close()
        self.costs.end_task()

    def begin(self, name: str, total: float | None = None, item: str = "") -> None:
        """Begin a stage, which ends the one before. A stage may be begun again; its costs in a task are summed."""
        self._close()
        now = self.clock()
        self.current = Stage(name, item, total, 0.0, now, now)
        self.watch(self)

    def advance(self, units: float = 1.0) -> None:
        """Count units of the stage as done."""
        if self.current is not None:
            self.current.done += units
            self.current.advanced = self.clock()

    def step(self, loss: float, tokens: int) -> None:
        """Count an optimiser step of this loss and number of training tokens."""
        if self.current is not None:
            self.current.loss = loss
            self.current.tokens += tokens
        self.advance()

    def counted(self, name: str, batches: Iterable, total: int) -> Iterable:
        """Yield batches in a stage of this name, then go back to the stage before it."""
        before = self.current
        self.begin(name, total)
        for batch in batches:
            yield batch
            self.advance()
        if before is not None:
            self.begin(before.name, before.total, before.item)

    def rate(self) -> float | None:
        """Return training tokens per second, or None if that is not known."""
        stage = self.current
        if stage is None or not stage.tokens or stage.advanced <= stage.started:
            return None
        return stage.tokens / (stage.advanced - stage.started)

    def left(self) -> float | None:
        """Return the seconds that the rest of the tasks takes, or None before this process has finished a task."""
        if not self.costs.tasks:
            return None
        later = sum(self.costs.of_task(plan) for plan in self.plan[self.task + 1 :])
        if self.current is None:
            return later
        now, stage = self.clock(), self.current
        spent = now - stage.started
        rest = self.costs.rest_of_task(self.plan[self.task], stage.key)
        expected = self.costs.rest_of(stage.key, self.plan[self.task].get(stage.key))
        if stage.total and stage.done:
            pace = (stage.advanced - stage.started) / stage.done
            here = pace * max(0.0, stage.total - stage.done) - (now - stage.advanced)
        else:
            here = expected - spent
        return later + rest + max(0.0, here)

    def _close(self) -> None:
        if self.current is not None:
            stage = self.current
            planned = self.plan[self.task].get(stage.key) if 0 <= self.task < len(self.plan) else None
            self.costs.add(stage.key, self.clock() - stage.started, planned or stage.total or stage.done)
            self.current = None
