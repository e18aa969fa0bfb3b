"""The run: one fresh Trainer per task in one process group, boundary work, scoring, state, resume.

Order of a task: seed -> data.activate -> Trainer.fit, whose setup stage moves the module to its device, begins the
task and runs the boundary callbacks by phase -> training -> on_train_end: on_task_end -> end_task -> scoring of all
seen tasks -> state written -> on_task_scored -> next task. All of this happens inside fit because under DDP the process
group exists only there, and parameters that are added after the DDP wrapper would not be reduced.

The state inside a task is saved every `save_every`, after training, and after scored cells, see
`sequence.unfinished`. A task that is resumed does its boundary work again and then loads the checkpoint.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from safetensors.torch import save as save_tensors

from cl_lightning.common import distributed, stopping
from cl_lightning.common.errors import TrainingError
from cl_lightning.common.files import to_jsonl
from cl_lightning.common.memory import release_memory
from cl_lightning.common.seeding import derive_seed, generator
from cl_lightning.data.audit.suitability import check_context_length, check_metrics, check_tokens
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.evaluation.score_task import score_task
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.sharding import check_sharding, place
from cl_lightning.model.strategies import check_strategy
from cl_lightning.sequence import status
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.context import RunContext
from cl_lightning.sequence.folder import (
    ZERO_SHOT,
    RunFolder,
    adapter_file,
    check_names,
    prediction_file,
    state_file,
)
from cl_lightning.sequence.loggers import About, RunLogs
from cl_lightning.sequence.out_of_memory import report_out_of_memory
from cl_lightning.sequence.ranks import ranks_to_end
from cl_lightning.sequence.record import Record
from cl_lightning.sequence.save_every import Pace
from cl_lightning.sequence.saving import Saving
from cl_lightning.sequence.settings import SequenceSettings
from cl_lightning.sequence.stages import Stages
from cl_lightning.sequence.stored_tensors import read_tensors, restore_branches
from cl_lightning.sequence.time_left import SCORING, TRAINING, Plan
from cl_lightning.sequence.time_left import ZERO_SHOT as UNTRAINED
from cl_lightning.sequence.trainer_hooks import SetupHook, TrainerHooks

#: Saves at most while a row of R is scored: each writes the whole record, which grows with the number of tasks.
SAVES = 16


class SequenceRun:
    """One run of a sequence: the loop over tasks, resuming and committing.

    Args:
        loggers: those of the Trainer's options, which get what the run's own loggers get.
        hyperparameters: the configuration for all loggers, flat.

    Attributes:
        context: the `run` argument of the task callbacks.
        record: the scores so far.
        saving: what it saves, and was saved inside a task.
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
        self.saving = Saving(folder, self.record, {**boundary, **observers}, settings.fresh)
        self.logs = RunLogs(self.record.clock, loggers, hyperparameters or {})
        self.stages = self.record.stages
        self.stages.watch = self._on_stage
        self.context = RunContext(module, data, boundary, self.record, folder, self.logs)
        module.in_run, module.loss_terms = True, [callback.loss_terms for callback in boundary.values()]

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
        strategy = self.make_trainer(0, [], []).strategy
        check_strategy(strategy)
        check_sharding(self.module, strategy)
        for callback in self.callbacks:
            callback.check_run(self.context)

    def run(self) -> None:
        """Train and score all tasks that are not done yet.

        Raises:
            UserError: something the user can fix; finished tasks are kept.
        """
        again = f"{status.resume_advice(self.settings.fresh)} to continue"
        try:
            with distributed.lost_ranks(f"what was saved is kept; {again}"), report_out_of_memory(self.stages, again):
                self._run()
        finally:
            self.logs.end()

    def _run(self) -> None:
        self._restore()
        order, every = self.data.order, self.settings.log_every_n_steps
        self.stages.plan = [self._plan(task) for task in range(len(order))]
        if (inside := self.saving.inside) is not None and inside.stage == "scoring":
            self._score_trained(inside.task)
        for task in range(len(self.record.matrix), len(order)):
            pl.seed_everything(derive_seed(self.data.seed, "task", task) % 2**32, workers=True, verbose=False)
            self.data.activate(task)
            self.module.task_name, self.record.clock.task = order[task], task
            inside = self.saving.begin(task)
            self.data.start_at(inside.epoch, inside.batches)
            begin, end, save = partial(self.begin, task), partial(self.end, task), self.saving.training
            hooks = TrainerHooks(begin, end, self.logs, every, self.stages, save, Pace(self.settings.save_every))
            trainer = self._trainer(task, hooks)
            trainer.fit(self.module, datamodule=self.data, ckpt_path=self.saving.checkpoint, weights_only=True)
            if trainer.profiler.filename is not None:
                self.context.say(f"  profile: {Path(trainer.profiler.dirpath, trainer.profiler._prepare_filename())}")
            # Else they stay until the Trainer, whose parts refer to each other, is collected: in the next task.
            trainer.strategy.optimizers, trainer.strategy.lr_scheduler_configs = [], []
            if len(self.record.matrix) <= task:
                advice = status.resume_advice(self.settings.fresh)
                raise TrainingError(f"task {order[task]} was interrupted; {advice} to continue")
        for callback in self.callbacks:
            callback.on_sequence_end(self.context)
        distributed.on_main(self.folder.tidy)
        self.logs.close()

    def _trainer(self, task: int, hooks: Callback) -> pl.Trainer:
        trainer = self.make_trainer(task, [*self.callbacks, hooks], self.logs.loggers)
        stopping.end_ranks(partial(ranks_to_end, trainer.strategy.launcher))
        return trainer

    def _restore(self) -> None:
        if self.folder.record:
            stored, done = self.folder.state, self.saving.restore()
            kept = [] if self.data.protocol.alone else self.data.order[:done]
            restore_branches(self.module.adapter, self.folder.path, stored, kept)
            for slot, callback in self.saving.slots.items():
                name = state_file(slot, done)
                if name in stored["files"]:
                    callback.load(json.loads(self.folder.read(name)))
                if (name := state_file(slot, done, "safetensors")) in stored["files"]:
                    callback.load_tensors(read_tensors(self.folder.path, stored, name))
            distributed.on_main(self.saving.exports)
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
        self._begin_process(task, trainer)
        self.context.say(f"task {task + 1}/{len(self.data.order)} {self.data.order[task]}")
        self.stages.begin("start")
        if task == 0 and not self.saving.inside.measured_base:
            for callback in self.callbacks:
                callback.on_base(self.context)
            self.saving.base()
        first = 0 if self.data.protocol.alone else task
        self.module.adapter.begin_task(first, generator(self.data.seed, "adapter", task))
        for callback in self.callbacks:
            callback.on_task_start(self.context, task)

    def _begin_process(self, task: int, trainer: pl.Trainer) -> None:
        """Begin the work of this process on a task, whatever its stage. Before the first, score the base model."""
        place(self.module, trainer.strategy)
        inside = self.saving.inside
        read = len(self.record.matrix), inside.stage, inside.step, sum(map(len, inside.cells.values()))
        if len(set(distributed.gather(read))) != 1:
            advice = status.resume_advice(self.settings.fresh)
            raise TrainingError(f"the ranks read different states of the run folder; {advice}")
        if distributed.rank() == 0:
            self.logs.begin_task()
        over = {(_scoring(after), name) for after, cells in inside.cells.items() for name in cells}
        over |= {(TRAINING, "")} if inside.stage == "scoring" else set()
        self.stages.begin_task(task, trainer.strategy.root_device, inside.costs, over)
        untrained = inside.stage != "scoring" or ZERO_SHOT in inside.cells
        if task == 0 and self.settings.zero_shot and self.record.zero_shot is None and untrained:
            self.record.zero_shot = self._score(ZERO_SHOT, range(len(self.data.columns)))

    def end(self, task: int) -> None:
        """End a task after its last optimiser step: freeze the branch, score, commit."""
        adapter, name = self.module.adapter, self.data.order[task]
        for callback in self.callbacks:
            callback.on_task_end(self.context, task)
        state = {key: tensor.cpu().contiguous() for key, tensor in adapter.task_state().items()}
        distributed.assert_in_sync(state.values(), f"adapters after task {name}")
        stored = save_tensors(state)
        self.context.write(adapter_file(name), stored)
        self.saving.states(task + 1)
        trained = sum(p.numel() for p in adapter.trained)
        self.record.costs.add(
            trained_parameters=trained,
            stored_parameters=sum(tensor.numel() for tensor in state.values()),
            stored_bytes=len(stored),
        )
        self.saving.inside.trained = trained
        alone = self.data.protocol.alone
        if not alone:
            adapter.end_task(task)
            self.saving.trained()
        stopping.carry_on()
        self._score_and_commit(task)
        if alone:
            adapter.discard()

    def _score_trained(self, task: int) -> None:
        """Score and commit a task that an earlier process has trained. The Trainer makes the process group for it."""
        self.record.clock.task = task
        trainer = self._trainer(task, SetupHook(partial(self._score_rest, task)))
        trainer.limit_val_batches = 0
        trainer.validate(self.module, datamodule=self.data, verbose=False)

    def _score_rest(self, task: int, trainer: pl.Trainer) -> None:
        self._begin_process(task, trainer)
        self._score_and_commit(task)

    def _score_and_commit(self, task: int) -> None:
        name, scored = self.data.order[task], self.data.scored_after(task)
        row: list[float | None] = [None] * len(self.data.columns)
        row[scored.start : scored.stop] = self._score(name, scored, task)
        self.record.matrix.append(row)
        self.record.trained.append(self.saving.inside.trained)
        self.saving.task()
        self.context.log(self.record.costs.values())
        for callback in self.callbacks:
            callback.on_task_scored(self.context, task)
        release_memory()
        self.stages.end_task()

    def _score(self, after: str, tasks: Iterable[int], task: int | None = None) -> list[float]:
        columns = [*tasks]
        names = [self.data.columns[j] for j in columns]
        left = [j for j in columns if self.data.columns[j] not in self.record.cells.get(after, ())]
        files = [prediction_file(after, self.data.columns[j]) for j in left]
        distributed.on_main(lambda: self.folder.announce(files))
        every = -(-len(columns) // SAVES)
        for number, j in enumerate(left, start=1):
            name = self.data.columns[j]
            asked, ranks = self.data.scored(task, j), distributed.world_size()
            self.stages.begin(_scoring(after), len(asked.test), name)
            scored = score_task(
                self.module,
                asked,
                self.data.eval_batch_size,
                lambda count, ranks=ranks: self.stages.advance(count * ranks),
            )
            self.stages.begin("saving")
            self.context.write(prediction_file(after, name), to_jsonl(scored.rows))
            self.record.add(after, name, scored)
            if number % every == 0 or number == len(left):
                self.saving.cell()
        return self.record.scores(after, names)

    def _plan(self, task: int) -> Plan:
        """Return the work on a task that is known before: training tokens, prompts to score, what callbacks know."""
        data, work = self.data, Counter({TRAINING: self.data.tasks[task].tokens})
        for callback in self.callbacks:
            work.update(callback.work(self.context, task))
        cells = {(SCORING, data.columns[j]): len(data.scored(task, j).test) for j in data.scored_after(task)}
        if task == 0 and self.settings.zero_shot:
            cells |= {(UNTRAINED, of.spec.name): len(of.test) for of in data.evaluated}
        return {(stage, ""): units for stage, units in work.items()} | cells

    def _on_stage(self, stages: Stages) -> None:
        for callback in self.callbacks:
            callback.on_stage(self.context, stages)


def _scoring(after: str) -> str:
    """Return the name of the stage that scores the model after a task."""
    return UNTRAINED if after == ZERO_SHOT else SCORING
