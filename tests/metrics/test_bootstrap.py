"""The percentile bootstrap: coverage, seeding, pairing, and zero width."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_lightning.metrics.bootstrap import RESAMPLES, interval, percentiles, resampled_means


def test_the_width_equals_that_of_the_normal_approximation() -> None:
    """Accuracy 70 % on 400 examples: standard error 100 sqrt(.7 .3 / 400) = 2.29, hence 70 -+ 4.5."""
    low, high = interval([100.0] * 280 + [0.0] * 120)
    error = 100 * math.sqrt(0.7 * 0.3 / 400)
    assert low == pytest.approx(70 - 1.96 * error, abs=0.6)
    assert high == pytest.approx(70 + 1.96 * error, abs=0.6)


def test_coverage_is_the_nominal_level() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        low, high = interval((100.0 * (rng.random(60) < 0.6)).tolist(), seed=trial)
        hits += low <= 60 <= high
    assert 180 <= hits <= 198  # 95 % of 200, less a little for 60 examples


def test_the_interval_is_seeded_and_ignores_the_order() -> None:
    scores = [0.0, 10.0, 35.5, 100.0, 80.0]
    assert interval(scores) == interval(list(scores))
    assert interval(scores, seed=1) != interval(scores, seed=0)
    assert resampled_means(scores).shape == (RESAMPLES,)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40))
def test_the_interval_contains_the_mean_and_lies_within_the_scores(scores: list[float]) -> None:
    low, high = interval(scores)
    assert min(scores) - 1e-9 <= low <= high <= max(scores) + 1e-9
    if len(set(scores)) == 1:
        assert low == pytest.approx(high)


def test_rows_are_resampled_together() -> None:
    """Two methods that differ by 5 on every example differ by 5 in every resample: the paired interval is a point."""
    a = np.random.default_rng(0).uniform(0, 95, 50)
    paired = resampled_means([a, a + 5])
    assert percentiles(paired[:, 1] - paired[:, 0]) == pytest.approx((5.0, 5.0))
    assert resampled_means(a + 5) - resampled_means(a) == pytest.approx(np.full(RESAMPLES, 5.0))
    apart = resampled_means(a + 5, seed=1) - resampled_means(a, seed=0)  # unpaired: wide
    low, high = percentiles(apart)
    assert high - low > 5


def test_no_scores_raise() -> None:
    with pytest.raises(ValueError, match="no scores"):
        interval([])
