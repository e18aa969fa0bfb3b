"""SLICE: start from the singular directions of a gradient that was reconciled with the earlier tasks."""

import torch
from torch import Tensor

from cl_lightning.common.errors import ConfigError, nearest
from cl_lightning.initializers.base import Initializer
from cl_lightning.initializers.directions import (
    DIRECTIONS,
    Directions,
    Variance,
    unit_factors,
    variance_scale,
)


class SLICE(Initializer):
    """A0, B0 from the top 2r singular directions of the reconciled gradient G~ = U S V^T, scaled to W.

        A0 = beta V[:, :r]^T,  B0 = beta U[:, r:2r]
        beta^4 = rho Var(W) / Var(U[:, r:2r] V[:, :r]^T),  rho = ln r / ln min(m, n)

    Surgery, G_new, G_memory -> G~, is done by the boundary callback (`surgery.reconcile`); where it changes nothing,
    the directions are LoRA-GA's. Training then steps on G_new, not on G~: the first SGD step is

        -eta s^2 beta^2 (U_B U_B^T G_new + G_new V_A V_A^T)

    which is -eta s^2 beta^2 [G~]_2r only where surgery did not fire. Surgery rotates the subspace; it does not
    exclude G_new's conflicting part from it. The scaling s is not in beta: ||s B0 A0|| = s sqrt(rho) ||W||.

    Args:
        directions: how the 2r directions are split, see `initializers.directions.split_directions`.
        variance: "uncentred" or "centred", see `initializers.directions.variance_scale`.

    Raises:
        ConfigError: for an unknown name.

    Source: SLICE (arXiv 2605.12752) and its code (RamiroNB/slice, cl_lora/slice/decompose.py); the scale is
    LoRAM's (arXiv 2507.06558). We differ from the code: the default is LoRA-GA's ArB2r (theirs: A2rBr, same
    first step); signs of the singular vectors are fixed and the variance is uncentred (theirs is centred, so
    beta changes by up to 2.5e-3 with the arbitrary signs); factors stay float32; their top-r/top-r selection, whose
    first step has rank r only, is left out. Rank 1 has rank 2's rho in both.
    """

    needs = "gradients"
    directions_per_rank = 2
    takes_sketch = True

    def __init__(self, directions: Directions = "ArB2r", variance: Variance = "uncentred") -> None:
        if directions not in DIRECTIONS:
            raise ConfigError(f"SLICE directions {directions!r}: {nearest(str(directions), DIRECTIONS)}")
        self.directions, self.variance = directions, variance

    def factors(
        self, weight: Tensor, statistic: Tensor | None, rank: int, scaling: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """See the base class; `statistic` is the reconciled gradient.

        Raises:
            ValueError: as `unit_factors` and `variance_scale`.
        """
        A, B = unit_factors(statistic, weight, rank, self.directions, generator)
        beta = variance_scale(A, B, weight, rank, self.variance)
        return beta * A, beta * B
