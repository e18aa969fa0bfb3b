"""Range removal: the memory gradient's leading singular directions are removed from the new gradient."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from cl_lightning.common.errors import ConfigError, nearest
from cl_lightning.common.numbers import Integer
from cl_lightning.common.seeding import generator
from cl_lightning.linalg.gram import Gradient
from cl_lightning.linalg.low_rank import LowRank
from cl_lightning.linalg.svd import top_singular
from cl_lightning.surgery.base import RangeOperator

Sides = Literal["left", "right", "both"]

# Removal of left and of right singular directions.
SIDES: dict[str, tuple[bool, bool]] = {"left": (True, False), "right": (False, True), "both": (True, True)}


class RangeRemoval(RangeOperator):
    """Project the new gradient onto the complement of the memory gradient's top k singular directions.

        G_memory = U S V^T,  P = U_k U_k^T,  Q = V_k V_k^T
        "left":  G~ = (I - P) G_new        "right": G~ = G_new (I - Q)        "both":  G~ = (I - P) G_new (I - Q)

    It always changes the gradient: agreement is removed as well as conflict. Only directions with a singular value
    above rounding count: a zero memory gradient removes nothing, one of rank below k only its range.

    Args:
        count: k, below min(m, n) of every matrix.
        sides: which directions are removed.

    Raises:
        ConfigError: for a count below 1 or unknown sides.

    Source: null-space and gradient projection (Adam-NSCL, arXiv 2103.07113; GPM, arXiv 2103.09762), here with the
    memory gradient in place of activations, as in `nullspace` of the SLICE authors' code
    (cl_lora/slice/projections.py; left side only, 8 directions). Where we differ: theirs removes an arbitrary
    k-dimensional space for a zero memory gradient, and everything for k >= m; here a zero memory gradient removes
    nothing and k >= min(m, n) is refused. Their relative cut-off of singular values is left out.
    """

    def __init__(self, count: Integer = 8, sides: Sides = "both") -> None:
        if count < 1:
            raise ConfigError(f"RangeRemoval count: {count} must be 1 or more")
        if sides not in SIDES:
            raise ConfigError(f"RangeRemoval sides {sides!r}: {nearest(str(sides), SIDES)}")
        self.count, self.sides = count, sides

    def remove(self, new: Gradient, memory: Gradient) -> Gradient:
        """See the base class; ValueError if k >= min(m, n). Dense results are float32 or wider."""
        if self.count >= min(new.shape):
            m, n = new.shape
            raise ValueError(f"RangeRemoval of {self.count} directions would leave nothing of a {m} x {n} gradient")
        U, V = leading_directions(memory, self.count)
        if U.shape[1] == 0:
            return new
        left, right = SIDES[self.sides]
        if isinstance(new, LowRank):
            return replace(
                new,
                left=_without(new.left, U) if left else new.left,
                right=_without(new.right, V) if right else new.right,
            )
        G = _without(new, U) if left else new
        return _without(G.t(), V).t() if right else G


def leading_directions(gradient: Gradient, count: int) -> tuple[Tensor, Tensor]:
    """Compute orthonormal U (m, j) and V (n, j) of the j <= count largest singular values that exceed rounding."""
    if isinstance(gradient, LowRank):
        count = min(count, gradient.left.shape[1])
    U, sigma, V = top_singular(gradient, count, generator("range removal"))
    rounding = sigma[:1] * max(gradient.shape) * torch.finfo(sigma.dtype).eps
    known = sigma > rounding
    return U[:, known], V[:, known]


def _without(x: Tensor, directions: Tensor) -> Tensor:
    """Compute (I - D D^T) x, columns of D orthonormal."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    D = directions.to(x.dtype)
    return x - D @ (D.t() @ x)
