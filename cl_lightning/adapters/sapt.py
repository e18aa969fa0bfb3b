"""SAPT-LoRA: a router attends over all tasks' branches by the prompt.

    q = LayerNorm(SiLU(G_2 SiLU(G_1 p_0))),   a = softmax over i of key_i . q / sqrt(d)
    y = W x + s sum over i of a_i B_i A_i x

Trained: the current task's branch and key, and the query G_1, G_2, LayerNorm, which all tasks share. Frozen: the rest.
Training the query changes earlier tasks' coefficients too, and a new key takes a share of every prompt from the first
step on, so logits change when a task begins; `callbacks.AttentiveReflection` preserves earlier prompts' coefficients.
Shapes: d embedding width, h query width; p_0 (B, d) the elementwise maximum of the prompt's embeddings;
G_1 (h, d), G_2 (d, h), keys (T, d), a (B, T). Source: Zhao et al. 2024 (arXiv 2401.08295) and its code.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.gated import GatedBranches
from cl_lightning.adapters.gates import pool, pool_max
from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Integer


class Router(nn.Module):
    """The shared query and each task's key. `size`: d; `width`: h."""

    def __init__(self, size: Integer, width: int) -> None:
        super().__init__()
        self.size, self.width = size, width
        self.query: nn.Sequential | None = None
        #: Keys of the current task (1, d) and of earlier tasks (T, d).
        self.key: nn.Parameter | None = None
        self.old_keys: nn.Parameter | None = None

    def begin(self, query: dict[str, Tensor], key: Tensor) -> None:
        """Train this query (a state dict) and a new key. Raises ValueError for a key of another shape."""
        if key.shape != (1, self.size):
            raise ValueError(f"a key of shape {tuple(key.shape)}, expected (1, {self.size})")
        like: dict[str, Any] = {"device": key.device, "dtype": key.dtype}
        self.query = nn.Sequential(
            nn.Linear(self.size, self.width, bias=False, **like),
            nn.SiLU(),
            nn.Linear(self.width, self.size, bias=False, **like),
            nn.SiLU(),
            nn.LayerNorm(self.size, **like),
        )
        self.query.load_state_dict(query)
        self.key = nn.Parameter(key.detach().clone())

    def freeze(self) -> None:
        """Freeze the current key and add it to the old ones."""
        keys = self.key if self.old_keys is None else torch.cat([self.old_keys, self.key])
        self.old_keys, self.key = nn.Parameter(keys.detach(), requires_grad=False), None

    def draw(self, generator: torch.Generator, like: Tensor) -> dict[str, Tensor]:
        """Draw a first query: weights uniform as nn.Linear's, LayerNorm at its default."""
        drawn = {"4.weight": torch.ones(self.size), "4.bias": torch.zeros(self.size)}
        for name, (out, into) in {"0.weight": (self.width, self.size), "2.weight": (self.size, self.width)}.items():
            drawn[name] = torch.empty(out, into).uniform_(
                -1 / math.sqrt(into), 1 / math.sqrt(into), generator=generator
            )
        return {name: tensor.to(like) for name, tensor in drawn.items()}

    def draw_key(self, generator: torch.Generator, like: Tensor) -> Tensor:
        """Draw a new key, uniform in -1..1."""
        return torch.empty(1, self.size).uniform_(-1, 1, generator=generator).to(like)

    def scores(self, pooled: Tensor, with_new: bool = True) -> Tensor:
        """Compute key_i . q / sqrt(d), (B, T), from p_0 (B, d); -inf for the newest key if it is left out."""
        keys = torch.cat([k for k in (self.old_keys, self.key) if k is not None])
        with torch.autocast(pooled.device.type, enabled=False):
            scores = self.query(pooled.to(keys.dtype)) @ keys.t() / math.sqrt(self.size)
        if not with_new and self.key is not None and self.old_keys is not None:
            scores[:, -1] = -torch.inf
        return scores

    def forward(self, pooled: Tensor, with_new: bool = True) -> Tensor:
        """Compute a (B, T), which sums to 1 over the branches."""
        return self.scores(pooled, with_new).softmax(-1)


class SAPTLoRA(GatedBranches):
    """A router over the branches of another strategy.

    Args:
        branches: IncLoRA (the paper's), OLoRA, CLoRA or InfLoRA, with their own options.
        width: h.
        pooling: "max" of the prompt's embeddings (the published code's) or their "mean".
    """

    def __init__(
        self,
        branches: AdapterStrategy = IncLoRA(),  # noqa: B008
        width: Integer = 100,
        pooling: Literal["max", "mean"] = "max",
    ) -> None:
        if width < 1:
            raise ConfigError(f"model.adapter.width: {width} must be 1 or more")
        super().__init__(branches, {"max": pool_max, "mean": pool}[pooling], own_tokens=True)
        self.width = width
        self._with_new = True
        #: The query from before the current task, in a tuple, so that it is not registered as a submodule.
        self._earlier: tuple[nn.Sequential | None] = (None,)

    def attach(self, llm: nn.Module, output_head: nn.Module | None) -> None:
        super().attach(llm, output_head)
        for layer in self.layers.values():
            layer.old_gates_learn = True
        self.router = Router(self.embedding_size, self.width)

    def begin_task(self, task: int, generator: torch.Generator) -> None:
        self.branches.begin_task(task, generator)
        query = self.router.query
        self._earlier = (query,)
        started = self.router.draw(generator, self.like()) if query is None else query.state_dict()
        self.router.begin(started, self.router.draw_key(generator, self.like()))

    def end_task(self, task: int) -> None:
        self.branches.end_task(task)
        self.router.freeze()

    def discard(self) -> None:
        """See the base class; removes the query too, keeps earlier keys."""
        super().discard()
        self.router.query = self.router.key = None

    def task_state(self) -> dict[str, Tensor]:
        query = {f"router.query.{name}": tensor for name, tensor in self.router.query.state_dict().items()}
        return {**self.branches.task_state(), **query, "router.key": self.router.key.detach()}

    def restore(self, states: Sequence[dict[str, Tensor]]) -> None:
        self.branches.restore(states)
        for state in states:
            prefix, like = "router.query.", self.like()
            query = {key.removeprefix(prefix): t.to(like) for key, t in state.items() if key.startswith(prefix)}
            self.router.begin(query, state["router.key"].to(like))
            self.router.freeze()

    @contextmanager
    def without_new_branch(self) -> Iterator[None]:
        self._with_new = False
        try:
            with super().without_new_branch():
                yield
        finally:
            self._with_new = True

    @contextmanager
    def before_task(self) -> Iterator[None]:
        """See the base class: leaves the new branch out and uses the earlier query."""
        trained, (self.router.query,) = self.router.query, self._earlier
        try:
            with self.without_new_branch():
                yield
        finally:
            self.router.query = trained

    def coefficients(self, pooled: Tensor) -> Tensor | None:
        return None if self.router.query is None else self.router(pooled, self._with_new)

    def param_groups(self) -> list[dict[str, Any]]:
        return [*self.branches.param_groups(), {"params": [*self.router.query.parameters(), self.router.key]}]

    def check(self, slots: dict[str, Any]) -> list[str]:
        reasons = self.branches.check(slots)
        if slots.get("reflection") is None:
            reasons.append(
                "model.adapter: SAPTLoRA's router forgets the branches of earlier prompts: add boundary.reflection "
                "(callbacks.AttentiveReflection), with strength=0 to measure just that"
            )
        return reasons
