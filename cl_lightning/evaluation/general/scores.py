"""Scores of general ability with their items, intervals, and paired differences from the base model. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from statistics import fmean
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from cl_lightning.common.errors import ConfigError
from cl_lightning.metrics.bootstrap import Interval, percentiles, resampled_means

#: Largest difference between the items' mean and lm-eval's value (0..100) that counts as equal.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Part:
    """Items of one lm-eval task: their ids in its data set, their scores 0..100, and the weight of their mean in the
    total score."""

    task: str
    weight: float
    ids: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Score:
    """Score of a task, group or setting by lm-eval.

    Attributes:
        value: 0..100.
        items: number of items it is computed from.
        parts: the items by task of a group, without items whose score is not a number.
        averaged: whether `value` is the weighted mean of the parts; corpus metrics are not, and have no interval.
    """

    value: float
    items: int
    parts: tuple[Part, ...] = ()
    averaged: bool = False


@dataclass(frozen=True)
class Figure:
    """A score beside the base model's, with 95 % intervals of it and of the difference; None if it is not a mean of
    items."""

    score: float
    items: int
    interval: Interval | None
    base: float
    difference: float
    difference_interval: Interval | None


def score_of(value: float, items: int, parts: Sequence[Part]) -> Score:
    """Make a score, checking whether it is the weighted mean of its items."""
    mean = fsum(part.weight * fmean(part.scores) for part in parts) if parts else float("nan")
    return Score(value, items, tuple(parts), abs(mean - value) <= ROUNDING)


def average(scores: Sequence[Score]) -> Score:
    """Average several scores with equal weights, e.g. for a setting."""
    parts = [Part(p.task, p.weight / len(scores), p.ids, p.scores) for score in scores for p in score.parts]
    averaged = all(score.averaged for score in scores)
    return Score(fmean(s.value for s in scores), sum(s.items for s in scores), tuple(parts), averaged)


def figure(score: Score, base: Score) -> Figure:
    """Compare a score with the base model's on the same items.

    The bootstrap is stratified: items are drawn within each task, and the tasks' means weighted as in lm-eval, by size
    or evenly. Both models use the same draws, so that the difference's interval is paired.

    Raises:
        ConfigError: the base model was measured on other items.
    """
    if [(part.task, part.ids) for part in score.parts] != [(part.task, part.ids) for part in base.parts]:
        named = ", ".join(sorted({part.task for part in (*score.parts, *base.parts)}))
        raise ConfigError(
            f"observers.general: the items of {named} differ from those that the base model was measured on; restore "
            "the data, or start over with FRESH=1"
        )
    difference = score.value - base.value
    if not (score.averaged and base.averaged):
        interval = percentiles(_resampled(score)) if score.averaged else None
        return Figure(score.value, score.items, interval, base.value, difference, None)
    ours, theirs = _resampled(score), _resampled(base)
    return Figure(score.value, score.items, percentiles(ours), base.value, difference, percentiles(ours - theirs))


def _resampled(score: Score) -> NDArray[np.float64]:
    """Return (RESAMPLES,) values. The draws depend on the task's name: tasks of equal size are independent."""
    means = [part.weight * resampled_means(part.scores, seed=crc32(part.task.encode())) for part in score.parts]
    return np.sum(means, axis=0)


def score_from(state: dict[str, Any]) -> Score:
    """Restore a score from the JSON of `dataclasses.asdict`."""
    parts = tuple(Part(p["task"], p["weight"], tuple(p["ids"]), tuple(p["scores"])) for p in state["parts"])
    return Score(state["value"], state["items"], parts, state["averaged"])


def item_rows(setting: str, task: str, score: Score) -> list[dict[str, Any]]:
    """Make a row for each item, for a JSONL file."""
    return [
        {"setting": setting, "task": task, "lm_eval_task": part.task, "id": item, "score": value}
        for part in score.parts
        for item, value in zip(part.ids, part.scores, strict=True)
    ]
