"""Strategies that each break one clause of the contract, see `test_strategies`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.seqlora import SeqLoRA


class Sound(SeqLoRA):
    """SeqLoRA, to be broken. Source: ours."""


class Abstract(AdapterStrategy):
    """Leaves methods out. Source: ours."""


class Undocumented(Sound):
    pass


class Unsourced(SeqLoRA):
    """Describes no option.

    Args:
        rank: r.
    """

    def __init__(self, rank: int = 4, share: bool = True) -> None:
        super().__init__(rank)


class Unchecked(Sound):
    """Takes any strength.

    Args:
        strength: of nothing.
    """

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()


class SaysYes(Sound):
    """Has a text in the place of a list."""

    def check(self, slots: dict[str, Any]) -> Any:
        return "no"


class Edits(Sound):
    """Changes the base's weights."""

    def attach(self, llm: nn.Module, output_head: nn.Module | None) -> None:
        super().attach(llm, output_head)
        next(iter(self.layers.values())).base.weight.data.mul_(1.1)


class Starts(Sound):
    """Starts elsewhere than at zero."""

    def begin_task(self, task: int, generator: torch.Generator) -> None:
        super().begin_task(task, generator)
        for layer in self.layers.values():
            layer.lora_B.data += 0.1


class Declares(Sound):
    """Trains both factors and says it trains one."""

    trainable_factors = frozenset({"B"})

    def begin_task(self, task: int, generator: torch.Generator) -> None:
        super().begin_task(task, generator)
        for layer in self.layers.values():
            layer.lora_A.requires_grad_(True)


class Penalises(Sound):
    """Has a penalty for each layer in one tensor."""

    def penalties(self) -> dict[str, Tensor]:
        return {"norms": torch.stack([layer.lora_B.norm() for layer in self.layers.values()])}


class Forgets(Sound):
    """Trains all layers but the last."""

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": super().param_groups()[0]["params"][:-2]}]


class Drops(Sound):
    """Ends a task by dropping it."""

    def end_task(self, task: int) -> None:
        self.discard()


class Attached(Sound):
    """Leaves tensors with their graph."""

    def task_state(self) -> dict[str, Tensor]:
        return {name: tensor.requires_grad_() for name, tensor in super().task_state().items()}


class Loses(Sound):
    """Restores the last task only."""

    def restore(self, states: Sequence[dict[str, Tensor]]) -> None:
        super().restore(states[-1:])


class Stays(Sound):
    """Leaves the branch in."""

    @contextmanager
    def without_new_branch(self) -> Iterator[None]:
        yield

    @contextmanager
    def before_task(self) -> Iterator[None]:
        with super().without_new_branch():
            yield


class Lingers(Sound):
    """Is still the model of now."""

    @contextmanager
    def before_task(self) -> Iterator[None]:
        yield


class Keeps(Sound):
    """Discards nothing."""

    def discard(self) -> None:
        pass


class Gates(Sound):
    """Has one share for all samples."""

    def new_branch_weight(self, batch: dict[str, Any]) -> Tensor:
        return torch.ones(())
