"""The run: one fresh Trainer per task in one process group, boundary work, scoring, state, resume.

Order of a task: seed -> data.activate -> Trainer.fit, whose setup stage moves the module to its device, begins the
task and runs the boundary callbacks by phase -> training -> on_train_end: on_task_end -> end_task -> scoring of all
seen tasks -> state written -> on_task_scored -> next task. All of this happens inside fit because under DDP the process
group exists only there, and parameters that are added after the DDP wrapper would not be reduced.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from safetensors.torch import save as save_tensors

from cl_lightning.common import distributed, stopping
from cl_lightning.common.errors import TrainingError
from cl_lightning.common.files import to_json, to_jsonl
from cl_lightning.common.memory import release_memory
from cl_lightning.common.numbers import Count, Threads
from cl_lightning.common.seeding import derive_seed, generator
from cl_lightning.data.audit.suitability import check_context_length, check_metrics, check_tokens
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.evaluation.score_task import score_task
from cl_lightning.model.module import ContinualLM
from cl_lightning.sequence import status
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.context import RunContext
from cl_lightning.sequence.folder import ZERO_SHOT, RunFolder, adapter_file, check_names, prediction_file, state_file
from cl_lightning.sequence.loggers import About, RunLogs, Wandb
from cl_lightning.sequence.record import Record
from cl_lightning.sequence.stages import Stages
from cl_lightning.sequence.stored_tensors import read_tensors, restore_branches
from cl_lightning.sequence.time_left import SCORING, TRAINING, Key
from cl_lightning.sequence.time_left import ZERO_SHOT as UNTRAINED
from cl_lightning.sequence.trainer_hooks import TrainerHooks


@dataclass
class SequenceSettings:
    """Options of a run: its folder, what it continues, and logging.

    Attributes:
        experiment: name of the folder under runs/; by default the name of the last --config.
        run_dir: the run folder; null: runs/<experiment>/<hash of configuration, data and base>.
        fresh: start over, deleting the run in the folder. Applies to this command only; config.yaml stores false.
        continue_from: run folder of a finished sequence of the first tasks of `data.order`; only the rest is trained.
        zero_shot: score the base model on all tasks before the first.
        wandb: "offline" (no key, no network), "online" or "off". The CSV log is always written.
        name: the run's name in loggers, reports and comparisons; null: the experiment's.
        group, job_type, tags, notes: what wandb files the run under.
        log_every_n_steps: optimiser steps between logged losses, and between Lightning's own values unless
            `trainer.log_every_n_steps` says otherwise.
        report: write report.html and figures/ into the run folder at the end.
        other_versions: continue an unfinished run with another release of torch, transformers, lightning or this
            package than its finished tasks were trained with.
        threads: CPU threads per process; null: cores / processes. The same number gives the same rounding.
    """

    experiment: str | None = None
    run_dir: str | None = None
    fresh: bool = False
    continue_from: str | None = None
    zero_shot: bool = True
    wandb: Wandb = "offline"
    name: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    log_every_n_steps: Count = 1
    report: bool = True
    other_versions: bool = False
    threads: Threads | None = None

    def __post_init__(self) -> None:
        for name in ("run_dir", "continue_from"):
            if (given := getattr(self, name)) is not None:
                setattr(self, name, str(Path(given).expanduser()))


class SequenceRun:
    """One run of a sequence: the loop over tasks, resuming and committing.

    Args:
        loggers: those of the Trainer's options, which get what the run's own loggers get.
        hyperparameters: the configuration for all loggers, flat.

    Attributes:
        context: the `run` argument of the task callbacks.
        record: the scores so far.
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
        loggers: Sequence[Logger] = (),
        hyperparameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.module, self.data, self.folder, self.settings = module, data, folder, settings
        self.boundary, self.observers, self.make_trainer = boundary, observers, make_trainer
        self.record = Record(data, facts)
        self.logs = RunLogs(self.record.clock, loggers, hyperparameters or {})
        self.stages = Stages(data.order, watch=self._on_stage)
        self.context = RunContext(module, data, boundary, self.record, folder, self.logs, self.stages)
        module.loss_terms = [callback.loss_terms for callback in boundary.values()]

    @property
    def callbacks(self) -> list[TaskCallback]:
        """All task callbacks: boundary callbacks by phase, then observers."""
        return [*sorted(self.boundary.values(), key=lambda c: c.phase), *self.observers.values()]

    def check(self) -> None:
        """Check options against the model and the data, before the run folder is changed. Raises UserError."""
        check_names(self.data.order, self.data.columns)
        for task in self.data.evaluated:
            check_metrics(task.spec, [e.example for e in task.test])
            check_tokens(task, self.module.vocabulary)
            check_context_length(task, self.module.context, self.module.positions)
        for callback in self.callbacks:
            callback.check_run(self.context)

    def run(self) -> None:
        """Train and score all tasks that are not done yet.

        Raises:
            UserError: something the user can fix; finished tasks are kept.
        """
        try:
            self._run()
        finally:
            self.logs.end()

    def _run(self) -> None:
        self._restore()
        order, every = self.data.order, self.settings.log_every_n_steps
        self.stages.plan = [self._plan(task) for task in range(len(order))]
        for task in range(len(self.record.matrix), len(order)):
            pl.seed_everything(derive_seed(self.data.seed, "task", task) % 2**32, workers=True, verbose=False)
            self.data.activate(task)
            self.module.task_name, self.record.clock.task = order[task], task
            hooks = TrainerHooks(
                partial(self.begin, task), partial(self.end, task), self.logs, self.record.costs, every, self.stages
            )
            trainer = self.make_trainer(task, [*self.callbacks, hooks], self.logs.loggers)
            stopping.end_ranks(partial(getattr, trainer.strategy.launcher, "procs", ()))
            trainer.fit(self.module, datamodule=self.data)
            if len(self.record.matrix) <= task:
                advice = status.resume_advice(self.settings.fresh)
                raise TrainingError(f"task {order[task]} was interrupted; {advice} to continue")
        for callback in self.callbacks:
            callback.on_sequence_end(self.context)
        self.logs.close()

    def _restore(self) -> None:
        stored = self.folder.record
        if stored:
            done = stored["done"]
            self.record.restore(stored)
            kept = [] if self.data.protocol.alone else self.data.order[:done]
            restore_branches(self.module.adapter, self.folder.path, stored, kept)
            for slot, callback in {**self.boundary, **self.observers}.items():
                name = state_file(slot, done)
                if name in stored["files"]:
                    callback.load(json.loads(self.folder.read(name)))
                if (name := state_file(slot, done, "safetensors")) in stored["files"]:
                    callback.load_tensors(read_tensors(self.folder.path, stored, name))
            distributed.on_main(self._export)
        self.logs.open(self.folder.path, self.record.attempts, self._about(), self.settings.wandb)
        for callback in self.callbacks:
            callback.on_sequence_start(self.context)

    def _about(self) -> About:
        facts, named = self.record.facts, self.settings
        tags = [f"data: {facts['data']}"[:64], *named.tags]
        name = named.name or " ".join(filter(None, (facts["experiment"], facts["label"])))
        return About(facts["identity"], name, named.group, named.job_type, tags, named.notes)

    def begin(self, task: int, trainer: pl.Trainer) -> None:
        """Begin a task, in the setup stage of its fit."""
        self.module.to(trainer.strategy.root_device)
        if len(set(distributed.gather(len(self.record.matrix)))) != 1:
            advice = status.resume_advice(self.settings.fresh)
            raise TrainingError(f"the ranks read different states of the run folder; {advice}")
        if distributed.rank() == 0:
            self.logs.begin_task()
        self.stages.begin_task(task)
        costs = self.record.costs
        costs.begin_task(self.data.order[task], trainer.strategy.root_device)
        if task == 0 and self.settings.zero_shot and self.record.zero_shot is None:
            with costs.stage("zero-shot"):
                self.record.zero_shot = self._score(ZERO_SHOT, range(len(self.data.columns)))
        self.context.say(f"task {task + 1}/{len(self.data.order)} {self.data.order[task]}")
        self.stages.begin("start")
        if task == 0:
            for callback in self.callbacks:
                callback.on_base(self.context)
        with costs.stage("start"):
            first = 0 if self.data.protocol.alone else task
            self.module.adapter.begin_task(first, generator(self.data.seed, "adapter", task))
            for callback in self.callbacks:
                callback.on_task_start(self.context, task)

    def end(self, task: int) -> None:
        """End a task after its last optimiser step: freeze the branch, score, commit."""
        adapter, name, costs = self.module.adapter, self.data.order[task], self.record.costs
        self.stages.begin("boundary")
        with costs.stage("end"):
            for callback in self.callbacks:
                callback.on_task_end(self.context, task)
        state = {key: tensor.cpu().contiguous() for key, tensor in adapter.task_state().items()}
        distributed.assert_in_sync(state.values(), f"adapters after task {name}")
        stored = save_tensors(state)
        self.context.write(adapter_file(name), stored)
        self.record.trained.append(sum(p.numel() for group in adapter.param_groups() for p in group["params"]))
        costs.add(
            trained_parameters=self.record.trained[-1],
            stored_parameters=sum(tensor.numel() for tensor in state.values()),
            stored_bytes=len(stored),
        )
        alone, scored = self.data.protocol.alone, self.data.scored_after(task)
        if not alone:
            adapter.end_task(task)
        row: list[float | None] = [None] * len(self.data.columns)
        with costs.stage("scoring"):
            row[scored.start : scored.stop] = self._score(name, scored)
        self.record.matrix.append(row)
        if alone:
            adapter.discard()
        self.stages.begin("saving")
        distributed.on_main(self._commit)
        distributed.on_main(self._export)
        self.context.log(costs.values())
        for callback in self.callbacks:
            callback.on_task_scored(self.context, task)
        release_memory()
        self.stages.end_task()

    def _score(self, after: str, tasks: Iterable[int]) -> list[float]:
        scores = []
        for j in tasks:
            prompts, ranks = len(self.data.evaluated[j].test), distributed.world_size()
            self.stages.begin(UNTRAINED if after == ZERO_SHOT else SCORING, prompts, self.data.columns[j])
            scored = score_task(
                self.module,
                self.data.evaluated[j],
                self.data.eval_batch_size,
                lambda count, ranks=ranks: self.stages.advance(count * ranks),
            )
            self.context.write(prediction_file(after, self.data.columns[j]), to_jsonl(scored.rows))
            self.record.add(after, self.data.columns[j], scored)
            scores.append(scored.score)
        return scores

    def _plan(self, task: int) -> dict[Key, float]:
        """Return the work on a task that is known before: training examples, and prompts of each task to score."""
        new, scored = self.data.tasks[task], self.data.scored_after(task)
        cells = {(SCORING, self.data.columns[j]): len(self.data.evaluated[j].test) for j in scored}
        return {(TRAINING, ""): new.epochs * len(new.train), **cells}

    def _on_stage(self, stages: Stages) -> None:
        for callback in self.callbacks:
            callback.on_stage(self.context, stages)

    def _commit(self) -> None:
        done, slots = len(self.record.matrix), {**self.boundary, **self.observers}
        for slot, callback in slots.items():
            if state := callback.state():
                self.folder.write(state_file(slot, done), to_json(state), callback.private)
            if tensors := callback.tensors():
                self.folder.write(state_file(slot, done, "safetensors"), save_tensors(tensors), callback.private)
        tables = {slot: [vars(t) for t in callback.tables()] for slot, callback in slots.items()}
        self.folder.commit({**self.record.content(), "attempts": self.record.attempts + 1, "tables": tables})
        stopping.set_message(status.saved(self.folder.path, done, self.data.order, self.settings.fresh))

    def _export(self) -> None:
        for name, data in self.record.exports().items():
            self.folder.export(name, data)
