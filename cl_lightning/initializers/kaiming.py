"""Kaiming: the start of plain LoRA, random and zero."""

import math

import torch
from torch import Tensor

from cl_lightning.initializers.base import Initializer, check_rank


class Kaiming(Initializer):
    """A0 Kaiming-uniform with a = sqrt(5), that is U(-1/sqrt(n), 1/sqrt(n)); B0 = 0, so B0 A0 = 0.

    Source: LoRA (Hu et al. 2021, arXiv 2106.09685). Section 4.1 has a Gaussian A; the uniform A used here is that of
    their code (microsoft/LoRA) and of PEFT.
    """

    needs = "none"

    def factors(
        self, weight: Tensor, statistic: Tensor | None, rank: int, scaling: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """See the base class. Float32 on the weight's device.

        Raises:
            ValueError: if the rank exceeds min(m, n).
        """
        check_rank(weight, rank)
        m, n = weight.shape
        bound = 1 / math.sqrt(n)
        A = torch.empty(rank, n, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
        return A.to(weight.device), torch.zeros(m, rank, dtype=torch.float32, device=weight.device)
