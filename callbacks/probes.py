"""Scores small samples of earlier tasks every few steps of a task, by likelihood: curves of forgetting within tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from cl_lightning.common import distributed
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Integer
from cl_lightning.evaluation.likelihood import log_likelihoods
from cl_lightning.model.sharding import in_step
from cl_lightning.sequence.callback import Table, TaskCallback

if TYPE_CHECKING:
    from cl_lightning.data.prompt import Encoded
    from cl_lightning.data.task_sequence import TaskSequence
    from cl_lightning.sequence.context import RunContext

COLUMNS = ["while learning", "probes", "tasks probed", "seconds", "% of training"]


class Probes(TaskCallback):
    """Log `probe/<task>/loss` and `probe/<task>/exact` of each earlier task and the current one.

    loss: mean negative log-likelihood of an answer token, in nats. exact: percent of the answers that greedy decoding
    would give, found without decoding. Probes are at a task's first step, every `every` steps, and at its end. They
    draw no random number and change no bit of training; their cost is in the record under "probes".

    Args:
        every: optimiser steps between probes.
        samples: test examples of each task, always the first ones.
        batch_size: examples per forward pass on each rank.
    """

    def __init__(self, every: Integer = 20, samples: Integer = 8, batch_size: Integer = 8) -> None:
        for name, value in (("every", every), ("samples", samples), ("batch_size", batch_size)):
            if value < 1:
                raise ConfigError(f"observers.probes.{name}: {value} must be 1 or more")
        self.every, self.samples, self.batch_size = every, samples, batch_size
        self.rows: list[list[Any]] = []
        self.count = 0

    def on_task_start(self, run: RunContext, task: int) -> None:
        self._run, self._task, self.count = run, task, 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        """Probe before the first micro-batch of a step."""
        if trainer.global_step % self.every == 0 and index % trainer.accumulate_grad_batches == 0:
            self._probe()

    def on_task_end(self, run: RunContext, task: int) -> None:
        self._probe()
        costs = run.record.costs
        seconds, training = costs.seconds("probes"), costs.seconds("training")
        share = 100 * seconds / training if training else None
        self.rows.append([run.order[task], self.count, len(self._probed(run.data, task)), seconds, share])

    def work(self, run: RunContext, task: int) -> dict[str, float]:
        """Count the scored examples; see the base class."""
        times = 1 + -(-run.data.tasks[task].steps(run.data.batch_size) // self.every)
        return {"probes": times * sum(map(len, self._probed(run.data, task).values()))}

    def _probed(self, data: TaskSequence, task: int) -> dict[str, tuple[Encoded, ...]]:
        """Return the samples that are scored within a task, by their task."""
        last = len(data.evaluated) if data.protocol.together else task + 1
        first = task if data.protocol.alone else 0
        return {of.spec.name: of.test[: self.samples] for of in data.evaluated[first:last]}

    def _probe(self) -> None:
        run, self.count = self._run, self.count + 1
        probed = self._probed(run.data, self._task)
        with run.record.stages.within("probes", sum(map(len, probed.values()))):
            run.log({key: v for name, sample in probed.items() for key, v in self._score(name, sample).items()})

    def _score(self, name: str, sample: tuple[Encoded, ...]) -> dict[str, float]:
        """Score a sample, of which each rank takes its share."""
        module = self._run.module
        mine = sample[distributed.rank() :: distributed.world_size()]
        pad = module.tokenizer.pad_token_id
        with in_step(module.llm):
            found = log_likelihoods(module.llm, module.answer_logits, pad, mine, self.batch_size)
        found = [each for part in distributed.gather(found) for each in part]
        self._run.record.stages.advance(len(sample))
        tokens = sum(len(e.answer_ids) for e in sample)
        loss, exact = -sum(value for value, _ in found) / tokens, 100 * sum(right for _, right in found) / len(found)
        return {f"probe/{name}/loss": loss, f"probe/{name}/exact": exact}

    def state_dict(self) -> dict[str, Any]:
        """Return the state inside a task, for a checkpoint."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the output of `state_dict`."""
        self.count = state["count"]

    def state(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]

    def tables(self) -> list[Table]:
        return [Table("probes of tasks within training, and their cost", COLUMNS, self.rows)] if self.rows else []
