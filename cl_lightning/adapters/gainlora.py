"""GainLoRA: branches of any strategy, each behind a gate that old prompts leave shut.

    y = W x + s sum over i of a_i(prompt) B_i A_i x

Trained: the current task's branch (as its strategy says) and its gate (`adapters.gate`). Frozen: everything else. No
task id at inference: all gates are evaluated on the prompt. A new gate starts as a copy of the last one;
`callbacks.GateOrthogonalization` turns its key away from old prompts and keeps its updates from reaching them.
Memory per task beside the branch: 2 h d + d float32 numbers. Source: Liang et al., GainLoRA (NeurIPS 2025). Where we
differ from the published code: gradients flow through frozen branches, pooling is a true mean over the task's own
tokens, so that neither padding nor batch mates nor the chat template move a gate.
"""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.binding import bind_gates
from cl_lightning.adapters.gate import Gates, Head, Output, pool
from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.errors import ConfigError


class GainLoRA(AdapterStrategy):
    """Gates over a branch strategy.

    Args:
        branches: IncLoRA, OLoRA, CLoRA or InfLoRA, with their own options (rank, targets, ..).
        width: h, of the hidden layers.
        layers: L, hidden layers before the key.
        output: f: "sigmoid" |2 sigmoid(b) - 1|, "clip" min(|b|, 1), "sine" |sin(pi b / 2)|.
        head: b: "linear" key . p_L (the paper's), "cosine" 4 cos(key, p_L) (the published code's).
        inner: activation of the hidden layers before the last; "none" in the published Llama code.
        pooling: mean over the "task"'s own prompt tokens or over the whole "prompt"; "padded", as in the published
            code: the prompt's sum divided by the padded length, which makes a gate depend on the batch.
    """

    per_sample: ClassVar[bool] = True

    def __init__(
        self,
        branches: AdapterStrategy = IncLoRA(),  # noqa: B008
        width: int = 100,
        layers: int = 2,
        output: Output = "sigmoid",
        head: Head = "cosine",
        inner: Literal["silu", "none"] = "silu",
        pooling: Literal["task", "prompt", "padded"] = "task",
    ) -> None:
        b = branches
        super().__init__(b.rank, b.alpha, b.rslora, b.dropout, b.targets, b.offset)
        for name, value in (("width", width), ("layers", layers)):
            if value < 1:
                raise ConfigError(f"model.adapter.{name}: {value} must be 1 or more")
        if not isinstance(branches, IncLoRA) or isinstance(branches, SeqLoRA):
            raise ConfigError(
                f"model.adapter.branches: {type(branches).__name__} does not keep each task's branch apart, so no gate "
                "can weigh it; use IncLoRA, OLoRA, CLoRA or InfLoRA"
            )
        if branches.offset == "baked":
            raise ConfigError(
                "model.adapter.branches.offset: baked takes the start off W for all samples, gates add it for some; "
                "use displacement"
            )
        # A default argument would be one strategy in all models.
        self.branches, self.pooling = copy.deepcopy(branches), pooling
        self._options = (width, layers, output, head, inner)

    @property
    def trainable_factors(self) -> frozenset[str]:
        """The branch strategy's."""
        return self.branches.trainable_factors

    def attach(self, llm: nn.Module, output_head: nn.Module | None) -> None:
        self.branches.attach(llm, output_head)
        self._layers = self.branches.layers
        bind_gates(llm)
        self._embedding = (llm.get_input_embeddings(),)  # in a tuple: the LLM's module, not ours
        width, layers, output, head, inner = self._options
        self.gates = Gates(self._embedding[0].weight.shape[1], width, layers, output, head, inner)

    def begin_task(self, task: int, generator: torch.Generator) -> None:
        self.branches.begin_task(task, generator)
        weight = self._embedding[0].weight
        like = torch.empty(0, dtype=torch.promote_types(torch.float32, weight.dtype), device=weight.device)
        old = self.gates.old
        self.gates.begin([w[-1] for w in old] if len(old) else self.gates.draw(generator, like))

    def end_task(self, task: int) -> None:
        self.branches.end_task(task)
        self.gates.freeze()

    def task_state(self) -> dict[str, Tensor]:
        gate = {f"gate.{index}": w.detach() for index, w in enumerate(self.gates.new)}
        return {**self.branches.task_state(), **gate}

    def restore(self, states: Sequence[dict[str, Tensor]]) -> None:
        self.branches.restore(states)
        device = self._embedding[0].weight.device
        for state in states:
            count = sum(key.startswith("gate.") for key in state)
            self.gates.begin([state[f"gate.{index}"].to(device) for index in range(count)])
            self.gates.freeze()

    def pooled(self, batch: dict[str, Any]) -> Tensor:
        """p_0 (B, d) of a batch from `data.collate`."""
        whole = batch.get("prompt_mask", batch["attention_mask"])  # batches for generation are prompts
        mask = batch["own_mask"] if self.pooling == "task" else whole
        with torch.no_grad():
            embedded = self._embedding[0](batch["input_ids"])
        return pool(embedded, mask, padded=self.pooling == "padded")

    def forward_kwargs(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"gates": self.gates(self.pooled(batch))} if len(self.gates) else {}

    @torch.no_grad()
    def speaks_for(self, batch: dict[str, Any]) -> Tensor:
        return self.gates(self.pooled(batch))[:, -1]

    def penalties(self) -> dict[str, Tensor]:
        return self.branches.penalties()

    def param_groups(self) -> list[dict[str, Any]]:
        return [*self.branches.param_groups(), {"params": list(self.gates.new)}]

    def check(self, slots: dict[str, Any]) -> list[str]:
        reasons = self.branches.check(slots)
        if slots.get("gates") is None:
            reasons.append(
                "model.adapter: GainLoRA's gates open on old prompts too unless they are kept orthogonal: add "
                "boundary.gates (callbacks.GateOrthogonalization), with ablation=none to measure just that"
            )
        return reasons
