"""Bytes of a base that the ranks share, by formula: the rehearsal's base is whole."""

from torch import nn

from cl_lightning.model.module import ContinualLM
from cl_lightning.model.sharding import blocks

#: Blocks that are gathered at once: the one that runs, and in a backward pass the next.
GATHERED = 2


def saved_by_sharding(module: ContinualLM, ranks: int) -> int:
    """Return how many bytes less than the whole base a rank holds at its peak; below 0 for a base of few blocks."""
    sizes = [_bytes(block) for block in blocks(module.llm.base_model)]
    return sum(sizes) - sum(sizes) // ranks - sum(sorted(sizes)[-GATHERED:])


def _bytes(block: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in block.parameters())
