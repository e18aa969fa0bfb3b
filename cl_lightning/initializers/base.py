"""The contract of an initialiser of a new task's LoRA factors.

An initialiser is a pure function of one weight matrix, without Lightning, model or I/O. It declares the statistic it
needs; the boundary callback collects it once for all matrices and calls `factors` for each matrix.
Shapes: m = d_out, n = d_in, r = rank; W, G: (m, n); A: (r, n); B: (m, r); adapter = scaling * B @ A.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cl_lightning.common.described import Described
from cl_lightning.linalg.low_rank import LowRank

Needs = Literal["none", "weight", "gradients", "inputs"]


class Initializer(Described, ABC):
    """Start factors (A0, B0) of one adapted matrix.

    `needs` states the statistic that `factors` gets: "gradients" is dLoss/dW of the new task, reconciled if surgery
    is on; "inputs" is the uncentred covariance of the layer's inputs; else None.
    """

    needs: ClassVar[Needs] = "none"
    #: B0 A0 is subtracted again, so that the start does not change the logits. False: it changes them.
    displaced: ClassVar[bool] = True
    #: The trained factors: A and B, or the (r, r) core R between them, which `factors` returns as a third tensor.
    trains: ClassVar[frozenset[str]] = frozenset({"A", "B"})
    #: Singular directions used per rank: 2 where A and B start at different ones, which needs 2 rank <= min(m, n).
    directions_per_rank: ClassVar[int] = 1
    #: A low-rank gradient (a sketch) is sufficient.
    takes_sketch: ClassVar[bool] = False

    @abstractmethod
    def factors(
        self, weight: Tensor, statistic: Tensor | LowRank | None, rank: int, scaling: float, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Compute A0 (r, n), B0 (m, r) and, where the core is trained, R0 (r, r).

        They are float32 (float64 for float64 statistics).

        Args:
            weight: (m, n) the frozen base weight, any float dtype; not modified.
            statistic: (m, n) gradient, dense or low-rank; (n, n) input covariance; or None, as `needs` declares.
            rank: r.
            scaling: s of the adapter (alpha / r, or alpha / sqrt(r) under rsLoRA).
            generator: CPU generator seeded from (seed, task, matrix); the only source of randomness.

        Raises:
            ValueError: if the rank does not fit the matrix or the statistic is not finite; the caller
                adds the matrix's name.
        """


def check_rank(weight: Tensor, rank: int) -> None:
    """Raise ValueError if `rank` is not in 1..min(m, n) of `weight` (m, n)."""
    m, n = weight.shape
    if not 1 <= rank <= min(m, n):
        raise ValueError(f"rank {rank} does not fit a {m} x {n} matrix; use 1 to {min(m, n)}")
