"""LoRA-One: start one small step along the negative gradient, in its best rank-r approximation."""

import torch
from torch import Tensor

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite
from cl_lightning.initializers.base import Initializer
from cl_lightning.initializers.directions import check_gradient
from cl_lightning.linalg.low_rank import LowRank
from cl_lightning.linalg.svd import top_singular


class LoRAOne(Initializer):
    """Balanced factors of the normalised negative gradient, G = U S V^T; not subtracted, so logits change.

        A0 = sqrt(S_r / (gamma sigma_1)) V_r^T,   B0 = -U_r sqrt(S_r / (gamma sigma_1))
        W0 + s B0 A0 = W0 - (s / gamma) [G]_r / sigma_1

    Args:
        gamma: inverse step size.

    Raises:
        ConfigError: for gamma <= 0.

    Source: LoRA-One (arXiv 2502.01235), algorithm 1, as in YuanheZ/LoRA-One (run_exp.py, gamma 128 or 64 under
    rsLoRA). We differ: exact or own randomised SVD instead of svd_lowrank(q=512, niter=16); their preconditioned
    optimiser is left out.
    """

    needs = "gradients"
    displaced = False
    takes_sketch = True

    def __init__(self, gamma: Finite = 128.0) -> None:
        if not gamma > 0:
            raise ConfigError(f"LoRAOne gamma must be positive, not {gamma}")
        self.gamma = gamma

    def factors(
        self, weight: Tensor, statistic: Tensor | LowRank | None, rank: int, scaling: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """See the base class; `statistic` is the gradient. ValueError as `check_gradient` and `top_singular`."""
        check_gradient(statistic, weight)
        U, S, V = top_singular(statistic, rank, generator)
        root = (S / (self.gamma * S[0])).sqrt()
        return (V * root).t().contiguous(), -U * root
