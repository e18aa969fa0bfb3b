"""What a run is doing: its task, the stage of that task, and the time that the rest takes at the measured costs.

The one clock of a run. It counts each stage's seconds into the record's costs, on which the time left rests.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from cl_lightning.sequence.costs import Costs, Key
from cl_lightning.sequence.time_left import Going, Plan, Spent, TimeLeft

#: A pace is measured over so many units, or this share of a stage if that is less.
ENOUGH, SHARE = 20, 0.1


@dataclass
class Stage:
    """A part of the work on a task.

    Attributes:
        name: start, gradients, inputs, training, scoring, ...
        item: the task that is scored, in scoring.
        total: units (optimiser steps, prompts, examples); None: not known.
        done: units that are done, `begun` of them by an earlier process.
        work: planned units in each of them.
        seconds: it has taken, without stages within it, until the clock was last counted.
        advanced: what `seconds` was when `done` last changed.
        loss: of the last optimiser step.
        tokens: training tokens so far, on all ranks.
    """

    name: str
    item: str = ""
    total: float | None = None
    done: float = 0.0
    work: float = 1.0
    begun: float = 0.0
    seconds: float = 0.0
    advanced: float = 0.0
    loss: float | None = None
    tokens: int = 0
    _first: tuple[float, float] | None = None

    @property
    def key(self) -> Key:
        return self.name, self.item

    @property
    def pace(self) -> float | None:
        """Seconds of a unit after the first advance, which also warms up; None before enough of them are measured."""
        if self._first is None or self.total is None:
            return None
        done, seconds = self._first
        measured = self.done - done
        enough = measured > 0 and measured >= min(ENOUGH, SHARE * self.total)
        return (self.advanced - seconds) / measured if enough else None

    def going(self, span: float) -> Going:
        """Describe it in planned units, `span` seconds after the clock was last counted."""
        left = None if self.total is None else self.work * max(0.0, self.total - self.done)
        pace = None if self.pace is None else self.pace / self.work
        return Going(left, self.work * (self.done - self.begun), self.seconds + span, self.advanced, pace)

    def advance(self, units: float, seconds: float) -> None:
        """Count units as done after so many seconds of the stage."""
        self.done, self.advanced = self.done + units, seconds
        self._first = self._first or (self.done, seconds)


@dataclass
class Stages:
    """The stages of a run, one after another, and some within others.

    Attributes:
        order: names of the tasks.
        plan: for each task, the work that is known before it begins, by stage and scored task.
        costs: the record's, into which stages are counted.
        watch: called when another stage begins or goes on.
        clock: returns seconds.
        task: the task that is worked on, -1 before the first.
    """

    order: Sequence[str] = ()
    plan: Sequence[Plan] = ()
    costs: Costs = field(default_factory=Costs)
    watch: Callable[["Stages"], None] = lambda stages: None
    clock: Callable[[], float] = time.monotonic
    task: int = -1
    _open: list[Stage] = field(default_factory=list)
    _since: float = 0.0
    _finished: int = 0
    #: Stages of the task that ended in this process, and those that do not begin again.
    _now: dict[Key, Spent] = field(default_factory=dict)
    _over: set[Key] = field(default_factory=set)

    @property
    def current(self) -> Stage | None:
        """The innermost stage; None between tasks. One that raised an error stays the current one."""
        return self._open[-1] if self._open else None

    # ---- the run tells ---------------------------------------------------------------------------------------

    def begin_task(
        self,
        task: int,
        device: torch.device | None = None,
        before: dict[str, Any] | None = None,
        over: Collection[Key] = (),
    ) -> None:
        """Begin a task, with no stage yet.

        Args:
            device: where it is trained.
            before: what it has cost in an earlier process.
            over: planned stages that an earlier process has finished.
        """
        self._end(len(self._open))
        self.task, self._finished, self._now, self._over = task, task, {}, set(over)
        self.costs.begin_task(self.order[task], device or torch.device("cpu"), before)
        self._since = self.clock()

    def end_task(self) -> None:
        """End a task; its costs are those of later tasks."""
        self._end(len(self._open))
        self._finished = self.task + 1

    def begin(
        self, name: str, total: float | None = None, item: str = "", done: float = 0.0, planned: float | None = None
    ) -> None:
        """Begin a stage, which ends those before. A stage may be begun again; its costs in a task are summed.

        Args:
            total, done: units of work, and those that an earlier process has done.
            planned: units that were planned for `total`; None: as many.
        """
        self._end(len(self._open))
        work = planned / total if planned is not None and total else 1.0
        self._enter(Stage(name, item, total, done, work, begun=done))

    @contextmanager
    def within(self, name: str, total: float | None = None) -> Iterator[Stage]:
        """Do a stage within the current one, which then goes on."""
        stage = Stage(name, total=total)
        self._enter(stage)
        yield stage
        self._end(1)
        if self._open:
            self.watch(self)

    def advance(self, units: float = 1.0) -> None:
        """Count units of the stage as done."""
        if (stage := self.current) is not None:
            stage.advance(units, stage.seconds + self.clock() - self._since)

    def step(self, loss: float, tokens: int) -> None:
        """Count an optimiser step of this loss and number of training tokens."""
        if (stage := self.current) is not None:
            stage.loss = loss
            stage.tokens += tokens
        self.advance()

    def counted(
        self, name: str, batches: Iterable[dict[str, Any]], total: int, size: Callable[[Any], int]
    ) -> Iterator[dict[str, Any]]:
        """Yield batches in a stage of this name, within the current one. `size`: the units of a batch."""
        with self.within(name, total):
            for batch in batches:
                units = size(batch)
                yield batch
                self.advance(units)

    # ---- the user asks ---------------------------------------------------------------------------------------

    def rate(self) -> float | None:
        """Return training tokens per second, or None if that is not known."""
        stage = self.current
        return stage.tokens / stage.advanced if stage is not None and stage.tokens and stage.advanced else None

    def left(self) -> float | None:
        """Return the seconds that the rest of the run takes, None before all kinds of work in it are measured."""
        if len(self.plan) < len(self.order) or self.task < 0:
            return None
        stages, span = [*self._open], self.clock() - self._since
        going = {stage.key: stage.going(span if stage is stages[-1] else 0.0) for stage in stages}
        names = self.order[: self._finished]
        now = self.costs.by_key(self.order[self.task]) if self._finished == self.task else None
        if stages and now is not None:
            now[stages[-1].key] = now.get(stages[-1].key, 0.0) + span
        finished = [self.costs.by_key(name) for name in names]
        return TimeLeft(self.plan, finished, now, dict(self._now), frozenset(self._over), going).total()

    # ---- the clock -------------------------------------------------------------------------------------------

    def _count(self) -> None:
        """Count the time since the last change of stage for the innermost one."""
        self.costs.wait()
        now, stage = self.clock(), self.current
        if stage is not None:
            stage.seconds += now - self._since
        self.costs.count(None if stage is None else stage.key, now - self._since)
        self._since = now

    def _enter(self, stage: Stage) -> None:
        self._count()
        self._open.append(stage)
        self.watch(self)

    def _end(self, count: int) -> None:
        """End the `count` innermost stages."""
        self._count()
        for _ in range(count):
            stage = self._open.pop()
            spent = self._now.get(stage.key, Spent())
            units = spent.units + stage.work * (stage.done - stage.begun)
            self._now[stage.key] = Spent(spent.seconds + stage.seconds, units)
            if not self._open:
                self._over.add(stage.key)
