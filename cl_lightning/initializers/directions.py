"""Shared parts of the spectral initialisers: singular directions of a gradient, their split into factors, scales.

Shapes: m = d_out, n = d_in, r = rank; G, W: (m, n); U: (m, k); S: (k,); V: (n, k); A: (r, n); B: (m, r).

Why 2r directions: one SGD step (rate eta) on A, B changes the adapter s B A by

    -eta s^2 (B B^T G + G A^T A) + O(eta^2),

which is -eta s^2 zeta^2 [G]_2r, the best rank-2r part of the full step, whenever B / zeta and A / zeta hold
left and right singular vectors of G of *disjoint* indices that together make 1..2r (LoRA-GA, arXiv
2407.05000). This holds for SGD; Adam's first step is sign-like, and nothing is claimed for it.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from cl_lightning.linalg.low_rank import LowRank
from cl_lightning.linalg.svd import check_count, top_singular

Directions = Literal["ArB2r", "A2rBr", "interleaved", "random"]
Variance = Literal["uncentred", "centred"]

ROWS = 256  # of a weight matrix converted to float64 at once

# Indices of the singular directions that A and B get.
DIRECTIONS: dict[str, Callable[[int, torch.Generator], tuple[Tensor, Tensor]]] = {
    "ArB2r": lambda r, rng: torch.arange(2 * r).tensor_split(2),
    "A2rBr": lambda r, rng: torch.arange(2 * r).tensor_split(2)[::-1],
    "interleaved": lambda r, rng: (torch.arange(1, 2 * r, 2), torch.arange(0, 2 * r, 2)),
    "random": lambda r, rng: torch.randperm(2 * r, generator=rng).tensor_split(2),
}


def split_directions(
    U: Tensor, V: Tensor, rank: int, directions: Directions, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Give A (r, n) and B (m, r) disjoint sets of unit singular directions that together make 1..2r.

    "ArB2r": A the first r, B the next; "A2rBr": the reverse; "interleaved": B the 1st, 3rd, .., A the 2nd, 4th,
    ..; "random": any halves, from `generator`. All have the same first SGD step. U (m, >= 2r), V (n, >= 2r) as
    from `top_singular`.

    Raises:
        ValueError: if 2 rank > min(m, n).
    """
    check_count(2 * rank, *U.shape, *V.shape)
    a, b = (index.to(U.device) for index in DIRECTIONS[directions](rank, generator))
    return V[:, a].t().contiguous(), U[:, b].contiguous()


def balanced_factors(U: Tensor, S: Tensor, V: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Compute A (r, n) = sqrt(S / s) V^T and B (m, r) = U sqrt(S / s), so that s B A = U S V^T."""
    root = (S / scaling).sqrt()
    return (V * root).t().contiguous(), U * root


def check_moments(moments: Tensor | None, weight: Tensor, rank: int) -> Tensor:
    """Check the input covariance (n, n) and return it in float64.

    Raises:
        ValueError: if it is absent, of another shape, not finite or zero, or the rank exceeds min(m, n).
    """
    check_count(rank, *weight.shape)
    n = weight.shape[1]
    if moments is None or moments.shape != (n, n):
        found = None if moments is None else tuple(moments.shape)
        raise ValueError(f"needs the covariance ({n}, {n}) of the layer's inputs, got {found}")
    if not moments.isfinite().all():
        raise ValueError("the input covariance is not finite")
    if not moments.any():
        raise ValueError("the inputs are all zero, so there is no direction to start from")
    return moments.to(torch.float64)


def check_gradient(gradient: Tensor | LowRank | None, weight: Tensor) -> None:
    """Check that a gradient has directions to start from.

    Raises:
        ValueError: if the gradient is absent, of another shape than the weight, zero, or not finite.
    """
    if gradient is None or gradient.shape != weight.shape:
        found = None if gradient is None else tuple(gradient.shape)
        raise ValueError(f"needs a gradient of the weight's shape {tuple(weight.shape)}, got {found}")
    parts = (gradient.left, gradient.right) if isinstance(gradient, LowRank) else (gradient,)
    bounds = [torch.stack(torch.aminmax(part.detach())).tolist() for part in parts]
    if not all(math.isfinite(x) for pair in bounds for x in pair):
        raise ValueError("the gradient is not finite")
    if any(low == high == 0 for low, high in bounds):
        raise ValueError("the gradient is all zero, so there is no direction to start from")


def unit_factors(
    gradient: Tensor | LowRank | None, weight: Tensor, rank: int, directions: Directions, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Compute A and B with unit norm rows and columns from the gradient's top 2r directions, after checking it.

    Raises:
        ValueError: if the gradient is absent, of another shape than the weight, zero, or not finite, or if
            the matrix has fewer than 2r directions.
    """
    check_gradient(gradient, weight)
    U, _, V = top_singular(gradient, 2 * rank, generator)
    return split_directions(U, V, rank, directions, generator)


def variance_scale(A: Tensor, B: Tensor, weight: Tensor, rank: int, variance: Variance = "uncentred") -> float:
    """Compute the beta with Var(beta B beta A) = rho Var(W), rho = ln r / ln min(m, n), without forming B A:

        beta^4 = rho Var(W) / Var(B A),   mean (BA)^2 = tr(B^T B  A A^T) / mn,   mean BA = (1^T B)(A 1) / mn.

    variance "uncentred" uses second moments on both sides: then ||s B0 A0||_F = s sqrt(rho) ||W||_F for any signs of
    the singular vectors. "centred" is the authors' variance, which depends on those signs. Since ln 1 = 0 would start
    rank 1 at zero, where it never learns, rank 1 gets the rho of rank 2, as in the authors' code.

    Source: LoRAM (arXiv 2507.06558), in the form used by the SLICE authors' code, which forms B A.

    Raises:
        ValueError: if Var(W) or Var(B A) is zero or not finite.
    """
    m, n = weight.shape
    a, b = A.to(torch.float64), B.to(torch.float64)
    mean = float(b.sum(0) @ a.sum(1)) / (m * n)
    spread = float(((b.t() @ b) * (a @ a.t())).sum()) / (m * n)
    weight_mean, weight_spread = _moments(weight)
    if variance == "centred":
        spread, weight_spread = spread - mean**2, weight_spread - weight_mean**2
    if not (0 < spread < math.inf and 0 < weight_spread < math.inf):
        raise ValueError(f"no scale matches the weight: Var(W) = {weight_spread:.3g}, Var(BA) = {spread:.3g}")
    rho = math.log(max(rank, 2)) / math.log(max(min(m, n), 2))
    return (rho * weight_spread / spread) ** 0.25


def _moments(weight: Tensor) -> tuple[float, float]:
    """Compute the mean and mean square of all entries, summed in float64 by row chunks."""
    total = square = 0.0
    for chunk in weight.detach().split(ROWS):
        rows = chunk.to(torch.float64)
        total, square = total + float(rows.sum()), square + float(rows.square().sum())
    return total / weight.numel(), square / weight.numel()
