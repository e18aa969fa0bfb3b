"""Tables, intervals, comparisons and pages of runs that scored old tasks rarely, or on few of their prompts."""

import re
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from cl_lightning.commands.compare import render
from cl_lightning.common.errors import StateError
from cl_lightning.common.files import to_jsonl
from cl_lightning.metrics.bootstrap import resampled_means
from cl_lightning.results.comparison.table import compare
from cl_lightning.results.page.assemble import assembled
from cl_lightning.results.page.comparing import curves
from cl_lightning.results.page.comparing.selection import Selection
from cl_lightning.results.page.drawing import drawing
from cl_lightning.results.page.parts import Section
from cl_lightning.results.page.sections import SECTIONS, predictions
from cl_lightning.results.page.source import Source
from cl_lightning.results.page.verdict import verdict
from cl_lightning.results.resampled import as_matrices, metric_intervals, resampled_matrices
from cl_lightning.sequence.folder import read_record
from tests.results.test_compare import MakeRun, run
from tests.results.test_report import cells, metric_rows
from tests.runs import all_tables, put_file

__all__ = ["run"]  # the fixture
ORDER = ("A", "B", "C", "D", "E")
#: R of `RARELY`: 75 / 50 75 / - - 100 / 25 50 50 100 / 50 0 25 75 75.
ROWS = [[75], [50, 75], [None, None, 100], [25, 50, 50, 100], [50, 0, 25, 75, 75]]
RARELY = {
    (i, j): [100.0] * (score // 25) + [0.0] * (4 - score // 25)
    for i, row in enumerate(ROWS)
    for j, score in enumerate(row)
    if score is not None
}
#: The same on the first two prompts of old tasks, until the last task is trained.
FEW = {(i, j): values if j == i or i == 4 else values[:2] for (i, j), values in RARELY.items()}
SAID = "old tasks were scored after every 2 tasks, and after the last task; f_ra, aaa and min_acc rest on these scores"


def rarely(run: MakeRun, name: str = "x", scores: Any = RARELY, samples: int | None = None, **options: Any) -> Path:
    facts = {"metrics": {"thinning": {"every": 2, "samples": samples}, "zero_shot": None}}
    return run(name, 1, scores, ORDER, facts=facts, **options)


def expected(R: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of R (draws, 5, 5) with NaN where not scored, from their definitions."""
    learnt, last = np.diagonal(R, axis1=1, axis2=2), R[:, -1]
    whole = [R[:, t, : t + 1].mean(-1) for t in range(5) if not np.isnan(R[0, t, : t + 1]).any()]
    return {
        "ap": learnt.mean(-1), "fp": last.mean(-1), "forget_T": (learnt - last).mean(-1),
        "f_ra": (np.nanmax(R[:, :-1, :-1], axis=1) - last[:, :-1]).mean(-1), "aaa": np.mean(whole, axis=0),
        "min_acc": np.mean([np.nanmin(R[:, j + 1 :, j], axis=1) for j in range(4)], axis=0),
    }  # fmt: skip


@pytest.mark.parametrize(("scores", "samples"), [(RARELY, None), (FEW, 2)])
def test_values_and_intervals_are_those_of_the_scores_there_are(run: MakeRun, scores: Any, samples: Any) -> None:
    path = rarely(run, scores=scores, samples=samples)
    R = np.full((1, 5, 5), np.nan)
    drawn = np.full((1000, 5, 5), np.nan)
    for (i, j), values in scores.items():
        seed = crc32("\0".join(f"{ORDER[j]}/{k}" for k in range(len(values))).encode())
        R[0, i, j], drawn[:, i, j] = np.mean(values), resampled_means(values, seed)
    shown, table, ends = metric_rows(path), compare([path]), metric_intervals(path, read_record(path))
    for (name, value), many in zip(expected(R).items(), expected(drawn).values(), strict=True):
        low, high = np.quantile(many, [0.025, 0.975])
        assert ends[name] == pytest.approx((low, high), abs=1e-9), name
        assert shown[name] == [f"{value[0]:.2f}", f"{low:.1f} .. {high:.1f}"]
        found = table.aggregate(0, 0, name)
        assert (found.mean, found.interval) == (pytest.approx(value[0]), pytest.approx((low, high), abs=1e-9))


def test_the_control_zeros_for_what_was_not_scored_are_other_intervals(run: MakeRun) -> None:
    path = rarely(run)
    drawn = resampled_matrices(path, read_record(path))[:, :5]
    assert not np.allclose(expected(np.nan_to_num(drawn))["min_acc"], expected(drawn)["min_acc"])
    assert as_matrices(drawn)[0][2][:3] == [None, None, drawn[0, 2, 2]]


def test_tables_show_a_dash_and_say_why(run: MakeRun) -> None:
    path = rarely(run)
    matrix = {row[0]: row[1:] for row in cells(path, "scores 0..100")}
    assert matrix["after C"] == ["-", "-", "100.00", "", ""]
    assert matrix["after B"] == ["50.00", "75.00", "", "", ""]
    shown = " ".join(all_tables(path).split())
    assert SAID in shown and re.search(r"3 C - - 100\.0 ", shown)
    assert "few prompts" not in shown
    assert "fixed prompts" in all_tables(rarely(run, scores=FEW, samples=2))
    assert "old tasks" not in all_tables(run("y", 1)), "the control: every task was scored"


def test_a_score_that_was_due_is_a_fault(run: MakeRun) -> None:
    gone = {cell: values for cell, values in RARELY.items() if cell != (3, 1)}
    with pytest.raises(StateError, match="R, row 4: scores are missing"):
        read_record(rarely(run, scores=gone))
    with pytest.raises(StateError, match="R, row 3: scores are missing"):
        read_record(run("x", 1, RARELY, ORDER))
    for wrong in ({"every": 0, "samples": None}, {"every": True, "samples": None}, {"every": 2}, {"every": 2, "k": 1}):
        with pytest.raises(StateError, match=r"metrics\.thinning has the wrong type"):
            read_record(run("x", 1, RARELY, ORDER, facts={"metrics": {"thinning": wrong}}))


@pytest.mark.parametrize("kept", [["A/0"], ["A/0", "X/1"], ["A/0", "A/1", "A/2"]])
def test_other_prompts_than_the_fixed_ones_are_a_fault(run: MakeRun, kept: list[str]) -> None:
    path = rarely(run, scores=FEW, samples=2)
    assert metric_intervals(path, read_record(path))
    rows = [{"id": name, "prediction": "", "reference": "", "score": 50.0} for name in kept]
    put_file(path, "predictions/B_A.jsonl", to_jsonl(rows))
    with pytest.raises(StateError, match=r"B_A\.jsonl holds other examples"):
        metric_intervals(path, read_record(path))


def test_a_comparison_keeps_them_apart_and_says_why(run: MakeRun) -> None:
    every = {(i, j): RARELY.get((i, j), [100.0, 0.0, 0.0, 0.0]) for i in range(5) for j in range(i + 1)}
    one = rarely(run, **{"data.score_every": 2})
    table = compare([one, run("x", 2, every, ORDER, **{"data.score_every": 1})])
    assert table.columns == ["A", "B"]
    assert any(SAID in note for note in table.notes)
    assert "B is kept apart from A: other data.score_every (1, not 2)" in table.notes
    text, _ = render([str(one), "--metrics", "fp", "f_ra", "aaa", "min_acc", "--format=csv"])
    assert SAID in text and "nan" not in text.lower()


def test_references_that_have_no_old_tasks_are_found(run: MakeRun) -> None:
    alone = {(j, j): [100.0, 0.0, 0.0, 0.0] for j in range(5)}
    reference = run("alone", 1, alone, ORDER, protocol="independent", **{"data.score_every": 1})
    table = compare([rarely(run, **{"data.score_every": 2})], [reference])
    assert table.aggregate(0, 0, "fwt_sapt").mean == pytest.approx(85 - 25)


@pytest.mark.parametrize("done", [2, 3, 5])
@pytest.mark.parametrize(("scores", "samples"), [(RARELY, None), (FEW, 2)])
def test_pages_of_every_state(run: MakeRun, done: int, scores: Any, samples: Any) -> None:
    there = {(i, j): values for (i, j), values in scores.items() if i < done}
    source = Source(rarely(run, scores=there, samples=samples, done=done))
    made, _ = assembled("x", verdict(source), [section(source) for section in SECTIONS])
    text = made.decode()
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    left_out = "old tasks were not scored after C." in text
    assert left_out == (done == 3)
    assert "Old tasks were scored after every 2 tasks" in text
    output = "the earlier ones were not scored after C, so what was kept is not known."
    assert (output in verdict(source)) == (done == 3)
    assert [row[0] for row in cells(source.path, "each task's last score")] == list(ORDER[:done])


def test_after_a_task_that_alone_was_scored_nothing_is_carried_forward(run: MakeRun) -> None:
    path = rarely(run, done=3)
    assert [row[2:6] for row in cells(path, "each task's last score")] == [
        ["75.00", "-", "", ""], ["75.00", "-", "", ""], ["100.00", "100.00", "", "0.00"]
    ]  # fmt: skip
    assert set(metric_rows(path)) == {"ap", "plasticity"}


def test_curves_have_points_where_all_tasks_were_scored(run: MakeRun) -> None:
    table = compare([rarely(run), rarely(run, "y", FEW, 2, **{"model.lr": 0.5})])
    section = curves.section(Selection(table, ["fp"], 0))
    assert isinstance(section, Section)
    numbers = section.charts[0].numbers
    assert numbers.heads == ["method", "1 task", "2 tasks", "4 tasks", "5 tasks"]
    assert numbers.rows[0] == ["x", "75.00", "62.50", "56.25", "45.00"]
    assert drawing(section.charts[0]).svg


def test_answers_are_compared_on_the_prompts_that_both_have(run: MakeRun) -> None:
    source = Source(rarely(run, scores={c: v for c, v in FEW.items() if c[0] < 2}, samples=2, done=2))
    section = predictions.section(source)
    assert isinstance(section, Section)
    assert section.charts[0].numbers.rows == [["A", "0", "2", "0", "0"]], "both prompts were right, and are"
