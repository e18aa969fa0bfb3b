"""The contracts of gradient surgery operators: pure functions, without names, model or I/O.

A `SurgeryOperator` computes linear coefficients a over {G_new, G_1, .., G_k} from their Gram matrix alone, so it
applies to exact and sketched gradients:

    K_ij = <G_i, G_j>_F  (index 0 = new)   ->   a = operator(K)   ->   G~ = sum_i a_i G_i

A `RangeOperator` works on the matrices themselves.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cl_lightning.common.described import Described
from cl_lightning.linalg.gram import Gradient

Memories = Literal["one", "each"]

#: Relative accuracy of inner products of float64 gradients, in units of the product of the norms.
ROUNDING = 1e-14


class SurgeryOperator(Described, ABC):
    """Linear coefficients of a reconciled gradient.

    `memories` states the memory gradients it is meant for: "one" (the mean of the past tasks' gradients, or the
    last task's), or "each" past task's own. An operator for each also works with a single one.
    """

    memories: ClassVar[Memories] = "one"

    @abstractmethod
    def coefficients(self, gram: Tensor) -> Tensor:
        """Map K (k+1, k+1) float64, index 0 = new, to a (k+1,) float64; (1, 0, .., 0) is no change.

        Without memory (k = 0), with a zero new gradient or with only zero memories there is no change.

        Raises:
            ValueError: if the operator cannot take k memories, or there is no solution.
        """


class RangeOperator(Described, ABC):
    """Removes directions of the memory gradient from the new one, matrix by matrix; not linear in the gradients."""

    memories: ClassVar[Memories] = "one"

    @abstractmethod
    def remove(self, new: Gradient, memory: Gradient) -> Gradient:
        """Return the new gradient (m, n) without these directions, dense or low-rank as `new`; `new` itself if none.

        Raises:
            ValueError: if the operator does not fit the shape.
        """


def no_surgery(like: Tensor) -> Tensor:
    """Make the coefficients of no change: (1, 0, .., 0), float64, as long as `like`."""
    out = torch.zeros(len(like), dtype=torch.float64)
    out[0] = 1
    return out


def refuse_several(operator: SurgeryOperator, gram: Tensor) -> None:
    """Check that there is at most one memory gradient.

    Raises:
        ValueError: for more than one.
    """
    if len(gram) > 2:
        raise ValueError(f"{type(operator).__name__} takes one memory gradient, not {len(gram) - 1}: use their mean")
