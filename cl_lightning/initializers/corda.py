"""CorDA: start at the directions of W that a task's inputs use most, or least."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from cl_lightning.common.errors import ConfigError, nearest
from cl_lightning.initializers.base import Initializer
from cl_lightning.initializers.directions import balanced_factors, check_moments
from cl_lightning.linalg.svd import all_singular

Mode = Literal["ipm", "kpm"]

#: Indices of the r singular directions of W C that are taken, in falling order.
PICK: dict[str, Callable[[int], slice]] = {"ipm": lambda r: slice(0, r), "kpm": lambda r: slice(-r, None)}
DAMPING = 0.01


class CorDA(Initializer):
    """Factors of W oriented by the input covariance C = E[x x^T]:   W C = U S V^T.

        A0 = sqrt(S_I / s) V_I^T C^-1,   B0 = U_I sqrt(S_I / s),   s B0 A0 C = the picked part of W C

    Args:
        mode: "ipm", instruction-previewed: I = the r largest, so the adapter gets the directions that the task uses;
            "kpm", knowledge-preserved: I = the r smallest, so the directions that the inputs use stay frozen.

    Raises:
        ConfigError: for another mode.

    Source: CorDA (arXiv 2406.05223), eq. 2-4. C is damped by 1 % of its mean diagonal before it is inverted, as in
    PEFT (tuners/lora/corda.py), in float64; their doubling of the damping until the inverse succeeds is not needed.
    """

    needs = "inputs"

    def __init__(self, mode: Mode = "ipm") -> None:
        if mode not in PICK:
            raise ConfigError(f"CorDA mode {mode!r}: {nearest(str(mode), PICK)}")
        self.mode = mode

    def factors(
        self, weight: Tensor, statistic: Tensor | None, rank: int, scaling: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """See the base class; `statistic` is C (n, n).

        Raises:
            ValueError: if C is absent, not finite or zero, or the rank exceeds min(m, n).
        """
        C = check_moments(statistic, weight, rank)
        C = C + DAMPING * C.diagonal().mean() * torch.eye(len(C), dtype=C.dtype, device=C.device)
        U, S, V = all_singular(weight.detach().to(torch.float64) @ C, rank)
        pick = PICK[self.mode](rank)
        A, B = balanced_factors(U[:, pick], S[pick], V[:, pick], scaling)
        A = torch.linalg.solve(C, A.t()).t()
        dtype = torch.promote_types(statistic.dtype, torch.float32)
        return A.contiguous().to(dtype), B.to(dtype)
