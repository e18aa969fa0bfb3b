"""The contracts of gradient surgery: pure functions of one decision, no names, no model, no I/O.

A `SurgeryOperator` answers with linear coefficients a over {G_new, G_1, .., G_k}, read from their Gram matrix
alone, so that exact and sketched gradients share it:

    K_ij = <G_i, G_j>_F  (index 0 = new)   ->   a = operator(K)   ->   G~ = sum_i a_i G_i

A `RangeOperator` works on the matrices themselves.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cl_lightning.linalg.gram import Gradient

Memories = Literal["one", "each"]

#: Inner products of float64 gradients are not known better than this times the product of the norms.
ROUNDING = 1e-14


class SurgeryOperator(ABC):
    """Linear coefficients of a reconciled gradient.

    `memories` says which memory gradients it is meant for: "one" (the mean of the past tasks', or the last), or
    "each" past task's own. An operator for each also works with a single one.
    """

    memories: ClassVar[Memories] = "one"

    @abstractmethod
    def coefficients(self, gram: Tensor) -> Tensor:
        """Map K (k+1, k+1) float64, index 0 = new, to a (k+1,) float64; (1, 0, .., 0) is no change.

        No memory (k = 0), a zero new gradient or only zero memories: no change.

        Raises:
            ValueError: if the operator takes no k memories, or there is no answer.
        """


class RangeOperator(ABC):
    """Takes directions of the memory gradient out of the new one, matrix by matrix: not linear in the gradients."""

    memories: ClassVar[Memories] = "one"

    @abstractmethod
    def remove(self, new: Gradient, memory: Gradient) -> Gradient:
        """Return the new gradient (m, n) without them, dense or low-rank as `new` is; `new` itself if there are none.

        Raises:
            ValueError: if the operator does not fit the shape.
        """


def no_surgery(like: Tensor) -> Tensor:
    """(1, 0, .., 0), float64, as long as `like`."""
    out = torch.zeros(len(like), dtype=torch.float64)
    out[0] = 1
    return out


def refuse_several(operator: SurgeryOperator, gram: Tensor) -> None:
    """For operators over one memory gradient.

    Raises:
        ValueError: for more than one.
    """
    if len(gram) > 2:
        raise ValueError(f"{type(operator).__name__} takes one memory gradient, not {len(gram) - 1}: use their mean")
