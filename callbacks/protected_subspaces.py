"""Keeps every branch outside the top singular subspaces of the weights: what the model is best at does not change.

    W_ref = W + earlier branches,   (U, V): its k leading left (m, k) and right (n, k) singular vectors
    start:   A0 <- A0 (I - V V^T),   B0 <- (I - U U^T) B0
    updates: A  <- A  (I - V V^T),   B  <- (I - U U^T) B      after every optimiser step

Then U^T dW = 0 and dW V = 0 for dW = s (B A - B0 A0): the k leading singular triplets of W_ref are triplets of
W_ref + dW too. Projecting gradients instead does not hold that under Adam, whose steps leave the gradients' subspace.

Memory: (m + n) k numbers per layer while a task trains. Source: the low-rank sibling of OSF (arXiv 2504.07097), which
trains all weights outside the subspaces; as a constraint on LoRA it is ours. It protects the model from before the
tasks more than earlier tasks, whose small updates lie mostly outside the leading subspaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.inflora import InfLoRA
from cl_lightning.adapters.linear import BRANCH, AdaptedLinear
from cl_lightning.common import distributed
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite
from cl_lightning.linalg.subspaces import project_out
from cl_lightning.linalg.svd import all_singular
from cl_lightning.sequence.callback import Table, TaskCallback

if TYPE_CHECKING:
    from cl_lightning.sequence.context import RunContext
    from cl_lightning.sequence.rehearsal import Rehearsal

COLUMNS = ["task", "protected directions, least", "most", "start's energy kept %"]


class ProtectedSubspaces(TaskCallback):
    """Constraint on new branches: outside the top singular subspaces of W, over any strategy with a branch per task.

    Args:
        share: of each matrix's min(m, n) directions that are protected, [0, 1); "tasks": (i - 1) / T for the i-th of T
            tasks. At least the branch's rank stays free.
        side: protect the inputs (A; the layer's output on them does not change), the outputs (B), or both.
    """

    #: After the initialiser, whose start is projected.
    phase = 45

    def __init__(
        self, share: Literal["tasks"] | Finite = 0.5, side: Literal["input", "output", "both"] = "both"
    ) -> None:
        if not isinstance(share, str) and not 0 <= share < 1:
            raise ConfigError(f"boundary.protection.share: {share} must be at least 0 and below 1")
        self.share, self.inputs, self.outputs = share, side != "output", side != "input"
        self.rows: list[list[Any]] = []
        self._bases: dict[str, tuple[Tensor, Tensor]] = {}
        self._handle: Any = None

    def check(self, slots: dict[str, TaskCallback], adapter: AdapterStrategy) -> list[str]:
        found = []
        if adapter.continues:
            found.append(
                f"boundary.protection needs a branch per task, and {type(adapter).__name__} trains one for all; use "
                "model.adapter.per_task=fresh_folded, or boundary.protection=null"
            )
        if adapter.offset == "baked":
            found.append(
                "boundary.protection: a baked start cannot be projected; use model.adapter.offset=displacement"
            )
        if self.inputs and isinstance(getattr(adapter, "branches", adapter), InfLoRA):
            found.append(
                "boundary.protection changes A, which InfLoRA has designed and holds; use "
                "boundary.protection.side=output"
            )
        return found

    # ---- start -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def rehearse(self, rehearsal: Rehearsal) -> None:
        """Decompose one matrix after the other, and hold their subspaces while the task trains."""
        if rehearsal.last:
            layers = rehearsal.module.adapter.layers
            self._bases = self._top(layers, self._sizes(layers, rehearsal.task, len(rehearsal.order)))
            for name, bases in self._bases.items():
                self._project(layers[name], bases, BRANCH)
            rehearsal.after_training.append(self._bases.clear)

    @torch.no_grad()
    def on_task_start(self, run: RunContext, task: int) -> None:
        layers = run.module.adapter.layers
        sizes = self._sizes(layers, task, len(run.order))
        self._bases = self._top(layers, sizes)
        before = sum(_energy(layer) for layer in layers.values())
        for name in self._bases:
            self._project(layers[name], self._bases[name], BRANCH)
        kept = sum(_energy(layer) for layer in layers.values()) / before if before else 1.0
        self.rows.append([run.order[task], min(sizes.values()), max(sizes.values()), 100 * kept])

    def _sizes(self, layers: dict[str, AdaptedLinear], task: int, tasks: int) -> dict[str, int]:
        """Return k of each layer."""
        share = task / tasks if isinstance(self.share, str) else self.share
        least = {name: min(layer.shape) for name, layer in layers.items()}
        free = {name: least[name] - len(layer.lora_A) for name, layer in layers.items()}
        return {name: max(0, min(int(share * least[name]), free[name])) for name in layers}

    def _top(self, layers: dict[str, AdaptedLinear], sizes: dict[str, int]) -> dict[str, tuple[Tensor, Tensor]]:
        """Compute U (m, k) and V (n, k) of each layer; ranks share the decompositions."""

        def decomposed(name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
            U, _, V = all_singular(_reference(layers[name], weight), 1)
            return U[:, : sizes[name]].contiguous(), V[:, : sizes[name]].contiguous()

        sizes = {name: size for name, size in sizes.items() if size}
        weights = ((name, layers[name].dense_weight()) for name in sizes)
        made, owners = distributed.deal(weights, decomposed, "boundary.protection:")
        bases = {}
        for name, owner in owners.items():
            layer = layers[name]
            m, n = layer.shape
            empty = layer.lora_A.new_empty
            U, V = made.get(name) or (empty(m, sizes[name]), empty(n, sizes[name]))
            bases[name] = (
                distributed.broadcast_(U.to(layer.lora_A), owner),
                distributed.broadcast_(V.to(layer.lora_A), owner),
            )
        return bases

    # ---- updates -----------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Project after every applied update, not after accumulated micro-steps or skipped steps."""
        layers = pl_module.adapter.layers
        self._handle = trainer.optimizers[0].register_step_post_hook(lambda *_: self._project_all(layers))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the hook on the optimiser and free the subspaces."""
        self._handle.remove()
        self._handle, self._bases = None, {}

    def _project_all(self, layers: dict[str, AdaptedLinear]) -> None:
        for name, bases in self._bases.items():
            self._project(layers[name], bases, ("lora_A", "lora_B"))

    @torch.no_grad()
    def _project(self, layer: AdaptedLinear, bases: tuple[Tensor, Tensor], names: Sequence[str]) -> None:
        """Project those of the layer's factors that are there."""
        factors = {name: factor for name in names if (factor := getattr(layer, name)) is not None}
        for name, factor in factors.items():
            if name.startswith("lora_B") and self.outputs:
                factor.copy_(project_out(bases[0], factor))
            elif name.startswith("lora_A") and self.inputs:
                factor.copy_(project_out(bases[1], factor.t()).t())

    # ---- state -------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]

    def tables(self) -> list[Table]:
        return [Table("protection: singular directions of each matrix that stay as they are", COLUMNS, self.rows)]


def _energy(layer: AdaptedLinear) -> float:
    """Return ||B A||_F^2 of the branch; ||A||_F^2 where B is still zero."""
    A, B = (factor.detach().double() for factor in (layer.lora_A, layer.lora_B))
    gram = A @ A.t()
    return float((gram * (B.t() @ B)).sum() if B.any() else gram.trace())


def _reference(layer: AdaptedLinear, weight: Tensor) -> Tensor:
    """Form W plus earlier branches (m, n), in the branch's dtype."""
    W = weight.to(layer.lora_A)
    return W if layer.stack_A is None else W + layer.stack_B.to(W) @ layer.stack_A.to(W)
