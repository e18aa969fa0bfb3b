"""Accumulators: sums over a pass for one matrix, without keeping the batches.

A matrix's gradient is G = sum over calls of dy^T x. Outer products dy^T x are formed in the tensors' dtype, sums are
kept in float32 or wider.
Shapes: dy (N, m), x (N, n), G (m, n), N tokens of one call of the layer.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from cl_lightning.common import distributed
from cl_lightning.linalg.gram import Gradient
from cl_lightning.linalg.low_rank import LowRank


class Accumulator(Protocol):
    """Adds up a statistic over the calls of one layer."""

    def add(self, dy: Tensor, x: Tensor) -> None:
        """Add one call: the gradient dy (N, m) of the layer's output and its input x (N, n)."""


class InnerProducts:
    """Inner products of one matrix's gradient with `others`, batch by batch; the gradient is not formed.

    Attributes:
        batches: of each finished batch, (others,) float64 on `device`: a copy to the CPU for each layer and batch would
            wait for the GPU each time.
    """

    def __init__(self, others: Sequence[Gradient], device: torch.device) -> None:
        self.others = others
        self.batches: list[Tensor] = []
        self._batch = torch.zeros(len(others), dtype=torch.float64, device=device)

    def add(self, dy: Tensor, x: Tensor) -> None:
        """Add one call."""
        for j, other in enumerate(self.others):
            self._batch[j] += inner_product(dy, x, other)

    def add_formed(self, outer: Tensor) -> None:
        """Add one call whose outer product dy^T x (m, n) is there already. `others` must be dense."""
        for j, other in enumerate(self.others):
            self._batch[j] += torch.sum(outer * other, dtype=torch.float64)

    def end_batch(self) -> None:
        """Close the current batch."""
        self.batches.append(self._batch)
        self._batch = torch.zeros_like(self._batch)


def gather_batches(inner: Mapping[str, InnerProducts]) -> dict[str, Tensor]:
    """Collect the inner products of all ranks' batches: name -> (batches, others) float64 on the CPU."""
    mine = {name: [batch.cpu() for batch in one.batches] for name, one in inner.items()}
    ranks = distributed.gather(mine)
    return {name: torch.stack([batch for rank in ranks for batch in rank[name]]) for name in mine}


class Exact:
    """G itself, as `total`. With `against`, also `inner`: inner products with these dense gradients."""

    def __init__(
        self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device, against: Sequence[Tensor] = ()
    ) -> None:
        self.total = torch.zeros(shape, dtype=dtype, device=device)
        self.inner = InnerProducts(against, device)

    def add(self, dy: Tensor, x: Tensor) -> None:
        """Add one call."""
        # Formed separately, not accumulated inside the kernel: see `add_outer_`.
        outer = dy.t() @ x
        self.total.add_(outer)
        self.inner.add_formed(outer)


class Together:
    """Hands every call to several accumulators."""

    def __init__(self, *accumulators: Accumulator) -> None:
        self.accumulators = accumulators

    def add(self, dy: Tensor, x: Tensor) -> None:
        """Add one call."""
        for accumulator in self.accumulators:
            accumulator.add(dy, x)


def inner_product(dy: Tensor, x: Tensor, gradient: Gradient) -> Tensor:
    """Compute <dy^T x, gradient>, a float64 scalar, without forming dy^T x.

    Low-rank: sum of (dy L) o (x R), cost 2N k(m + n). Dense: sum of dy o (x G^T), cost 2N mn.
    """
    if isinstance(gradient, LowRank):
        return torch.sum((dy @ gradient.left.to(dy.dtype)) * (x @ gradient.right.to(x.dtype)), dtype=torch.float64)
    return torch.sum(dy * (x @ gradient.t().to(x.dtype)), dtype=torch.float64)


def add_outer_(total: Tensor, dy: Tensor, x: Tensor) -> None:
    """Add dy^T x to `total`: the outer product in the tensors' dtype, the sum in `total`'s.

    Shapes: total (m, n); dy (N, m); x (N, n). The outer product is formed separately, not accumulated inside the
    kernel, so that a batch adds the same bits on any rank and after any other batches.
    """
    total.add_(dy.t() @ x)
