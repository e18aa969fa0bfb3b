"""LwF: on the new task's examples the model is distilled from itself before the task.

    loss += strength * temperature^2 * mean over answer tokens of KL(p_before || p_now),   p = softmax(z / temperature)

p_before is the same model without the current task's training: one more forward pass per step, without gradients. No
data of earlier tasks is needed. Source: Li and Hoiem 2016 (arXiv 1606.09282); the first task has no distillation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite
from cl_lightning.gradients.capture import dropout_off
from cl_lightning.sequence.callback import TaskCallback

if TYPE_CHECKING:
    from cl_lightning.model.module import Step
    from cl_lightning.sequence.context import RunContext
    from cl_lightning.sequence.rehearsal import Rehearsal


class LwF(TaskCallback):
    """Learning without forgetting over any strategy.

    Args:
        strength: weight of the distillation; 0: none.
        temperature: T of both distributions.
    """

    phase = 25

    def __init__(self, strength: Finite = 1.0, temperature: Finite = 2.0) -> None:
        if not strength >= 0:
            raise ConfigError(f"boundary.lwf.strength: {strength} must not be negative")
        if not temperature > 0:
            raise ConfigError(f"boundary.lwf.temperature: {temperature} must be positive")
        self.strength, self.temperature = strength, temperature
        self._first = True

    def rehearse(self, rehearsal: Rehearsal) -> None:
        """Distil in all tasks but the first."""
        self._first = rehearsal.task == 0

    def on_task_start(self, run: RunContext, task: int) -> None:
        self._first = task == 0

    def loss_terms(self, step: Step) -> dict[str, Tensor]:
        if self._first or not self.strength:
            return {}
        module = step.module
        with torch.no_grad(), dropout_off(module.llm), module.adapter.before_task():
            before = module.answer_logits(step.batch)[0]
        T = self.temperature
        now, then = ((z / T).log_softmax(-1) for z in (step.logits, before))
        divergence = nn.functional.kl_div(now, then, reduction="sum", log_target=True)
        return {"distillation": self.strength * T**2 * divergence * step.weight}
