"""LoRA-SB: train an r x r core between frozen singular directions of the first step of full fine-tuning."""

import torch
from torch import Tensor

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite
from cl_lightning.initializers.base import Initializer
from cl_lightning.initializers.directions import check_gradient
from cl_lightning.linalg.svd import top_singular


class LoRASB(Initializer):
    """W0 + s B R A with only R (r, r) trained, started at the first AdamW step of full fine-tuning, -eta sign(G).

        -eta sign(G) = U S V^T,   A0 = V_r^T,   B0 = U_r,   R0 = diag(S_r) / s,   s B0 R0 A0 = [-eta sign(G)]_r

    The start is not subtracted: logits change by that step. sign(G) needs G itself, not a sketch.

    Args:
        step: eta.

    Raises:
        ConfigError: for step <= 0.

    Source: LoRA-SB (arXiv 2411.19557), eq. 7-10, and CERT-Lab/lora-sb (utils/gradient_utils.py,
    initialization_utils.py). We differ: the gradient is the token mean over all samples, float32, taken once.
    """

    needs = "gradients"
    displaced = False
    trains = frozenset({"R"})

    def __init__(self, step: Finite = 1e-4) -> None:
        if not step > 0:
            raise ConfigError(f"LoRASB step must be positive, not {step}")
        self.step = step

    def factors(
        self, weight: Tensor, statistic: Tensor | None, rank: int, scaling: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See the base class; `statistic` is the gradient, dense. ValueError as `check_gradient`, `top_singular`."""
        check_gradient(statistic, weight)
        U, S, V = top_singular(-self.step * statistic.sign(), rank, generator)
        return V.t().contiguous(), U.contiguous(), torch.diag(S / scaling)
