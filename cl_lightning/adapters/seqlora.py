"""SeqLoRA: plain LoRA through the sequence, without protection against forgetting.

Trained: A and B of the current task. Frozen: everything else. Memory per task: see `adapters.linear`.
Source: Hu et al. 2021 (arXiv 2106.09685) for LoRA; "sequential" as in TRACE's LoRASeqFT (arXiv 2310.06762).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.adapters.targets import Targets
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite, Integer


class SeqLoRA(IncLoRA):
    """One LoRA after the other (`fresh_folded`) or one LoRA for all tasks (`continue`).

    Args:
        per_task: "fresh_folded": each task gets a new LoRA, and the finished one is folded (the same as folding one
            LoRA and re-initialising it); "continue": one LoRA is trained on all tasks in turn.
        fold_into: destination of a finished LoRA. "stack": frozen low-rank columns (exact in any precision,
            R grows by r or 2r per task); "weight": W (float32 bases only: a bf16 W loses most of a small update);
            "auto": weight for float32 and float64 bases, else stack.
        start_from: see `IncLoRA`.
    """

    def __init__(
        self,
        rank: Integer = 8,
        alpha: Finite = 16.0,
        rslora: bool = False,
        dropout: Finite = 0.0,
        targets: Targets = "all-linear",
        offset: Literal["displacement", "baked"] = "displacement",
        per_task: Literal["fresh_folded", "continue"] = "fresh_folded",
        fold_into: Literal["auto", "stack", "weight"] = "auto",
        start_from: str | None = None,
    ) -> None:
        super().__init__(
            start_from, rank=rank, alpha=alpha, rslora=rslora, dropout=dropout, targets=targets, offset=offset
        )
        self.per_task, self.fold_into = per_task, fold_into
        self._before: dict[str, list[Tensor]] = {}

    @property
    def continues(self) -> bool:
        return self.per_task == "continue"

    def attach(self, llm: torch.nn.Module, output_head: torch.nn.Module | None) -> None:
        super().attach(llm, output_head)
        if self.fold_into == "weight" and not self.exact_base:
            raise ConfigError(
                "model.adapter.fold_into: weight needs a float32 base (a bf16 or 4-bit W loses small updates); "
                "use stack, or model.backbone.dtype=float32"
            )
        self._into_weight = self.exact_base if self.fold_into == "auto" else self.fold_into == "weight"

    def begin_task(self, task: int, generator: torch.Generator) -> None:
        if not self.continues or task == 0:
            super().begin_task(task, generator)
        else:
            for name, layer in self.layers.items():
                self._before[name] = [factor.detach().clone() for factor in (layer.lora_A, layer.lora_B)]

    def end_task(self, task: int) -> None:
        if not self.continues:
            super().end_task(task)

    @contextmanager
    def before_task(self) -> Iterator[None]:
        if not self._before:
            with super().before_task():
                yield
            return
        # Swapped, not overwritten: the graph of a training step may hold the factors.
        now = {name: [layer.lora_A.data, layer.lora_B.data] for name, layer in self.layers.items()}
        self._put(self._before)
        try:
            yield
        finally:
            self._put(now)

    def _put(self, factors: dict[str, list[Tensor]]) -> None:
        for name, (A, B) in factors.items():
            layer = self.layers[name]
            layer.lora_A.data, layer.lora_B.data = A, B

    def restore(self, states: Sequence[dict[str, Tensor]]) -> None:
        super().restore(states[-1:] if self.continues else states)

    def check(self, slots: dict[str, Any]) -> list[str]:
        if self.continues and slots.get("init") is not None:
            return [
                "boundary.init with model.adapter.per_task=continue: an initialiser starts a new branch per task; "
                "use per_task=fresh_folded, or boundary.init=null"
            ]
        return []


#: Strategy of models for which none is chosen. Copy it: its layers are one model's.
USUAL = SeqLoRA()
