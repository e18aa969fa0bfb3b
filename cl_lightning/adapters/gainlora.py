"""GainLoRA: branches of any strategy, each multiplied by a gate that is 0 on earlier tasks' prompts.

    y = W x + s sum over i of a_i(prompt) B_i A_i x

Trained: the current task's branch (as its strategy defines) and its gate (`adapters.gates`). Frozen: everything else.
No task id is needed at inference: all gates are evaluated on the prompt. A new gate starts as a copy of the last one
with a new key; `callbacks.GateOrthogonalization` makes the key and all updates orthogonal to earlier prompts'
features. Memory per task beside the branch: 2 h d + d float32 numbers. Source: Liang et al., GainLoRA (NeurIPS 2025).
Where we differ from the published code: gradients flow through frozen branches, and pooling is a mean over the task's
own tokens only, so a gate does not depend on padding, on other samples of the batch or on the chat template.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.gated import GatedBranches
from cl_lightning.adapters.gates import TEMPERATURE, Gates, Head, Output, pool
from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite, Integer


class GainLoRA(GatedBranches):
    """Gates over the branches of another strategy.

    Args:
        branches: IncLoRA, OLoRA, CLoRA or InfLoRA, with their own options (rank, targets, ..).
        width: h, width of the hidden layers.
        layers: L, number of hidden layers before the key.
        output: f: "sigmoid" |2 sigmoid(b) - 1|, "clip" min(|b|, 1), "sine" |sin(pi b / 2)|.
        head: b: "linear" key . p_L (the paper's), "cosine" temperature * cos(key, p_L) (the published code's).
        temperature: of the cosine.
        inner: activation of the hidden layers before the last; "none" in the published Llama code.
        pooling: mean over the "task"'s own prompt tokens or over the whole "prompt"; "padded", as in the published
            code: the prompt's sum divided by the longest prompt's length, so that a gate depends on the batch.
        skip_token: a token id that pooling leaves out; 1, which begins Llama 2's prompts, in the published Llama code.
            null: none.
        detach_old: no gradient through earlier branches, as in the published code: trained parameters below them
            get wrong gradients. For comparison only.
    """

    def __init__(
        self,
        branches: AdapterStrategy = IncLoRA(),  # noqa: B008
        width: Integer = 100,
        layers: Integer = 2,
        output: Output = "sigmoid",
        head: Head = "cosine",
        temperature: Finite = TEMPERATURE,
        inner: Literal["silu", "none"] = "silu",
        pooling: Literal["task", "prompt", "padded"] = "task",
        detach_old: bool = False,
        skip_token: Integer | None = None,
    ) -> None:
        for name, value in (("width", width), ("layers", layers)):
            if value < 1:
                raise ConfigError(f"model.adapter.{name}: {value} must be 1 or more")
        if not temperature > 0:
            raise ConfigError(f"model.adapter.temperature: {temperature} must be positive")
        super().__init__(branches, partial(pool, padded=pooling == "padded"), own_tokens=pooling == "task")
        self.detach_old, self.skip_token, self._padded = detach_old, skip_token, pooling == "padded"
        self._options = (width, layers, output, head, inner, temperature)

    def attach(self, llm: nn.Module, output_head: nn.Module | None) -> None:
        super().attach(llm, output_head)
        for layer in self.layers.values():
            layer.detach_old = self.detach_old
        self.gates = Gates(self.embedding_size, *self._options)

    def begin_task(self, task: int, generator: torch.Generator) -> None:
        self.branches.begin_task(task, generator)
        drawn, old = self.gates.draw(generator, self.like()), self.gates.old
        self.gates.begin([*(w[-1] for w in list(old)[:-1]), drawn[-1]] if len(old) else drawn)

    def end_task(self, task: int) -> None:
        self.branches.end_task(task)
        self.gates.freeze()

    def discard(self) -> None:
        super().discard()
        self.gates.new = nn.ParameterList()

    def task_state(self) -> dict[str, Tensor]:
        gate = {f"gate.{index}": w.detach() for index, w in enumerate(self.gates.new)}
        return {**self.branches.task_state(), **gate}

    def restore(self, states: Sequence[dict[str, Tensor]]) -> None:
        self.branches.restore(states)
        for state in states:
            count = sum(key.startswith("gate.") for key in state)
            self.gates.begin([state[f"gate.{index}"].to(self.like().device) for index in range(count)])
            self.gates.freeze()

    def seen(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        tokens, mask = super().seen(batch)
        prompts = batch.get("prompt_mask")
        if self._padded and prompts is not None and (prompts != batch["attention_mask"]).any():
            # Columns with answers only do not count towards the prompts' padded length.
            width = int(prompts.sum(1).max())
            tokens, mask = tokens[:, :width], mask[:, :width]
        return tokens, mask if self.skip_token is None else mask * (tokens != self.skip_token)

    def coefficients(self, pooled: Tensor) -> Tensor | None:
        return self.gates(pooled) if len(self.gates) else None

    def param_groups(self) -> list[dict[str, Any]]:
        return [*self.branches.param_groups(), {"params": list(self.gates.new)}]

    def check(self, slots: dict[str, Any]) -> list[str]:
        reasons = self.branches.check(slots)
        if slots.get("gates") is None:
            reasons.append(
                "model.adapter: GainLoRA's gates open on earlier tasks' prompts unless they are kept orthogonal: add "
                "boundary.gates (callbacks.GateOrthogonalization), with ablation=none to measure just that"
            )
        return reasons
