"""What the spectral initialisers share: singular directions of a gradient, their split into factors, scales.

Shapes: m = d_out, n = d_in, r = rank; G, W: (m, n); U: (m, k); S: (k,); V: (n, k); A: (r, n); B: (m, r).

Why 2r directions: one SGD step (rate eta) on A, B changes the adapter s B A by

    -eta s^2 (B B^T G + G A^T A) + O(eta^2),

which is -eta s^2 zeta^2 [G]_2r, the best rank-2r part of the full step, whenever B / zeta and A / zeta hold
left and right singular vectors of G of *disjoint* indices that together make 1..2r (LoRA-GA, arXiv
2407.05000). It holds for SGD; under Adam the first step is sign-like and nothing is claimed.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Directions = Literal["ArB2r", "A2rBr", "interleaved"]
Variance = Literal["uncentred", "centred"]

POWER_ITERATIONS = 4
ROWS = 256  # of a weight matrix held in float64 at once

# Which singular indices go to A and which to B.
DIRECTIONS: dict[str, Callable[[int], tuple[slice, slice]]] = {
    "ArB2r": lambda r: (slice(0, r), slice(r, 2 * r)),
    "A2rBr": lambda r: (slice(r, 2 * r), slice(0, r)),
    "interleaved": lambda r: (slice(1, 2 * r, 2), slice(0, 2 * r, 2)),
}


def top_singular(
    matrix: Tensor, count: int, generator: torch.Generator, exact_below: int = 128
) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` largest singular triplets U (m, count), S (count,), V (n, count), in float32 or wider.

    Small matrices (min(m, n) <= max(4 count, exact_below)) are decomposed exactly, others by a randomised
    range finder with 2 count columns and 4 power iterations, re-orthogonalised at each half step (Halko et
    al. 2011, algorithms 4.4 and 5.1). Signs: the largest |entry| of each u_i is positive, v_i follows.
    Directions whose singular values coincide (or are 0) are arbitrary within their span.

    Where we differ from torch.svd_lowrank(q = 4r, niter = 4), which LoRA-GA and SLICE call with the same
    settings: it draws from the global random generator and leaves the signs to LAPACK.

    Raises:
        ValueError: if the matrix hasn't `count` singular directions.
    """
    _check_count(count, *matrix.shape)
    smaller = min(matrix.shape)
    G = matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))
    if smaller <= max(4 * count, exact_below):
        U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    else:
        Q = torch.randn(G.shape[1], 2 * count, dtype=G.dtype, generator=generator).to(G.device)
        Q = torch.linalg.qr(G @ Q).Q
        for _ in range(POWER_ITERATIONS):
            Q = torch.linalg.qr(G.t() @ Q).Q
            Q = torch.linalg.qr(G @ Q).Q
        U, S, Vh = torch.linalg.svd(Q.t() @ G, full_matrices=False)
        U = Q @ U
    U, V = U[:, :count], Vh[:count].t()
    largest = U.gather(0, U.abs().argmax(0, keepdim=True))
    return U * largest.sign(), S[:count], V * largest.sign()


def split(U: Tensor, V: Tensor, rank: int, directions: Directions) -> tuple[Tensor, Tensor]:
    """Give A (r, n) and B (m, r) disjoint sets of unit singular directions that together make 1..2r.

    "ArB2r": A the first r, B the next; "A2rBr": the reverse; "interleaved": B the 1st, 3rd, .., A the
    2nd, 4th, ... All have the same first SGD step. U (m, >= 2r), V (n, >= 2r) as from `top_singular`.

    Raises:
        ValueError: if 2 rank directions don't exist: 2 rank > min(m, n).
    """
    _check_count(2 * rank, *U.shape, *V.shape)
    a, b = DIRECTIONS[directions](rank)
    return V[:, a].t().contiguous(), U[:, b].contiguous()


def unit_factors(
    gradient: Tensor | None, weight: Tensor, rank: int, directions: Directions, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A and B of unit norm rows and columns from the gradient's top 2r directions, after checking it.

    Raises:
        ValueError: if the gradient is absent, of another shape than the weight, zero, or not finite, or if
            the matrix has fewer than 2r directions.
    """
    if gradient is None or gradient.shape != weight.shape:
        found = None if gradient is None else tuple(gradient.shape)
        raise ValueError(f"needs a gradient of the weight's shape {tuple(weight.shape)}, got {found}")
    low, high = (float(x) for x in torch.aminmax(gradient.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("the gradient is not finite")
    if low == high == 0:
        raise ValueError("the gradient is all zero: it has no direction to start from")
    U, _, V = top_singular(gradient, 2 * rank, generator)
    return split(U, V, rank, directions)


def variance_scale(A: Tensor, B: Tensor, weight: Tensor, rank: int, variance: Variance = "uncentred") -> float:
    """The beta that makes Var(beta B beta A) = rho Var(W), rho = ln r / ln min(m, n), without forming B A:

        beta^4 = rho Var(W) / Var(B A),   mean (BA)^2 = tr(B^T B  A A^T) / mn,   mean BA = (1^T B)(A 1) / mn.

    variance "uncentred" takes second moments on both sides: then ||s B0 A0||_F = s sqrt(rho) ||W||_F whatever
    the signs of the singular vectors. "centred" is the authors' variance; it depends on those signs.
    ln 1 = 0 would start rank 1 at zero, where it never learns: rank 1 gets the rho of rank 2.

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


def subspace_overlap(U1: Tensor, U2: Tensor) -> float:
    """Mean squared cosine of the principal angles between two column spaces, 0 (orthogonal) .. 1 (contained).

    U1 (m, k1), U2 (m, k2): orthonormal columns. Two random k-dimensional spaces overlap by k / m on average.
    """
    cosines = U1.to(torch.float64).t() @ U2.to(torch.float64)
    return min(1.0, float(cosines.square().sum()) / min(cosines.shape))


def _check_count(count: int, *sizes: int) -> None:
    if not 1 <= count <= min(sizes):
        raise ValueError(
            f"needs {count} singular directions (a spectral start takes twice the rank) where there are "
            f"{min(sizes)}: lower the rank, or leave this matrix out"
        )


def _moments(weight: Tensor) -> tuple[float, float]:
    """Mean and mean square of all entries, summed in float64 by row chunks."""
    total = square = 0.0
    for chunk in weight.detach().split(ROWS):
        rows = chunk.to(torch.float64)
        total, square = total + float(rows.sum()), square + float(rows.square().sum())
    return total / weight.numel(), square / weight.numel()
