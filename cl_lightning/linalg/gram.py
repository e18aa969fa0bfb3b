"""Inner products and linear combinations of gradients, dense or low-rank."""

from collections.abc import Sequence
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from cl_lightning.linalg.low_rank import LowRank

Gradient = Tensor | LowRank

CHUNK = 2**20  # entries of a gradient converted to float64 at once: 8 MiB


def gram_matrix(gradients: Sequence[Gradient]) -> Tensor:
    """Compute the inner products <G_i, G_j> of k+1 gradients of one shape: (k+1, k+1) float64 on the CPU.

    Dense gradients are summed in float64 over chunks of rows, so no matrix is copied whole; low-rank gradients are
    not formed:

        <L1 R1^T, L2 R2^T> = sum (L1^T L2) * (R1^T R2),     <G, L R^T> = sum (G R) * L

    Raises:
        ValueError: if the shapes differ.
    """
    shapes = [tuple(g.shape) for g in gradients]
    if len(set(shapes)) != 1:
        raise ValueError(f"gradients of one matrix have different shapes: {shapes}")
    gram = torch.zeros(len(gradients), len(gradients), dtype=torch.float64)
    dense = torch.tensor([i for i, g in enumerate(gradients) if isinstance(g, Tensor)], dtype=torch.long)
    if len(dense):
        gram[dense[:, None], dense] = _dense_gram([gradients[i] for i in dense])
    for i, j in combinations_with_replacement(range(len(gradients)), 2):
        one, other = gradients[i], gradients[j]
        if isinstance(other, LowRank):
            gram[i, j] = gram[j, i] = _with_low_rank(one, other)
        elif isinstance(one, LowRank):
            gram[i, j] = gram[j, i] = _with_low_rank(other, one)
    return gram


def combine(coefficients: Sequence[float] | Tensor, gradients: Sequence[Gradient]) -> Gradient:
    """Compute sum a_i G_i, in float32 or the gradients' wider dtype; for a = (1, 0, .., 0), gradients[0] itself.

    If all gradients are low-rank, so is the sum: [a_0 L_0, a_1 L_1, ..] [R_0, R_1, ..]^T over those with a_i != 0;
    its captured share is the lowest of theirs. With a dense gradient among them the sum is dense.
    """
    first, *rest = (float(a) for a in coefficients)
    if len(rest) != len(gradients) - 1:
        raise ValueError(f"{len(rest) + 1} coefficients for {len(gradients)} gradients")
    if first == 1 and not any(rest):
        return gradients[0]
    work = torch.promote_types(gradients[0].dtype, torch.float32)
    terms = list(zip((first, *rest), gradients, strict=True))
    low = [(a, g) for a, g in terms if isinstance(g, LowRank)]
    if len(low) == len(terms):
        low = [(a, g) for a, g in low if a] or low[:1]
        return LowRank(
            torch.cat([a * g.left.to(work) for a, g in low], 1),
            torch.cat([g.right.to(work) for _, g in low], 1),
            min(g.captured for _, g in low),
        )
    total = torch.zeros(gradients[0].shape, dtype=work, device=gradients[0].device)
    for a, gradient in terms:
        if isinstance(gradient, LowRank):
            total.addmm_(gradient.left.to(work), gradient.right.to(work).t(), alpha=a)
        else:
            total.add_(gradient.to(work), alpha=a)
    return total


def _dense_gram(gradients: Sequence[Tensor]) -> Tensor:
    rows = max(1, CHUNK * len(gradients[0]) // max(1, gradients[0].numel()))
    gram = torch.zeros(len(gradients), len(gradients), dtype=torch.float64, device=gradients[0].device)
    for chunks in zip(*(g.detach().split(rows) for g in gradients), strict=True):
        flat = torch.stack([c.to(torch.float64).flatten() for c in chunks])
        gram += flat @ flat.t()
    return gram.cpu()


def _with_low_rank(gradient: Gradient, other: LowRank) -> Tensor:
    """Compute <G, L R^T>, a float64 scalar."""
    left, right = other.left.to(torch.float64), other.right.to(torch.float64)
    if isinstance(gradient, LowRank):
        of_left, of_right = (f.to(torch.float64).t() @ g for f, g in ((gradient.left, left), (gradient.right, right)))
        return (of_left * of_right).sum().cpu()
    rows = max(1, CHUNK // max(1, gradient.shape[1]))
    parts = zip(gradient.detach().split(rows), left.split(rows), strict=True)
    return sum(((g.to(torch.float64) @ right) * part).sum() for g, part in parts).cpu()


def cosine(gram: Tensor, i: int, j: int) -> float:
    """Compute K_ij / sqrt(K_ii K_jj), -1..1; 0 if either gradient is zero."""
    norms = float(gram[i, i].sqrt() * gram[j, j].sqrt())
    return max(-1.0, min(1.0, float(gram[i, j]) / norms)) if norms > 0 else 0.0
