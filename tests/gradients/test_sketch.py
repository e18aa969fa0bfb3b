"""Streamed sketches against the gradient they never form, float64."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from cl_lightning.gradients.accumulate import Exact, inner_product
from cl_lightning.gradients.sketch import PROBES, FourPass, SinglePass, Sketch, TestMatrices
from cl_lightning.linalg.low_rank import LowRank
from cl_lightning.linalg.svd import top_singular

RANK, OVERSAMPLING = 8, 10
COLUMNS = 2 * RANK + OVERSAMPLING
Batches = Sequence[tuple[Tensor, Tensor]]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def matrices(seed: int = 0) -> TestMatrices:
    return TestMatrices(seed, torch.float64, torch.device("cpu"))


def four_pass(shape: tuple[int, int], columns: int = COLUMNS, seed: int = 0) -> Sketch:
    return FourPass(shape, columns, matrices(seed), 2 * columns)


def single_pass(shape: tuple[int, int], columns: int = COLUMNS, seed: int = 0) -> Sketch:
    return SinglePass(shape, columns, matrices(seed), 2 * columns + 1)


MAKERS = (four_pass, single_pass)


def run(sketch: Sketch, batches: Batches) -> LowRank:
    for left in reversed(range(sketch.passes)):
        for dy, x in batches:
            sketch.add(dy, x)
        result = sketch.finish_pass()
        assert (result is None) == (left > 0)
    return result


def decaying(size: int, power: float, seed: int = 0) -> Tensor:
    """Singular values i^-power."""
    U, V = (torch.linalg.qr(normal(size, size, seed=seed + i)).Q for i in range(2))
    return U * torch.arange(1, size + 1, dtype=torch.float64) ** -power @ V.t()


def as_batches(G: Tensor, parts: int = 1) -> Batches:
    """Batches whose dy^T x add up to G: rows of the identity against G."""
    eye = torch.eye(len(G), dtype=G.dtype)
    return list(zip(eye.tensor_split(parts), G.tensor_split(parts), strict=True))


def energy(result: LowRank, G: Tensor) -> float:
    """Of the sketch's top 2r directions, as a share of the best 2r directions' energy."""
    U, _, V = top_singular(result, 2 * RANK, torch.Generator().manual_seed(0))
    best = torch.linalg.svdvals(G)[: 2 * RANK].square().sum()
    return float((U.t() @ G @ V).square().sum() / best)


@pytest.mark.parametrize("make", MAKERS)
def test_streamed_over_any_split_equals_direct(make: Callable[..., Sketch]) -> None:
    dy, x = normal(60, 30, seed=1), normal(60, 50, seed=2)
    whole = run(make((30, 50), 12), [(dy, x)])
    split = run(make((30, 50), 12), list(zip(dy.split([7, 1, 52]), x.split([7, 1, 52]), strict=True)))
    assert torch.allclose(whole.dense(), split.dense(), atol=1e-11)
    assert whole.captured == pytest.approx(split.captured, rel=1e-10)


def test_sums_of_a_pass_are_linear_in_the_gradient() -> None:
    one, two = ([(normal(9, 30, seed=s), normal(9, 50, seed=s + 9))] for s in (1, 2))
    for make in MAKERS:
        sketches = [make((30, 50), 12) for _ in range(3)]
        both = [(2.0 * dy, x) for dy, x in one] + [(-3.0 * dy, x) for dy, x in two]
        for sketch, batches in zip(sketches, (one, two, both), strict=True):
            for dy, x in batches:
                sketch.add(dy, x)
        for a, b, c in zip(*(s.tensors() for s in sketches), strict=True):
            assert torch.allclose(2.0 * a - 3.0 * b, c, atol=1e-11)


@pytest.mark.parametrize("make", MAKERS)
def test_a_gradient_of_rank_2r_is_recovered_with_its_inner_products(make: Callable[..., Sketch]) -> None:
    low = normal(40, 2 * RANK, seed=1) @ normal(2 * RANK, 60, seed=2)
    other = normal(40, 60, seed=3)
    result = run(make((40, 60)), as_batches(low, 3))
    assert torch.allclose(result.dense(), low, atol=1e-8)
    assert result.captured == pytest.approx(1.0, abs=1e-12)
    products = [inner_product(dy, x, result) for dy, x in as_batches(other, 4)]
    assert float(sum(products)) == pytest.approx(float((other * low).sum()), rel=1e-9)


def test_decaying_gradients_keep_their_top_energy_and_the_power_pass_helps() -> None:
    G = decaying(256, 1.5)
    batches = as_batches(G, 2)
    power, one = run(four_pass(G.shape), batches), run(single_pass(G.shape), batches)
    without = four_pass(G.shape)
    for dy, x in batches:
        without.add(dy, x)
    without.finish_pass()
    for dy, x in batches:
        without.add(dy, x)
    halko = LowRank(without.basis, without._sum)  # two passes: Q (G^T Q)^T
    assert energy(power, G) >= 0.999
    assert energy(one, G) >= 0.998
    assert energy(power, G) > energy(halko, G) > energy(one, G)


def test_the_cosine_of_decaying_gradients_at_odds_survives() -> None:
    """From two sketches that saw a gradient each; with a few columns it does not."""
    G = decaying(256, 1.5)
    M = decaying(256, 1.5, seed=5) - 0.6 * G
    exact = float((G * M).sum() / (G.norm() * M.norm()))

    def error(columns: int) -> float:
        new, memory = (run(four_pass(G.shape, columns), as_batches(one, 2)) for one in (G, M))
        inner = float(sum(inner_product(dy, x, memory) for dy, x in as_batches(G, 2)))
        norms = [float(g.dense().norm()) / g.captured**0.5 for g in (new, memory)]
        return abs(inner / (norms[0] * norms[1]) - exact)

    assert exact < -0.3
    assert error(COLUMNS) < 2e-3 < error(8)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
def test_the_captured_share_is_honest(make: Callable[..., Sketch], power: float) -> None:
    G = decaying(128, power)
    estimates, truths = [], []
    for seed in range(6):
        result = run(make(G.shape, seed=seed), as_batches(G))
        missed = float((G - result.dense()).square().sum())
        held = float(result.dense().square().sum())
        estimates.append(1 - result.captured)
        truths.append(missed / (missed + held))
    # A mean of PROBES squares each: relative standard error about sqrt(2 / PROBES / runs).
    assert sum(estimates) / sum(truths) == pytest.approx(1.0, abs=4 * math.sqrt(2 / PROBES / 6))
    assert (1 - sum(truths) / 6 < 0.99) == (power < 1.5)


def test_range_columns_could_not_have_seen_what_is_missed() -> None:
    """Negative control of the probes: Q holds G Omega, so its own columns report no residual at all."""
    G = decaying(128, 0.5)
    sketch = four_pass(G.shape)
    for dy, x in as_batches(G):
        sketch.add(dy, x)
    seen = sketch._left.clone()
    sketch.finish_pass()
    Q = sketch.basis
    own, probes = (y - Q @ (Q.t() @ y) for y in (seen[:, :COLUMNS], seen[:, COLUMNS:]))
    assert float(own.norm() / seen[:, :COLUMNS].norm()) < 1e-10
    assert float(probes.norm() / seen[:, COLUMNS:].norm()) > 0.1


@pytest.mark.parametrize("make", MAKERS)
def test_a_zero_gradient_is_zero_and_wholly_captured(make: Callable[..., Sketch]) -> None:
    result = run(make((30, 50)), [(torch.zeros(4, 30).double(), torch.zeros(4, 50).double())])
    assert not result.dense().any()
    assert result.captured == 1.0


def test_test_matrices_are_shared_and_depend_on_seed_and_size() -> None:
    shared = matrices()
    a, b = FourPass((30, 50), 12, shared, 24), FourPass((20, 50), 12, shared, 24)
    assert a._omega is b._omega
    assert torch.equal(matrices().gaussian("range", 5, 3), matrices().gaussian("range", 5, 3))
    assert not torch.equal(matrices().gaussian("range", 5, 3), matrices(1).gaussian("range", 5, 3))


def test_exact_accumulators_give_inner_products_by_batch_from_the_same_outer_product() -> None:
    memory = normal(6, 9, seed=5)
    exact = Exact((6, 9), torch.float64, torch.device("cpu"), [memory, 2 * memory])
    dy, x = normal(7, 6, seed=1), normal(7, 9, seed=2)
    exact.add(dy, x)
    wanted = float((dy.t() @ x * memory).sum())
    assert torch.allclose(exact.total, dy.t() @ x)
    exact.inner.end_batch()
    exact.inner.end_batch()
    assert exact.inner.batches[0].tolist() == pytest.approx([wanted, 2 * wanted])
    assert exact.inner.batches[1].tolist() == [0.0, 0.0], "a new batch begins at 0"
    assert float(inner_product(dy, x, memory)) == pytest.approx(wanted)
