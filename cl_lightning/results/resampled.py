"""R of a run on resampled test examples: what intervals of sequence metrics are made of. No torch here."""

from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from cl_lightning.common.errors import StateError
from cl_lightning.data.protocol import PROTOCOLS
from cl_lightning.metrics.bootstrap import RESAMPLES, Interval, percentiles, resampled_means
from cl_lightning.sequence.folder import ZERO_SHOT, columns, prediction_file, read_predictions

#: Row of the untrained model, as an index of a resampled R.
START = -1
#: (row, column) -> ids of the test examples and their scores.
Cells = dict[tuple[int, int], tuple[tuple[str, ...], list[float]]]


def has_predictions(record: dict[str, Any]) -> bool:
    """Whether the record names any prediction file: those of other programs need not."""
    return any(name.startswith("predictions/") for name in record["files"])


def stored_cells(path: Path, record: dict[str, Any]) -> Cells:
    """Scores of the test examples behind every score of R, and behind the untrained model's.

    Raises:
        StateError: predictions missing or damaged, or one task scored on different examples.
    """
    tasks, cells = columns(record), {}
    examples: dict[int, tuple[str, ...]] = {}
    rows = [*zip(record["order"], record["R"], strict=False)]
    numbered = [*enumerate(rows), (START, (ZERO_SHOT, record["zero_shot"] or []))]
    for i, (after, scores) in numbered:
        for j in (j for j, score in enumerate(scores) if score is not None):
            name = prediction_file(after, tasks[j])
            found = read_predictions(path, record, name)
            cells[i, j] = tuple(row["id"] for row in found), [row["score"] for row in found]
            if cells[i, j][0] != examples.setdefault(j, cells[i, j][0]):
                raise StateError(f"{path}: {name} holds other examples than earlier scores of the task")
    return cells


def resampled_matrices(path: Path, record: dict[str, Any]) -> NDArray[np.float64]:
    """(RESAMPLES, rows of R + 1, tasks), 0 where not scored; the untrained model's scores are row START.

    Rows of one task see the same draws of its examples, and so do other runs with these examples: pairs stay pairs.
    Raises StateError as `stored_cells`.
    """
    cells = stored_cells(path, record)
    R = np.zeros((RESAMPLES, len(record["R"]) + 1, len(columns(record))))
    for j in {column for _, column in cells}:
        rows = [i for i, column in cells if column == j]
        ids = cells[rows[0], j][0]
        R[:, rows, j] = resampled_means([cells[i, j][1] for i in rows], seed=crc32("\0".join(ids).encode()))
    return R.clip(0, 100)  # a mean of hundreds may round above


def metric_intervals(path: Path, record: dict[str, Any]) -> dict[str, Interval]:
    """95 % intervals over test examples of the sequence metrics that the run has; {} without predictions.

    Raises StateError as `stored_cells`.
    """
    if not has_predictions(record):
        return {}
    summary = PROTOCOLS[record["protocol"]].summary
    there = [name for name, value in summary(record["R"], record["zero_shot"]).items() if value is not None]
    drawn = [summary(R[:START], R[START]) for R in resampled_matrices(path, record).tolist()]
    return {name: percentiles([values[name] for values in drawn]) for name in there}
