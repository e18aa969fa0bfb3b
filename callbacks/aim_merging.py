"""AimMerging: turns of training on the new task and on memory, each pair of turns merged into the model.

    theta_0  --k steps on new examples-->  theta_k  --k steps on memory-->  theta_2k
    theta_0  <-  theta_0 + w_new (theta_k - theta_0) + w_old (theta_2k - theta_k)

    (w_new, w_old) = (.5, .5)   if the memory's loss signals forgetting in the turn, else (.6, .4);
                     (.4, .6)   and (.5, .5) for turns of more than 70 steps, which stand for a task that changes little
    signal: at two or more steps of the turn's last third, memory's loss is at least `threshold` times its mean before

theta are the trained parameters; the optimiser's moments go on through all turns. From the second task on, a task takes
twice as many steps. Memory while a task trains: two copies of the trained parameters.

Source: AimMerging (arXiv 2509.17348) and its code, whose masks of importance are computed and not used. Where ours
differs: all turns have the length `turn`, since a task's steps are fixed before it begins. The code moves the next
merge by the signal, and after some merges by the size of the updates. Steps on memory count in the learning rate's
schedule here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from callbacks.replay_buffer import ReplayBuffer
from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.common import distributed
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite, Integer
from cl_lightning.data.mix import Mix
from cl_lightning.gradients.capture import dropout_off
from cl_lightning.sequence.callback import Table, TaskCallback

if TYPE_CHECKING:
    from cl_lightning.model.module import ContinualLM
    from cl_lightning.sequence.context import RunContext
    from cl_lightning.sequence.rehearsal import Rehearsal

COLUMNS = ["task", "merges", "with a signal of forgetting"]
#: Steps of a turn above which the code takes the new task to change little.
LONG = 70
#: Steps with a high loss that make a signal.
SIGNALS = 2


class AimMerging(TaskCallback):
    """Merges of what turns on new examples and on memory changed, over any strategy.

    Args:
        turn: optimiser steps of a turn on new examples; as many on memory follow it.
        threshold: the memory's loss signals forgetting at so many times its mean of the turn's first two thirds.
    """

    phase = 15  # after the memory

    def __init__(self, turn: Integer = 8, threshold: Finite = 2.0) -> None:
        if turn < 1:
            raise ConfigError(f"boundary.merging.turn: {turn} must be 1 or more")
        if not threshold > 0:
            raise ConfigError(f"boundary.merging.threshold: {threshold} must be above 0")
        self.turn, self.threshold = turn, threshold
        self.rows: list[list[Any]] = []
        self._begin()

    def _begin(self) -> None:
        #: The last step of each turn of an epoch, on new examples and on memory.
        self._ends: dict[int, bool] = {}
        self._epoch = self._steps = 0
        self._start: list[Tensor] = []
        self._between: list[Tensor] = []
        self._losses: list[float] = []
        self._probe: dict[str, Any] | None = None

    @property
    def mix(self) -> Mix:
        """See the base class."""
        return Mix(turn=self.turn)

    def check(self, slots: dict[str, TaskCallback], adapter: AdapterStrategy) -> list[str]:
        if not isinstance(slots.get("memory"), ReplayBuffer):
            return ["boundary.merging needs earlier tasks' examples; add boundary.memory=ReplayBuffer"]
        return []

    def rehearse(self, rehearsal: Rehearsal) -> None:
        """Hold the copies until training ends."""
        if rehearsal.last:
            self._start = [p.detach().clone() for p in rehearsal.module.adapter.trained]
            self._between = [p.detach().clone() for p in self._start]
            rehearsal.after_training.append(self._begin)

    def work(self, run: RunContext, task: int) -> dict[str, float]:
        """Count the tokens of the turns on memory, by the mean length of the earlier tasks' examples."""
        earlier = [e.length for of in run.data.tasks[:task] for e in of.train]
        if not earlier:
            return {}
        data = run.data.tasks[task]
        steps = data.steps(run.data.batch_size, self.mix) - data.steps(run.data.batch_size)
        return {"training": steps * run.data.batch_size * sum(earlier) / len(earlier)}

    def on_task_start(self, run: RunContext, task: int) -> None:
        """Deal the task's steps in turns; there is no memory in the first task."""
        self._begin()
        memory, data = run.boundary["memory"], run.data
        if not memory.examples:
            return
        data.set_replay([e for name in memory.examples for e in memory.encoded(run, name)], self.mix)
        step = 0
        for turn in self.mix.turns(len(data.tasks[task].train), data.batch_size):
            self._ends |= {step + turn: False, step + 2 * turn: True}
            step += 2 * turn
        self._epoch = step
        drawn = [e for of in memory.draw(run, data.batch_size).values() for e in of]
        self._probe = next(iter(data.boundary_loader(drawn, len(drawn), 0, 1)))
        self._start = [p.detach().clone() for p in run.module.adapter.trained]
        self.rows.append([run.order[task], 0, 0])

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: ContinualLM, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Follow the turns after each optimiser step; not after a micro-batch that made none."""
        if not self._ends or trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        if not self._between:
            self._losses.append(self._memory_loss(pl_module))
        merges = self._ends.get((self._steps - 1) % self._epoch + 1)
        if merges is False:
            self._between = [p.detach().clone() for p in pl_module.adapter.trained]
        elif merges:
            self._merge(pl_module.adapter.trained)

    def _memory_loss(self, module: ContinualLM) -> float:
        """Compute the loss of a fixed batch of memory, the same on all ranks."""
        with dropout_off(module.llm):
            batch = module.transfer_batch_to_device(self._probe, module.device, 0)
            logits, labels, _ = module.answer_logits(batch)
        return float(distributed.broadcast_(nn.functional.cross_entropy(logits, labels), 0))

    def _merge(self, parameters: Sequence[nn.Parameter]) -> None:
        forgets = signals(self._losses, self.threshold) >= SIGNALS
        new, old = weights(forgets, len(self._losses))
        for now, start, between in zip(parameters, self._start, self._between, strict=True):
            now.copy_(start + new * (between - start) + old * (now - between))
            start.copy_(now)
        self._between, self._losses = [], []
        self.rows[-1][1] += 1
        self.rows[-1][2] += forgets

    def on_task_end(self, run: RunContext, task: int) -> None:
        """Release the copies."""
        self._begin()

    # ---- state -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state inside a task, for a checkpoint."""
        return {
            "start": self._start,
            "between": self._between,
            "losses": self._losses,
            "steps": self._steps,
            "row": self.rows[-1] if self._ends else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the output of `state_dict`."""
        for start, stored in zip(self._start, state["start"], strict=True):
            start.copy_(stored)
        self._between = [stored.to(self._start[0]) for stored in state["between"]]
        self._losses, self._steps = list(state["losses"]), state["steps"]
        if state["row"] is not None:
            self.rows[-1] = list(state["row"])

    def state(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]

    def tables(self) -> list[Table]:
        return [Table("merging: turns on new examples and on memory", COLUMNS, self.rows)]


def signals(losses: Sequence[float], threshold: float) -> int:
    """Count the losses after the first two thirds that are at least `threshold` times the mean of those."""
    first = len(losses) * 2 // 3 + 1
    mean = sum(losses[:first]) / len(losses[:first])
    return sum(loss >= threshold * mean for loss in losses[first:])


def weights(forgets: bool, turn: int) -> tuple[float, float]:
    """Return (w_new, w_old) of a merge after turns of so many steps."""
    new = 0.6 - 0.1 * forgets - 0.1 * (turn > LONG)
    return new, 1 - new
