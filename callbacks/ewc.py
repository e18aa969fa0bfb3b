"""EWC: a quadratic penalty keeps parameters that matter to earlier tasks near their values.

    loss += strength / 2 * sum over entries of F (theta - theta*)^2,     F = sum over earlier tasks of their Fisher

    F_task = (1/n) sum over n examples of (d log p(answer | prompt) / d theta)^2,  at the task's end, dropout off

theta* is theta at the end of the task before (one anchor for all tasks: online EWC, exact in F for `decay` 1). Source:
Kirkpatrick et al. 2017 (arXiv 1612.00796); online form: Schwarz et al. 2018 (arXiv 1805.06370). The Fisher is empirical
(true answers), of single examples, not of batches. theta is either the update that the branches add to W, which
is the same for one LoRA and for a branch per task, or the factors A and B of one LoRA trained on all tasks (the usual
baseline). Under gates, y = W x + a(prompt) theta x, and F is of that theta: an example has the weight a^2, where a is
the gate of the branch that learnt it.

Memory: one float32 number per entry of theta (product: m n per layer), twice that while F is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.linear import AdaptedLinear
from cl_lightning.common import distributed
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite, Integer
from cl_lightning.gradients.accumulate import Exact
from cl_lightning.sequence.callback import TaskCallback

if TYPE_CHECKING:
    from cl_lightning.model.module import Step
    from cl_lightning.sequence.context import RunContext
    from cl_lightning.sequence.rehearsal import Rehearsal

Over = Literal["product", "factors"]


def _factor_gradients(layer: AdaptedLinear, G: Tensor) -> list[Tensor]:
    """Compute d/dA = s B^T G and d/dB = s G A^T from G = d/dW."""
    A, B = (factor.detach() for factor in layer.factors())
    return [layer.scaling * B.t() @ G, layer.scaling * G @ A.t()]


#: theta of a layer's trainable branch, and dLoss/dtheta from dLoss/dW.
THETA: dict[Over, Callable[[AdaptedLinear], list[Tensor]]] = {
    "product": lambda layer: [layer.update()],
    "factors": lambda layer: list(layer.factors()),
}
GRADIENT: dict[Over, Callable[[AdaptedLinear, Tensor], list[Tensor]]] = {
    "product": lambda layer, G: [G],
    "factors": _factor_gradients,
}


class EWC(TaskCallback):
    """Elastic weight consolidation over any strategy.

    Args:
        strength: weight of the penalty; 0: F is computed, but there is no penalty.
        over: "product": the update that branches add to W; "factors": A and B (SeqLoRA with per_task=continue only).
        samples: training examples for F, drawn by (seed, task); each takes a forward and backward pass of its own.
        decay: factor of earlier tasks' F when a task is added, (0, 1].
    """

    phase = 25

    def __init__(
        self, strength: Finite = 1.0, over: Over = "product", samples: Integer = 64, decay: Finite = 1.0
    ) -> None:
        if not strength >= 0:
            raise ConfigError(f"boundary.ewc.strength: {strength} must not be negative")
        if samples < 1:
            raise ConfigError(f"boundary.ewc.samples: {samples} must be 1 or more")
        if not 0.0 < decay <= 1.0:
            raise ConfigError(f"boundary.ewc.decay: {decay} is a factor, above 0 and up to 1")
        self.strength, self.over, self.samples, self.decay = strength, over, samples, decay
        self.fisher: dict[str, list[Tensor]] = {}  # by layer; empty before the first task's end
        self._anchor: dict[str, list[Tensor]] = {}

    def check(self, slots: dict[str, TaskCallback], adapter: AdapterStrategy) -> list[str]:
        if self.over == "factors" and not adapter.continues:
            return [
                f"boundary.ewc.over=factors penalises A and B, but {type(adapter).__name__} starts new ones for each "
                "task; use over=product, or SeqLoRA with per_task=continue"
            ]
        return []

    def rehearse(self, rehearsal: Rehearsal) -> None:
        """Hold F of earlier tasks, and take that of the new one, which happens after training."""
        if not rehearsal.last:
            return
        layers = rehearsal.module.adapter.layers
        of_one = {n: Exact(layer.shape, layer.lora_A.dtype, layer.weight.device) for n, layer in layers.items()}
        new = {n: [torch.zeros_like(t) for t in THETA[self.over](layer)] for n, layer in layers.items()}
        self.fisher = {n: [torch.zeros_like(t) for t in parts] for n, parts in new.items()} if rehearsal.task else {}
        rehearsal.module.gradient_pass([rehearsal.batch(1)], gated=True, with_new=True).run(of_one)

    def on_task_start(self, run: RunContext, task: int) -> None:
        """Store theta as the anchor; a branch that starts at 0 needs none."""
        self._anchor = {}
        for name, layer in run.module.adapter.layers.items():
            self.fisher |= {name: [F.to(layer.weight.device) for F in self.fisher[name]]} if self.fisher else {}
            theta = [t.detach().clone() for t in THETA[self.over](layer)]
            if any(t.any() for t in theta):
                self._anchor[name] = theta

    def loss_terms(self, step: Step) -> dict[str, Tensor]:
        if not self.fisher or not self.strength:
            return {}
        # Checkpointed: autograd would keep (m, n) matrices of every layer until the backward pass.
        layers = step.module.adapter.layers
        moved = [checkpoint(self._penalty, name, layer, use_reentrant=False) for name, layer in layers.items()]
        return {"ewc": self.strength / 2 * sum(moved)}

    def _penalty(self, name: str, layer: AdaptedLinear) -> Tensor:
        theta = THETA[self.over](layer)
        anchor = self._anchor.get(name, [torch.zeros((), device=t.device) for t in theta])
        return sum(
            (F * (t - start).square()).sum() for F, t, start in zip(self.fisher[name], theta, anchor, strict=True)
        )

    def on_task_end(self, run: RunContext, task: int) -> None:
        layers = run.module.adapter.layers
        examples = run.data.draw(task, self.samples, "ewc")
        of_one = {n: Exact(layer.shape, layer.lora_A.dtype, layer.weight.device) for n, layer in layers.items()}
        new = {n: [torch.zeros_like(t) for t in THETA[self.over](layer)] for n, layer in layers.items()}

        weighted = (examples, [1.0] * len(examples))
        for _ in run.gradient_pass(weighted, 1, gated=True, with_new=True).by_batch(of_one):
            for name, layer in layers.items():
                for F, g in zip(new[name], GRADIENT[self.over](layer, of_one[name].total), strict=True):
                    F += g.square()
                of_one[name].total.zero_()
        for name, parts in new.items():
            means = [distributed.sum_(F) / len(examples) for F in parts]
            old = self.fisher.get(name)
            self.fisher[name] = [self.decay * o + F for o, F in zip(old, means, strict=True)] if old else means

    def tensors(self) -> dict[str, Tensor]:
        return {f"{n}.{k}": F.cpu().contiguous() for n, parts in self.fisher.items() for k, F in enumerate(parts)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.fisher = {}
        for key in sorted(tensors):
            self.fisher.setdefault(key.rpartition(".")[0], []).append(tensors[key])
