"""LoRAM: a deterministic sine basis at the scale of W."""

import math

import torch
from torch import Tensor

from cl_lightning.initializers.base import Initializer, check_rank
from cl_lightning.initializers.directions import Variance, variance_scale


class LoRAM(Initializer):
    """A0, B0 orthogonal rows and columns of the type-I discrete sine transform, scaled to W.

        A0[k, i] = beta sqrt(2 / (n + 1)) sin((i + 1)(k + 1) pi / (n + 1)),   B0 likewise with m, transposed
        beta^4 = rho Var(W) / Var(B A),   rho = ln r / ln min(m, n)

    so that Var(B0 A0) = rho Var(W): the magnitude to which spectral starts owe their gains, without an SVD.

    Args:
        variance: "uncentred" or "centred", see `initializers.directions.variance_scale`.

    Raises:
        ConfigError: for an unknown name.

    Source: LoRAM (arXiv 2507.06558), in the form of the SLICE authors' code (cl_lora/slice/decompose.py), whose Var is
    "centred". We differ by default: low sines do not average to 0, so centring makes Var(B A) smaller and the
    factors larger, by a third at rank 1, 3 % at rank 8, 1.6 % at 16 and 0.4 % at 64 (W of mean 0); ||s B0 A0|| is then
    above s sqrt(rho) ||W||.
    """

    needs = "weight"

    def __init__(self, variance: Variance = "uncentred") -> None:
        self.variance = variance

    def factors(
        self, weight: Tensor, statistic: None, rank: int, scaling: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """See the base class.

        Raises:
            ValueError: if rank exceeds min(m, n), or W is zero.
        """
        check_rank(weight, rank)
        m, n = weight.shape
        dtype = torch.promote_types(weight.dtype, torch.float32)
        A, B = (_sines(size, rank).to(weight.device, dtype) for size in (n, m))
        beta = variance_scale(A.t(), B, weight, rank, self.variance)
        return (beta * A).t().contiguous(), beta * B


def _sines(size: int, count: int) -> Tensor:
    """Make orthonormal sines of the lowest frequencies as columns (size, count), in float64."""
    i = torch.arange(1, size + 1, dtype=torch.float64)[:, None]
    k = torch.arange(1, count + 1, dtype=torch.float64)
    return math.sqrt(2 / (size + 1)) * torch.sin(i * k * (math.pi / (size + 1)))
