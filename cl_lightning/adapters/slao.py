"""SLAO: one LoRA for all tasks, each task trained from the last one's factors and merged into a running mean.

    start of task i >= 2:   A <- Q^T of A_{i-1}^T = Q R, signs such that R_jj >= 0 (A A^T = I);   B <- B_{i-1}
    after task i:           A_merged <- A_i,   B_merged <- B_merged + lambda_i (B_i - B_merged),   lambda_i = i^(-1/2)

B_{i-1} is the trained B, not the merged one; the merged model is scored and exported. Trained: A and B. Memory: two
LoRAs, whatever the number of tasks. The model moves from the merged to the trained factors when a task begins, and by
the merge when it ends.

Source: "Merge before Forget" (arXiv 2512.23017), which publishes no code. It leaves alpha and dropout open; an
independent replication finds the same scores without the QR (`orthonormal=false`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite
from cl_lightning.initializers.kaiming import Kaiming

#: Weight of the i-th task (from 1) in the merge of B.
WEIGHTS: dict[str, Callable[[int], float]] = {"root": lambda i: i**-0.5, "mean": lambda i: 1 / i}


class SLAO(SeqLoRA):
    """One LoRA, merged over tasks: logits change when a task begins, and logits change when a task ends.

    Source: arXiv 2512.23017.

    Args:
        start: factors from which a task is trained, from the second on: the last task's trained ones ("trained"), the
            merged ones ("merged"), or a new draw with B = 0 ("random").
        orthonormal: orthonormalise the rows of A at the start.
        merge_weight: lambda_i: "root" for i^(-1/2), "mean" for 1 / i, or a constant in [0, 1].
        kwargs: those of `SeqLoRA`, without `per_task`.
    """

    stored_extras = frozenset({"trained_B"})

    def __init__(
        self,
        start: Literal["trained", "merged", "random"] = "trained",
        orthonormal: bool = True,
        merge_weight: Literal["root", "mean"] | Finite = "root",
        **kwargs: Any,
    ) -> None:
        super().__init__(per_task="continue", **kwargs)
        if not isinstance(merge_weight, str) and not 0 <= merge_weight <= 1:
            raise ConfigError(f"model.adapter.merge_weight: {merge_weight} must be at least 0 and at most 1")
        self.start, self.orthonormal, self.merge_weight = start, orthonormal, merge_weight
        self._trained_B: dict[str, Tensor] = {}
        self._task = 0

    def weight_of(self, task: int) -> float:
        """Return lambda of a task (from 0): the weight of its B in the merge; 1 for the first."""
        if task == 0:
            return 1.0
        weight = self.merge_weight
        return WEIGHTS[weight](task + 1) if isinstance(weight, str) else weight

    def begin_task(self, task: int, generator: torch.Generator) -> None:
        super().begin_task(task, generator)  # keeps the merged factors for `before_task`
        self._task = task
        if task == 0:
            return
        for name, layer in self.layers.items():
            A, B = layer.lora_A.detach(), layer.lora_B.detach()
            if self.start == "random":
                shape_only = torch.zeros(()).expand(layer.shape)
                drawn = Kaiming().factors(shape_only, None, self.rank, self.scaling, generator)
                A, B = (factor.to(A) for factor in drawn)
            elif self.start == "trained":
                B = self._trained_B[name]
            self._put({name: [orthonormalised(A) if self.orthonormal else A.clone(), B.clone()]})

    def _merged(self) -> dict[str, Tensor]:
        """Compute B_merged after the current task, (m, r) of each layer."""
        weight = self.weight_of(self._task)
        return {
            name: torch.lerp(self._before[name][1] if self._task else torch.zeros_like(B), B, weight)
            for name, B in ((name, layer.lora_B.detach()) for name, layer in self.layers.items())
        }

    def end_task(self, task: int) -> None:
        merged = self._merged()
        self._trained_B = {name: layer.lora_B.detach().clone() for name, layer in self.layers.items()}
        self._put({name: [layer.lora_A.data, merged[name]] for name, layer in self.layers.items()})

    def task_state(self) -> dict[str, Tensor]:
        """Return the merged factors and, for the next task's start, the trained B."""
        state, merged = super().task_state(), self._merged()
        for name in self.layers:
            state[f"{name}.trained_B"] = state[f"{name}.lora_B"]
            state[f"{name}.lora_B"] = merged[name]
        return state

    def restore(self, states: Sequence[dict[str, Tensor]]) -> None:
        for state in states[-1:]:
            trained = {key: tensor for key, tensor in state.items() if key.endswith(".trained_B")}
            self._load({key: tensor for key, tensor in state.items() if key not in trained})
            self._trained_B = {
                name: trained[f"{name}.trained_B"].to(layer.weight.device) for name, layer in self.layers.items()
            }

    @contextmanager
    def without_new_branch(self) -> Iterator[None]:
        with self.before_task() if self._before else super().without_new_branch():
            yield

    def check(self, slots: dict[str, Any]) -> list[str]:
        if slots.get("init") is not None:
            return ["boundary.init with SLAO: a task starts from the last one's factors; use boundary.init=null"]
        return []


def orthonormalised(A: Tensor) -> Tensor:
    """Return rows (r, n) with A A^T = I that span the same space, by QR of A^T with R_jj >= 0."""
    Q, R = torch.linalg.qr(A.t())
    signs = torch.where(R.diagonal() < 0, -1.0, 1.0).to(A.dtype)
    return (Q * signs).t().contiguous()
