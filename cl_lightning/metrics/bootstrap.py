"""Percentile bootstrap over test examples (Efron 1979): how far a mean score would move with other examples. No torch.

Only the choice of test examples varies here, not training: seeds do that. With few examples the interval is too
narrow, and it has no width at all where all of them score the same.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 1000
LEVEL = 0.95
Interval = tuple[float, float]


@lru_cache(maxsize=16)  # a sequence's tasks: drawing takes longer than all else
def _counts(examples: int, seed: int) -> NDArray[np.float32]:
    """How often each example is drawn: (RESAMPLES, examples), rows sum to `examples`. Read only."""
    rng = np.random.default_rng([seed, examples])
    drawn = rng.multinomial(examples, np.full(examples, 1 / examples), size=RESAMPLES).astype(np.float32)
    drawn.flags.writeable = False
    return drawn


def resampled_means(scores: ArrayLike, seed: int = 0) -> NDArray[np.float64]:
    """Means over resampled examples: scores (..., examples) -> (RESAMPLES, ...).

    All leading rows see the same resamples, so that differences between them are paired; so do two calls with the
    same number of examples and the same seed. Raises ValueError without an example.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not values.shape[-1]:
        raise ValueError("no scores to resample")
    return np.moveaxis(values @ _counts(values.shape[-1], seed).T, -1, 0) / values.shape[-1]


def percentiles(resampled: ArrayLike) -> Interval:
    """The middle 95 % of a statistic's resampled values."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def interval(scores: Sequence[float], seed: int = 0) -> Interval:
    """95 % interval of the mean of `scores`, from 1000 resamples; the same for the same scores and seed.

    Example:
        >>> interval([50.0, 50.0])
        (50.0, 50.0)
    """
    return percentiles(resampled_means(scores, seed))


def between(found: Sequence[float] | None) -> str:
    """An interval in a table; nothing where there is none."""
    return "" if found is None else f"{found[0]:.1f} .. {found[1]:.1f}"
