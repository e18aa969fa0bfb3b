"""Base of the callbacks that grow subspaces of earlier tasks: rule, examples, and work divided among ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cl_lightning.common import distributed
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite, Integer
from cl_lightning.data.prompt import Encoded
from cl_lightning.linalg.subspaces import Count, Energy, energy_share, grow
from cl_lightning.sequence.callback import TaskCallback

if TYPE_CHECKING:
    from cl_lightning.sequence.context import RunContext


class GrownSubspaces(TaskCallback):
    """Base class: see `cl_lightning.linalg.subspaces` for the rule, the subclasses for the options.

    Args:
        slot: that of `boundary`, for messages and draws.
    """

    def __init__(
        self,
        slot: str,
        share: Finite,
        tasks: Integer | None,
        energy: Energy,
        count: Count,
        chunks: Integer,
        samples: Integer,
        batch_size: Integer,
    ) -> None:
        if not 0.0 < share <= 1.0:
            raise ConfigError(f"boundary.{slot}.share: {share} is a share of energy, above 0 and up to 1")
        for name, value in (("samples", samples), ("batch_size", batch_size), ("tasks", tasks), ("chunks", chunks)):
            if value is not None and value < 1:
                raise ConfigError(f"boundary.{slot}.{name}: {value} must be 1 or more")
        self.slot, self.share, self.tasks, self.energy, self.count = slot, share, tasks, energy, count
        self.chunks, self.samples, self.batch_size = chunks, samples, batch_size

    def check_run(self, run: RunContext) -> None:
        """See the base class."""
        if self.tasks is not None and self.tasks < len(run.order):
            raise ConfigError(
                f"boundary.{self.slot}.tasks: the share would pass 1 after {self.tasks} of {len(run.order)} tasks; "
                f"use {len(run.order)} or more, or null"
            )

    def check_chunks(self, sizes: Mapping[str, int]) -> None:
        """Check that `chunks` divides all sizes, given by name."""
        for name, size in sizes.items():
            if size % self.chunks:
                raise ConfigError(f"boundary.{self.slot}.chunks: {self.chunks} does not divide {name}'s {size} inputs")

    def examples(self, run: RunContext, task: int) -> list[Encoded]:
        """Draw a task's training examples for the covariances."""
        return run.data.draw(task, self.samples, self.slot)

    def share_after(self, run: RunContext, task: int) -> float:
        """Return the energy share to capture after a task."""
        return energy_share(self.share, task, self.tasks or len(run.order))

    def grow_all(
        self,
        covariances: Mapping[str, Tensor],
        basis: Callable[[str], Tensor],
        share: float,
        chunks: Mapping[str, int],
    ) -> Iterator[tuple[str, Tensor]]:
        """Grow M = basis(name) by every C and yield (name, M); each is computed on one rank and broadcast.

        Raises:
            TrainingError: a covariance is not finite, or cannot be decomposed; on all ranks.
        """

        def one(name: str, C: Tensor) -> Tensor:
            return grow(basis(name), C, share, self.energy, self.count, chunks[name])

        mine, owners = distributed.deal(covariances.items(), one, f"boundary.{self.slot},")
        parts = distributed.gather({name: M.shape[1] for name, M in mine.items()})
        columns = {name: count for part in parts for name, count in part.items()}
        for name, C in covariances.items():
            grown = mine.pop(name, None)
            if grown is None:
                grown = torch.empty(len(C), columns[name], dtype=torch.float64, device=C.device)
            yield name, distributed.broadcast_(grown.contiguous(), owners[name])
