"""The sequence metrics as torchmetrics objects, for use in your own evaluation loops on any number of ranks.

The states are sums and counts of scores for each cell of R, summed over ranks; the metrics are those of `matrix`.

Example:
    >>> bwt = SequenceMetric("bwt", tasks=2)
    >>> bwt.update(0, 0, torch.tensor([100.0, 60.0]))  # two test examples of task 0, after training task 0
    >>> bwt.update(1, 0, 50.0), bwt.update(1, 1, 70.0)
    (None, None)
    >>> float(bwt.compute())
    -30.0
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from cl_lightning.common.errors import nearest
from cl_lightning.metrics.matrix import FROM_START, FUNCTIONS, REFERENCED, Matrix, Row, per_task_forgetting

#: The row of the untrained model, for `update(ZERO_SHOT, j, scores)`.
ZERO_SHOT = -1
#: Metrics that need R alone.
_ALONE: dict[str, Callable[[Matrix], float | list[float]]] = {**FUNCTIONS, "per_task_forgetting": per_task_forgetting}


class SequenceMetric(Metric):
    """One sequence metric, in the range of its function in `matrix`: a float64 scalar, or for "per_task_forgetting"
    a vector (tasks trained).

    Call `update`, then `compute`. Do not call the object itself: its result would cover a single cell.

    Args:
        name: key of `cl_lightning.metrics.matrix.CONVENTIONS`, or "per_task_forgetting".
        tasks: length of the sequence, T at its end.
        single: reference scores, one per task, for `fwt_sapt` and `intransigence`.

    Raises:
        ValueError: unknown name, no task, or as the function: a cell it needs was not updated, references are missing.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, name: str, tasks: int, single: Sequence[float] | None = None, **kwargs: object) -> None:
        super().__init__(**kwargs)
        if name not in _ALONE | REFERENCED | FROM_START:
            raise ValueError(f"no sequence metric {name!r}; {nearest(name, _ALONE | REFERENCED | FROM_START)}")
        if tasks < 1:
            raise ValueError(f"tasks is {tasks}, must be 1 or more")
        self.name, self.tasks, self.single = name, tasks, single
        # The last row is the zero-shot one: index -1.
        for state in ("total", "count"):
            self.add_state(state, torch.zeros(tasks + 1, tasks, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, i: int, j: int, scores: Tensor | float) -> None:
        """Add this rank's scores (0..100, any shape) of test examples of task j after training task i.

        `i` is ZERO_SHOT for the untrained model. Raises ValueError for a task outside the sequence.
        """
        if not (ZERO_SHOT <= i < self.tasks and 0 <= j < self.tasks):
            raise ValueError(f"(row {i}, column {j}) is outside a sequence of {self.tasks} tasks")
        values = torch.as_tensor(scores, dtype=torch.float64, device=self.total.device)
        self.total[i, j] += values.sum()
        self.count[i, j] += values.numel()

    def matrix(self) -> list[list[float | None]]:
        """Return R of the tasks updated so far, of the local rank unless synced."""
        rows = self._means()[: self.tasks]
        trained = 1 + max((i for i, row in enumerate(rows) if any(v is not None for v in row)), default=-1)
        return rows[:trained]

    def compute(self) -> Tensor:
        """Compute the metric over the tasks trained so far, up to the last row that was updated."""
        R, compared = self.matrix(), REFERENCED | FROM_START
        rows: dict[str, Row] = dict.fromkeys(REFERENCED, self.single or ())
        rows |= dict.fromkeys(FROM_START, self._means()[ZERO_SHOT])
        # Not by `summary`: cells that only other metrics need may be missing.
        value = compared[self.name](R, rows[self.name]) if self.name in rows else _ALONE[self.name](R)
        return torch.tensor(value, dtype=torch.float64, device=self.total.device)

    def _means(self) -> list[list[float | None]]:
        means = (self.total / self.count).tolist()  # nan where nothing was counted
        return [[m if n else None for m, n in zip(*row, strict=True)] for row in zip(means, self.count, strict=True)]


def sequence_metrics(
    tasks: int, names: Iterable[str] = ("ap", "fp", "forget_T", "bwt", "f_ra"), single: Sequence[float] | None = None
) -> MetricCollection:
    """Make a collection of metrics that are updated together and share their states."""
    return MetricCollection({name: SequenceMetric(name, tasks, single) for name in names})
