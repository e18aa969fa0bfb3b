"""CountSketch against exact inner products, float64."""

import pytest
import torch
from torch import Tensor

from cl_lightning.mining.count_sketch import CountSketch

WIDTH, DRAWS = 64, 3000


def pair(kind: str) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    u, v, w = (torch.randn(n, dtype=torch.float64, generator=rng) for n in (9, 13, 13))
    noise = torch.randn(9, 13, dtype=torch.float64, generator=rng)
    return {
        "dense": (noise, torch.randn(9, 13, dtype=torch.float64, generator=rng)),
        "rank one": (torch.outer(u, v), torch.outer(u, v + w)),
        "opposed": (noise, -noise + 0.1 * torch.outer(u, v)),
        "one entry": (torch.outer(torch.eye(9)[3], torch.eye(13)[4]).double(), noise),
    }[kind]


@pytest.mark.parametrize("kind", ["dense", "rank one", "opposed", "one entry"])
def test_inner_products_are_unbiased_with_the_stated_variance(kind: str) -> None:
    G, H = pair(kind)
    exact = float((G * H).sum())
    drawn = torch.stack([sketch(G) @ sketch(H) for sketch in (CountSketch(WIDTH, seed) for seed in range(DRAWS))])
    variance = float((G.square().sum() * H.square().sum() + exact**2 - 2 * (G * H).square().sum()) / WIDTH)
    assert abs(float(drawn.mean()) - exact) < 4 * (variance / DRAWS) ** 0.5
    assert float(drawn.var()) == pytest.approx(variance, rel=0.15)
    assert variance**0.5 <= CountSketch(WIDTH, 0).cosine_error * float(G.norm() * H.norm())


def test_a_sketch_is_what_its_definition_says() -> None:
    sketch = CountSketch(5, 1)
    units = torch.eye(6, dtype=torch.float64).reshape(6, 2, 3)
    columns = torch.stack([sketch(unit) for unit in units])
    assert columns.abs().sum(1).tolist() == [1.0] * 6, "one bucket per entry"
    assert {-1.0, 1.0} <= set(columns.flatten().tolist())
    G = torch.arange(1, 7, dtype=torch.float64).reshape(2, 3)
    assert torch.allclose(sketch(G), G.flatten() @ columns, rtol=0, atol=1e-15)


def test_batches_add_up_and_the_seed_decides() -> None:
    G, H = pair("dense")
    sketch = CountSketch(WIDTH, 3)
    assert torch.allclose(sketch(G) + sketch(H), sketch(G + H), rtol=0, atol=1e-13)
    assert torch.equal(CountSketch(WIDTH, 3)(G), sketch(G))
    assert not torch.equal(CountSketch(WIDTH, 4)(G), sketch(G))


def test_dtypes_and_widths() -> None:
    sketch = CountSketch(8, 0)
    assert sketch(torch.ones(3, 2, dtype=torch.bfloat16)).dtype == torch.float32
    assert sketch(torch.ones(2, 3).t()).shape == (8,)
    with pytest.raises(ValueError, match="width 0"):
        CountSketch(0, 0)
