"""Keeps a bounded memory of earlier tasks' training examples.

The memory is filled at each task's end and shared equally by the tasks seen. Its content depends only on the seed and
the tasks' names, so all ranks agree without communication. `SliceInit` uses it for the memory gradient, and training
replays it at `train_ratio` > 0. It is user data: the examples' text is stored in the run folder under state/, in files
that only their owner may read; or their ids alone, from which a resumed run finds the texts in its data again.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import torch

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite, Integer
from cl_lightning.common.seeding import derive_seed, generator
from cl_lightning.data.base import Example
from cl_lightning.data.mix import NEW_ONLY, Mix
from cl_lightning.data.prompt import Encoded
from cl_lightning.sequence.callback import TaskCallback

if TYPE_CHECKING:
    from cl_lightning.sequence.context import RunContext
    from cl_lightning.sequence.rehearsal import Rehearsal


class ReplayBuffer(TaskCallback):
    """Keep at most `capacity` examples of earlier tasks.

    Each of t seen tasks keeps capacity // t examples, drawn at random. With more than `capacity` tasks, `capacity` of
    them keep one example each: those with the lowest lots. A task's lot is drawn once, from (seed, name), so all sets
    of tasks are equally likely, and a task that was dropped never returns.

    Args:
        capacity: examples in all, never exceeded.
        train_ratio: share of every training batch drawn from memory, 0..1; 0: no replay. All new examples are still
            seen, so the number of steps grows by the factor 1 / (1 - train_ratio).
        keep: what the run folder holds of the examples: their "text", or their "ids" alone. The results are the same.
    """

    phase = 10

    def __init__(
        self, capacity: Integer = 256, train_ratio: Finite = 0.0, keep: Literal["text", "ids"] = "text"
    ) -> None:
        if capacity < 1:
            raise ConfigError(f"boundary.memory.capacity: {capacity} must be 1 or more")
        if not 0.0 <= train_ratio < 1.0:
            raise ConfigError(f"boundary.memory.train_ratio: {train_ratio} is a share of the batch, 0 to below 1")
        self.capacity, self.train_ratio, self.keep = capacity, train_ratio, keep
        self.examples: dict[str, list[Example]] = {}
        #: Ids of stored examples whose text is not known yet, by task.
        self._ids: dict[str, list[str]] = {}

    @property
    def private(self) -> bool:
        """See the base class."""
        return self.keep == "text"

    @property
    def mix(self) -> Mix:
        """See the base class."""
        return Mix(self.train_ratio) if self.train_ratio else NEW_ONLY

    def check_run(self, run: RunContext) -> None:
        size = run.data.batch_size
        if self.train_ratio and not self.mix.replayed(size):
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

    def rehearse(self, rehearsal: Rehearsal) -> None:
        """Take no memory of a device: the examples are texts."""

    def work(self, run: RunContext, task: int) -> dict[str, float]:
        """Count the tokens that training replays, by the mean length of the earlier tasks' examples."""
        data, each = run.data, self.mix.replayed(run.data.batch_size)
        earlier = [e.length for of in data.tasks[:task] for e in of.train]
        if not earlier:
            return {}
        return {"training": data.tasks[task].steps(data.batch_size, self.mix) * each * sum(earlier) / len(earlier)}

    def on_sequence_start(self, run: RunContext) -> None:
        """Find the texts of stored ids in the data, which is the same by its fingerprint."""
        found = {e.example.id: e.example for task in run.data.tasks if task.spec.name in self._ids for e in task.train}
        self.examples |= {name: [found[i] for i in ids] for name, ids in self._ids.items()}
        self.examples = {name: self.examples[name] for name in run.order if name in self.examples}
        self._ids = {}

    def on_task_start(self, run: RunContext, task: int) -> None:
        if self.train_ratio and self.examples:
            memory = [e for name in self.examples for e in self.encoded(run, name)]
            run.data.set_replay(memory, self.mix)

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
        kept = {"examples": {name: [asdict(e) for e in examples] for name, examples in self.examples.items()}}
        return kept if self.keep == "text" else ids_only(kept)

    def load(self, state: dict[str, Any]) -> None:
        known = {name: kept for name, kept in state["examples"].items() if not _is_ids(kept)}
        self._ids = {name: kept for name, kept in state["examples"].items() if _is_ids(kept)}
        self.examples = {name: [Example.restored(e) for e in kept] for name, kept in known.items()}


def ids_only(state: dict[str, Any]) -> dict[str, Any]:
    """Return a memory's state with the ids of its examples instead of their texts."""
    kept = state["examples"].items()
    return {"examples": {name: each if _is_ids(each) else [e["id"] for e in each] for name, each in kept}}


def _is_ids(kept: list[Any]) -> bool:
    return all(isinstance(e, str) for e in kept)
