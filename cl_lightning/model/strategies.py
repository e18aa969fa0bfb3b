"""The strategies of Lightning that a task trains under, and one of ours, which shards the base."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch.strategies import (
    DDPStrategy,
    ModelParallelStrategy,
    ParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
    StrategyRegistry,
)
from torch.optim import Optimizer

from cl_lightning.common import distributed
from cl_lightning.common.errors import ConfigError

#: Its name in the option trainer.strategy.
SHARDED = "model_parallel"


class ShardedBaseStrategy(ModelParallelStrategy):
    """Lightning's ModelParallelStrategy for a base that is sharded over all ranks, under adapters that each has whole.

    `model.sharding` shards the base. Gradients of what is trained are averaged over the ranks once per optimiser step,
    as DDP does. A checkpoint is that of DDP too, since every rank has whole what it holds.

    Args:
        process_group_backend, timeout: as Lightning's.
    """

    restore_checkpoint_after_setup = False
    lightning_restore_optimizer = True
    distributed_sampler_kwargs = ParallelStrategy.distributed_sampler_kwargs
    lightning_module_state_dict = Strategy.lightning_module_state_dict
    load_model_state_dict = Strategy.load_model_state_dict
    optimizer_state = Strategy.optimizer_state
    load_optimizer_state_dict = Strategy.load_optimizer_state_dict
    save_checkpoint = Strategy.save_checkpoint
    load_checkpoint = Strategy.load_checkpoint

    def __init__(
        self, process_group_backend: str | None = None, timeout: timedelta | None = default_pg_timeout
    ) -> None:
        super().__init__(process_group_backend=process_group_backend, timeout=timeout)

    def setup_environment(self) -> None:
        """Join the process group. Lightning would make a mesh, with further groups, for each Trainer."""
        self._setup_distributed()

    def setup(self, trainer: pl.Trainer) -> None:
        """Validate without inference mode, whose tensors FSDP could not train with, as Lightning does under FSDP1."""
        for loop in (trainer.validate_loop, trainer.fit_loop.epoch_loop.val_loop):
            loop.inference_mode = False
        super().setup(trainer)

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        """Average the gradients over ranks after the step's last backward pass, before anything reads them."""

        def averaged() -> Any:
            loss = closure()
            _average_gradients(optimizer)
            return loss

        return super().optimizer_step(optimizer, averaged, model, **kwargs)


StrategyRegistry.register(SHARDED, ShardedBaseStrategy, "A frozen base sharded over all ranks by FSDP2.")


def _average_gradients(optimizer: Optimizer) -> None:
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    mean = distributed.sum_(torch.cat([gradient.flatten() for gradient in gradients]) / distributed.world_size())
    for gradient, part in zip(gradients, mean.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def check_strategy(strategy: Strategy) -> None:
    """Refuse strategies that shard or split what must be whole. Raises ConfigError."""
    if isinstance(strategy, SingleDeviceStrategy | DDPStrategy | ShardedBaseStrategy):
        return
    name = type(strategy).__name__
    if isinstance(strategy, ModelParallelStrategy):
        raise ConfigError(
            f"trainer.strategy: {name} leaves it to the model what is split; write {SHARDED}, which shards the base "
            "over all ranks (FSDP2), while tensor parallelism would split the branches too"
        )
    raise ConfigError(
        f"trainer.strategy: {name} splits the model, but boundary work and branches need whole layers; use ddp, "
        f"and where the base does not fit on one GPU {SHARDED}, which shards its blocks, or "
        "model.backbone.load_in_4bit=true"
    )
