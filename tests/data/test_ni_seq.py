"""NI-Seq: sequences by name, files by number, SLICE's own held-out rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from cl_lightning.common.errors import ConfigError, DataError
from cl_lightning.data.benchmarks.ni_seq import NUMBERS, ORDERS, NISeq, shuffled
from cl_lightning.data.task_sequence import TaskSequence


def written(path: Path, count: int = 205, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    instances = [{"id": f"{i}", "input": f"in {i}", "output": [f"out {i}", "same"]} for i in range(count)]
    content = {"Definition": ["Do {it}."], "Instances": instances, "Positive Examples": [], **changes}
    path.write_text(json.dumps(content))
    return path


def test_thirteen_sequences_of_five() -> None:
    assert len(NUMBERS) == 13
    assert all(len(set(numbers)) == 5 for numbers in NUMBERS.values())
    assert ORDERS["G2"] == ("task1355", "task141", "task619", "task163", "task002")
    assert ORDERS["opposite2"] == ("task088", "task090", "task1510", "task363", "task611")
    for sequence, names in ORDERS.items():
        benchmark = NISeq(sequence)
        assert benchmark.default_order(Path("anywhere")) == list(names)
        assert {benchmark.published_epochs()[name] for name in names} == {3}
        assert {*benchmark.tasks(Path("anywhere"))} == {name for order in ORDERS.values() for name in order}


@pytest.mark.parametrize("folder", ["tasks", "."])
def test_a_file_is_found_by_its_number_and_split(tmp_path: Path, folder: str) -> None:
    written(tmp_path / folder / "task088_identify_typo_verification.json")
    written(tmp_path / folder / "task0881_other.json")
    splits = NISeq("opposite2").load(tmp_path, "task088")
    assert (len(splits.train), len(splits.test)) == (5, 200)
    everything = {e.id: e for e in (*splits.train, *splits.test)}
    assert len(everything) == 205
    one = everything["task088/7"]
    assert (one.prompt, one.answer, one.references) == ("Do {it}.\n\nInput: in 7", "out 7", ("out 7", "same"))
    assert (one.prompt[one.instruction :], one.cue) == ("in 7", 0)


def test_the_held_out_rows_are_those_of_the_datasets_library() -> None:
    # datasets 5.2.0: Dataset.from_list(rows).shuffle(seed=42).train_test_split(test_size=.., seed=42), test then train;
    # of 10 rows with 4 held out, of 1000 with 200.
    assert shuffled(10) == [2, 4, 5, 9, 7, 0, 3, 8, 6, 1]
    assert shuffled(1000)[:8] == [651, 720, 483, 927, 889, 792, 812, 119]
    assert shuffled(1000)[200:204] == [117, 496, 894, 588]


def test_a_blank_answer_is_left_out_and_moves_no_other_row(tmp_path: Path) -> None:
    path = tmp_path / "tasks" / "task088_a.json"
    written(path)
    whole = NISeq().load(tmp_path, "task088")
    content = json.loads(path.read_text())
    for example in (whole.train[0], whole.test[0]):
        content["Instances"][int(example.id.rpartition("/")[2])]["output"] = [" "]
    path.write_text(json.dumps(content))
    rest = NISeq().load(tmp_path, "task088")
    assert (rest.train, rest.test, rest.blank) == (whole.train[1:], whole.test[1:], 2)


@pytest.mark.parametrize(("count", "held_out"), [(202, 200), (201, 200), (200, 199), (11, 10), (2, 1)])
def test_a_small_file_leaves_one_to_train_on_as_in_slice(tmp_path: Path, count: int, held_out: int) -> None:
    # Its _split_dataset: test_size = min(eval_size, len(dataset) - 1).
    written(tmp_path / "tasks" / "task088_a.json", count)
    splits = NISeq().load(tmp_path, "task088")
    ids = [int(e.id.rpartition("/")[2]) for e in (*splits.test, *splits.train)]
    assert (len(splits.test), ids) == (held_out, shuffled(count))


def test_the_licence_of_the_texts_is_super_nis_or_what_the_file_says(tmp_path: Path) -> None:
    tasks = NISeq().tasks(tmp_path)
    assert tasks["task1290"].source.endswith("collection Apache-2.0, licence of its texts: MIT")
    assert tasks["task363"].source.endswith("licence of its texts: none stated")
    assert tasks["task088"].source.endswith("licence of its texts: one of their own")
    for value, output in ((["CC BY 4.0", "MIT"], "CC BY 4.0, MIT"), ("MIT", "MIT"), ([" "], ""), (None, ""), ([3], "")):
        written(tmp_path / "task088_a.json", **{"Instance License": value})
        assert NISeq().load(tmp_path, "task088").licence == output
    written(tmp_path / "task088_a.json")
    assert NISeq().load(tmp_path, "task088").licence == ""


def test_absent_tasks_are_left_out_when_asked(tmp_path: Path) -> None:
    written(tmp_path / "tasks" / "task002_quoref_answer_generation.json")
    with pytest.raises(ConfigError, match=r"no data for task1355, task141, task619, task163: looked for .*task1355_\*"):
        TaskSequence(NISeq("G2"), root=str(tmp_path))
    data = TaskSequence(NISeq("G2"), root=str(tmp_path), skip_missing=True)
    assert data.order == ["task002"]
    assert data.source == "Natural Instructions files, without task1355, task141, task619, task163 (no data)"


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "tasks" / "task088_a.json", count=1)
    with pytest.raises(
        DataError,
        match=r"task088_a\.json: has 1 instances, 0 of them without .*; once 0 are held out .* none is left to test on",
    ):
        NISeq().load(tmp_path, "task088")
    blank = {"input": "i", "output": [" "]}
    two = [{"input": "i", "output": ["o"]}, blank]
    for instances, lacks in ((two, "train"), (two[::-1], "test")):
        written(path, Instances=instances)
        with pytest.raises(
            DataError,
            match=rf"has 2 instances, 1 of them without an answer; once 1 are held out .* none is left to {lacks} on",
        ):
            NISeq().load(tmp_path, "task088")
    written(path, Definition=[])
    with pytest.raises(DataError, match="'Definition' is a list, expected text"):
        NISeq().load(tmp_path, "task088")
    written(tmp_path / "tasks" / "task088_b.json")
    with pytest.raises(DataError, match=r"task088: several files for it: .*task088_a\.json, .*task088_b\.json"):
        NISeq().load(tmp_path, "task088")
    with pytest.raises(DataError, match=r"task363: no file for it: .*tasks/task363_\*\.json"):
        NISeq().load(tmp_path, "task363")


def test_without_files_the_sample_says_what_it_is() -> None:
    assert NISeq().describe(None) == "built-in sample, NOT NI-Seq"
    assert NISeq().load(None, "FOMC").test
