"""A run's report: sequence metrics and baselines with their intervals over test examples."""

from math import comb
from pathlib import Path
from typing import Any

import pytest

from cl_lightning.common.errors import ConfigError, StateError
from cl_lightning.common.files import from_jsonl, to_jsonl
from cl_lightning.evaluation.baselines import BASELINES
from cl_lightning.results.comparison.table import compare
from cl_lightning.results.report import tables
from cl_lightning.results.resampled import metric_intervals
from cl_lightning.results.tables import cell
from cl_lightning.sequence.folder import RunFolder, check_names, read_record
from tests.results.test_compare import INDEPENDENT, JOINT, NOTHING_MORE, PLAIN, START, WHOLE, MakeRun, run
from tests.runs import record, smoke

__all__ = ["run"]  # the fixture
METRICS = {**NOTHING_MORE, "metric_of_task": dict.fromkeys(("FOMC", "Py150"), "accuracy"), "zero_shot": None}


def cells(path: Path, title: str) -> list[list[str]]:
    """The rows of one of a run's tables."""
    (table,) = (table for table in tables(path) if title in table.title)
    return [list(map(cell, row)) for row in table.rows]


def metric_rows(path: Path) -> dict[str, list[str]]:
    return {row[0]: row[1:3] for row in cells(path, "sequence metrics")}


def reported(run: MakeRun, *args: Any, **options: Any) -> Path:
    return run(*args, **options, facts={"metrics": METRICS, "tables": {}})


def test_sequence_metrics_have_the_intervals_of_a_comparison(run: MakeRun) -> None:
    path = reported(run, "lora", 1, WHOLE, zero_shot=START)
    found, table = metric_rows(path), compare([path])
    assert {"ap", "fp", "bwt", "f_ra", "fwt_gem"} < set(found)
    for name, (value, ends) in found.items():
        expected = table.aggregate(0, 0, name)
        assert (value, ends) == (f"{expected.mean:.2f}", f"{expected.interval[0]:.1f} .. {expected.interval[1]:.1f}")
    assert found["fwt_gem"] == ["20.00", "10.0 .. 30.0"]


def test_forgotten_is_what_was_lost_since_a_task_was_learnt(run: MakeRun) -> None:
    """75 when learnt and 50 at the end are 25 forgotten; a later gain is below 0; the last task has had no time."""
    lost = cells(reported(run, "lost", 1), "each task's last score")
    assert [[row[0], row[2], row[3], row[5]] for row in lost] == [
        ["FOMC", "75.00", "50.00", "25.00"], ["Py150", "80.00", "80.00", "0.00"],
    ]  # fmt: skip
    gained = cells(reported(run, "gained", 1, {**PLAIN, (0, 0): [0.0, 0.0, 100.0, 0.0]}), "each task's last score")
    assert [row[5] for row in gained] == ["-25.00", "0.00"]


def test_an_interval_by_hand(run: MakeRun) -> None:
    """fp of one task of four examples, two of them right: k of four draws are right with a binomial's chance."""
    path = reported(run, "lora", 1, {(0, 0): [100.0, 0.0, 100.0, 0.0]}, order=("FOMC",))
    none_right = comb(4, 0) / 2**4
    assert none_right > 0.025, "so the 2.5 % quantile is 0"
    assert metric_rows(path)["fp"] == ["50.00", "0.0 .. 100.0"]


def test_texts_may_hold_other_line_ends() -> None:
    rows = [{"prediction": "one\u2028two\x85\r\n\x0c", "score": 1.0}, {"prediction": "", "score": 0.0}]
    assert from_jsonl(to_jsonl(rows)) == rows
    assert len(to_jsonl(rows).decode().splitlines()) > 2, "and so it can fail"


def test_tasks_that_would_share_a_file_of_predictions_are_refused() -> None:
    order = ["b_c", "a", "c", "a_b"]
    with pytest.raises(ConfigError, match=r"data\.order: b_c after a and c after a_b would share a file"):
        check_names(order, order)
    with pytest.raises(ConfigError, match=r"data\.order: the name zero-shot is reserved"):
        check_names(["a", "zero-shot"], ["a", "zero-shot"])
    check_names(order[:3], order[:3])
    check_names(["joint"], order)


@pytest.mark.parametrize(("scores", "protocol", "name"), [(JOINT, "joint", "fp"), (INDEPENDENT, "independent", "ap")])
def test_other_protocols(run: MakeRun, scores: Any, protocol: str, name: str) -> None:
    path = reported(run, "reference", 1, scores, protocol=protocol)
    assert set(metric_rows(path)) == {name}
    low, high = metric_intervals(path, read_record(path))[name]
    assert low < high


def test_without_predictions_the_column_is_empty_and_damaged_ones_are_reported(run: MakeRun) -> None:
    path = reported(run, "lora", 1)
    (path / "predictions" / "Py150_FOMC.jsonl").write_text("{}\n")
    with pytest.raises(StateError, match=r"Py150_FOMC\.jsonl: damaged"):
        tables(path)
    folder = RunFolder(path)
    folder.record = record(path)
    folder.files = {name: sha for name, sha in folder.record["files"].items() if not name.startswith("predictions/")}
    folder.commit(folder.record)
    assert metric_rows(path)["fp"] == ["65.00", ""]


def test_a_real_run_halfway_has_intervals_of_all_its_scores(tmp_path: Path) -> None:
    path = tmp_path / "run"
    smoke(path)
    state = record(path)
    kept = state["metrics"]["baseline_intervals"]
    for name in BASELINES:
        for value, (low, high) in zip(state["metrics"][name], kept[name], strict=True):
            assert low <= value <= high
    rows = cells(path, "scores 0..100")
    labels = [row[0] for row in rows]
    for label in ("zero-shot", "majority answer", "copy of the prompt"):
        below = rows[labels.index(label) + 1]
        assert below[0].strip() == "95 % interval" and all(" .. " in cell for cell in below[1:])
    folder = RunFolder(path)
    folder.record, folder.files = state, state["files"]
    folder.commit({**state, "done": 1, "R": state["R"][:1]})
    assert metric_rows(path)["fp"][1] != ""


def test_every_table_says_which_data_it_is_of(run: MakeRun) -> None:
    metrics = {**METRICS, "further": {"Py150": {"Py150": {"bleu": {"score": 5.0, "interval": [1.0, 9.0]}}}}}
    own = {"title": "what surgery did", "columns": ["task"], "rows": [["Py150"]]}
    facts = {"metrics": metrics, "tables": {"slice": [own]}, "data": "TRACE files, without C-STANCE (no data)"}
    titles = [table.title for table in tables(run("lora", 1, facts=facts))]
    assert len(titles) == 5
    assert all(title.endswith(" on TRACE files, without C-STANCE (no data)") for title in titles)
