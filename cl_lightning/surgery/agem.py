"""A-GEM: PCGrad against the mean of the memories."""

import torch
from torch import Tensor

from cl_lightning.surgery.base import ROUNDING, SurgeryOperator, no_surgery


class AGEM(SurgeryOperator):
    """Project the new gradient so that it does not oppose the mean of the memory gradients.

        g_m = (1/k) sum_j g_j
        g~  = g - min(0, <g, g_m>) / ||g_m||^2 g_m

    Protects the mean only: single past tasks may still be opposed (`GEM` protects each). With one memory, or
    their mean, it is PCGrad; with one memory per past task it forms the mean itself. Memories that cancel out change
    nothing.

    Source: Chaudhry et al. 2019 (arXiv 1812.00420), eq. 11. The SLICE authors' code averages the
    past tasks' gradients before its PCGrad, with 1e-12 added to ||g_m||^2.
    """

    def coefficients(self, gram: Tensor) -> Tensor:
        """See the base class."""
        out = no_surgery(gram)
        inner, memories = gram[0, 1:], gram[1:, 1:]
        against, size = inner.sum(), memories.sum()  # k <g, g_m> and k^2 ||g_m||^2
        if against < 0 and size > ROUNDING * memories.diagonal().sqrt().sum() ** 2:
            out[1:] = torch.full_like(inner, float(-against / size))
        return out
