"""When the state inside a task is saved: every so many optimiser steps or minutes of training."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Pace:
    """Tells when the next save is due.

    Args:
        every: see `common.numbers.SaveEvery`.
        clock: returns seconds.
    """

    every: str
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        number, unit = self.every.split(" ")
        self.amount, self.in_steps = int(number), unit.startswith("step")
        self.begin(0)

    def begin(self, step: int) -> None:
        """Count from this step and this moment on."""
        self.since = step if self.in_steps else self.clock()

    def is_due(self, step: int) -> bool:
        """Return whether the interval has passed at this step of the task."""
        if self.in_steps:
            return step - self.since >= self.amount
        return self.clock() - self.since >= 60 * self.amount
