"""SeqLoRA: plain LoRA through the sequence, without protection of its own.

Trained: A and B of the current task. Frozen: everything else. Memory per task: see `adapters.linear`.
Hu et al. 2021 (arXiv:2106.09685) for LoRA; "sequential" as in TRACE's LoRASeqFT (arXiv:2310.06762).
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.errors import ConfigError


class SeqLoRA(IncLoRA):
    """One LoRA after the other (`fresh_folded`) or one LoRA for all tasks (`continue`).

    Args:
        per_task: "fresh_folded": each task gets a new LoRA, the finished one is folded (to fold one LoRA and
            re-initialise it is the same); "continue": one LoRA is trained on, task after task.
        fold_into: where a finished LoRA goes. "stack": frozen low-rank columns (exact in any precision,
            R grows by r or 2r per task); "weight": into W (float32 bases only: a bf16 W loses most of a
            small update); "auto": weight for float32 and float64 bases, else stack.
    """

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16.0,
        rslora: bool = False,
        dropout: float = 0.0,
        targets: Literal["all-linear"] | list[str] = "all-linear",
        offset: Literal["displacement", "baked"] = "displacement",
        per_task: Literal["fresh_folded", "continue"] = "fresh_folded",
        fold_into: Literal["auto", "stack", "weight"] = "auto",
    ) -> None:
        super().__init__(rank, alpha, rslora, dropout, targets, offset)
        self.per_task, self.fold_into = per_task, fold_into

    def attach(self, llm: torch.nn.Module, output_head: torch.nn.Module | None) -> None:
        super().attach(llm, output_head)
        if self.fold_into == "weight" and not self.exact_base:
            raise ConfigError(
                "model.adapter.fold_into: weight needs a float32 base (a bf16 or 4-bit W loses small updates); "
                "use stack, or model.backbone.dtype=float32"
            )
        self._into_weight = self.exact_base if self.fold_into == "auto" else self.fold_into == "weight"

    def begin_task(self, task: int, generator: torch.Generator) -> None:
        if self.per_task == "fresh_folded" or task == 0:
            super().begin_task(task, generator)

    def end_task(self, task: int) -> None:
        if self.per_task == "fresh_folded":
            super().end_task(task)

    def restore(self, states: Sequence[dict[str, Tensor]]) -> None:
        super().restore(states if self.per_task == "fresh_folded" else states[-1:])

    def check(self, slots: dict[str, Any]) -> list[str]:
        if self.per_task == "continue" and slots.get("init") is not None:
            return [
                "boundary.init with model.adapter.per_task=continue: an initialiser starts a new branch per task; "
                "use per_task=fresh_folded, or boundary.init=null"
            ]
        return []
