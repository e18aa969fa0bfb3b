"""The contract of an initialiser: where the LoRA factors of a new task start.

An initialiser is a pure function of one weight matrix: no Lightning, no model, no I/O. What it needs is
declared, the boundary callback collects it once for all matrices and calls `factors` per matrix.
Shapes: m = d_out, n = d_in, r = rank; W, G: (m, n); A: (r, n); B: (m, r); adapter = scaling * B @ A.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cl_lightning.linalg.low_rank import LowRank

Needs = Literal["none", "weight", "gradients", "inputs"]


class Initializer(ABC):
    """Start factors (A0, B0) of one adapted matrix.

    `needs` says which statistic `factors` gets: "gradients" is dLoss/dW of the new task, or what surgery
    made of it; "inputs" is the uncentred covariance of the layer's inputs; else None.
    """

    needs: ClassVar[Needs] = "none"
    #: Whether B0 A0 is taken off again, so that the start changes no logit. False: the method starts elsewhere.
    displaced: ClassVar[bool] = True
    #: What training moves: A and B, or the (r, r) core R between them that `factors` returns as a third tensor.
    trains: ClassVar[frozenset[str]] = frozenset({"A", "B"})
    #: Singular directions taken from a matrix, in multiples of the rank: 2 rank <= min(m, n) for two-slice starts.
    directions_per_rank: ClassVar[int] = 1
    #: Whether a gradient known by low-rank factors only (a sketch) will do.
    takes_sketch: ClassVar[bool] = False

    @abstractmethod
    def factors(
        self, weight: Tensor, statistic: Tensor | LowRank | None, rank: int, scaling: float, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Compute A0 (r, n), B0 (m, r) and, where the core is trained, R0 (r, r).

        In float32 (float64 for float64 statistics).

        Args:
            weight: (m, n) the frozen base weight, any float dtype; only read.
            statistic: (m, n) gradient, dense or low-rank; (n, n) input covariance; or None, as `needs` declares.
            rank: r.
            scaling: s of the adapter (alpha / r, or alpha / sqrt(r) under rsLoRA).
            generator: CPU generator seeded from (seed, task, matrix); the only source of randomness.

        Raises:
            ValueError: if the rank does not fit the matrix or the statistic is not finite; the caller
                adds the matrix's name.
        """
