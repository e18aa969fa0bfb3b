"""The run: one fresh Trainer per task in one process group, boundary work, scoring, state, resume.

A task, in order: seed -> data.activate -> Trainer.fit, whose setup stage moves the module to its device, begins
the task and runs the boundary callbacks by phase -> training -> on_train_end: on_task_end -> end_task -> scoring
of every seen task -> on_task_scored -> state written -> next. Why there: under DDP the process group exists
only inside fit, parameters added after the wrap would not be reduced, and after fit the model is parked.
"""

import json
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from cl_lightning.common import distributed, stopping
from cl_lightning.common.errors import TrainingError, UserError
from cl_lightning.common.files import to_csv, to_json, to_jsonl
from cl_lightning.common.memory import give_back_memory
from cl_lightning.common.seeding import derive_seed, generator
from cl_lightning.common.terminal import say
from cl_lightning.data.audit.suitability import check_fit, check_room
from cl_lightning.data.prompt import Encoded
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.evaluation.baselines import BASELINES, baseline_items
from cl_lightning.evaluation.score_task import score_task
from cl_lightning.gradients.capture import TakeProduct
from cl_lightning.metrics.bootstrap import Interval, interval
from cl_lightning.metrics.matrix import summary_of
from cl_lightning.metrics.registry import mean_score
from cl_lightning.model.module import ContinualLM
from cl_lightning.sequence import loggers as run_logs
from cl_lightning.sequence import standing
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.context import WeightedSamples
from cl_lightning.sequence.folder import RunFolder, adapter_file, check_names, prediction_file, state_file
from cl_lightning.sequence.loggers import Clock
from cl_lightning.sequence.record import VERSIONS
from cl_lightning.sequence.trainer_hooks import TaskRunner


@dataclass
class SequenceSettings:
    """How the sequence runs: where, from where, what is logged.

    Attributes:
        experiment: name of the folder under runs/; the last --config's name by default.
        run_dir: the run folder; null: runs/<experiment>/<hash of configuration, data and base>.
        fresh: start over, deleting the files that the folder's record accounts for; refused where it holds others.
        continue_from: run folder of a finished sequence whose tasks begin `data.order`; only the new are learnt.
        zero_shot: score the base model on all tasks before the first.
        wandb: "offline" (no key, no network), "online" or "off". The CSV log is always written.
        log_every_n_steps: optimiser steps between logged losses.
        threads: CPU threads of each process; null: cores / processes. Equal threads give equal rounding.
    """

    experiment: str | None = None
    run_dir: str | None = None
    fresh: bool = False
    continue_from: str | None = None
    zero_shot: bool = True
    wandb: run_logs.Wandb = "offline"
    log_every_n_steps: int = 1
    threads: int | None = None


class SequenceRun:
    """One run of a sequence; what the task callbacks get as `run`.

    Attributes:
        module, data, folder, settings: the parts.
        boundary, observers: task callbacks by slot.
        order: what is trained, one after the other; columns: the tasks that are scored.
        matrix: R, one list per finished task; R[i][j] = score on column j after task i, None where not scored.
        trained: parameters that each finished task trained.
        intervals: 95 % bootstrap intervals of the scores, [after][task].
        further: mean and interval of further metrics, [after][task][metric], where a task has any.
        clock: the run's monotone axes.
        facts: identity and provenance, stored in the record.
    """

    def __init__(
        self,
        module: ContinualLM,
        data: TaskSequence,
        folder: RunFolder,
        settings: SequenceSettings,
        boundary: dict[str, TaskCallback],
        observers: dict[str, TaskCallback],
        make_trainer: Callable[[int, list[Callback], list[Logger]], pl.Trainer],
        facts: dict[str, Any],
    ) -> None:
        self.module, self.data, self.folder, self.settings = module, data, folder, settings
        self.boundary, self.observers, self.make_trainer, self.facts = boundary, observers, make_trainer, facts
        self.order, self.columns, self.seed = data.order, data.columns, data.seed
        self.matrix: list[list[float | None]] = []
        self.zero_shot: list[float] | None = None
        self.trained: list[int] = []
        self.intervals: dict[str, dict[str, Interval]] = {}
        self.further: dict[str, dict[str, Any]] = {}
        self.clock = Clock()
        self.loggers: list[Logger] = []
        self.attempt = 0
        module.loss_terms = [callback.loss_terms for callback in boundary.values()]

    # ---- what callbacks use ------------------------------------------------------------------------------

    @property
    def callbacks(self) -> list[TaskCallback]:
        """All task callbacks: boundary by phase, then observers."""
        return [*sorted(self.boundary.values(), key=lambda c: c.phase), *self.observers.values()]

    @property
    def is_main(self) -> bool:
        return distributed.rank() == 0

    def say(self, text: str) -> None:
        """One line for people, from rank 0."""
        if self.is_main:
            say(text)

    def log(self, values: dict[str, Any]) -> None:
        """Log values over cl/step, from rank 0."""
        if self.is_main:
            run_logs.log(self.loggers, self.clock, values)

    def log_table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Log a table to wandb, from rank 0; the run folder's twin is the caller's to `write`."""
        if self.is_main:
            run_logs.log_table(self.loggers, self.clock, name, columns, rows)

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the run folder on rank 0; part of the state from the next commit on."""
        self._on_main(lambda: self.folder.write(name, data))

    def products(
        self,
        samples: WeightedSamples,
        batch_size: int,
        loss_on: str,
        take: TakeProduct,
        after_batch: Callable[[], None],
        gated: bool = False,
        with_new: bool = False,
    ) -> None:
        """One pass over this rank's batches of `samples`; see ContinualLM.products. Nothing is summed over ranks."""
        batches = self._boundary_batches(samples, batch_size, loss_on)
        self.module.products(batches, take, after_batch, gated, with_new)

    def input_moments(
        self, samples: WeightedSamples, batch_size: int, with_new: bool = False, with_padding: bool = False
    ) -> dict[str, torch.Tensor]:
        """C = (1/N) sum of x x^T over the N tokens of `samples`, all ranks: layer name -> (n, n).

        Layers with the same input have the same tensor. `with_new`: the current branch is in place; `with_padding`:
        padding counts too.
        """
        batches = self._boundary_batches(samples, batch_size, "answer")
        moments = self.module.input_moments(batches, with_new, with_padding)
        # A rank without a batch has seen no layer: who shares an input with whom is told by one that has.
        owners = next(filter(None, distributed.gather(moments.owners)))
        means: dict[str, torch.Tensor] = {}
        for name in sorted(set(owners.values())):
            layer = self.module.adapter.layers[name]
            n, dtype = layer.in_features, torch.promote_types(torch.float32, self.module.llm.dtype)
            total = moments.totals.get(name, torch.zeros(n, n, dtype=dtype, device=layer.weight.device))
            means[name] = distributed.sum_(total).div_(sum(distributed.gather(moments.tokens.get(name, 0))))
        return {name: means[owner] for name, owner in owners.items()}

    def draw(self, task: int, count: int, purpose: str) -> list[Encoded]:
        """`count` training examples of a task at most, drawn by (seed, purpose, task)."""
        train = self.data.tasks[task].train
        order = torch.randperm(len(train), generator=generator(self.seed, purpose, self.order[task])).tolist()
        return [train[i] for i in order[:count]]

    def batches(self, examples: Sequence[Encoded], batch_size: int) -> Iterator[dict[str, Any]]:
        """This rank's batches of `examples`, on the model's device."""
        yield from self._boundary_batches((examples, [1.0] * len(examples)), batch_size, "answer")

    def _boundary_batches(self, samples: WeightedSamples, batch_size: int, loss_on: str) -> Iterator[dict[str, Any]]:
        examples, weights = samples
        dtype = torch.promote_types(torch.float32, self.module.llm.dtype)
        weight = torch.tensor(weights, dtype=torch.float64)
        rank, world_size = distributed.rank(), distributed.world_size()
        for batch in self.data.boundary_loader(examples, batch_size, rank, world_size, loss_on):
            batch["sample_weight"] = weight[batch.pop("index")].to(dtype)
            yield self.module.transfer_batch_to_device(batch, self.module.llm.device, 0)

    # ---- the run -----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse what model and data rule out, before the run folder is touched. Raises UserError."""
        check_names(self.order, self.columns)
        for task in self.data.evaluated:
            check_fit(task.spec, [e.example for e in task.test])
            check_room(task, self.module.context)
        for callback in self.callbacks:
            callback.check_run(self)

    def run(self) -> None:
        """Train and score all tasks that are not done yet. What is loaded by now is taken to stay.

        Raises:
            UserError: what the user can put right; finished tasks are kept.
        """
        self._restore()
        for task in range(len(self.matrix), len(self.order)):
            pl.seed_everything(derive_seed(self.seed, "task", task) % 2**32, workers=True, verbose=False)
            self.data.activate(task)
            self.module.task_name, self.clock.task = self.order[task], task
            trainer = self.make_trainer(task, [*self.callbacks, TaskRunner(self, task)], self.loggers)
            stopping.end_ranks(partial(getattr, trainer.strategy.launcher, "procs", ()))
            trainer.fit(self.module, datamodule=self.data)
            if len(self.matrix) <= task:
                raise TrainingError(f"task {self.order[task]} was interrupted; run the same command again to go on")
        for callback in self.callbacks:
            callback.on_sequence_end(self)
        for logger in self.loggers:
            logger.finalize("success")

    def _restore(self) -> None:
        record = self.folder.record
        if done := record.get("done", 0):
            self.matrix, self.zero_shot = record["R"], record["zero_shot"]
            self.trained = record["metrics"]["trained"]
            self.intervals = record["metrics"].get("intervals", {})  # records from before they were kept have none
            self.further = record["metrics"].get("further", {})
            self.clock = Clock(**record["clock"])
            self.attempt = record["attempts"]
            if self.data.protocol != "independent":
                states = [load_tensors(self.folder.read(adapter_file(name))) for name in self.order[:done]]
                self.module.adapter.restore(states)
            for slot, callback in {**self.boundary, **self.observers}.items():
                name = state_file(slot, done)
                if name in record["files"]:
                    callback.load(json.loads(self.folder.read(name)))
                if (name := state_file(slot, done, "safetensors")) in record["files"]:
                    callback.load_tensors(load_tensors(self.folder.read(name)))
            self._on_main(self._export)
        self.loggers = run_logs.make_loggers(
            self.folder.path,
            self.attempt,
            self.facts["identity"],
            self.facts["experiment"],
            [f"data: {self.facts['data']}"[:64]],
            self.settings.wandb,
        )
        for callback in self.callbacks:
            callback.on_sequence_start(self)

    def begin(self, task: int, trainer: pl.Trainer) -> None:
        """The setup stage of a task's fit."""
        self.module.to(trainer.strategy.root_device)
        if len(set(distributed.gather(len(self.matrix)))) != 1:
            raise TrainingError("the ranks read different states of the run folder; run the same command again")
        if self.is_main:
            run_logs.define_axes(self.loggers)
        if task == 0 and self.settings.zero_shot and self.zero_shot is None:
            self.zero_shot = self._score("zero-shot", range(len(self.columns)))
        if task == 0:
            for callback in self.callbacks:
                callback.on_base(self)
        first = 0 if self.data.protocol == "independent" else task
        self.module.adapter.begin_task(first, generator(self.seed, "adapter", task))
        for callback in self.callbacks:
            callback.on_task_start(self, task)

    def end(self, task: int) -> None:
        """After the last optimiser step: freeze, score, commit."""
        adapter = self.module.adapter
        for callback in self.callbacks:
            callback.on_task_end(self, task)
        state = {name: tensor.cpu().contiguous() for name, tensor in adapter.task_state().items()}
        distributed.assert_in_sync(state.values(), f"adapters after task {self.order[task]}")
        self.write(adapter_file(self.order[task]), save_tensors(state))
        self.trained.append(sum(p.numel() for group in adapter.param_groups() for p in group["params"]))
        alone, scored = self.data.protocol == "independent", self.data.scored_after(task)
        if not alone:
            adapter.end_task(task)
        row: list[float | None] = [None] * len(self.columns)
        row[scored.start : scored.stop] = self._score(self.order[task], scored)
        self.matrix.append(row)
        if alone:
            adapter.discard()
        self._on_main(lambda: self._commit(task + 1))
        self._on_main(self._export)
        for callback in self.callbacks:
            callback.on_task_scored(self, task)
        give_back_memory()

    def _score(self, after: str, tasks: Iterable[int]) -> list[float]:
        scores = []
        for j in tasks:
            scored = score_task(self.module, self.data.evaluated[j], self.data.eval_batch_size)
            self.write(prediction_file(after, self.columns[j]), to_jsonl(scored.rows))
            self.intervals.setdefault(after, {})[self.columns[j]] = scored.interval
            if scored.further:
                self.further.setdefault(after, {})[self.columns[j]] = scored.further
            scores.append(scored.score)
        return scores

    # ---- state -------------------------------------------------------------------------------------------

    def summary(self) -> dict[str, float | None]:
        """The sequence metrics of the tasks done so far; None where the protocol leaves one undefined."""
        return summary_of(self.data.protocol, self.matrix, self.zero_shot)

    def metrics(self) -> dict[str, Any]:
        """The sequence metrics of the tasks done so far, with what they were computed on."""
        done, tasks = len(self.matrix), self.data.evaluated
        baselines = [baseline_items(t.spec.metric, t.raw_train, [e.example for e in t.test]) for t in tasks]
        return {
            **self.summary(),
            "tasks": self.order[:done],
            "data": self.facts["data"],
            "complete": done == len(self.order),
            "metric_of_task": {t.spec.name: t.spec.metric for t in tasks},
            "by_likelihood": [t.spec.name for t in tasks if t.labels],
            "trained": self.trained,
            "zero_shot": self.zero_shot,
            "intervals": self.intervals,
            **{name: [mean_score(b[name]) for b in baselines] for name in BASELINES},
            "baseline_intervals": {name: [interval(b[name]) for b in baselines] for name in BASELINES},
            "further": self.further,
            "budgets": {t.spec.name: t.budget for t in tasks if not t.labels},
        }

    def _commit(self, done: int) -> None:
        folder, slots = self.folder, {**self.boundary, **self.observers}
        for slot, callback in slots.items():
            if state := callback.state():
                folder.write(state_file(slot, done), to_json(state))
            if tensors := callback.tensors():
                folder.write(state_file(slot, done, "safetensors"), save_tensors(tensors))
        tables = {slot: [vars(t) for t in callback.tables()] for slot, callback in slots.items()}
        folder.commit({**self.record(), "attempts": self.attempt + 1, "tables": tables})
        stopping.saved(standing.saved(folder.path, done, self.order))

    def record(self) -> dict[str, Any]:
        """What the record says of the tasks done so far, without what callbacks have to show."""
        return {
            **self.facts,
            "done": len(self.matrix),
            "order": self.order,
            "columns": self.columns,
            "protocol": self.data.protocol,
            "R": self.matrix,
            "zero_shot": self.zero_shot,
            "seed": self.seed,
            "world_size": distributed.world_size(),
            "attempts": self.attempt,
            "clock": vars(self.clock),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
            "metrics": self.metrics(),
            "tables": {},
        }

    def _export(self) -> None:
        """matrix.csv, curves.csv, metrics.json: what the record says, for other programs. Anew after each commit."""
        after = f"after ({self.facts['data']})"
        rows = [[name, *row] for name, row in zip(self.order, self.matrix, strict=False)]
        self.folder.export("matrix.csv", to_csv([after, *self.columns], rows))
        summaries = [summary_of(self.data.protocol, self.matrix[: i + 1]) for i in range(len(self.matrix))]
        curves = [[name, n, *s.values()] for name, n, s in zip(self.order, self.trained, summaries, strict=False)]
        names = list(summaries[0]) if summaries else []
        self.folder.export("curves.csv", to_csv([after, "trained parameters", *names], curves))
        self.folder.export("metrics.json", to_json(self.metrics()))

    def _on_main(self, action: Callable[[], None]) -> None:
        """Run on rank 0; a failure there stops all ranks with the same line instead of leaving them waiting."""
        told: str | None = None
        if self.is_main:
            try:
                action()
            except UserError as error:
                told = str(error)
            except Exception as error:
                distributed.gather(f"{type(error).__name__}: {error}")  # release the other ranks first
                raise
        told = distributed.gather(told)[0]
        if told is not None:
            raise TrainingError(told)
