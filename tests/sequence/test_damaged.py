"""Damage that JSON and checksums do not reveal is reported in one line by everything that reads the run."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from cl_lightning.commands import compare
from cl_lightning.common.errors import StateError
from cl_lightning.results.report import tables
from cl_lightning.results.rescore import rescore
from cl_lightning.sequence.continuation import Parent, adopt
from cl_lightning.sequence.folder import RunFolder, adapter_file, read_record
from cl_lightning.sequence.load import load_run
from cl_lightning.sequence.record_check import KEYS, METRICS, record_fault
from tests.commands.test_bad_runs import go_on
from tests.commands.test_user_files import BEGIN
from tests.runs import put_file

DONE: dict[str, Any] = {
    **BEGIN,
    "schema": 4,
    "files": {},
    "large": {},
    "writing": [],
    "done": 2,
    "R": [[1.0, None], [2, 3.5]],
}
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("damaged") / "run"
    assert go_on(run, "--data.order=[FOMC]").code == 0
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def put(*place: str, value: Any) -> Change:
    def change(record: dict[str, Any]) -> None:
        for key in place[:-1]:
            record = record[key]
        record[place[-1]] = value

    return change


FAULTS: dict[str, tuple[Change, str]] = {
    **{f"no {key}": (lambda record, key=key: record.pop(key), f"no {key}") for key in KEYS},
    **{
        f"no metrics.{key}": (lambda record, key=key: record["metrics"].pop(key), f"metrics lacks {key}")
        for key in METRICS
    },
    "R of texts": (put("R", value=[["1", None], ["2", "3"]]), "R has the wrong type"),
    "R with NaN": (put("R", value=[[float("nan"), None], [2, 3]]), "R has the wrong type"),
    "R with true": (put("R", value=[[True, None], [2, 3]]), "R has the wrong type"),
    "a flat R": (put("R", value=[1.0, 2.0]), "R has the wrong type"),
    "a row too few": (put("R", value=[[1.0, None]]), "R has 1 rows, done is 2"),
    "done too few": (put("done", value=1), "R has 2 rows, done is 1"),
    "done true": (put("done", value=True), "done has the wrong type"),
    "a short row": (put("R", value=[[1.0], [2.0, 3.0]]), "R, row 1: 1 scores for 2 tasks"),
    "a long row": (put("R", value=[[1.0, None], [2.0, 3.0, 4.0]]), "R, row 2: 3 scores for 2 tasks"),
    "a score that is missing": (put("R", value=[[1.0, None], [None, 3.0]]), "R, row 2: scores are missing"),
    "a score above 100": (put("R", value=[[1.0, None], [2.0, 100.5]]), "R, row 2: the score 100.5 is outside 0..100"),
    "a score below 0": (put("zero_shot", value=[-1.0, 1.0]), "zero_shot: the score -1.0 is outside 0..100"),
    "zero-shot scores": (put("zero_shot", value=[1.0]), "zero_shot: 1 scores for 2 tasks"),
    "other columns": (put("columns", value=["B", "A"]), "columns are not those of order"),
    "a protocol": (put("protocol", value="none"), "there is no protocol 'none'"),
    "tables": (put("tables", value=[1]), "tables has the wrong type"),
    "a table": (put("tables", value={"init": [{"title": "t", "columns": ["a"]}]}), "tables has the wrong type"),
    "intervals": (put("metrics", "intervals", value=[1]), "metrics.intervals has the wrong type"),
    "an interval": (put("metrics", "intervals", value={"A": {"A": [1]}}), "metrics.intervals has the wrong type"),
    "trained": (put("metrics", "trained", value="abc"), "metrics.trained has the wrong type"),
    "no metric of a task": (put("metrics", "metric_of_task", value={"A": "f1"}), "metric_of_task lacks B"),
    "majority": (put("metrics", "majority", value=[1.0]), "majority: 1 scores for 2 tasks"),
    "budgets": (put("metrics", "budgets", value={"A": {}}), "metrics.budgets has the wrong type"),
    "further": (put("metrics", "further", value={"A": {"A": {"f1": 3}}}), "metrics.further has the wrong type"),
    "a checksum": (put("fingerprints", value={"A": "x"}), "fingerprints lacks B"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_record_with_wrong_types_or_sizes_is_damaged(tmp_path: Path, name: str) -> None:
    record = copy.deepcopy(DONE)
    assert record_fault(record) is None, "the control"
    change, expected = FAULTS[name]
    change(record)
    assert record_fault(record) == expected
    (tmp_path / "sequence.json").write_text(json.dumps(record))
    with pytest.raises(StateError) as caught:
        tables(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/sequence.json: damaged ({expected}); restore it, or move the folder away and run again"
    )


def cut_short(data: bytes, factor: str) -> bytes:
    """One layer's factor with its first column alone."""
    tensors = load(data)
    name = next(name for name in tensors if name.endswith(factor))
    return save({**tensors, name: tensors[name][:, :1].contiguous()})


def renamed(data: bytes) -> bytes:
    return save({f"x.{name}": tensor for name, tensor in load(data).items()})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: b"junk", r"adapter\.safetensors: damaged \("),
        (lambda data: b"", r"adapter\.safetensors: damaged \("),
        (renamed, r"adapters: damaged \(the branches do not fit SeqLoRA: ValueError: a layer of shape"),
        (lambda data: save({"x": torch.zeros(1)}), r"adapters: damaged \(the branches do not fit SeqLoRA"),
        (lambda data: cut_short(data, "lora_A"), r"adapters: damaged .*factors \(\d+, 1\), .* do not fit \(\d+, "),
        (lambda data: cut_short(data, "lora_B"), r"adapters: damaged .*factors .*, \(\d+, 1\) do not fit \(\d+, "),
    ],
    ids=["junk", "nothing", "foreign keys", "no keys", "another A", "another B"],
)
def test_malformed_adapters_with_a_right_checksum(run: Path, change: Callable[[bytes], bytes], expected: str) -> None:
    name = adapter_file("FOMC")
    put_file(run, name, change((run / name).read_bytes()))
    with pytest.raises(StateError, match=expected) as caught:
        load_run(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "rows", [b"", b"{}\n", b"[1]\n", b"{", b'{"id": "x", "score": NaN}\n', b"[" * 100_000, b"\xff"]
)
def test_malformed_predictions_with_a_right_checksum(run: Path, rows: bytes) -> None:
    put_file(run, "predictions/FOMC_FOMC.jsonl", rows)
    for act in (tables, lambda run: rescore(run, "own"), lambda run: compare.render([str(run)])):
        with pytest.raises(StateError, match=r"FOMC_FOMC\.jsonl: damaged \(holds no predictions"):
            act(run)


@pytest.mark.parametrize(
    "text",
    ["data: {}\nmodel: {backbone: {name: x}, z: &a [*a]}\n", "data: {}\nmodel: {backbone: {name: x}, z: &a {b: *a}}\n",
     "data: {}\nmodel: {backbone: {}}\n", "data: {}\nmodel: {backbone: {name: x}}\ntrainer: 3\n"],
)  # fmt: skip
def test_a_configuration_that_contains_itself_or_no_options(run: Path, text: str) -> None:
    put_file(run, "config.yaml", text.encode())
    for act in (load_run, lambda run: compare.render([str(run)])):
        with pytest.raises(StateError, match=r"config\.yaml: "):
            act(run)


@pytest.mark.parametrize("tasks", [-1, 2, 9])
def test_more_tasks_than_are_done_are_refused(run: Path, tasks: int) -> None:
    with pytest.raises(StateError, match=rf"tasks={tasks} is not in 0\.\.1, the number of finished tasks"):
        load_run(run, tasks)
    assert load_run(run, 0).matrix == load_run(run, 1).matrix


def test_an_adopted_run_has_the_metrics_of_its_new_tasks(tmp_path: Path) -> None:
    """Even before the first of them is trained, since the run can be stopped and read there."""
    old = {**DONE, "columns": ["A"], "order": ["A"], "done": 1, "R": [[1.0]]}
    old["metrics"] = {**DONE["metrics"], "metric_of_task": {"A": "accuracy"}, "trained": [7]}
    assert record_fault(old) is None
    folder = RunFolder(tmp_path)
    folder.open("0123456789ab", False, BEGIN)
    facts = {key: BEGIN[key] for key in ("identity", "fingerprints", "sources")}
    adopt(Parent(tmp_path / "old", old), folder, facts, ["A", "B"], b"")
    folder.close()
    there = read_record(tmp_path)
    assert (there["R"], there["metrics"]["trained"]) == ([[1.0, None]], [7])
    assert "1 of 2 tasks done" in str(tables(tmp_path)[0].title)
