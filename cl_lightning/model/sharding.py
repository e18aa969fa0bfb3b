"""A base that is sharded over the ranks by FSDP2: each rank holds its rows of every block's weights.

A block's weights are gathered on all ranks whenever it runs, forward or backward, and given up again. Embeddings, the
last norm, the head and the adapters stay whole. Gathering is a collective, so ranks whose shares of the work need
different numbers of passes must be kept `in_step`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import Strategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from cl_lightning.adapters.linear import AdaptedLinear
from cl_lightning.common import distributed
from cl_lightning.common.errors import ConfigError
from cl_lightning.model.strategies import SHARDED, ShardedBaseStrategy

#: What a rank tells the others before a forward pass: the largest counts.
DONE, FORWARD, BACKWARD = range(3)


def is_sharded(llm: PreTrainedModel) -> bool:
    """Return whether the base is sharded over ranks."""
    return isinstance(llm.base_model, FSDPModule)


def check_sharding(module: LightningModule, strategy: Strategy) -> None:
    """Check that the base can be sharded if `strategy` does so. Call it before there are branches.

    Raises:
        ConfigError: it cannot.
    """
    if not isinstance(strategy, ShardedBaseStrategy):
        return
    if module.backbone.load_in_4bit:
        raise ConfigError(
            f"trainer.strategy: {SHARDED} cannot shard a base in 4 bits, whose packed weights lose their scales when "
            "FSDP2 divides them; use ddp, or model.backbone.load_in_4bit=false"
        )
    if not _runs_in_order(module.llm):
        raise ConfigError(
            f"trainer.strategy: {SHARDED} needs a decoder whose blocks each run once, in order, since ranks gather "
            f"them together; those of {module.backbone.name} do not; use ddp"
        )


@torch.no_grad()
def _runs_in_order(llm: PreTrainedModel) -> bool:
    """Return whether each block of the model runs once in a pass, in the order in which they are held."""
    in_order, ran = blocks(llm.base_model), list[nn.Module]()
    if llm.config.is_encoder_decoder or llm.base_model is llm or not in_order:
        return False
    hooks = [block.register_forward_pre_hook(lambda block, _: ran.append(block)) for block in in_order]
    try:
        llm.base_model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=llm.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return ran == in_order


def place(module: LightningModule, strategy: Strategy) -> None:
    """Move a model to its Trainer's device; shard its base, once, where the Trainer's strategy says so."""
    if isinstance(strategy, ShardedBaseStrategy) and not is_sharded(module.llm):
        shard(module.llm, strategy.root_device)
    module.to(strategy.root_device)


def shard(llm: PreTrainedModel, device: torch.device) -> None:
    """Shard the blocks' weights over all ranks, moving one block after the other to `device`."""
    root, mesh = llm.base_model, init_device_mesh(device.type, (distributed.world_size(),))
    adapted = (module for module in root.modules() if isinstance(module, AdaptedLinear))
    own = {parameter for layer in adapted for parameter in layer.parameters(recurse=False)}
    in_order = blocks(root)
    for block in in_order:
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=own)
    # By default FSDP gathers ahead in the order of all earlier passes, which may differ between ranks.
    for before, block in zip([in_order[0], *in_order], in_order, strict=False):
        block.set_modules_to_backward_prefetch([before])
    # It shards nothing itself: it lets the blocks share their buffers.
    fully_shard(root, mesh=mesh, ignored_params=set(root.parameters()))
    fully_shard.state(root)._lazy_init()  # else by the first pass, which a rank without work does not have


def blocks(root: nn.Module) -> list[nn.Module]:
    """Return the outermost layers of a model's stack, in order."""
    found: dict[str, nn.Module] = {}
    for name, module in root.named_modules():
        if isinstance(module, GradientCheckpointingLayer) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return list(found.values())


@contextmanager
def in_step(llm: PreTrainedModel) -> Iterator[None]:
    """Let ranks run different numbers of passes inside; no other collective may be called there.

    A rank that has finished its own takes part in what the others' passes gather, until all have finished. A pass with
    gradients must be followed by its backward pass. Does nothing if the base is not sharded.
    """
    if not is_sharded(llm):
        yield
        return
    root = llm.base_model

    def tell(*_: Any) -> None:
        _turn(llm, BACKWARD if torch.is_grad_enabled() else FORWARD)

    hook = root.register_forward_pre_hook(tell)
    try:
        yield
    finally:
        hook.remove()
    in_order = blocks(root)
    while (turn := int(_turn(llm, DONE))) != DONE:
        for block in in_order if turn == FORWARD else [*in_order, *reversed(in_order)]:
            block.unshard()
            block.reshard()


def _turn(llm: PreTrainedModel, mine: int) -> torch.Tensor:
    """Tell all ranks what this one does next. Returns what any of them does."""
    turn = torch.tensor(mine, device=llm.device)
    dist.all_reduce(turn, dist.ReduceOp.MAX)
    return turn
