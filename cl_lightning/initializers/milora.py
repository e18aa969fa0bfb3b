"""MiLoRA: start at the minor singular directions of W."""

import torch
from torch import Tensor

from cl_lightning.initializers.base import Initializer
from cl_lightning.initializers.directions import balanced_factors
from cl_lightning.linalg.svd import all_singular


class MiLoRA(Initializer):
    """Factors whose product is the part of W = U S V^T in its r smallest singular directions; the rest stays frozen.

        A0 = sqrt(S_-r / s) V_-r^T,   B0 = U_-r sqrt(S_-r / s),   s B0 A0 = W - [W]_(min(m, n) - r)

    Needs a full SVD: randomised ones find large directions only.

    Source: MiLoRA (arXiv 2406.09044), section 3. We differ: s in the factors (as for PiSSA), and W is not edited.
    """

    needs = "weight"

    def factors(
        self, weight: Tensor, statistic: None, rank: int, scaling: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """See the base class. ValueError if the rank exceeds min(m, n)."""
        U, S, V = all_singular(weight, rank)
        return balanced_factors(U[:, -rank:], S[-rank:], V[:, -rank:], scaling)
