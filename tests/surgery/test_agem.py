"""A-GEM from its definition: g - min(0, <g, g_m>) / ||g_m||^2 g_m, g_m the mean of the memories, in conflict or not."""

import pytest
import torch
from torch import Tensor

from cl_lightning.linalg.gram import gram_matrix
from cl_lightning.surgery.agem import AGEM


def defined(g: Tensor, memories: list[Tensor]) -> Tensor:
    mean = sum(memories) / len(memories)
    return g - min(0.0, float((g * mean).sum() / (mean * mean).sum())) * mean


@pytest.mark.parametrize("count", [1, 2, 3])
def test_only_the_component_against_the_mean_is_removed(count: int) -> None:
    fired = 0
    for seed in range(20):
        rng = torch.Generator().manual_seed(seed)
        g, *memories = (torch.randn(4, 3, dtype=torch.float64, generator=rng) for _ in range(count + 1))
        coefficients = AGEM().coefficients(gram_matrix([g, *memories]))
        found = sum(float(a) * m for a, m in zip(coefficients, [g, *memories], strict=True))
        assert torch.allclose(found, defined(g, memories), rtol=1e-12, atol=1e-12)
        agrees = float((g * sum(memories)).sum()) >= 0
        assert (coefficients.tolist() == [1.0] + [0.0] * count) == agrees, "where they agree nothing changes"
        fired += not agrees
    assert 5 <= fired <= 15
