"""Sequence metrics of a thinned R against float64 formulas of its own, and what is left undefined."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_lightning.metrics.matrix import FUNCTIONS, THINNED, aaa, f_ra, is_whole, min_acc, summary

Matrix = list[list[float | None]]
scores = st.floats(0, 100, allow_subnormal=False)
#: Scores of five tasks.
FULL = [[60.0, None, None, None, None], [80.0, 40.0, None, None, None], [30.0, 50.0, 90.0, None, None],
        [70.0, 20.0, 80.0, 50.0, None], [55.0, 45.0, 60.0, 65.0, 75.0]]  # fmt: skip


def thin(R: Matrix, every: int) -> Matrix:
    """Leave out old tasks, except after every so many tasks and after the last."""
    last = len(R) - 1
    due = [(i + 1) % every == 0 or i == last for i in range(len(R))]
    return [[s if due[i] or i == j else None for j, s in enumerate(row)] for i, row in enumerate(R)]


def expected(R: Matrix) -> dict[str, float]:
    """The metrics from the definitions, with NaN for what was not scored."""
    A = np.array([[np.nan if s is None or j > i else s for j, s in enumerate(row)] for i, row in enumerate(R)], float)
    T = len(A)
    learnt, last = np.diag(A), A[-1]
    whole = [A[t, : t + 1].mean() for t in range(T) if not np.isnan(A[t, : t + 1]).any()]
    return {
        "ap": learnt.mean(), "fp": last.mean(), "forget_T": (learnt - last).mean(),
        "forget_Tm1": (learnt - last)[:-1].mean(), "bwt": (last - learnt)[:-1].mean(),
        "bwt_T": (last - learnt).mean(), "plasticity": learnt.mean(), "stability": last[:-1].mean(),
        "f_ra": (np.nanmax(A[:-1, :-1], axis=0) - last[:-1]).mean(), "aaa": float(np.mean(whole)),
        "min_acc": np.mean([np.nanmin(A[j + 1 :, j]) for j in range(T - 1)]),
    }  # fmt: skip


@st.composite
def thinned(draw: Callable) -> tuple[Matrix, Matrix]:
    """A random R, and it thinned."""
    T = draw(st.integers(2, 6))
    R = draw(st.lists(st.lists(scores, min_size=T, max_size=T), min_size=T, max_size=T))
    return R, thin(R, draw(st.integers(1, T + 1)))


@given(thinned())
def test_metrics_of_what_was_scored(both: tuple[Matrix, Matrix]) -> None:
    full, R = both
    found = summary(R, thinned=True)
    assert {k: v for k, v in found.items() if v is not None} == pytest.approx(expected(R), rel=0, abs=1e-9)
    assert f_ra(R, thinned=True) <= f_ra(full) + 1e-9 and min_acc(R, thinned=True) >= min_acc(full) - 1e-9
    assert {k: f(full) for k, f in THINNED.items()} == {k: f(full) for k, f in FUNCTIONS.items()}


def test_by_hand() -> None:
    """Rows 1, 2, 4 and 5 are whole: their means are 60, 60, 55 and 60."""
    R = thin(FULL, 2)
    assert [is_whole(R, i) for i in range(5)] == [True, True, False, True, True]
    assert R[2] == [None, None, 90.0, None, None]
    assert aaa(R, thinned=True) == (60 + 60 + 55 + 60) / 4
    assert f_ra(R, thinned=True) == ((80 - 55) + (40 - 45) + (90 - 60) + (50 - 65)) / 4
    assert min_acc(R, thinned=True) == (55 + 20 + 60 + 65) / 4


def test_the_control_scores_carried_forward_are_other_metrics() -> None:
    R = thin(FULL, 2)
    carried = [list(row) for row in R]
    carried[2][:2] = R[1][:2]
    assert aaa(carried) != aaa(R, thinned=True)


@pytest.mark.parametrize("f", [f_ra, aaa, min_acc])
def test_without_being_told_they_refuse_a_thinned_matrix(f: Callable) -> None:
    with pytest.raises(ValueError, match=r"\(row 2, column 0\) is missing"):
        f(thin(FULL, 2))


def test_after_a_task_that_alone_was_scored_only_plasticity_is_known() -> None:
    R = thin(FULL, 2)[:3]
    found = summary(R, thinned=True)
    assert {k for k, v in found.items() if v is not None} == {"ap", "plasticity"}
    assert found["ap"] == pytest.approx((60 + 40 + 90) / 3)
    with pytest.raises(ValueError, match=r"\(row 2, column 0\) is missing"):
        summary(R)


@pytest.mark.parametrize("missing", [(1, 1), (4, 0)])
def test_the_diagonal_and_the_last_row_are_never_left_out(missing: tuple[int, int]) -> None:
    R = [list(row) for row in FULL]
    R[missing[0]][missing[1]] = None
    with pytest.raises(ValueError, match=rf"\(row {missing[0]}, column {missing[1]}\) is missing"):
        f_ra(R, thinned=True)


def test_a_mean_over_no_row_is_refused() -> None:
    with pytest.raises(ValueError, match="aaa is undefined: no row has the scores"):
        aaa([[None, None], [None, 50.0]], thinned=True)


class Row(list):
    """Counts how often it is read through."""

    times = 0

    def __iter__(self) -> Iterator:
        self.times += 1
        return super().__iter__()


@pytest.mark.parametrize("name", list(THINNED))
def test_a_long_sequence_is_read_a_few_times_and_not_once_for_each_task(name: str) -> None:
    R = [Row([50.0] * 40) for _ in range(40)]
    assert THINNED[name](R) == FUNCTIONS[name](R)
    assert max(row.times for row in R) <= 4
