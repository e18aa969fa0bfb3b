"""Keeps a bounded memory of earlier tasks' training examples.

The memory is filled at each task's end and shared equally by the tasks seen. Its content depends only on the seed and
the tasks' names, so all ranks agree without communication. `SliceInit` uses it for the memory gradient, and training
replays it at `train_ratio` > 0. It is user data: the examples' text is stored in the run folder under state/.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.seeding import derive_seed, generator
from cl_lightning.data.base import Example
from cl_lightning.data.prompt import Encoded
from cl_lightning.data.sampler import memory_per_step
from cl_lightning.sequence.callback import TaskCallback

if TYPE_CHECKING:
    from cl_lightning.sequence.context import RunContext


class ReplayBuffer(TaskCallback):
    """Keep at most `capacity` examples of earlier tasks.

    Each of t seen tasks keeps capacity // t examples, drawn at random. With more than `capacity` tasks, `capacity` of
    them keep one example each: those with the lowest lots. A task's lot is drawn once, from (seed, name), so all sets
    of tasks are equally likely, and a task that was dropped never returns.

    Args:
        capacity: examples in all, never exceeded.
        train_ratio: share of every training batch drawn from memory, 0..1; 0: no replay. All new examples are still
            seen, so the number of steps grows by the factor 1 / (1 - train_ratio).
    """

    phase = 10

    def __init__(self, capacity: int = 256, train_ratio: float = 0.0) -> None:
        if capacity < 1:
            raise ConfigError(f"boundary.memory.capacity: {capacity} must be 1 or more")
        if not 0.0 <= train_ratio < 1.0:
            raise ConfigError(f"boundary.memory.train_ratio: {train_ratio} is a share of the batch, 0 to below 1")
        self.capacity, self.train_ratio = capacity, train_ratio
        self.examples: dict[str, list[Example]] = {}

    def check_run(self, run: RunContext) -> None:
        size = run.data.batch_size
        if self.train_ratio and not memory_per_step(size, self.train_ratio):
            remedy = f"use {1 / size:.3g} or more, or 0" if size > 1 else "raise data.batch_size, or use 0"
            raise ConfigError(
                f"boundary.memory.train_ratio: {self.train_ratio} of data.batch_size={size} leaves no whole example "
                f"beside a new one; {remedy}"
            )

    def check_keeps_last(self, run: RunContext) -> None:
        """Check that the memory always has examples of the last task."""
        past = len(run.order) - 1
        if self.capacity < past:
            raise ConfigError(
                f"boundary.memory.capacity: {self.capacity} keeps no example of some of {past} past tasks, maybe of "
                f"the last one; use {past} or more, or boundary.init.memory_gradient=mean"
            )

    def on_task_start(self, run: RunContext, task: int) -> None:
        if self.train_ratio and self.examples:
            memory = [e for name in self.examples for e in self.encoded(run, name)]
            run.data.set_replay(memory, self.train_ratio)

    def on_task_end(self, run: RunContext, task: int) -> None:
        data = run.data.tasks[task]
        order = torch.randperm(len(data.train), generator=generator(run.data.seed, "memory", data.spec.name)).tolist()
        self.examples[data.spec.name] = [data.train[i].example for i in order]
        staying = sorted(self.examples, key=lambda name: derive_seed(run.data.seed, "lot", name))[: self.capacity]
        quota = self.capacity // len(staying)
        # Each list is in random order, so its beginning is a random sample.
        self.examples = {name: kept[:quota] for name, kept in self.examples.items() if name in staying}

    def encoded(self, run: RunContext, name: str, count: int | None = None) -> list[Encoded]:
        """Encode the first `count` examples kept of a task (None: all)."""
        spec = run.data.specs[name]
        return [run.data.encoder.encode(e, spec) for e in self.examples[name][:count]]

    def draw(self, run: RunContext, count: int) -> dict[str, list[Encoded]]:
        """Return `count` examples, divided equally among the tasks kept: name -> the first of its list.

        There is at least one of each task, so more than `count` in all if there are more tasks; fewer if a task keeps
        fewer than its share.
        """
        names = list(self.examples)
        shares = [max(1, count // len(names) + (i < count % len(names))) for i in range(len(names))]
        return {name: self.encoded(run, name, share) for name, share in zip(names, shares, strict=True)}

    def state(self) -> dict[str, Any]:
        return {"examples": {name: [asdict(e) for e in kept] for name, kept in self.examples.items()}}

    def load(self, state: dict[str, Any]) -> None:
        self.examples = {
            name: [Example(**{**e, "references": tuple(e.get("references", ()))}) for e in kept]
            for name, kept in state["examples"].items()
        }
