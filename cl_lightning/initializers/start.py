"""The start of one matrix: factors from one SVD of its gradient, and their relation to other gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cl_lightning.initializers.base import Initializer
from cl_lightning.initializers.directions import check_gradient
from cl_lightning.linalg.gram import cosine, gram_matrix
from cl_lightning.linalg.low_rank import LowRank
from cl_lightning.linalg.svd import subspace_overlap, top_singular


@dataclass(frozen=True)
class Start:
    """Factors of one matrix and the decomposition they came from.

    Attributes:
        tensors: A (r, n), B (m, r), then R (r, r) if a core is trained, then dA, dB of a warm start.
        top: [G~]_2r = (U S) V^T; None for initialisers that need no gradient.
        energy: share of ||G~||^2 in `top`.
    """

    tensors: tuple[Tensor, ...]
    top: LowRank | None = None
    energy: float = 0.0

    def cosine_with(self, gradient: Tensor | LowRank) -> tuple[float, float]:
        """Compute cosine and inner product of [G~]_2r with a gradient: truncation may bring a conflict back."""
        gram = gram_matrix([self.top, gradient])
        return cosine(gram, 0, 1), float(gram[0, 1])

    def overlap_with(self, gradient: Tensor | LowRank, rank: int) -> float:
        """Compute the overlap of the top-2r column spaces of G~ and another gradient, 0..1."""
        other = top_singular(gradient, self.top.left.shape[1], torch.Generator().manual_seed(0))[0]
        return subspace_overlap(torch.nn.functional.normalize(self.top.left, dim=0), other)


def start_of(
    initializer: Initializer,
    weight: Tensor,
    statistic: Tensor | LowRank | None,
    rank: int,
    scaling: float,
    generator: torch.Generator,
    warm_start: float = 0.0,
) -> Start:
    """Compute the factors of `initializer`, and with `warm_start` tau > 0 the step from them.

    Raises:
        ValueError: as `Initializer.factors`.
    """
    if initializer.needs != "gradients":
        return Start(tuple(initializer.factors(weight, statistic, rank, scaling, generator)))
    check_gradient(statistic, weight)
    U, S, V = top_singular(statistic, min(2 * rank, *weight.shape), generator)
    top = LowRank(U * S, V)
    norm = float(gram_matrix([statistic])[0, 0])
    # These use the top 2r directions only, so the whole matrix need not be decomposed again.
    factors = initializer.factors(weight, top if initializer.takes_sketch else statistic, rank, scaling, generator)
    step = warm_step(factors[0], factors[1], top, warm_start, scaling) if warm_start else ()
    return Start((*factors, *step), top, min(1.0, float(S.to(torch.float64).square().sum()) / norm))


def warm_step(A0: Tensor, B0: Tensor, top: LowRank, tau: float, scaling: float) -> tuple[Tensor, Tensor]:
    """Compute dA (r, n) and dB (m, r) with s (dB A0 + B0 dA) = -tau [G~]_2r.

        dB = -tau / (s beta^2) [G~]_2r A0^T,     dA = -tau / (s beta^2) B0^T [G~]_2r

    for A0 = beta V_A^T, B0 = beta U_B whose directions together are those of [G~]_2r. Not in the paper: SLICE itself
    only rotates the subspace, and training steps on G_new.
    """
    beta2 = float(A0.square().sum()) / len(A0)
    factor = -tau / (scaling * beta2)
    return factor * ((B0.t() @ top.left) @ top.right.t()), factor * (top.left @ (top.right.t() @ A0.t()))


def empty_factors(lora_A: Tensor, lora_B: Tensor, initializer: Initializer, warm_start: float) -> list[Tensor]:
    """Allocate tensors with the shapes of `Start.tensors`, to receive a start in."""
    core = [lora_A.new_empty(len(lora_A), len(lora_A))] if "R" in initializer.trains else []
    step = [lora_A, lora_B] if warm_start else []
    return [torch.empty_like(t) for t in (lora_A, lora_B, *core, *step)]
