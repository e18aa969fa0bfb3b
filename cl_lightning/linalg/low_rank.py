"""A gradient given by its factors, G = left right^T, and never formed. Shapes: G (m, n), left (m, k), right (n, k)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """A low-rank gradient, as a sketch recovers it.

    Attributes:
        left: (m, k).
        right: (n, k).
        captured: estimated share of ||G||_F^2 in `left right^T`, 0..1; 1 if it is exact.
    """

    left: Tensor
    right: Tensor
    captured: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (m, n) of G."""
        return self.left.shape[0], self.right.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.left.dtype

    @property
    def device(self) -> torch.device:
        return self.left.device

    def dense(self) -> Tensor:
        """Form G: for tests and small matrices."""
        return self.left @ self.right.t()
