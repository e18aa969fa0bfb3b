"""Holds SAPT's router to what it did: earlier prompts keep the shares they had when their task was finished.

    loss += strength * mean over kept prompts of KL(a recorded || a now),    0 for branches that came later

What is kept of a prompt is its pooled embedding p_0 and its coefficients, not its text: embeddings are frozen, so the
term is exact over all kept prompts at every step, and costs no forward pass of the LLM. Source: Zhao et al. 2024
(arXiv 2401.08295), attentive reflection; there the prompts are made up by the model, here they are training prompts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.sapt import SAPTLoRA
from cl_lightning.common import distributed
from cl_lightning.common.errors import ConfigError
from cl_lightning.sequence.callback import Table, TaskCallback

if TYPE_CHECKING:
    from cl_lightning.model.module import Step
    from cl_lightning.sequence.context import RunContext

COLUMNS = ["after", "prompts of", "its own branch's share, mean %", "when learnt %"]


class AttentiveReflection(TaskCallback):
    """Replay of the router's choices.

    Args:
        strength: weight of the KL; 0: none.
        samples: training prompts of each task that are kept, drawn by (seed, task).
        batch_size: prompts at a time on each rank.
    """

    phase = 30

    def __init__(self, strength: float = 1.0, samples: int = 64, batch_size: int = 32) -> None:
        if not strength >= 0:
            raise ConfigError(f"boundary.reflection.strength: {strength} must not be negative")
        for name, value in (("samples", samples), ("batch_size", batch_size)):
            if value < 1:
                raise ConfigError(f"boundary.reflection.{name}: {value} must be 1 or more")
        self.strength, self.samples, self.batch_size = strength, samples, batch_size
        #: Per finished task: p_0 (M, d) of its prompts, and their coefficients (M, T) when it was finished.
        self.pooled: list[Tensor] = []
        self.recorded: list[Tensor] = []
        self.rows: list[list[Any]] = []

    def check(self, slots: dict[str, TaskCallback], adapter: AdapterStrategy) -> list[str]:
        if not isinstance(adapter, SAPTLoRA):
            return [
                f"boundary.reflection holds a router, {type(adapter).__name__} has none; "
                "use cl_lightning.adapters.SAPTLoRA, or boundary.reflection=null"
            ]
        return []

    def on_task_start(self, run: RunContext, task: int) -> None:
        self._keep_on(run.module.adapter.like())

    def _keep_on(self, like: Tensor) -> None:
        self.pooled = [p.to(like) for p in self.pooled]
        self.recorded = [a.to(like) for a in self.recorded]

    def loss_terms(self, step: Step) -> dict[str, Tensor]:
        if not self.pooled or not self.strength:
            return {}
        now = step.module.adapter.router.scores(torch.cat(self.pooled)).log_softmax(-1)
        before = torch.cat([nn.functional.pad(a, (0, now.shape[1] - a.shape[1])) for a in self.recorded])
        return {"reflection": self.strength * nn.functional.kl_div(now, before, reduction="batchmean")}

    @torch.no_grad()
    def on_task_end(self, run: RunContext, task: int) -> None:
        adapter, examples = run.module.adapter, run.data.draw(task, self.samples, "reflection")
        mine = [adapter.pooled(batch).cpu() for batch in run.batches(examples, self.batch_size)]
        self.pooled.append(torch.cat([p for part in distributed.gather(mine) for p in part]))
        self._keep_on(adapter.like())
        self.recorded.append(adapter.router(self.pooled[-1]))
        for j, pooled in enumerate(self.pooled):
            own = [float(a[:, j].mean()) * 100 for a in (adapter.router(pooled), self.recorded[j])]
            self.rows.append([run.order[task], run.order[j], *own])

    def state(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]

    def tensors(self) -> dict[str, Tensor]:
        kept = {"pooled": self.pooled, "recorded": self.recorded}
        return {f"{name}.{k}": t.cpu().contiguous() for name, ts in kept.items() for k, t in enumerate(ts)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        count = len(tensors) // 2
        self.pooled, self.recorded = ([tensors[f"{name}.{k}"] for k in range(count)] for name in ("pooled", "recorded"))

    def tables(self) -> list[Table]:
        last = [row for row in self.rows if row[0] == self.rows[-1][0]]
        return [Table("router: share of each task's branch on its own prompts", COLUMNS, last)]
