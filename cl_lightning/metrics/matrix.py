"""Summaries of the score matrix R of a task sequence. Plain floats, no torch, no numpy.

`R[i][j]` is the score (0..100) on task j after training task i, both counted from 0; None, or a row that
ends before j, means not scored. T is the number of rows: in the middle of a sequence the summaries are those
of the tasks trained so far, and columns from T on (tasks not yet trained) are ignored. `zero_shot[j]` (R_0) is
the untrained model's score on task j, `single[j]` (a_j) that of a reference model, one per column.

Papers use the same names for different metrics, so ours carry the divisor or the paper; `CONVENTIONS` has one line
each for tables. Every function raises ValueError for an empty matrix, a score outside 0..100, and a missing cell that
it needs (SLICE's own code drops missing cells and averages the rest).

If old tasks are not scored after every task, R is thinned: a row is *whole* if it has the scores of all tasks learnt so
far. With `thinned`, the functions that need rows before the last one rest on the scores that are there. Then `f_ra` is
at most, and `min_acc` at least, what it is of the whole R. The others need the diagonal and the last row.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import fsum

Row = Sequence[float | None]
Matrix = Sequence[Row]

CONVENTIONS: dict[str, str] = {
    "ap": 'mean of the diagonal, divisor T: "AP" in SLICE; not the "AP" of SAPT and GainLoRA',
    "fp": 'mean of the last row, divisor T: "FP" in SLICE, OP_T in TRACE, ACC in GEM, "AP" in SAPT, GainLoRA',
    "forget_T": "ap - fp, divisor T: Forget in SLICE, -bwt_T",
    "forget_Tm1": "mean drop from diagonal to last row over the first T-1 tasks: -bwt",
    "bwt": "mean change from diagonal to last row over the first T-1 tasks: BWT in TRACE and GEM",
    "bwt_T": "the same sum with divisor T: Bwt in SAPT's and GainLoRA's code, -forget_T",
    "f_ra": "mean drop from best earlier score to last row over the first T-1 tasks: F.Ra in SAPT, GainLoRA",
    "aaa": "mean of fp after each task: average anytime accuracy, average incremental accuracy",
    "plasticity": "ap under its other name: learning accuracy of MER",
    "stability": "mean of the last row over the first T-1 tasks",
    "min_acc": "mean over the first T-1 tasks of the lowest later score: min-ACC at task ends",
    "fwt_gem": "mean of (score just before training the task) - zero-shot, over tasks 2..T: FWT in GEM",
    "fwt_sapt": "ap - mean of the single-task references: Fwt in SAPT",
    "intransigence": "mean of the references - ap: -fwt_sapt where both have the same references",
}


class _Checked(list[Row]):
    """A matrix whose scores have been checked, for the many functions of one summary."""


def _size(R: Matrix) -> int:
    """Check all scores and return T."""
    if isinstance(R, _Checked):
        return len(R)
    if len(R) == 0:
        raise ValueError("the score matrix is empty: no task was trained")
    for i, row in enumerate(R):
        for j, score in enumerate(row):
            if score is not None and not 0 <= score <= 100:  # also refuses NaN
                raise ValueError(f"score (row {i}, column {j}) is {score}, outside 0..100")
    return len(R)


def _at(R: Matrix, i: int, j: int) -> float:
    score = R[i][j] if j < len(R[i]) else None
    if score is None:
        raise ValueError(f"score (row {i}, column {j}) is missing: task {j} was not scored after task {i}")
    return score


def is_whole(R: Matrix, i: int) -> bool:
    """Return whether row i has the scores of all tasks learnt so far."""
    return all(_has(R[i], j) for j in range(i + 1))


def _earlier(R: Matrix, name: str) -> int:
    """Return T-1, the number of tasks that can have been forgotten. Raises ValueError for T = 1."""
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
    """Final performance `(1/T) sum_j R[T-1][j]`, 0..100: how well all tasks are solved at the end.

    Source: SLICE, "FP". The same number is OP_T in TRACE (arXiv 2310.06762), ACC in GEM, and "AP" in SAPT and
    GainLoRA ("Cl" in their code).
    """
    T = _size(R)
    return fsum(_at(R, T - 1, j) for j in range(T)) / T


def forget_T(R: Matrix) -> float:
    """Forgetting `ap - fp = (1/T) sum_j (R[j][j] - R[T-1][j])`, -100..100; negative if scores rose later.

    Source: SLICE, "Forget". The last task counts as 0 but is in the divisor, so the value is (T-1)/T of
    `forget_Tm1`, and 0 for T = 1. "Bwt" in the code of SAPT and GainLoRA is its negative.
    """
    return ap(R) - fp(R)


def forget_Tm1(R: Matrix) -> float:
    """Forgetting `(1/(T-1)) sum_{j<T-1} (R[j][j] - R[T-1][j])` = `-bwt`, -100..100; ValueError for T = 1.

    Source: the loss side of TRACE's and GEM's BWT; Chaudhry et al. 2018 (RWalk) take the best earlier score instead,
    which is `f_ra`.
    """
    count = _earlier(R, "forget_Tm1")
    return fsum(_at(R, j, j) - _at(R, count, j) for j in range(count)) / count


def bwt(R: Matrix) -> float:
    """Backward transfer `(1/(T-1)) sum_{j<T-1} (R[T-1][j] - R[j][j])`, -100..100; ValueError for T = 1.

    Source: GEM (Lopez-Paz and Ranzato 2017), TRACE (which prints it on -1..1; no public code). "Bwt" in the
    code of SAPT and GainLoRA divides the same sum by T.
    """
    count = _earlier(R, "bwt")
    return fsum(_at(R, count, j) - _at(R, j, j) for j in range(count)) / count


def f_ra(R: Matrix, thinned: bool = False) -> float:
    """Forgetting rate `(1/(T-1)) sum_{j<T-1} (max_{j<=i<T-1} R[i][j] - R[T-1][j])`, -100..100.

    If thinned, the maximum is over the scores that are there; the diagonal is.

    Source: SAPT and GainLoRA, "F.Ra" ("Fgt" in their `score.py`). At least `forget_Tm1`, as the best score
    can come after the diagonal. Their code takes the maximum over all earlier rows, with zeros where the task
    had not been seen: that differs only for negative scores, which are refused here. ValueError for T = 1.
    """
    count = _earlier(R, "f_ra")
    before = [[_at(R, j, j), *_scores(R, j, range(j + 1, count), thinned)] for j in range(count)]
    return fsum(max(scores) - _at(R, count, j) for j, scores in enumerate(before)) / count


def bwt_T(R: Matrix) -> float:
    """Backward transfer with divisor T, `(1/T) sum_j (R[T-1][j] - R[j][j])` = `-forget_T`, -100..100; 0 for T = 1.

    Source: "Bwt" in `score.py` of SAPT and GainLoRA, where the last task's 0 is in the mean.
    """
    return fp(R) - ap(R)


def _scores(R: Matrix, j: int, rows: range, thinned: bool) -> list[float]:
    """Return the scores of task j in these rows; if thinned, those that are there."""
    return [_at(R, i, j) for i in rows if not thinned or _has(R[i], j)]


def aaa(R: Matrix, thinned: bool = False) -> float:
    """Average anytime accuracy `(1/T) sum_t (1/(t+1)) sum_{j<=t} R[t][j]`, 0..100: `fp` after each task, averaged.

    Source: Caccia et al. 2022 (ER-ACE, arXiv 2104.05025), at task ends; the same number is the average incremental
    accuracy of iCaRL (Rebuffi et al. 2017). Needs the lower triangle; if thinned, it is the mean over the whole rows.
    """
    rows = [t for t in range(_size(R)) if not thinned or is_whole(R, t)]
    if not rows:
        raise ValueError("aaa is undefined: no row has the scores of all tasks learnt so far")
    return fsum(fsum(_at(R, t, j) for j in range(t + 1)) / (t + 1) for t in rows) / len(rows)


def plasticity(R: Matrix) -> float:
    """Mean score of each task right after training it: `ap`, 0..100.

    Source: "learning accuracy" of MER (Riemer et al. 2019).
    """
    return ap(R)


def stability(R: Matrix) -> float:
    """Final performance on the earlier tasks, `(1/(T-1)) sum_{j<T-1} R[T-1][j]`, 0..100; ValueError for T = 1.

    Our definition: `fp` without the last task.
    """
    count = _earlier(R, "stability")
    return fsum(_at(R, count, j) for j in range(count)) / count


def min_acc(R: Matrix, thinned: bool = False) -> float:
    """Lowest later score of the earlier tasks, `(1/(T-1)) sum_{j<T-1} min_{i>j} R[i][j]`, 0..100; ValueError for T = 1.

    Source: min-ACC of De Lange et al. 2023 (arXiv 2205.13452), who take the minimum over training steps; here over
    task ends, so an upper bound of theirs. If thinned, the minimum is over the scores that are there; the last row is.
    """
    count = _earlier(R, "min_acc")
    after = [[*_scores(R, j, range(j + 1, count), thinned), _at(R, count, j)] for j in range(count)]
    return fsum(map(min, after)) / count


def per_task_forgetting(R: Matrix) -> list[float]:
    """`R[j][j] - R[T-1][j]` of each task j, -100..100 each; the last is 0. Their mean is `forget_T`. Source: SLICE."""
    T = _size(R)
    return [_at(R, j, j) - _at(R, T - 1, j) for j in range(T)]


def fwt_gem(R: Matrix, zero_shot: Row) -> float:
    """Forward transfer `(1/(T-1)) sum_{j>=1} (R[j-1][j] - zero_shot[j])`, -100..100; ValueError for T = 1.

    Measures how training the earlier tasks changed a task's score before its own training. Needs the scores right
    above the diagonal. Source: GEM, where the untrained model is a random network; ours is the pretrained one.
    """
    count = _earlier(R, "fwt_gem")
    start = _references(R, zero_shot, "zero_shot")
    return fsum(_at(R, j - 1, j) - start[j] for j in range(1, count + 1)) / count


def fwt_sapt(R: Matrix, single: Row) -> float:
    """Forward transfer `(1/T) sum_j (R[j][j] - single[j])`, -100..100: training in the sequence against training alone.

    `single[j]`: score of a model trained on task j alone. Source: SAPT, "FWT"; its code subtracts a constant
    50.94, GainLoRA's subtracts 0.
    """
    return ap(R) - fsum(_references(R, single, "single")) / len(R)


def intransigence(R: Matrix, reference: Row) -> float:
    """Inability to learn `(1/T) sum_j (reference[j] - R[j][j])`, -100..100; negative if the sequence helped.

    `reference[j]`: score on task j of a model trained jointly on tasks 0..j in Chaudhry et al. 2018 (RWalk), whose
    I_j this averages; with single-task models it is `-fwt_sapt`. Report which reference was used.
    """
    return fsum(_references(R, reference, "reference")) / len(R) - ap(R)


def _references(R: Matrix, row: Row, name: str) -> list[float]:
    """Return the first T values of a row of reference scores, checked like a row of R."""
    scores: list[float] = []
    for j in range(_size(R)):
        score = row[j] if j < len(row) else None
        if score is None or not 0 <= score <= 100:
            raise ValueError(f"{name} of task {j} is {'missing' if score is None else f'{score}, outside 0..100'}")
        scores.append(score)
    return scores


_ANY_T: tuple[Callable[[Matrix], float], ...] = (ap, fp, forget_T, bwt_T, aaa, plasticity)
_TWO_TASKS: tuple[Callable[[Matrix], float], ...] = (forget_Tm1, bwt, f_ra, stability, min_acc)
#: The metrics that need R alone, by name.
FUNCTIONS: dict[str, Callable[[Matrix], float]] = {f.__name__: f for f in (*_ANY_T, *_TWO_TASKS)}
#: The same, of a thinned R.
THINNED = FUNCTIONS | {f.__name__: partial(f, thinned=True) for f in (f_ra, aaa, min_acc)}
#: Metrics that also need a reference score for each task.
REFERENCED: dict[str, Callable[[Matrix, Row], float]] = {f.__name__: f for f in (fwt_sapt, intransigence)}
#: Metrics that also need the untrained model's scores, and scores above the diagonal.
FROM_START: dict[str, Callable[[Matrix, Row], float]] = {"fwt_gem": fwt_gem}


def summary(
    R: Matrix, zero_shot: Row | None = None, single: Row | None = None, thinned: bool = False
) -> dict[str, float | None]:
    """Compute every metric by name, in the order of `CONVENTIONS`; None for those undefined at T = 1.

    `fwt_gem` is None without `zero_shot` or if a score above the diagonal that it needs is missing;
    `fwt_sapt` and `intransigence` are None without `single`. If thinned and the last row is not whole, those that need
    the last row are None, and so is `aaa`.

    Example:
        >>> summary([[80.0, None], [50.0, 70.0]])["bwt"]
        -30.0
    """
    T = _size(R)
    R = _Checked(R)
    values: dict[str, float | None] = dict.fromkeys(CONVENTIONS)
    functions = THINNED if thinned else FUNCTIONS
    known = _ANY_T if T == 1 else (*_ANY_T, *_TWO_TASKS)
    if thinned and not is_whole(R, T - 1):
        known = (ap, plasticity)
    values |= {f.__name__: functions[f.__name__](R) for f in known}
    if T > 1:
        ahead = all(_has(R[j - 1], j) for j in range(1, T))
        if ahead and zero_shot is not None and all(_has(zero_shot, j) for j in range(T)):
            values["fwt_gem"] = fwt_gem(R, zero_shot)
    if single is not None:
        values |= {name: f(R, single) for name, f in REFERENCED.items()}
    return values


def _has(row: Row, j: int) -> bool:
    return j < len(row) and row[j] is not None


def joint_fp(R: Matrix) -> float:
    """`fp` of a jointly trained model: the mean of its only row over all columns."""
    _size(R)
    return fsum(_at(R, 0, j) for j in range(len(R[0]))) / len(R[0])


def joint_summary(R: Matrix, _zero_shot: Row | None = None) -> dict[str, float | None]:
    """Summarise a jointly trained model, which has one row of scores: `fp` is its mean, the rest None."""
    return dict.fromkeys(CONVENTIONS) | {"fp": joint_fp(R)}


def independent_summary(R: Matrix, _zero_shot: Row | None = None) -> dict[str, float | None]:
    """Summarise models trained on one task each, which have only a diagonal: `ap` is its mean, the rest None."""
    return dict.fromkeys(CONVENTIONS) | {"ap": ap(R)}
