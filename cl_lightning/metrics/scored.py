"""Scored predictions, the rows of `predictions/*.jsonl`. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cl_lightning.metrics.bootstrap import Interval, interval
from cl_lightning.metrics.registry import best_scores, mean_score

Row = dict[str, Any]
#: Further metric that `data.score_by=both` adds: the score of the most likely label.
CONSTRAINED = "constrained"


@dataclass(frozen=True)
class Scored:
    """A task's mean score (0..100), its 95 % interval, and a row per test example.

    A row has the keys id, prediction, reference, score and, if there are further metrics, "also" with their scores.
    """

    score: float
    interval: Interval
    rows: list[Row]

    @property
    def further(self) -> dict[str, dict[str, Any]]:
        """Mean ("score") and 95 % "interval" of each further metric."""
        values = {name: [row["also"][name] for row in self.rows] for name in self.rows[0].get("also", ())}
        return {name: {"score": mean_score(each), "interval": interval(each)} for name, each in values.items()}


def score_predictions(metric: str, rows: Sequence[Row], prompts: Sequence[str], also: Sequence[str] = ()) -> Scored:
    """Score rows of id, prediction and reference (a string, or a list of which the best counts).

    Without `also`, scores by further metrics that are already in the rows are kept. `prompts` are read by the metrics
    in `PROMPTED` only. Raises ConfigError for an unknown metric.
    """
    references = [[r] if isinstance(r := row["reference"], str) else r for row in rows]
    predictions = [row["prediction"] for row in rows]
    scores, *others = (best_scores(name, predictions, references, prompts) for name in (metric, *also))
    scored = [{**row, "score": score} for row, score in zip(rows, scores, strict=True)]
    for row, *values in zip(scored, *others, strict=True) if also else ():
        row["also"] = dict(zip(also, values, strict=True))
    return Scored(mean_score(scores), interval(scores), scored)
