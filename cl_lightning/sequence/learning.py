"""Notices a task that learns nothing: its training loss does not fall."""

from dataclasses import dataclass, field

#: Optimiser steps below which a quarter of them says nothing.
FEWEST = 16


@dataclass
class Learning:
    """Mean losses of the first and the last quarter of a task's optimiser steps.

    Attributes:
        steps: optimiser steps of the task.
        sums, counts: of the losses in the first and the last quarter.
    """

    steps: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0])
    counts: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, step: int, loss: float) -> None:
        """Add the loss of a step, counted from 1."""
        quarter = self.steps / 4
        for part, inside in enumerate((step <= quarter, step > self.steps - quarter)):
            if inside:
                self.sums[part] += loss
                self.counts[part] += 1

    def warning(self, task: str) -> str | None:
        """Say that the loss did not fall, or return None."""
        if self.steps < FEWEST or not all(self.counts):
            return None
        first, last = (total / count for total, count in zip(self.sums, self.counts, strict=True))
        if last < first:
            return None
        return (
            f"{task} was hardly learnt: its training loss is {first:.4g} in the first quarter of the steps and "
            f"{last:.4g} in the last; try another model.lr, more data.epochs, or look at its data with data-check"
        )
