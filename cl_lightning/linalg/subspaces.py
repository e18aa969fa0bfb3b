"""Subspaces of the inputs that layers have seen: grown from covariances, projected out of later branches.

Shapes: d features, k dimensions; C (d, d) uncentred covariance; M (d, k) orthonormal columns; P = M M^T. Everything is
computed in float64. Sources: GPM (Saha et al. 2021, arXiv 2103.09762) for growth, InfLoRA (Liang and Li 2024, arXiv
2404.00228) for the design of A, GainLoRA's published code for the rules that are marked as its own.

`chunks` > 1 divides the d coordinates into that many equal blocks, each with a subspace of its own: M is
block-diagonal, and a displacement D with D M = 0 does not change the output on any block of the inputs seen, hence on
any of these inputs. Decomposing blocks is cheaper, but M then has more dimensions. GainLoRA's published Llama code has
4 chunks.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Energy = Literal["eigen", "eigen_squared"]
Count = Literal["reach", "below"]
Design = Literal["pca", "pca_one_sided", "random"]


def energy_share(first: float, task: int, tasks: int) -> float:
    """Compute the share of energy to capture after `task` (from 0) of `tasks`: rises from `first` towards 1.

        eps_t = eps + (1 - eps) task / tasks

    InfLoRA's and GainLoRA's schedule; their code has tasks = 15 for every sequence.
    """
    if not 0 < first <= 1:
        raise ValueError(f"a share of energy lies in (0, 1], not {first}")
    return first + (1 - first) * task / tasks


@dataclass(frozen=True)
class Subspace:
    """span M, stored as M or as a basis of its complement: whichever has at most d / 2 columns, as in DualGPM.

    Attributes:
        basis: (d, k) or (d, d - k), orthonormal, float64.
        by_complement: whether `basis` spans the complement.
        chunks: blocks of coordinates.
    """

    basis: Tensor
    by_complement: bool = False
    chunks: int = 1

    @classmethod
    def spanned_by(cls, M: Tensor, chunks: int = 1) -> "Subspace":
        """Make the subspace spanned by M (d, k)."""
        by_complement = 2 * M.shape[1] > len(M)
        return cls(complement(M, chunks) if by_complement else M, by_complement, chunks)

    def full(self) -> Tensor:
        """Return a basis M (d, k). Where the complement is stored, its columns differ from the original ones."""
        return complement(self.basis, self.chunks) if self.by_complement else self.basis

    def to(self, device: torch.device) -> "Subspace":
        """Move to another device."""
        return replace(self, basis=self.basis.to(device))


def empty(size: int, device: torch.device | None = None) -> Tensor:
    """Make the basis of an empty subspace: (size, 0)."""
    return torch.zeros(size, 0, dtype=torch.float64, device=device)


def add_to_mean(C: Tensor, seen: int, x: Tensor, counted_twice: bool = False) -> Tensor:
    """Update C (d, d), the mean of x x^T over `seen` samples, by the samples x (b, d).

    `counted_twice`: the batch is already in the old mean's count, as in GainLoRA's code for the second layer of its
    gates: C <- (C (n + b) + sum) / (n + 2 b). Batches then have unequal weights.
    """
    before = seen + (len(x) if counted_twice else 0)
    return (C * before + x.t() @ x) / (before + len(x))


def project_out(M: Tensor, X: Tensor) -> Tensor:
    """Compute (I - P) X, X (d, ..). Projects twice: the first time leaves the rounding error of X inside span M."""
    for _ in range(2):
        X = X - M @ (M.t() @ X)
    return X


def captured_energy(M: Tensor, C: Tensor, energy: Energy = "eigen") -> float:
    """Compute the share of C's energy inside span M, 0..1; 1 for C = 0.

    eigen          tr(P C) / tr C, the share of sum ||x||^2
    eigen_squared  1 - ||(I - P) C||_F^2 / ||C||_F^2, GainLoRA's code: large eigenvalues count doubly
    """
    C = C.double()
    if energy == "eigen":
        inside, total = float((M * (C @ M)).sum()), float(C.trace())
        return inside / total if total > 0 else 1.0
    missed, total = float(project_out(M, C).square().sum()), float(C.square().sum())
    return 1.0 - missed / total if total > 0 else 1.0


def grow(
    M: Tensor, C: Tensor, share: float, energy: Energy = "eigen", count: Count = "reach", chunks: int = 1
) -> Tensor:
    """Extend M until it captures `share` of C's energy: (d, k') with the old columns first, block by block.

    New directions are the leading eigenvectors of (I - P) C (I - P) ("eigen") or, as in GainLoRA's code, the leading
    left singular vectors of (I - P) C ("eigen_squared"). Directions without energy (below C's rounding error) are
    never taken, so a share of 1 ends at the rank of the inputs.

    Args:
        count: "reach" the share; "below": an empty M takes the directions whose summed energy stays below the share,
            at least one: one fewer than needed, as in GainLoRA's code. The two differ for the first task only.

    Raises:
        ValueError: if C is not finite or share is outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of energy lies in (0, 1], not {share}")
    if not C.isfinite().all():
        raise ValueError("the covariance is not finite")
    if chunks > 1:
        blocks = zip(_blocks(M, chunks), _diagonal(C, chunks), strict=True)
        return torch.block_diag(*[grow(part, covariance, share, energy, count) for part, covariance in blocks])
    rounding = len(C) ** 0.5 * torch.finfo(C.dtype).eps  # of a sum of products in C's dtype
    C = C.double()
    directions, energies, total = _uncaptured(M, C, energy)
    if total == 0:
        return M
    worth = energies > total * (rounding if energy == "eigen" else rounding**2)
    before = (
        captured_energy(M, C, energy) + torch.cat([energies.new_zeros(1), energies.cumsum(0)])[: len(energies)] / total
    )
    taken = int((worth & ((before < share) | (share == 1))).sum())
    if count == "below" and M.shape[1] == 0:
        taken = max(1, int((energies.cumsum(0) / total < share).sum()))
    return torch.cat([M, directions[:, :taken]], 1)


def _blocks(M: Tensor, chunks: int) -> list[Tensor]:
    """Split a block-diagonal M (d, k) into its blocks (d / chunks, k_c).

    Raises:
        ValueError: if `chunks` does not divide d.
    """
    if len(M) % chunks:
        raise ValueError(f"{len(M)} coordinates cannot be divided into {chunks} equal blocks")
    # A block's own columns have norm 1 in it, so some entry is not 0.
    return [rows[:, rows.any(0)] for rows in M.chunk(chunks)]


def _diagonal(C: Tensor, chunks: int) -> list[Tensor]:
    return [row.chunk(chunks, 1)[index] for index, row in enumerate(C.chunk(chunks))]


def complement(M: Tensor, chunks: int = 1) -> Tensor:
    """Compute an orthonormal basis of the orthogonal complement of span M: (d, d - k)."""
    if chunks > 1:
        return torch.block_diag(*[complement(part) for part in _blocks(M, chunks)])
    # A copy: a view would keep all of Q alive.
    return torch.linalg.qr(M, mode="complete").Q[:, M.shape[1] :].clone(memory_format=torch.contiguous_format)


def _uncaptured(M: Tensor, C: Tensor, energy: Energy) -> tuple[Tensor, Tensor, float]:
    """Compute orthonormal directions (d, d - k) outside span M, their energies, descending, and C's total energy.

    They are found within the complement: a direction without energy is arbitrary and must not lie in span M.
    """
    outer = complement(M)
    if energy == "eigen":
        values, vectors = torch.linalg.eigh(outer.t() @ C @ outer)
        return outer @ vectors.flip(1), values.flip(0).clamp_min(0), float(C.trace())
    U, S, _ = torch.linalg.svd(outer.t() @ C, full_matrices=False)
    return outer @ U, S.square(), float(C.square().sum())


def design(M: Tensor, C: Tensor, start: Tensor, how: Design = "pca", chunks: int = 1) -> Tensor:
    """Design a frozen A (r, d) with A M = 0, whose rows have norm 1 / sqrt(3) as Kaiming's have on average.

        pca             leading eigenvectors of (I - P) C (I - P): PCA of the inputs' part outside span M
        pca_one_sided   leading left singular vectors of (I - P) C, as in the published code: C counts twice
        random          the given start's rows, projected and rescaled; unchanged while M is empty

    With `chunks`, the directions of each block are put side by side and divided by sqrt(chunks).

    Args:
        C: covariance of the new task's inputs; not used by "random".
        start: A as it was drawn, (r, d).

    Raises:
        ValueError: if C is not finite, or if fewer than r dimensions are left outside span M.
    """
    if not C.isfinite().all():
        raise ValueError("the covariance is not finite")
    if chunks > 1 and how != "random":
        blocks = zip(_blocks(M, chunks), _diagonal(C, chunks), start.chunk(chunks, 1), strict=True)
        return torch.cat([design(*block, how) for block in blocks], 1) / math.sqrt(chunks)
    rank, left = len(start), len(M) - M.shape[1]
    if left < rank:
        raise ValueError(
            f"{left} of {len(M)} input dimensions are left outside earlier tasks', rank {rank} needs as many"
        )
    if how == "random":
        if not M.shape[1]:
            return start.double()
        rows = project_out(M, start.double().t()).t()
        return rows / rows.norm(dim=1, keepdim=True) / math.sqrt(3)
    directions, _, _ = _uncaptured(M, C.double(), "eigen" if how == "pca" else "eigen_squared")
    return directions[:, :rank].t() / math.sqrt(3)
