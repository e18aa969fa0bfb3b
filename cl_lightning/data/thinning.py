"""How often, and on how many prompts, old tasks are scored. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cl_lightning.data.protocol import Protocol


@dataclass(frozen=True)
class Thinning:
    """Leaves out scores of old tasks: those learnt before the one just trained.

    The task just trained is always scored on all of its prompts, and after the last task all tasks are: the diagonal
    and the last row of R are whole. Where no task builds on another, nothing is left out.

    Attributes:
        every: old tasks are scored after every so many tasks, and after the last.
        samples: prompts of an old task that are scored before the last task is trained; None: all.
    """

    every: int = 1
    samples: int | None = None

    @classmethod
    def of(cls, metrics: Mapping[str, Any]) -> Thinning:
        """Return that of a record's metrics; without an entry nothing was left out."""
        return cls(**metrics.get("thinning", {}))

    def columns(self, protocol: Protocol, task: int, count: int) -> range:
        """Return the columns that are scored after training `task` of `count`."""
        seen = protocol.scored(task, count)
        due = (task + 1) % self.every == 0 or task + 1 == count
        return seen if due or not protocol.builds_on else seen[-1:]

    def prompts(self, protocol: Protocol, task: int, column: int, count: int) -> int | None:
        """Return how many prompts of a column are scored after training `task` of `count`; None: all."""
        old = protocol.builds_on and column != task and task + 1 < count
        return self.samples if old else None

    def note(self, protocol: Protocol) -> str | None:
        """Say what is left out, or None if nothing is."""
        if not protocol.builds_on or self == Thinning():
            return None
        when = "" if self.every == 1 else f" after every {self.every} tasks"
        few = "" if self.samples is None else f" on {self.samples} fixed {'prompt' if self.samples == 1 else 'prompts'}"
        return f"old tasks were scored{when}{few}, and after the last task{' on all' if few else ''}"
