"""EVA: start A at the directions in which the layer's inputs vary most."""

import torch
from torch import Tensor

from cl_lightning.initializers.base import Initializer
from cl_lightning.initializers.directions import check_moments


class EVA(Initializer):
    """A0 = the top r right singular vectors of the inputs X (N, n), that is of C = X^T X / N; B0 = 0.

    Rows have norm 1; no other rank-r projection keeps more of the inputs' energy.

    Source: EVA (arXiv 2410.07170), section 3. We differ: C is summed exactly over the given samples, while the paper
    updates an incremental SVD until it converges, and every layer has the same rank: their redistribution of ranks by
    explained variance (rho > 1) is left out.
    """

    needs = "inputs"

    def factors(
        self, weight: Tensor, statistic: Tensor | None, rank: int, scaling: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """See the base class; `statistic` is C (n, n).

        Raises:
            ValueError: if C is absent, not finite or zero, or the rank exceeds n.
        """
        C = check_moments(statistic, weight, rank)
        V = torch.linalg.eigh(C).eigenvectors.flip(1)[:, :rank]
        V = V * V.gather(0, V.abs().argmax(0, keepdim=True)).sign()
        dtype = torch.promote_types(statistic.dtype, torch.float32)
        return V.t().contiguous().to(dtype), torch.zeros(len(weight), rank, dtype=dtype, device=weight.device)
