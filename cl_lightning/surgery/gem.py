"""GEM: the nearest gradient that does not oppose any past task."""

import torch
from torch import Tensor

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite
from cl_lightning.surgery.base import SurgeryOperator, no_surgery
from cl_lightning.surgery.nonnegative import nonnegative_least_squares

FARTHEST = 1e-9  # 1 / (1 + ||z - g||^2 / ||g||^2) below which there is no solution


class GEM(SurgeryOperator):
    """Move the new gradient by the least correction that makes it agree with every memory gradient.

        z = argmin 1/2 ||z - g||^2   subject to   <z, g_j> >= margin ||g|| ||g_j||   for all j

    By duality z = g + sum_j v_j g_j with v >= 0 from the k x k Gram matrix alone, v_j = 0 where <z, g_j> is above
    its bound. With one memory and margin 0 it is PCGrad. Zero memories give no constraint; how collinear ones share
    their v is arbitrary.

    Args:
        margin: 0..1, a cosine (with the gradient's original length); above 0 past tasks also improve.

    Raises:
        ConfigError: for a margin out of range.

    Solved as a least distance problem (Lawson and Hanson 1974, chapter 23) on gradients scaled to length 1.
    Constraints hold, and v_j times slack vanishes, to 1e-10 of ||g|| ||g_j|| unless memories oppose each other to
    within 1e-6 of collinear.

    Source: Lopez-Paz and Ranzato 2017 (arXiv 1706.08840), eq. 8 and 11. Their code adds its margin to v, which
    favours long memory gradients; here it is a bound on the constraint. The SLICE authors' code has no GEM.
    """

    memories = "each"

    def __init__(self, margin: Finite = 0.0) -> None:
        if not 0 <= margin < 1:
            raise ConfigError(f"GEM margin: {margin} must be at least 0 and below 1")
        self.margin = margin

    def coefficients(self, gram: Tensor) -> Tensor:
        """See the base class; ValueError if the memories oppose each other too much to keep the margin."""
        out = no_surgery(gram)
        length = gram.diagonal().sqrt()
        present = (length > 0).nonzero()[1:, 0] if length[0] > 0 else length.new_zeros(0, dtype=torch.long)
        unit = length[present]
        missing = self.margin - gram[0, present] / (length[0] * unit)  # of each constraint, at z = g
        if not (missing > 0).any():
            return out
        # Nearest x with <x, g_j> >= missing_j: least squares of E u = (0, .., 0, 1), E = (g_j, missing_j)_j.
        pairs = gram[present][:, present] / unit / unit[:, None]
        u = nonnegative_least_squares(pairs + missing[:, None] * missing, missing)
        rest = 1 - u @ missing
        if rest <= FARTHEST:
            raise ValueError(f"GEM: the memories oppose each other, no gradient keeps a margin of {self.margin}")
        out[present] = u / rest * length[0] / unit
        return out
