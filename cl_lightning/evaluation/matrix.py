"""Summaries of the score matrix R of a task sequence. Plain floats, no torch, no numpy.

`R[i][j]` is the score (0..100) on task j after training task i, both counted from 0; None, or a row that
ends before j, means not scored. T is the number of rows: in the middle of a sequence the summaries are those
of the tasks trained so far, and columns from T on (tasks not yet trained) are ignored.

Names clash between papers, hence ours carry the divisor; `CONVENTIONS` has one line each for tables.
Every function raises ValueError for an empty matrix, a score outside 0..100, and a cell it needs but misses
(SLICE's own code drops missing cells and averages the rest).
"""

from collections.abc import Callable, Sequence
from math import fsum

Matrix = Sequence[Sequence[float | None]]

CONVENTIONS: dict[str, str] = {
    "ap": 'mean of the diagonal, divisor T: "AP" in SLICE; not the "AP" of SAPT and GainLoRA',
    "fp": 'mean of the last row, divisor T: "FP" in SLICE, OP_T in TRACE, ACC in GEM, "AP" in SAPT, GainLoRA',
    "forget_T": "ap - fp, divisor T: Forget in SLICE, -Bwt in SAPT's code",
    "forget_Tm1": "mean drop from diagonal to last row over the first T-1 tasks: -bwt",
    "bwt": "mean change from diagonal to last row over the first T-1 tasks: BWT in TRACE and GEM",
    "f_ra": "mean drop from best earlier score to last row over the first T-1 tasks: F.Ra in SAPT, GainLoRA",
}


def _size(R: Matrix) -> int:
    """T, after checking every score there is."""
    if not R:
        raise ValueError("the score matrix is empty: no task was trained")
    for i, row in enumerate(R):
        for j, score in enumerate(row):
            if score is not None and not 0 <= score <= 100:  # NaN fails as well
                raise ValueError(f"score (row {i}, column {j}) is {score}, outside 0..100")
    return len(R)


def _at(R: Matrix, i: int, j: int) -> float:
    score = R[i][j] if j < len(R[i]) else None
    if score is None:
        raise ValueError(f"score (row {i}, column {j}) is missing: task {j} was not scored after task {i}")
    return score


def _earlier(R: Matrix, name: str) -> int:
    """T-1, the number of tasks that can have been forgotten."""
    count = _size(R) - 1
    if not count:
        raise ValueError(f"{name} is undefined for one task: nothing came after it")
    return count


def ap(R: Matrix) -> float:
    """Average performance `(1/T) sum_j R[j][j]`, 0..100: how well each task was learnt (plasticity).

    Source: SLICE (arXiv 2605.12752), "AP". SAPT and GainLoRA call the mean of the last row AP: see `fp`.
    """
    T = _size(R)
    return fsum(_at(R, j, j) for j in range(T)) / T


def fp(R: Matrix) -> float:
    """Final performance `(1/T) sum_j R[T-1][j]`, 0..100: what is left at the end.

    Source: SLICE, "FP". The same number is OP_T in TRACE (arXiv 2310.06762), ACC in GEM, and "AP" in SAPT and
    GainLoRA ("Cl" in their code).
    """
    T = _size(R)
    return fsum(_at(R, T - 1, j) for j in range(T)) / T


def forget_T(R: Matrix) -> float:
    """Forgetting `ap - fp = (1/T) sum_j (R[j][j] - R[T-1][j])`, -100..100; below 0: later gains.

    Source: SLICE, "Forget". The last task counts as 0 but is in the divisor, so the value is (T-1)/T of
    `forget_Tm1`, and 0 for T = 1. "Bwt" in the code of SAPT and GainLoRA is its negative.
    """
    return ap(R) - fp(R)


def forget_Tm1(R: Matrix) -> float:
    """Forgetting `(1/(T-1)) sum_{j<T-1} (R[j][j] - R[T-1][j])` = `-bwt`, -100..100; ValueError for T = 1."""
    count = _earlier(R, "forget_Tm1")
    return fsum(_at(R, j, j) - _at(R, count, j) for j in range(count)) / count


def bwt(R: Matrix) -> float:
    """Backward transfer `(1/(T-1)) sum_{j<T-1} (R[T-1][j] - R[j][j])`, -100..100; ValueError for T = 1.

    Source: GEM (Lopez-Paz and Ranzato 2017), TRACE (which prints it on -1..1; no public code). "Bwt" in the
    code of SAPT and GainLoRA divides the same sum by T.
    """
    count = _earlier(R, "bwt")
    return fsum(_at(R, count, j) - _at(R, j, j) for j in range(count)) / count


def f_ra(R: Matrix) -> float:
    """Forgetting rate `(1/(T-1)) sum_{j<T-1} (max_{j<=i<T-1} R[i][j] - R[T-1][j])`, -100..100.

    Source: SAPT and GainLoRA, "F.Ra" ("Fgt" in their `score.py`). At least `forget_Tm1`, as the best score
    can come after the diagonal. Their code takes the maximum over all earlier rows, with zeros where the task
    had not been seen: that differs only for negative scores, which are refused here. ValueError for T = 1.
    """
    count = _earlier(R, "f_ra")
    return fsum(max(_at(R, i, j) for i in range(j, count)) - _at(R, count, j) for j in range(count)) / count


_ANY_T: tuple[Callable[[Matrix], float], ...] = (ap, fp, forget_T)
_TWO_TASKS: tuple[Callable[[Matrix], float], ...] = (forget_Tm1, bwt, f_ra)


def summary(R: Matrix) -> dict[str, float | None]:
    """Every metric by name, in the order of `CONVENTIONS`; None for those that T = 1 leaves undefined.

    Example:
        >>> summary([[80.0, None], [50.0, 70.0]])["bwt"]
        -30.0
    """
    several = _size(R) > 1
    values: dict[str, float | None] = {f.__name__: f(R) for f in _ANY_T}
    return values | {f.__name__: f(R) if several else None for f in _TWO_TASKS}


def joint_summary(R: Matrix) -> dict[str, float | None]:
    """Of a model trained on all tasks at once, whose only row scores them all: `fp`, its mean; the rest None."""
    _size(R)
    return dict.fromkeys(CONVENTIONS) | {"fp": fsum(_at(R, 0, j) for j in range(len(R[0]))) / len(R[0])}


def independent_summary(R: Matrix) -> dict[str, float | None]:
    """Of models trained on one task each, whose diagonal alone is scored: `ap`, its mean; the rest None."""
    return dict.fromkeys(CONVENTIONS) | {"ap": ap(R)}


#: What summarises R, by `data.protocol`.
SUMMARIES: dict[str, Callable[[Matrix], dict[str, float | None]]] = {
    "sequential": summary,
    "joint": joint_summary,
    "independent": independent_summary,
}
