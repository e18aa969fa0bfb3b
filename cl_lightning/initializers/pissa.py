"""PiSSA: start at the principal singular directions of W."""

import torch
from torch import Tensor

from cl_lightning.initializers.base import Initializer
from cl_lightning.initializers.directions import balanced_factors
from cl_lightning.linalg.svd import top_singular


class PiSSA(Initializer):
    """Factors whose product is the best rank-r approximation of W = U S V^T; the residual stays frozen.

        A0 = sqrt(S_r / s) V_r^T,   B0 = U_r sqrt(S_r / s),   s B0 A0 = [W]_r

    Source: PiSSA (arXiv 2404.02948), eq. 2 and 3; s in the factors as in PEFT's pissa_init, so that any scaling
    starts at [W]_r. We differ from PEFT: W is never edited (displacement form), so nothing is re-quantised.
    """

    needs = "weight"

    def factors(
        self, weight: Tensor, statistic: None, rank: int, scaling: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """See the base class. ValueError if the rank exceeds min(m, n)."""
        return balanced_factors(*top_singular(weight, rank, generator), scaling)
