"""Shows the progress of a whole sequence: task, stage, steps, loss, tokens per second, and the time left."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from rich.console import RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from cl_lightning.common import distributed
from cl_lightning.common.console import Screen
from cl_lightning.common.terminal import is_quiet, printable, say
from cl_lightning.common.wording import duration
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.time_left import TRAINING

if TYPE_CHECKING:
    from cl_lightning.sequence.context import RunContext
    from cl_lightning.sequence.stages import Stages

#: Cells of the names, of which longer ones end in an ellipsis, and refreshes per second.
NAMES, REFRESHES = 30, 2


class TaskProgress(TaskCallback):
    """One display for all tasks on a terminal; a line for each stage if standard error is none. Rank 0 only.

    The time left is shown as soon as each kind of the work ahead is measured: if the untrained model is scored, from a
    tenth of the first task's training on. Lines have it when a stage begins, and once when it becomes known. It ends
    with the last task's scores. Nothing is shown with --quiet.
    """

    def __init__(self) -> None:
        self.display: Display | None = None
        self.stages: Stages | None = None
        self.said: set[tuple[int, str]] = set()
        self.told = False

    def on_stage(self, run: RunContext, stages: Stages) -> None:
        stage = stages.current
        if is_quiet() or distributed.rank() or stage is None:
            return
        self.stages = stages
        if Screen(error=True).is_terminal:
            if self.display is None:
                self.display = Display(stages)
                self.display.start()
        elif stage.total and (stages.task, stage.name) not in self.said:
            self.said.add((stages.task, stage.name))
            amount = f", {stage.total:.0f} steps" if stage.name == TRAINING else ""
            self._say(f"{stage.name}{amount}")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say the time left once there is one, where no line has had it and no display shows it."""
        if self.stages is None or self.display is not None or self.told:
            return
        stage = self.stages.current
        if stage is not None and stage.total and left_of(self.stages):
            self._say(f"{stage.name}, step {stage.done:.0f} of {stage.total:.0f}")

    def _say(self, what: str) -> None:
        left = left_of(self.stages, ", ")
        self.told = self.told or bool(left)
        say(f"{task_of(self.stages)}: {what}{left}", error=True)

    def on_sequence_end(self, run: RunContext) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.display is not None:
            self.display.stop()
            self.display = None


class Display(Progress):
    """Two lines of the stages: the task within the sequence, and the stage within the task."""

    def __init__(self, stages: Stages) -> None:
        self.stages = stages  # the base class draws at once
        name = Column(width=NAMES, no_wrap=True, overflow="ellipsis")
        super().__init__(
            TextColumn("{task.description}", markup=False, table_column=name),
            BarColumn(bar_width=14),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True)),
            console=Screen(error=True),
            refresh_per_second=REFRESHES,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        self.add_task("", total=len(stages.order), note="")
        self.add_task("", note="")

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the two lines as the stages are now."""
        stages, stage = self.stages, self.stages.current
        if len(self.tasks) == 2:
            sequence, part = self.tasks
            sequence.description, sequence.completed = task_of(stages), max(0, stages.task)
            sequence.fields["note"], part.fields["note"] = left_of(stages), note_of(stages)
            if stage is not None:
                part.description = f"  {printable(f'{stage.name} {stage.item}'.strip())}"
                part.total, part.completed = stage.total, stage.done
        yield from super().get_renderables()


def task_of(stages: Stages) -> str:
    """Return number and name of the task."""
    return printable(f"task {stages.task + 1}/{len(stages.order)} {stages.order[stages.task]}")


def left_of(stages: Stages, before: str = "") -> str:
    """Return the time left, after `before`; "" before it is known."""
    left = stages.left()
    return "" if left is None else f"{before}about {duration(left)} left"


def note_of(stages: Stages) -> str:
    """Return what is known of the stage: units done, loss, tokens per second."""
    stage, rate = stages.current, stages.rate()
    if stage is None:
        return ""
    done = f"{stage.done:.0f}/{stage.total:.0f}" if stage.total else ""
    loss = "" if stage.loss is None else f"loss {stage.loss:.3f}"
    return "  ".join(filter(None, (done, loss, "" if rate is None else f"{rate:,.0f} tokens/s")))
