"""Callbacks that write down what happens, or hold it up."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from cl_lightning.common import distributed
from cl_lightning.common.errors import TrainingError
from cl_lightning.data.collate import IGNORE
from cl_lightning.sequence.callback import TaskCallback
from tests.holding import write_and_hold


class Recorder(TaskCallback):
    """Collects events and writes them when the sequence ends."""

    def __init__(self, file: str) -> None:
        self.file, self.events = file, []

    def note(self, event: str, **facts: Any) -> None:
        self.events.append([event, facts])

    def on_sequence_start(self, run: Any) -> None:
        self.note("sequence_start")

    def on_task_start(self, run: Any, task: int) -> None:
        layer = next(iter(run.module.adapter.layers.values()))
        self.note("task_start", task=task, displaced=layer.lora_B0 is not None, steps=run.record.clock.step)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trained = {str(p.dtype) for g in trainer.optimizers[0].param_groups for p in g["params"]}
        self.note("train_start", trained=sorted(trained), trainer=id(trainer), step=trainer.global_step)

    def on_task_end(self, run: Any, task: int) -> None:
        layer = next(iter(run.module.adapter.layers.values()))
        self.note("task_end", task=task, branch=layer.lora_A is not None, rows=len(run.record.matrix))

    def on_task_scored(self, run: Any, task: int) -> None:
        layer = next(iter(run.module.adapter.layers.values()))
        on_disk = json.loads((run._folder.path / "sequence.json").read_text())["done"]
        self.note(
            "task_scored", task=task, branch=layer.lora_A is not None, rows=len(run.record.matrix), on_disk=on_disk
        )

    def on_sequence_end(self, run: Any) -> None:
        self.note("sequence_end")
        with open(self.file, "w") as file:
            json.dump(self.events, file)


class RankMeanLoss(TaskCallback):
    """Negative control: takes the loss of many codes, a mean over each rank's own tokens, which DDP then averages."""

    def on_sequence_start(self, run: Any) -> None:
        def step_weight(batch: dict[str, Any], world_size: int, accumulate: int) -> torch.Tensor:
            return batch["weight"] / (batch["labels"] != IGNORE).sum()

        run.module.step_weight = step_weight


class Stateful(pl.Callback):
    """A stock-like callback with state of its own: must start anew in every task."""

    def __init__(self, file: str) -> None:
        self.file, self.batches = file, 0

    def on_train_batch_end(self, *args: Any) -> None:
        self.batches += 1

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with open(self.file, "a") as file:
            file.write(f"{self.batches}\n")


def digest(*values: Any) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()


class Die(TaskCallback):
    """Ends the process of a rank by SIGKILL after an optimiser step of the sequence, if no such process did before."""

    def __init__(self, rank: int, step: int, once: str) -> None:
        self.rank, self.step, self.once = rank, step, Path(once)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        done = self.first + trainer.global_step
        if distributed.rank() == self.rank and done == self.step and not self.once.exists():
            self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def on_task_start(self, run: Any, task: int) -> None:
        self.first = task * len(run.data.sampler(0, 1, 1))


class Batches(TaskCallback):
    """Writes what each task drew at its beginning and what every micro-batch of training held: a file for each rank.

    `fail_in`: a task that breaks off at its second micro-batch.
    """

    def __init__(self, folder: str, fail_in: int | None = None) -> None:
        self.folder, self.fail_in, self.task = folder, fail_in, -1

    def note(self, **facts: Any) -> None:
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        with (Path(self.folder) / f"{distributed.rank()}.jsonl").open("a") as file:
            file.write(json.dumps({"task": self.task, **facts}) + "\n")

    def on_task_start(self, run: Any, task: int) -> None:
        self.task = task
        factors = [layer.lora_A.detach().float() for layer in run.module.adapter.layers.values()]
        self.note(start=digest([A.flatten().tolist() for A in factors]))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        generators = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
        self.note(generators=[digest(state) for state in generators])

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.fail_in == self.task and batch_idx == 1:
            raise TrainingError("told to break off")
        kept = batch["attention_mask"].bool()
        rows = [ids[mask].tolist() for ids, mask in zip(batch["input_ids"], kept, strict=True)]
        labelled = [labels[labels != -100].tolist() for labels in batch["labels"]]
        step, part = divmod(batch_idx, trainer.accumulate_grad_batches)
        self.note(
            epoch=trainer.current_epoch, step=step, part=part, rows=rows, labels=labelled, weight=batch["weight"],
            tokens=batch["step_tokens"],
        )  # fmt: skip


class Hold(TaskCallback):
    """Rank 1 writes its process number to `file` at the end of the first task, and goes no further."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_task_end(self, run: Any, task: int) -> None:
        if distributed.rank() == 1:
            write_and_hold(self.file)
