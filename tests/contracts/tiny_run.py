"""A run of two tasks on the tiny Llama, driven by hand: what task callbacks meet, without a Trainer."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.common.files import to_json
from cl_lightning.data.collate import training_batch
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM, Step
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.context import RunContext
from cl_lightning.sequence.folder import RunFolder
from cl_lightning.sequence.loggers import RunLogs
from cl_lightning.sequence.record import Record


@cache
def tiny_data() -> TaskSequence:
    """Two tasks of the sample, prepared, eight training examples each."""
    data = TaskSequence(
        order=["FOMC", "NumGLUE-cm"], train_samples=8, validation_samples=0, test_samples=2, batch_size=4,
        max_prompt_tokens=128,
    )  # fmt: skip
    data.prepare(Backbone("random-llama", dtype="float32").load_tokenizer(), False)
    return data


class TinyRun:
    """One run with these boundary callbacks. `context` is what they get.

    Args:
        adapter: the strategy.
        slots: the boundary callbacks.
        folder: what the run writes to.
    """

    def __init__(self, adapter: AdapterStrategy, slots: Mapping[str, TaskCallback], folder: Path) -> None:
        data = tiny_data()
        one_block = {"num_hidden_layers": 1}
        self.module = ContinualLM(Backbone("random-llama", dtype="float32", config=one_block), adapter)
        self.module.load(data.tokenizer)
        self.slots, self.record = dict(slots), Record(data, {"data": "sample"})
        self.record.zero_shot = [0.0, 0.0]
        self.record.samples = {name: [] for name in data.columns}
        self.context = RunContext(
            self.module, data, self.slots, self.record, RunFolder(folder), RunLogs(self.record.clock)
        )

    @property
    def callbacks(self) -> list[TaskCallback]:
        return sorted(self.slots.values(), key=lambda callback: callback.phase)

    def check(self) -> None:
        """Raises UserError where a callback refuses the run."""
        for callback in self.callbacks:
            callback.check_run(self.context)
        for callback in self.callbacks:
            callback.on_sequence_start(self.context)

    def task(self, task: int) -> dict[str, Any]:
        """Begin, train by two steps, end and score a task, in a run's order of hooks; the terms of the last loss."""
        data, adapter = self.context.data, self.module.adapter
        data.activate(task)
        self.record.stages.begin_task(task)
        if task == 0:
            for callback in self.callbacks:
                callback.on_base(self.context)
        adapter.begin_task(task, torch.Generator().manual_seed(task))
        for callback in self.callbacks:
            callback.on_task_start(self.context, task)
        optimizer, terms = torch.optim.AdamW(adapter.param_groups(), lr=1e-2), {}
        batch = training_batch(data.tasks[task].train[:4], data.tokenizer.pad_token_id)
        for _ in range(2):
            optimizer.zero_grad()
            logits, labels, _ = self.module.answer_logits(batch)
            step = Step(self.module, batch, logits, 1 / len(labels))
            terms = {name: term for c in self.callbacks for name, term in c.loss_terms(step).items()}
            loss = torch.nn.functional.cross_entropy(logits, labels) + sum(adapter.penalties().values())
            (loss + sum(terms.values())).backward()
            optimizer.step()
        for callback in self.callbacks:
            callback.on_task_end(self.context, task)
        adapter.end_task(task)
        self.record.matrix.append([50.0 if j <= task else None for j in range(len(data.columns))])
        for callback in self.callbacks:
            callback.on_task_scored(self.context, task)
        return terms

    def resume(self, slot: str, fresh: TaskCallback) -> None:
        """Put `fresh` into a slot with the state of the callback that was there, as a later process would."""
        old = self.slots[slot]
        if state := old.state():
            fresh.load(json.loads(to_json(state)))
        if tensors := old.tensors():
            fresh.load_tensors(load(save(tensors)))
        self.slots[slot] = fresh

    def finish(self) -> None:
        """The end of the sequence."""
        for callback in self.callbacks:
            callback.on_sequence_end(self.context)
