"""What a pass over batches adds up for one matrix, G = sum over batches of dy^T x, without keeping the batches.

Products are taken in the tensors' dtype, sums in float32 or wider.
Shapes: dy (N, m), x (N, n), G (m, n), N tokens of one call of the layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cl_lightning.linalg.low_rank import LowRank


class Exact:
    """G itself. With `against`, also each batch's inner products with those gradients, from the same product."""

    def __init__(
        self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device, against: Sequence[Tensor] = ()
    ) -> None:
        self.total = torch.zeros(shape, dtype=dtype, device=device)
        self.against = against
        self.products = torch.zeros(len(against), dtype=torch.float64, device=device)

    def add(self, dy: Tensor, x: Tensor) -> None:
        # Formed apart, not accumulated inside the kernel: see `add_outer_`.
        product = dy.t() @ x
        self.total.add_(product)
        for j, gradient in enumerate(self.against):
            self.products[j] += torch.sum(product * gradient, dtype=torch.float64)

    def tensors(self) -> list[Tensor]:
        """What is summed over ranks."""
        return [self.total]


def inner_product(dy: Tensor, x: Tensor, gradient: Tensor | LowRank) -> Tensor:
    """<dy^T x, gradient>, a float64 scalar, without forming dy^T x.

    Low-rank: sum of (dy L) o (x R), cost 2N k(m + n). Dense: sum of dy o (x G^T), cost 2N mn.
    """
    if isinstance(gradient, LowRank):
        return torch.sum((dy @ gradient.left.to(dy.dtype)) * (x @ gradient.right.to(x.dtype)), dtype=torch.float64)
    return torch.sum(dy * (x @ gradient.t().to(x.dtype)), dtype=torch.float64)


def add_outer_(total: Tensor, dy: Tensor, x: Tensor) -> None:
    """total += dy^T x: the product in the tensors' dtype, the sum in `total`'s.

    Shapes: total (m, n); dy (N, m); x (N, n). The product is formed on its own, not accumulated inside the
    kernel, so that a batch adds the same bits whatever was summed before it (and on whichever rank).
    """
    total.add_(dy.t() @ x)
