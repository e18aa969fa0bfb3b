"""Percentile bootstrap of a mean score over test examples (Efron 1979). No torch.

The intervals cover the choice of test examples only, not the variance of training, for which compare seeds. They are
too narrow with few examples, and have no width if all examples score the same.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 1000
LEVEL = 0.95
Interval = tuple[float, float]


@lru_cache(maxsize=16)  # about one entry per task: drawing dominates the cost
def _counts(examples: int, seed: int) -> NDArray[np.float32]:
    """Return how often each resample draws each example: (RESAMPLES, examples), rows sum to `examples`. Read only."""
    rng = np.random.default_rng([seed, examples])
    drawn = rng.multinomial(examples, np.full(examples, 1 / examples), size=RESAMPLES).astype(np.float32)
    drawn.flags.writeable = False
    return drawn


def resampled_means(scores: ArrayLike, seed: int = 0) -> NDArray[np.float64]:
    """Compute the means of resampled examples: scores (..., examples) -> (RESAMPLES, ...).

    All leading rows share the same resamples, so that differences between them are paired; so do two calls with the
    same number of examples and the same seed. Raises ValueError if there are no examples.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not values.shape[-1]:
        raise ValueError("no scores to resample")
    return np.moveaxis(values @ _counts(values.shape[-1], seed).T, -1, 0) / values.shape[-1]


def percentiles(resampled: ArrayLike) -> Interval:
    """Return the 2.5 and 97.5 percentiles of a statistic's resampled values."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def interval(scores: Sequence[float], seed: int = 0) -> Interval:
    """Compute the 95 % interval of the mean of `scores` from 1000 resamples; deterministic given `seed`.

    Example:
        >>> interval([50.0, 50.0])
        (50.0, 50.0)
    """
    return percentiles(resampled_means(scores, seed))


def format_interval(bounds: Sequence[float] | None) -> str:
    """Format an interval for a table; None gives an empty cell."""
    return "" if bounds is None else f"{bounds[0]:.1f} .. {bounds[1]:.1f}"
