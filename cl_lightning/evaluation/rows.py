"""Rows of predictions and their scores: what `predictions/*.jsonl` holds. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cl_lightning.evaluation.bootstrap import Interval, interval
from cl_lightning.evaluation.text import best_scores, mean_score

Row = dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """A task's mean score (0..100), its 95 % interval, and a row per test example: id, prediction, reference, score."""

    score: float
    interval: Interval
    rows: list[Row]


def score_rows(metric: str, rows: Sequence[Row], prompts: Sequence[str]) -> Scored:
    """Score rows of id, prediction and reference (a text, or a list of those that count), the best reference of each.

    Predictions are stripped where they are made, so references must be: some of TRACE's code lines end in a blank.
    `prompts` are read by some metrics only (`PROMPTED`). Raises ConfigError for an unknown metric.
    """
    references = [[r] if isinstance(r := row["reference"], str) else r for row in rows]
    stripped = [[text.strip() for text in several] for several in references]
    scores = best_scores(metric, [row["prediction"] for row in rows], stripped, prompts)
    scored = [{**row, "score": score} for row, score in zip(rows, scores, strict=True)]
    return Scored(mean_score(scores), interval(scores), scored)
