"""Leading singular directions, and how much two subspaces overlap."""

import torch
from torch import Tensor

from cl_lightning.linalg.low_rank import LowRank

POWER_ITERATIONS = 4


def top_singular(
    matrix: Tensor | LowRank, count: int, generator: torch.Generator, exact_below: int = 128
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the `count` largest singular triplets U (m, count), S (count,), V (n, count), in float32 or wider.

    A low-rank matrix L R^T is decomposed exactly, from QR of both factors and the SVD of the product of their
    triangles. Small matrices (min(m, n) <= max(4 count, exact_below)) are decomposed exactly, others by a randomised
    range finder with 2 count columns and 4 power iterations, re-orthogonalised at each half step (Halko et
    al. 2011, algorithms 4.4 and 5.1). Signs: the entry of largest magnitude in each u_i is positive.
    Directions whose singular values coincide (or are 0) are arbitrary within their span.

    Where we differ from torch.svd_lowrank(q = 4r, niter = 4), which LoRA-GA and SLICE call with the same
    settings: it draws from the global random generator and leaves the signs to LAPACK.

    Raises:
        ValueError: if the matrix hasn't `count` singular directions.
    """
    check_count(count, *matrix.shape)
    if isinstance(matrix, LowRank):
        U, S, V = _low_rank_svd(matrix, count)
        return _with_signs(U, S[:count], V)
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
    return _with_signs(U[:, :count], S[:count], Vh[:count].t())


def _low_rank_svd(matrix: LowRank, count: int) -> tuple[Tensor, Tensor, Tensor]:
    check_count(count, matrix.left.shape[1])
    dtype = torch.promote_types(matrix.dtype, torch.float32)
    (Ql, Rl), (Qr, Rr) = (torch.linalg.qr(f.detach().to(dtype)) for f in (matrix.left, matrix.right))
    U, S, Vh = torch.linalg.svd(Rl @ Rr.t())
    return Ql @ U[:, :count], S[:count], Qr @ Vh[:count].t()


def _with_signs(U: Tensor, S: Tensor, V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Flip u_i and v_i together so that the entry of largest magnitude in u_i is positive."""
    largest = U.gather(0, U.abs().argmax(0, keepdim=True))
    return U * largest.sign(), S, V * largest.sign()


def all_singular(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute all singular triplets exactly; dtype and signs as `top_singular`. ValueError if fewer than `rank`."""
    check_count(rank, *matrix.shape)
    dtype = torch.promote_types(matrix.dtype, torch.float32)
    U, S, Vh = torch.linalg.svd(matrix.detach().to(dtype), full_matrices=False)
    return _with_signs(U, S, Vh.t())


def subspace_overlap(U1: Tensor, U2: Tensor) -> float:
    """Compute the mean squared cosine of two column spaces' principal angles, 0 (orthogonal) .. 1 (contained).

    U1 (m, k1), U2 (m, k2): orthonormal columns. Two random k-dimensional spaces overlap by k / m on average.
    """
    cosines = U1.to(torch.float64).t() @ U2.to(torch.float64)
    return min(1.0, float(cosines.square().sum()) / min(cosines.shape))


def check_count(count: int, *sizes: int) -> None:
    """Refuse more singular directions than a matrix of these sizes has. Raises ValueError."""
    if not 1 <= count <= min(sizes):
        raise ValueError(
            f"needs {count} singular directions (a spectral start takes twice the rank) where there are "
            f"{min(sizes)}: lower the rank, or leave this matrix out"
        )
