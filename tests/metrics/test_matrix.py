"""The score-matrix summaries against hand-worked cases, the published TRACE row and the official codes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_lightning.metrics import matrix
from cl_lightning.metrics.matrix import (
    aaa,
    ap,
    bwt,
    bwt_T,
    f_ra,
    forget_T,
    forget_Tm1,
    fp,
    fwt_gem,
    fwt_sapt,
    intransigence,
    min_acc,
    per_task_forgetting,
    plasticity,
    stability,
    summary,
)
from tests import reference

NEEDS_TWO = (forget_Tm1, bwt, f_ra, stability, min_acc)
ANY_T = (ap, fp, forget_T, bwt_T, aaa, plasticity)
HAND = [[60.0, None, None], [70.0, 40.0, None], [55.0, 50.0, 90.0]]

scores = st.floats(0, 100, allow_subnormal=False)
matrices = st.integers(2, 6).flatmap(
    lambda n: st.lists(st.lists(scores, min_size=n, max_size=n), min_size=n, max_size=n)
)


def test_hand_worked():
    # drops from the diagonal: 60-55 = 5, 40-50 = -10, 90-90 = 0; from the best earlier row: 70-55 = 15, -10
    # row means 60, 55, 65; last row of the first two 55, 50; lowest later scores min(70, 55), 50
    expected = {
        "ap": 190 / 3, "fp": 65.0, "forget_T": -5 / 3, "forget_Tm1": -2.5, "bwt": 2.5, "bwt_T": 5 / 3, "f_ra": 2.5,
        "aaa": 60.0, "plasticity": 190 / 3, "stability": 52.5, "min_acc": 52.5,
        "fwt_gem": None, "fwt_sapt": None, "intransigence": None,
    }  # fmt: skip
    assert summary(HAND) == pytest.approx(expected, abs=1e-12)
    assert per_task_forgetting(HAND) == [5.0, -10.0, 0.0]
    assert min_acc([[60.0], [20.0, 40.0], [55.0, 50.0, 90.0]]) == (20 + 50) / 2


def test_transfer_hand_worked():
    R = [[60.0, 30.0, 5.0], [70.0, 40.0, 25.0], [55.0, 50.0, 90.0]]
    zero_shot, single = [50.0, 20.0, 30.0], [62.0, 48.0, 88.0]
    assert fwt_gem(R, zero_shot) == ((30 - 20) + (25 - 30)) / 2
    assert fwt_sapt(R, single) == pytest.approx(((60 - 62) + (40 - 48) + (90 - 88)) / 3)
    assert intransigence(R, single) == pytest.approx(-fwt_sapt(R, single))
    found = summary(R, zero_shot, single)
    assert (found["fwt_gem"], found["fwt_sapt"]) == (2.5, pytest.approx(-8 / 3))
    assert summary(HAND, zero_shot)["fwt_gem"] is None  # nothing was scored above its diagonal
    assert summary(R, [50.0, None, 30.0])["fwt_gem"] is None
    # in the middle of a sequence only the tasks so far count
    assert fwt_gem(R[:2], zero_shot) == 10.0
    assert fwt_sapt(R[:2], single) == (60 - 62 + 40 - 48) / 2
    assert fwt_sapt([[60.0]], single) == -2.0 and intransigence([[60.0]], single) == 2.0


@pytest.mark.parametrize("f", [fwt_gem, fwt_sapt, intransigence])
def test_transfer_needs_its_references(f):
    R = [[60.0, 30.0], [55.0, 50.0]]
    for row in ([10.0], [10.0, None]):
        with pytest.raises(ValueError, match="of task 1 is missing"):
            f(R, row)
    with pytest.raises(ValueError, match=r"of task 0 is 101\.0, outside"):
        f(R, [101.0, 10.0])
    with pytest.raises(ValueError, match="empty"):
        f([], [1.0])


def test_gems_forward_transfer_needs_the_scores_above_the_diagonal():
    with pytest.raises(ValueError, match=r"\(row 0, column 1\) is missing"):
        fwt_gem(HAND, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="fwt_gem is undefined for one task"):
        fwt_gem([[1.0]], [1.0])


def test_summary_and_conventions_name_the_same_metrics():
    assert list(summary(HAND)) == list(matrix.CONVENTIONS)


def test_published_trace_lora_row():
    """LLaMA-2-7B-Chat, sequential LoRA (TRACE, appendix): OP .1265, BWT -.458, printed to three digits.

    The diagonal of 20Minuten is its last-row score by definition; the rows between are not published.
    """
    diagonal = [51.1, 71.3, 51.0, 57.8, 68.0, 37.0, 48.6]
    last = [27.7, 24.0, 12.1, 0.4, 0.0, 0.0, 0.0, 37.0]
    R = [[None] * j + [score] for j, score in enumerate(diagonal)] + [last]
    assert fp(R) == pytest.approx(12.65, abs=1e-9)
    assert bwt(R) == pytest.approx(-45.8, abs=1e-9)
    assert ap(R) == pytest.approx((384.8 + 37.0) / 8, abs=1e-9)
    assert stability(R) == pytest.approx(64.2 / 7, abs=1e-9)
    assert bwt_T(R) == pytest.approx(-45.8 * 7 / 8, abs=1e-9)  # SAPT's code would print this number
    with pytest.raises(ValueError, match=r"row 1, column 0"):
        f_ra(R)


@pytest.mark.parametrize("name", ["T2_forget", "T3_best_not_diagonal"])
def test_official_codes(name):
    case = reference.facts("cl_metrics")[name]
    T, ours = case["T"], summary(case["R"])
    slice_, sapt, trace = case["slice"]["metrics"], case["sapt"], case["trace"]
    close = {"rel": 0, "abs": 1e-10}
    assert ours["ap"] == pytest.approx(slice_["AP"], **close)
    assert ours["fp"] == pytest.approx(slice_["FP"], **close)
    assert ours["fp"] == pytest.approx(sapt["Cl"], **close)
    assert ours["forget_T"] == pytest.approx(slice_["Forget"], **close)
    assert ours["f_ra"] == pytest.approx(sapt["Fgt"], **close)
    assert ours["f_ra"] == pytest.approx(case["gainlora"]["Fgt"], **close)
    assert [fp(case["R"][:t]) for t in range(1, T + 1)] == pytest.approx(trace["OP"], **close)
    assert [bwt(case["R"][:t]) for t in range(2, T + 1)] == pytest.approx(trace["BWT"][1:], **close)
    # their Bwt divides the sum over T-1 tasks by T
    assert sapt["Bwt"] == pytest.approx(ours["bwt_T"], **close)
    assert ours["bwt"] == pytest.approx(sapt["Bwt"] * T / (T - 1), **close)
    assert abs(ours["bwt"] - sapt["Bwt"]) > 0.4
    # their Fwt, with the references written into their codes
    assert fwt_sapt(case["R"], [50.94] * T) == pytest.approx(sapt["Fwt"], **close)
    assert fwt_sapt(case["R"], [0.0] * T) == pytest.approx(case["gainlora"]["Fwt"], **close)
    assert per_task_forgetting(case["R"]) == pytest.approx(list(case["slice"]["per_task_forgetting"].values()), **close)


def test_one_task():
    found = summary([[70.0]])
    assert {k for k, v in found.items() if v == 70.0} == {"ap", "fp", "aaa", "plasticity"}
    assert found["forget_T"] == found["bwt_T"] == 0.0
    assert all(found[f.__name__] is None for f in NEEDS_TWO)
    assert per_task_forgetting([[70.0]]) == [0.0]
    for f in NEEDS_TWO:
        with pytest.raises(ValueError, match=f"{f.__name__} is undefined for one task"):
            f([[70.0]])


@pytest.mark.parametrize("f", [*ANY_T, *NEEDS_TWO, summary, per_task_forgetting])
def test_empty_matrix(f):
    with pytest.raises(ValueError, match="empty"):
        f([])


@pytest.mark.parametrize(
    ("i", "j", "needed_by"),
    [
        (0, 0, {ap, plasticity, forget_T, bwt_T, aaa, forget_Tm1, bwt, f_ra}),
        (1, 0, {f_ra, aaa, min_acc}),
        (2, 1, {fp, forget_T, bwt_T, aaa, forget_Tm1, bwt, f_ra, stability, min_acc}),
        (2, 2, {ap, plasticity, fp, forget_T, bwt_T, aaa}),
        (0, 1, set()),
    ],
)
def test_missing_cell(i, j, needed_by):
    R = [list(row) for row in HAND]
    R[i][j] = None
    for f in (*ANY_T, *NEEDS_TWO):
        if f in needed_by:
            with pytest.raises(ValueError, match=rf"\(row {i}, column {j}\) is missing"):
                f(R)
        else:
            assert f(R) == f(HAND)


def test_short_row_is_a_missing_cell_and_extra_columns_are_ignored():
    assert summary([[60.0], [70.0, 40.0], [55.0, 50.0, 90.0]]) == summary(HAND)
    assert summary([[*row, 33.0] for row in HAND]) == summary(HAND)
    with pytest.raises(ValueError, match=r"\(row 2, column 2\) is missing"):
        fp([[60.0], [70.0, 40.0], [55.0, 50.0]])


@pytest.mark.parametrize("bad", [-0.1, 100.5, float("nan"), float("inf")])
@pytest.mark.parametrize("f", [*ANY_T, *NEEDS_TWO, summary, per_task_forgetting])
def test_score_out_of_range(f, bad):
    with pytest.raises(ValueError, match=r"\(row 0, column 1\) is .* outside 0..100"):
        f([[80.0, bad], [50.0, 70.0]])


@given(matrices)
def test_relations(R):
    T = len(R)
    assert bwt(R) == -forget_Tm1(R)
    assert bwt_T(R) == -forget_T(R)
    assert min_acc(R) <= stability(R) + 1e-9
    assert fp(R) * T == pytest.approx(stability(R) * (T - 1) + R[-1][-1], abs=1e-9)
    assert sum(per_task_forgetting(R)) / T == pytest.approx(forget_T(R), abs=1e-9)
    assert forget_T(R) * T / (T - 1) == pytest.approx(forget_Tm1(R), abs=1e-9)
    assert forget_T(R) == pytest.approx(ap(R) - fp(R), abs=1e-9)
    assert f_ra(R) >= forget_Tm1(R) - 1e-9
    assert 0 <= ap(R) <= 100 and 0 <= fp(R) <= 100
    assert -100 <= forget_T(R) <= 100 and -100 <= bwt(R) <= 100 and -100 <= f_ra(R) <= 100


@given(matrices)
def test_official_zero_padding_changes_nothing(R):
    """SAPT's Fgt: maximum over all earlier rows of the matrix with zeros above its diagonal."""
    last = len(R) - 1
    padded = [[score if j <= i else 0.0 for j, score in enumerate(row)] for i, row in enumerate(R)]
    drops = [max(padded[i][j] for i in range(last)) - padded[last][j] for j in range(last)]
    assert f_ra(R) == pytest.approx(sum(drops) / last, abs=1e-9)


def test_arrays_are_accepted():
    assert bwt(np.array([[80.0, 0.0], [50.0, 70.0]])) == -30.0
    with pytest.raises(ValueError, match="empty"):
        bwt(np.zeros((0, 2)))
    with pytest.raises(ValueError, match=r"\(row 1, column 0\) is nan"):
        bwt(np.array([[80.0, 0.0], [np.nan, 70.0]]))
