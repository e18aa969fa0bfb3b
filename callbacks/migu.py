"""MIGU: only the rows with the largest output magnitudes on the batch are updated.

    m_i = mean over the batch's tokens of |h_i| / sum over j of |h_j|,   h = A x, and h = B A x
    rows i of A (of B) with m_i below the quantile `masked`: gradient 0

Masks are computed over the whole optimiser step: all its micro-batches and ranks. Momentum and weight decay still
change masked rows slightly, as in the original. Source: Du et al. 2024 (arXiv 2406.17245), for LoRA; the default of
`masked` is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from callbacks.slice_init import SliceInit
from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.linear import AdaptedLinear
from cl_lightning.common import distributed
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite
from cl_lightning.sequence.callback import TaskCallback

if TYPE_CHECKING:
    from cl_lightning.sequence.rehearsal import Rehearsal


class MIGU(TaskCallback):
    """Magnitude-based gradient updating over any strategy.

    Args:
        masked: share of each factor's rows whose gradient is 0 in a step, [0, 1).
    """

    phase = 25

    def __init__(self, masked: Finite = 0.7) -> None:
        if not 0.0 <= masked < 1.0:
            raise ConfigError(f"boundary.migu.masked: {masked} is a share of rows, 0 to below 1")
        self.masked = masked
        self._magnitudes: dict[str, list[Tensor]] = {}  # of A's and B's rows, by layer, summed over tokens
        self._masks: Callable[[str], Tensor] | None = None
        self._layers: dict[str, AdaptedLinear] = {}
        self._hooks: list[Any] = []

    def check(self, slots: dict[str, TaskCallback], adapter: AdapterStrategy) -> list[str]:
        init = slots.get("init")
        if isinstance(init, SliceInit) and not init.initializer.trains & {"A", "B"}:
            return [
                "boundary.migu masks rows of A and B, but LoRASB trains a core between them; use another initialiser"
            ]
        return []

    def rehearse(self, rehearsal: Rehearsal) -> None:
        """Listen in the training step, for which no padding is known."""
        if rehearsal.last:
            self._listen_to(rehearsal.module.adapter.layers)
            self._masks = lambda name: torch.ones(0, 1)
            rehearsal.after_training.append(self._stop)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Register a hook on every adapted layer's input."""
        self._listen_to(pl_module.adapter.layers)

    def _listen_to(self, layers: dict[str, AdaptedLinear]) -> None:
        self._layers, self._magnitudes = layers, {}
        self._hooks = [layer.register_forward_pre_hook(self._listen(name)) for name, layer in self._layers.items()]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Store the batch's padding masks."""
        self._masks = lambda name: pl_module.token_mask(name, batch)

    def _listen(self, name: str) -> Callable[[AdaptedLinear, tuple[Tensor, ...]], None]:
        def hook(layer: AdaptedLinear, inputs: tuple[Tensor, ...]) -> None:
            # Only the trained pass counts: a teacher's pass (LwF) has no gradients.
            if self._masks is not None and layer.training and layer.active and torch.is_grad_enabled():
                self._count(name, layer, inputs[0], self._masks(name))

        return hook

    @torch.no_grad()
    def _count(self, name: str, layer: AdaptedLinear, x: Tensor, mask: Tensor) -> None:
        """Add the magnitudes on one call's input x (B, L, n)."""
        # A prefix that all samples share may run once: x is then (1, prefix length, n), without padding.
        weight = mask[:, -x.shape[1] :] if len(x) == len(mask) else torch.full_like(x[..., 0], len(mask))
        A, B = (factor.to(x.dtype) for factor in layer.factors())
        hidden = x @ A.t()
        for k, h in enumerate((hidden, hidden @ B.t())):
            share = h.abs().to(torch.float32)
            share = share / share.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
            summed = (share * weight[..., None].to(share.dtype)).sum((0, 1))
            kept = self._magnitudes.setdefault(name, [])
            if len(kept) > k:
                kept[k] += summed
            else:
                kept.append(summed)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Mask the whole step's gradient before it is clipped."""
        names = sorted(self._magnitudes)
        flat = distributed.sum_(torch.cat([m for n in names for m in self._magnitudes[n]]))
        for name in names:
            layer = self._layers[name]
            for parameter in (layer.lora_A, layer.lora_B):
                magnitude, flat = flat[: len(parameter)], flat[len(parameter) :]
                if parameter.grad is not None:
                    parameter.grad[largest_rows(magnitude, self.masked).logical_not()] = 0
        self._magnitudes = {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the hooks."""
        self._stop()

    def _stop(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._masks = [], None


def largest_rows(magnitude: Tensor, masked: float) -> Tensor:
    """Select the rows to update, (rows,) bool: all but the share `masked` with the smallest magnitude, at least one."""
    quiet = min(int(masked * len(magnitude)), len(magnitude) - 1)
    keep = torch.ones_like(magnitude, dtype=torch.bool)
    keep[magnitude.argsort(stable=True)[:quiet]] = False
    return keep
