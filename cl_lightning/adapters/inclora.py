"""IncLoRA: a new branch for every task, beside frozen earlier branches that all stay on.

    y = W x + s sum over i of B_i A_i x

Trained: A and B of the current task. Frozen: everything else. Memory per task: see `adapters.linear`. The base class
of the strategies that constrain the new branch (O-LoRA, C-LoRA, InfLoRA). Source: the baseline of
that name in Wang et al. 2023 (arXiv 2310.14152).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.initializers.kaiming import Kaiming


class IncLoRA(AdapterStrategy):
    """One branch per task, kept as frozen low-rank columns: exact in any precision; R grows by r per task.

    Args:
        start_from: folder of a LoRA written by PEFT: the first frozen branch, below all tasks. A run reads it whenever
            it starts or resumes; everything else uses the run folder's copy of the factors.
        kwargs: see `AdapterStrategy`.
    """

    #: A finished branch is added to W instead of the stack.
    _into_weight = False

    def __init__(self, start_from: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start_from = start_from

    @torch.no_grad()
    def freeze_under_tasks(self, factors: Mapping[str, Tensor]) -> None:
        for name, layer in self.layers.items():
            if f"{name}.lora_A" in factors:
                dtype = torch.float64 if layer.weight.dtype == torch.float64 else torch.float32
                tensors = {key: factors[f"{name}.{key}"].to(layer.weight.device, dtype) for key in ("lora_A", "lora_B")}
                layer.load_branch(tensors, scaling=1.0)
                layer.fold(self._into_weight)

    def begin_task(self, task: int, generator: torch.Generator) -> None:
        start = Kaiming()
        for name, layer in self.layers.items():
            # Only the shape is used, and a quantised weight does not have it.
            shape_only = torch.zeros(()).expand(layer.shape)
            factors = start.factors(shape_only, None, self.rank, self.scaling, generator)
            dtype = torch.float64 if layer.weight.dtype == torch.float64 else torch.float32
            # B is 0: there is nothing to subtract.
            self._start(name, *(f.to(layer.weight.device, dtype) for f in factors), displaced=False)

    def end_task(self, task: int) -> None:
        for layer in self.layers.values():
            layer.fold(self._into_weight)

    def task_state(self) -> dict[str, Tensor]:
        return {f"{n}.{key}": t for n, layer in self.layers.items() for key, t in layer.branch().items()}

    def restore(self, states: Sequence[dict[str, Tensor]]) -> None:
        for task, state in enumerate(states):
            self._load(state)
            self.end_task(task)

    def _load(self, state: dict[str, Tensor]) -> None:
        """Load a stored branch as the current one."""
        for name, layer in self.layers.items():
            tensors = {key.rsplit(".", 1)[1]: t for key, t in state.items() if key.rsplit(".", 1)[0] == name}
            moved = {k: t.to(layer.weight.device) for k, t in tensors.items()}
            layer.load_branch(moved, self.scaling, self.offset == "baked", self.trainable_factors)
