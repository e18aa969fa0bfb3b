"""Self-distillation: while a task is trained, the model is held to a slow average of itself.

    loss += strength * mean over answer tokens of KL(p_slow || p_now)        (`kl=reverse`: KL(p_now || p_slow))
    after each optimiser step:  theta_slow <- theta_slow + rate (theta_now - theta_slow)

theta are the trained parameters, and theta_slow begins with them at each task. One more forward pass per step, without
gradients. No data of earlier tasks is needed. Memory while a task trains: a copy of the trained parameters.

Source: SDFT (arXiv 2601.19897), whose teacher is such an average (rates .01 to .05) and whose runs take the forward KL
(issue 5 of its code). Where ours differs: SDFT samples the answers from the model and shows the teacher a
demonstration; here answers are the training data's, and the teacher sees what the student sees. `rate=0` is LwF at
temperature 1, on the first task too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite
from cl_lightning.gradients.capture import dropout_off
from cl_lightning.sequence.callback import TaskCallback

if TYPE_CHECKING:
    from cl_lightning.model.module import ContinualLM, Step
    from cl_lightning.sequence.context import RunContext
    from cl_lightning.sequence.rehearsal import Rehearsal


class SelfDistillation(TaskCallback):
    """Distillation from a slow average of the parameters that are trained, over any strategy.

    Args:
        strength: weight of the distillation; 0: none.
        rate: how far the average moves towards the parameters in each optimiser step, 0..1.
        kl: "forward": KL of the average's distribution to the model's, as in SDFT's runs; "reverse": the other way.
    """

    phase = 60  # after the branch has its start

    def __init__(
        self, strength: Finite = 1.0, rate: Finite = 0.02, kl: Literal["forward", "reverse"] = "forward"
    ) -> None:
        if not strength >= 0:
            raise ConfigError(f"boundary.self_distillation.strength: {strength} must not be negative")
        if not 0 <= rate <= 1:
            raise ConfigError(f"boundary.self_distillation.rate: {rate} must be at least 0 and at most 1")
        self.strength, self.rate, self.kl = strength, rate, kl
        self._slow: list[Tensor] = []
        self._steps = 0

    def rehearse(self, rehearsal: Rehearsal) -> None:
        """Hold the average until training ends."""
        if rehearsal.last:
            self._begin(rehearsal.module)
            rehearsal.after_training.append(self._slow.clear)

    def on_task_start(self, run: RunContext, task: int) -> None:
        """Begin the average at the task's start."""
        self._begin(run.module)

    def _begin(self, module: ContinualLM) -> None:
        self._slow = [p.detach().clone() for p in module.adapter.trained]
        self._steps = 0

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: ContinualLM, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the average after an optimiser step; not after a micro-batch that made none."""
        if trainer.global_step > self._steps:
            self._steps = trainer.global_step
            for slow, now in zip(self._slow, pl_module.adapter.trained, strict=True):
                slow.lerp_(now, self.rate)

    def on_task_end(self, run: RunContext, task: int) -> None:
        """Release the average."""
        self._slow = []

    def state_dict(self) -> dict[str, Any]:
        """Return the state inside a task, for a checkpoint."""
        return {"slow": self._slow, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the output of `state_dict`."""
        self._steps = state["steps"]
        for slow, stored in zip(self._slow, state["slow"], strict=True):
            slow.copy_(stored)

    @contextmanager
    def _as_average(self, module: ContinualLM) -> Iterator[None]:
        # Swapped, not overwritten: the graph of the training step holds the parameters.
        trained = module.adapter.trained
        now = [p.data for p in trained]
        for parameter, slow in zip(trained, self._slow, strict=True):
            parameter.data = slow
        try:
            yield
        finally:
            for parameter, data in zip(trained, now, strict=True):
                parameter.data = data

    def loss_terms(self, step: Step) -> dict[str, Tensor]:
        if not self.strength:
            return {}
        module = step.module
        with torch.no_grad(), dropout_off(module.llm), self._as_average(module):
            slow = module.answer_logits(step.batch)[0].log_softmax(-1)
        now = step.logits.log_softmax(-1)
        student, teacher = (now, slow) if self.kl == "forward" else (slow, now)
        divergence = nn.functional.kl_div(student, teacher, reduction="sum", log_target=True)
        return {"self_distillation": self.strength * divergence * step.weight}
