"""Accumulators of a streamed gradient G = sum of dy^T x. Shapes: dy (N, m), x (N, n), G (m, n)."""

import torch
from torch import Tensor

from cl_lightning.arithmetic import add_outer_


class Exact:
    """G itself, in `dtype`."""

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        self.total = torch.zeros(shape, dtype=dtype, device=device)

    def add(self, dy: Tensor, x: Tensor) -> None:
        add_outer_(self.total, dy, x)

    def tensors(self) -> list[Tensor]:
        """What is summed over ranks."""
        return [self.total]
