"""The contract of an adapter strategy: the branches it adds to the frozen LLM, trains and stores.

A strategy owns the adapted layers. The module calls it in a fixed order per task: `begin_task` (freeze the old branch,
add a new one; logits unchanged), training, `end_task`, and stores `task_state()` after each task. `restore` rebuilds
the strategy from the stored states of all finished tasks.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, NoReturn

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cl_lightning.adapters.linear import BOTH, AdaptedLinear
from cl_lightning.adapters.linear_layers import as_linear
from cl_lightning.adapters.selection import selected
from cl_lightning.adapters.targets import Targets, check_targets
from cl_lightning.common.described import Described
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite, Integer


def _refuse_to_save(*_: Any, **__: Any) -> NoReturn:
    raise ConfigError(
        "an adapted model cannot be saved or pushed as a model of transformers, which would initialise the adapted "
        "layers at random on loading; keep the run folder and load the model with cl_lightning.load_run(folder)"
    )


class AdapterStrategy(Described, nn.Module, ABC):
    """Pluggable adapter of a frozen LLM. Each subclass has its own file.

    Args:
        rank: r, the rank of each task's branch.
        alpha: LoRA's alpha; the branch is scaled by alpha / r, or alpha / sqrt(r) with `rslora`.
        rslora: rank-stabilised scaling.
        dropout: on the trainable branch's input, 0..1.
        offset: how a start with B0 A0 != 0 leaves the logits unchanged. "displacement": train the differences from
            the start (exact in every precision); "baked": W - s B0 A0 until the task ends (float32 bases only, up to
            rounding).
        targets: "all-linear" (every linear layer of the blocks, not the output head); "attention", "query_value",
            "mlp" or "experts" (see `adapters.roles`); the last parts of layer names, e.g. ["q_proj", "v_proj"], each
            of which must match a layer; or a regular expression of whole names.
    """

    #: Factors that are trained; an initialiser may set only these.
    trainable_factors: ClassVar[frozenset[str]] = BOTH
    #: `forward_kwargs` returns values for each sample (gates).
    per_sample: ClassVar[bool] = False
    #: Last parts of `task_state` names that later tasks need and the model does not.
    stored_extras: ClassVar[frozenset[str]] = frozenset()

    @property
    def continues(self) -> bool:
        """True if all tasks train the same branch, instead of a new one each."""
        return False

    def __init__(
        self,
        rank: Integer = 8,
        alpha: Finite = 16.0,
        rslora: bool = False,
        dropout: Finite = 0.0,
        targets: Targets = "all-linear",
        offset: Literal["displacement", "baked"] = "displacement",
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ConfigError(f"model.adapter.rank: {rank} must be 1 or more")
        if not 0.0 <= dropout < 1.0:
            raise ConfigError(f"model.adapter.dropout: {dropout} must be at least 0 and below 1")
        if not alpha > 0:
            raise ConfigError(f"model.adapter.alpha: {alpha} must be positive")
        check_targets(targets)
        self.rank, self.alpha, self.rslora, self.dropout, self.targets = rank, alpha, rslora, dropout, targets
        self.offset = offset
        #: Folder of a PEFT LoRA below all tasks, for strategies that support one.
        self.start_from: str | None = None
        #: Lines printed when a run starts; known once attached.
        self.remarks: list[str] = []
        self._layers: dict[str, AdaptedLinear] = {}

    @property
    def scaling(self) -> float:
        """The factor s in y = W x + s B A x."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    @property
    def layers(self) -> dict[str, AdaptedLinear]:
        """The adapted layers by their name in the LLM. The LLM owns them; the strategy only refers to them."""
        return self._layers

    def attach(self, llm: nn.Module, output_head: nn.Module | None) -> None:
        """Wrap every target layer of the frozen LLM in an AdaptedLinear. The LLM cannot be saved afterwards.

        Raises:
            ConfigError: see `adapters.selection`; or it is attached to another model.
        """
        if self._layers:
            raise ConfigError(f"model.adapter: this {type(self).__name__} is in another model; give each its own")
        chosen = selected(llm, output_head, self.targets, self.rank)
        self.remarks = chosen.remarks
        for name, base in chosen.layers.items():
            parent, _, leaf = name.rpartition(".")
            layer = AdaptedLinear(as_linear(base), self.dropout)
            setattr(llm.get_submodule(parent) if parent else llm, leaf, layer)
            self._layers[name] = layer
        for part in llm.modules():
            if isinstance(part, PreTrainedModel):
                part.save_pretrained = part.push_to_hub = _refuse_to_save
        if self.offset == "baked" and not self.exact_base:
            raise ConfigError(
                "model.adapter.offset: baked needs a float32 base (a bf16 or 4-bit W loses small updates); "
                "use displacement, or model.backbone.dtype=float32"
            )

    @property
    def exact_base(self) -> bool:
        """True if every adapted W is float32 or float64, so that it may be edited."""
        return all(layer.weight.dtype in (torch.float32, torch.float64) for layer in self._layers.values())

    @abstractmethod
    def begin_task(self, task: int, generator: torch.Generator) -> None:
        """Freeze earlier branches and add the branch that task `task` (from 0) trains. Logits do not change."""

    @abstractmethod
    def end_task(self, task: int) -> None:
        """Freeze the task's branch. Logits change by rounding at most."""

    def discard(self) -> None:
        """Remove the current branch. Logits are those from before `begin_task`, up to rounding with offset=baked."""
        for layer in self._layers.values():
            layer.discard_branch()

    @abstractmethod
    def task_state(self) -> dict[str, Tensor]:
        """Return the tensors to store of the task just trained, by name; called before `end_task`."""

    def freeze_under_tasks(self, factors: Mapping[str, Tensor]) -> None:
        """Freeze a LoRA under all tasks: the model that the first task starts from.

        Args:
            factors: "<layer>.lora_A" (r, n) and "<layer>.lora_B" (m, r) with the scale in it, for some of the layers.
        """
        raise ValueError(f"{type(self).__name__} has no branch under all tasks")

    @abstractmethod
    def restore(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Rebuild the strategy from the `task_state` of all finished tasks, oldest first."""

    def set_factors(self, name: str, *factors: Tensor, displaced: bool = True) -> None:
        """Start the current branch of layer `name` at A0 (r, n), B0 (m, r), and R0 (r, r) if its core is trained.

        `displaced`: subtract the start again, so that logits do not change.
        """
        layer = self._layers[name]
        self._start(name, *(f.to(layer.lora_A.device, layer.lora_A.dtype) for f in factors), displaced=displaced)

    def _start(self, name: str, *factors: Tensor, displaced: bool = True) -> None:
        """See `set_factors`; the factors are on the layer's device, in its dtype."""
        baked, trained = self.offset == "baked", self.trainable_factors
        core = factors[2] if len(factors) > 2 else None
        self._layers[name].start_branch(*factors[:2], self.scaling, core, displaced, baked, trained)

    @contextmanager
    def without_new_branch(self) -> Iterator[None]:
        """Leave the current branch out of every forward pass inside the context; earlier branches stay on."""
        for layer in self._layers.values():
            layer.active = False
        try:
            yield
        finally:
            for layer in self._layers.values():
                layer.active = True

    @contextmanager
    def before_task(self) -> Iterator[None]:
        """Run every forward pass inside the context with the model from before the current task."""
        with self.without_new_branch():
            yield

    def forward_kwargs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Compute extra arguments of the LLM's forward pass (gates) from a `data.collate` batch. None by default."""
        return {}

    def new_branch_weight(self, batch: dict[str, Any]) -> Tensor:
        """Compute the weight 0..1 of the newest branch's output for each sample, (B,); 1 without gates."""
        return torch.ones(len(batch["input_ids"]), device=batch["input_ids"].device)

    def penalties(self) -> dict[str, Tensor]:
        """Compute the terms added to the loss once per optimiser step, by name. None by default."""
        return {}

    def param_groups(self) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups, in layer order."""
        return [{"params": [p for layer in self._layers.values() for p in layer.parameters() if p.requires_grad]}]

    @property
    def trained(self) -> list[nn.Parameter]:
        """All parameters that the optimiser updates, in the order of its groups."""
        return [p for group in self.param_groups() for p in group["params"]]

    def check(self, slots: dict[str, Any]) -> list[str]:
        """Return reasons not to run with these boundary callbacks, each one line naming the option. Empty: it runs."""
        return []
