"""The reliability test: its formula, its false positives on data without conflict, and that it fires on conflicts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cl_lightning.surgery.reliability import LEAST_BATCHES, conflicts_reliably, jackknife, null_firing_share

torch.set_num_threads(1)

BATCHES = 8
BELOW_MINUS_2 = 0.0428  # of Student's t with 7 degrees of freedom


def normal(matrices: int, batches: int = BATCHES, mean: float = 0.0, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return mean + torch.randn(matrices, batches, dtype=torch.float64, generator=rng)


def share(products: Tensor, z: float) -> float:
    return sum(conflicts_reliably(d, z) for d in products) / len(products)


@settings(deadline=None, max_examples=40)
@given(st.integers(3, 40), st.integers(0, 999), st.floats(-5, 5))
def test_jackknife_by_leaving_out(batches: int, seed: int, mean: float) -> None:
    d = normal(1, batches, mean, seed)[0]
    total, error = jackknife(d)
    left_out = torch.stack([(d.sum() - x) * batches / (batches - 1) for x in d])
    assert total == pytest.approx(float(d.sum()), abs=1e-12)
    assert error**2 == pytest.approx((batches - 1) / batches * float((left_out - left_out.mean()).square().sum()))


def test_of_gradients() -> None:
    """The total is <G_new, G_mem>, and the error that of a total: it grows with the root of the batches."""
    rng = torch.Generator().manual_seed(3)
    batches, memory = torch.randn(BATCHES, 5, 4, generator=rng), torch.randn(5, 4, generator=rng)
    products = (batches * memory).sum((1, 2))
    total, error = jackknife(products)
    assert total == pytest.approx(float((batches.sum(0) * memory).sum()), rel=1e-5)
    assert jackknife(products.repeat(100))[1] == pytest.approx(10 * error * (7 / 8) ** 0.5, rel=1e-2)
    assert jackknife(1e-6 * products)[1] == pytest.approx(1e-6 * error)


def test_false_positives_follow_the_t_distribution() -> None:
    """Without a conflict the test fires in 4.3 %, the bare sign in half."""
    d = normal(4000)
    assert share(d, 2.0) == pytest.approx(BELOW_MINUS_2, abs=0.011)  # 3.4 standard errors
    assert share(d, 0.0) == pytest.approx(0.5, abs=0.03)  # negative control
    assert share(d, 4.0) < share(d, 2.0) / 4


def test_strong_conflicts_fire_and_agreement_never_does() -> None:
    assert share(normal(200, mean=-3.0), 2.0) > 0.99
    assert share(normal(200, mean=3.0), 0.0) < 0.01
    assert 0.2 < share(normal(1000, mean=-0.5), 2.0) < 0.45  # in between, it depends


def test_batches_that_agree_have_no_error() -> None:
    assert jackknife(torch.full((4,), -0.5)) == (-2.0, 0.0)
    assert conflicts_reliably(torch.full((4,), -0.5), 100.0)
    assert not conflicts_reliably(torch.zeros(4))
    assert not conflicts_reliably(torch.full((4,), 0.5))


@pytest.mark.parametrize("products", [torch.zeros(LEAST_BATCHES - 1), torch.zeros(0), torch.zeros(4, 4)])
def test_needs_three_batches(products: Tensor) -> None:
    with pytest.raises(ValueError, match="needs 3 batches"):
        conflicts_reliably(products)


def test_refuses_what_is_not_finite() -> None:
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not finite"):
            jackknife(torch.tensor([1.0, bad, 1.0]))
    with pytest.raises(ValueError, match="needs matrices"):
        null_firing_share({}, 2.0, torch.Generator())


@pytest.mark.parametrize("batches", [8, 9])
def test_null_share_finds_the_false_positives(batches: int) -> None:
    d = {str(i): x for i, x in enumerate(normal(300, batches, seed=1))}
    found = null_firing_share(d, 2.0, torch.Generator().manual_seed(0))
    assert found == pytest.approx(BELOW_MINUS_2, abs=0.02)
    assert null_firing_share(d, 0.0, torch.Generator().manual_seed(0)) == pytest.approx(0.5, abs=0.05)  # control


def test_null_share_where_there_is_conflict() -> None:
    """Every matrix fires, none under flipped signs: the conflict has become spread."""
    conflict = normal(100, mean=-4.0, seed=2)
    d = {str(i): x for i, x in enumerate(conflict)}
    assert share(conflict, 2.0) > 0.99
    assert null_firing_share(d, 2.0, torch.Generator().manual_seed(0)) < BELOW_MINUS_2
    assert null_firing_share(d, 2.0, torch.Generator().manual_seed(1), 3) <= 1


def test_null_share_repeats() -> None:
    d = {str(i): x for i, x in enumerate(normal(50))}
    first, again, other = (null_firing_share(d, 1.0, torch.Generator().manual_seed(s), 5) for s in (0, 0, 1))
    assert first == again != other


def test_null_share_takes_the_same_batches_for_all() -> None:
    """Matrices with the same products fire together."""
    one = normal(1, seed=4)[0]
    for seed in range(10):
        found = null_firing_share({"a": one, "b": 2 * one}, 0.5, torch.Generator().manual_seed(seed), 1)
        assert found in (0.0, 1.0)
