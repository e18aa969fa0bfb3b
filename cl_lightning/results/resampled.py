"""Score matrices of a run on resampled test examples, for intervals of sequence metrics. Imports no torch."""

from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from cl_lightning.common.errors import StateError
from cl_lightning.data.protocol import PROTOCOLS
from cl_lightning.data.thinning import Thinning
from cl_lightning.metrics.bootstrap import RESAMPLES, Interval, percentiles, resampled_means
from cl_lightning.metrics.matrix import Matrix
from cl_lightning.sequence.folder import ZERO_SHOT, columns, prediction_file, read_predictions

#: Index of the untrained model's row in a resampled R.
START = -1
#: (row, column) -> ids of the test examples and their scores.
Cells = dict[tuple[int, int], tuple[tuple[str, ...], list[float]]]


def has_predictions(record: dict[str, Any]) -> bool:
    """Return whether the record names prediction files; records of other programs may not."""
    return any(name.startswith("predictions/") for name in record["files"])


def stored_cells(path: Path, record: dict[str, Any]) -> Cells:
    """Read the per-example scores behind every score of R and of the untrained model.

    Raises:
        StateError: predictions are missing or damaged, or a task was scored on different examples, other than a part of
            them of the size that `Thinning` gives.
    """
    tasks, cells, some = columns(record), {}, Thinning.of(record["metrics"]).samples
    examples: dict[int, tuple[str, ...]] = {}
    rows = [*zip(record["order"], record["R"], strict=False)]
    numbered = [*enumerate(rows), (START, (ZERO_SHOT, record["zero_shot"] or []))]
    for i, (after, scores) in numbered:
        for j in (j for j, score in enumerate(scores) if score is not None):
            name = prediction_file(after, tasks[j])
            found = read_predictions(path, record, name)
            ids = tuple(row["id"] for row in found)
            cells[i, j] = ids, [row["score"] for row in found]
            whole = examples.setdefault(j, ids)  # the first is that of the task just trained
            if ids != whole and not (len(ids) == some and {*ids} <= {*whole}):
                raise StateError(f"{path}: {name} holds other examples than earlier scores of the task")
    return cells


def resampled_matrices(path: Path, record: dict[str, Any]) -> NDArray[np.float64]:
    """Compute R on resampled test examples: (RESAMPLES, rows of R + 1, tasks), NaN where not scored.

    Row START holds the untrained model's scores. All rows of a task with the same examples, and other runs with them,
    use the same draws, so that differences are paired. Raises StateError as `stored_cells`.
    """
    cells = stored_cells(path, record)
    R = np.full((RESAMPLES, len(record["R"]) + 1, len(columns(record))), np.nan)
    alike: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for (i, j), (ids, _) in cells.items():
        alike.setdefault((j, ids), []).append(i)
    for (j, ids), rows in alike.items():
        R[:, rows, j] = resampled_means([cells[i, j][1] for i in rows], seed=crc32("\0".join(ids).encode()))
    return R.clip(0, 100)  # rounding may carry a mean above 100


def as_matrices(resampled: NDArray[np.float64]) -> list[Matrix]:
    """Convert the output of `resampled_matrices` to matrices with None where not scored."""
    return np.where(np.isnan(resampled), None, resampled).tolist()


def metric_intervals(path: Path, record: dict[str, Any]) -> dict[str, Interval]:
    """Compute 95 % intervals over test examples of the run's sequence metrics; {} without predictions.

    Raises StateError as `stored_cells`.
    """
    if not has_predictions(record):
        return {}
    summary = PROTOCOLS[record["protocol"]].summary
    there = [name for name, value in summary(record["R"], record["zero_shot"]).items() if value is not None]
    drawn = [summary(R[:START], R[START]) for R in as_matrices(resampled_matrices(path, record))]
    return {name: percentiles([values[name] for values in drawn]) for name in there}
