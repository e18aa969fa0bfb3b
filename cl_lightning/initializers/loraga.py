"""LoRA-GA: start so that the first SGD step is the best rank-2r part of the full fine-tuning step."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from cl_lightning.common.errors import ConfigError, nearest
from cl_lightning.common.numbers import Finite
from cl_lightning.initializers.base import Initializer
from cl_lightning.initializers.directions import DIRECTIONS, Directions, unit_factors
from cl_lightning.linalg.svd import top_singular

Scale = Literal["stable", "gd", "unit", "weightS"]


def _stable(weight: Tensor, rank: int, scaling: float, gamma: float, generator: torch.Generator) -> float:
    return len(weight) ** 0.25 / gamma**0.5


def _gd(weight: Tensor, rank: int, scaling: float, gamma: float, generator: torch.Generator) -> float:
    return 1 / scaling


def _unit(weight: Tensor, rank: int, scaling: float, gamma: float, generator: torch.Generator) -> float:
    return 1.0


def _weight_s(weight: Tensor, rank: int, scaling: float, gamma: float, generator: torch.Generator) -> float:
    _, S, _ = top_singular(weight, rank, generator)
    return float((S / scaling).sqrt().mean())


SCALES: dict[str, Callable[[Tensor, int, float, float, torch.Generator], float]] = {
    "stable": _stable,
    "gd": _gd,
    "unit": _unit,
    "weightS": _weight_s,
}


class LoRAGA(Initializer):
    """A0, B0 from the top 2r singular directions of the gradient G = U S V^T, times one scale zeta.

        ArB2r:  A0 = zeta V[:, :r]^T,  B0 = zeta U[:, r:2r]

    First SGD step with rate eta: d(s B A) = -eta s^2 zeta^2 [G]_2r. Since B0 A0 != 0, the adapter must be
    used as a displacement from its start (`cl_lightning.adapters.linear`).

    Args:
        directions: how the 2r directions are split, see `initializers.directions.split_directions`.
        scale: zeta. "stable": m^(1/4) / sqrt(gamma); "gd": 1/s; "unit": 1; "weightS": mean over i <= r of
            sqrt(sigma_i(W) / s).
        gamma: of the "stable" scale, which falls with it.

    Raises:
        ConfigError: for an unknown name, or gamma <= 0.

    Source: Wang et al. 2024 (arXiv 2407.05000), theorem 3.1; scales as in their code
    (Outsider565/LoRA-GA, peft/tuners/lora/layer.py, lora_ga_init). We differ: fixed signs, own generator
    and exact SVD of small matrices (`linalg.svd.top_singular`); factors stay float32; their `norm_clip` is
    left out; "interleaved" is their ArBr. PEFT's LoRA-GA is another algorithm (its B
    contains the gradient's singular values) and is not reproduced.
    """

    needs = "gradients"
    directions_per_rank = 2
    takes_sketch = True

    def __init__(self, directions: Directions = "ArB2r", scale: Scale = "stable", gamma: Finite = 16.0) -> None:
        if directions not in DIRECTIONS:
            raise ConfigError(f"LoRAGA directions {directions!r}: {nearest(str(directions), DIRECTIONS)}")
        if scale not in SCALES:
            raise ConfigError(f"LoRAGA scale {scale!r}: {nearest(str(scale), SCALES)}")
        if not gamma > 0:
            raise ConfigError(f"LoRAGA gamma must be positive, not {gamma}")
        self.directions, self.scale, self.gamma = directions, scale, gamma

    def factors(
        self, weight: Tensor, statistic: Tensor | None, rank: int, scaling: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """See the base class; `statistic` is the gradient of the new task. ValueError as `unit_factors`."""
        A, B = unit_factors(statistic, weight, rank, self.directions, generator)
        zeta = SCALES[self.scale](weight, rank, scaling, self.gamma, generator)
        return zeta * A, zeta * B
