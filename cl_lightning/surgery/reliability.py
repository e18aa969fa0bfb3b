"""Test of a conflict against the noise of the batches it was measured on.

With G_new = sum_b g_b over B batches and d_b = <g_b, G_mem>, the inner product of the gradients is the total
T = sum_b d_b = <G_new, G_mem>. Leaving out batch b estimates it by T_b = B / (B - 1) (T - d_b); the jackknife is

    SE^2 = (B - 1) / B sum_b (T_b - mean T)^2 = B / (B - 1) sum_b (d_b - mean d)^2,

and without a conflict T / SE follows Student's t with B - 1 degrees of freedom where the d_b are normal. SE does not
include the noise of the memory gradient.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

LEAST_BATCHES = 3


def jackknife(inner: Tensor) -> tuple[float, float]:
    """Compute the total T and its standard error SE from the batches' d_b (B,).

    Raises:
        ValueError: for fewer than 3 batches, or inner products that are not finite.
    """
    count = len(inner)
    if inner.ndim != 1 or count < LEAST_BATCHES:
        raise ValueError(f"a standard error needs {LEAST_BATCHES} batches or more, not {tuple(inner.shape)}")
    if not inner.isfinite().all():
        raise ValueError("a batch's inner product with the memory gradient is not finite")
    d = inner.detach().to("cpu", torch.float64)
    return float(d.sum()), math.sqrt(count / (count - 1) * float((d - d.mean()).square().sum()))


def conflicts_reliably(inner: Tensor, z: float = 2.0) -> bool:
    """Test for T < -z SE. With z = 2 and 8 batches this happens by chance in 4.3 % of matrices, T < 0 in half.

    Raises:
        ValueError: as `jackknife`.
    """
    total, error = jackknife(inner)
    return total < -z * error


def reliable_conflicts(inner: Mapping[str, Tensor], groups: Iterable[Sequence[str]], z: float) -> dict[str, bool]:
    """Test whether each matrix conflicts reliably with any memory. A group of matrices is decided on its sum.

    Args:
        inner: d_b (B, memories) per matrix name.
        groups: names of `inner`, see `surgery.reconcile.decided_together`.

    Raises:
        ValueError: as `jackknife`.
    """
    found: dict[str, bool] = {}
    for names in groups:
        summed = torch.stack([inner[name] for name in names]).sum(0)
        found |= dict.fromkeys(names, any(conflicts_reliably(column, z) for column in summed.t()))
    return found


def null_firing_share(
    inner_by_matrix: Mapping[str, Tensor], z: float, generator: torch.Generator, permutations: int = 20
) -> float:
    """Estimate the test's false positives: the share of matrices that fire where there is no conflict.

    In each permutation half of the batches, drawn at random, change the sign of their d_b (with an odd count one
    more or one fewer than half, at random), so that T is zero in expectation; the same batches for all matrices,
    whose inner products are correlated. A strong conflict in the data widens SE: the share is then too low rather than
    too high.

    Args:
        inner_by_matrix: d_b (B,) per matrix name, the same B for all.
        z: see `conflicts_reliably`.
        generator: CPU generator, the only source of randomness.
        permutations: number of sign patterns drawn.

    Raises:
        ValueError: without matrices or permutations; else as `jackknife`.
    """
    if not inner_by_matrix or permutations < 1:
        raise ValueError("a share that fires by chance needs matrices and permutations")
    inner = list(inner_by_matrix.values())
    count = len(inner[0])
    fired = 0
    for _ in range(permutations):
        half = (count + int(torch.randint(2, (), generator=generator))) // 2
        signs = torch.ones(count, dtype=torch.float64)
        signs[torch.randperm(count, generator=generator)[:half]] = -1
        fired += sum(conflicts_reliably(d.detach().to("cpu", torch.float64) * signs, z) for d in inner)
    return fired / (permutations * len(inner))
