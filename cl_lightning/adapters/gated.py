"""Base of strategies that weight branches by the prompt: y = W x + s sum over i of a_i(prompt) B_i A_i x.

There is one coefficient per sample and branch for the whole model, computed once from the prompt's frozen token
embeddings and passed to the layers by `adapters.binding`. No task id is needed, not even at inference.
"""

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.binding import bind_gates
from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.common.errors import ConfigError

#: Embeddings (B, L, d) and mask (B, L) -> one vector per prompt (B, d).
Pool = Callable[[Tensor, Tensor], Tensor]


class GatedBranches(AdapterStrategy):
    """Base class: coefficients over the branches of a strategy that keeps each task's branch separate."""

    per_sample: ClassVar[bool] = True

    def __init__(self, branches: AdapterStrategy, pool: Pool, own_tokens: bool) -> None:
        b = branches
        super().__init__(b.rank, b.alpha, b.rslora, b.dropout, b.targets, b.offset)
        if not isinstance(branches, IncLoRA) or isinstance(branches, SeqLoRA):
            raise ConfigError(
                f"model.adapter.branches: {type(branches).__name__} does not keep each task's branch separate, so "
                "branches cannot be gated; use IncLoRA, OLoRA, CLoRA or InfLoRA"
            )
        if branches.start_from is not None:
            raise ConfigError(
                "model.adapter.branches.start_from: gates weigh the branches of tasks, and this one would be of none; "
                "merge it into the base model first"
            )
        if branches.offset == "baked":
            raise ConfigError(
                "model.adapter.branches.offset: baked subtracts the start from W for all samples, but gates add it for "
                "some only; use displacement"
            )
        # Copied: a default argument would be shared by all models.
        self.branches, self._pool, self._own_tokens = copy.deepcopy(branches), pool, own_tokens

    @property
    def trainable_factors(self) -> frozenset[str]:
        """The branch strategy's."""
        return self.branches.trainable_factors

    def attach(self, llm: nn.Module, output_head: nn.Module | None) -> None:
        self.branches.attach(llm, output_head)
        self._layers, self.remarks = self.branches.layers, self.branches.remarks
        bind_gates(llm)
        self._embedding = (llm.get_input_embeddings(),)  # in a tuple, so that it is not registered as our submodule

    @property
    def embedding_size(self) -> int:
        """d."""
        return self._embedding[0].weight.shape[1]

    def like(self) -> Tensor:
        """Make an empty tensor with the dtype (float32 or wider) and device of the gates' weights."""
        weight = self._embedding[0].weight
        return torch.empty(0, dtype=torch.promote_types(torch.float32, weight.dtype), device=weight.device)

    @abstractmethod
    def coefficients(self, pooled: Tensor) -> Tensor | None:
        """Compute a (B, T), oldest branch first, from p_0 (B, d); None before the first task."""

    def pooled(self, batch: dict[str, Any]) -> Tensor:
        """Compute p_0 (B, d) of a batch from `data.collate`."""
        tokens, mask = self.seen(batch)
        with torch.no_grad():
            embedded = self._embedding[0](tokens)
        return self._pool(embedded, mask)

    def seen(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the token ids (B, L) to pool, and a mask (B, L): 1 where they count."""
        whole = batch.get("prompt_mask", batch["attention_mask"])  # batches for generation are prompts
        return batch["input_ids"], batch["own_mask"] if self._own_tokens else whole

    def forward_kwargs(self, batch: dict[str, Any]) -> dict[str, Any]:
        gates = self.coefficients(self.pooled(batch))
        return {} if gates is None else {"gates": gates}

    @torch.no_grad()
    def new_branch_weight(self, batch: dict[str, Any]) -> Tensor:
        return self.coefficients(self.pooled(batch))[:, -1]

    def penalties(self) -> dict[str, Tensor]:
        return self.branches.penalties()
