"""Compares the gradients of a pool's tasks at one checkpoint.

A task's gradient is the one from which its LoRA would start: on answer tokens only, with respect to every adapted
matrix, with earlier branches in place. One matrix's gradient of one batch is in memory at a time; a CountSketch is kept
for each task and matrix.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cl_lightning.common.errors import TrainingError
from cl_lightning.mining.count_sketch import CountSketch
from cl_lightning.mining.search import cosine_matrix
from cl_lightning.model.module import ContinualLM

Sketches = dict[str, Tensor]


@dataclass(frozen=True)
class Conflicts:
    """Pairwise comparison of the gradients of a pool's tasks.

    Attributes:
        tasks: task names.
        cosines: (n, n) float64, over all matrices together.
        negative: (n, n) float64, share of matrices in which the cosine is negative, 0..1.
        matrices: number of matrices.
    """

    tasks: list[str]
    cosines: Tensor
    negative: Tensor
    matrices: int


def task_sketches(module: ContinualLM, batches: Iterable[dict[str, Any]], sketch: CountSketch) -> Sketches:
    """Sketch the gradient summed over the batches; returns {matrix name: sketch} on the CPU."""
    sums: Sketches = {}
    module.gradient_pass(batches).run({name: _SketchedSum(name, sketch, sums) for name in module.adapter.layers})
    return sums


@dataclass(frozen=True)
class _SketchedSum:
    """Adds the sketch of one matrix's gradient to `sums`, whose entry is made by the first call."""

    name: str
    sketch: CountSketch
    sums: Sketches

    def add(self, dy: Tensor, x: Tensor) -> None:
        part = self.sketch(dy.t() @ x).cpu()
        self.sums[self.name] = self.sums[self.name] + part if self.name in self.sums else part


def compare(sketches: Mapping[str, Sketches]) -> Conflicts:
    """Compare all pairs of tasks. Raises TrainingError if a task's gradient is zero or not finite."""
    tasks = list(sketches)
    names = list(sketches[tasks[0]])
    stacked = (torch.stack([sketches[task][name] for task in tasks]).to(torch.float64) for name in names)
    grams = torch.stack([rows @ rows.t() for rows in stacked])
    total = grams.sum(0)
    for task, square in zip(tasks, total.diagonal().tolist(), strict=True):
        if not 0 < square < float("inf"):
            raise TrainingError(
                f"the gradient of task {task} is zero or not finite; look at its data, or lower model.lr"
            )
    return Conflicts(tasks, cosine_matrix(total), (grams < 0).double().mean(0), len(names))
