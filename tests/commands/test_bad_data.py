"""Bad data in a user's folder: one line with file and record."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cl_lightning.common.errors import UserError
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.random_llama import random_tokenizer
from tests.commands.test_bad_input import refused

# ---------------------------------------------------------------- real data

GOOD = [{"prompt": f"{i} plus 1?", "answer": str(i + 1)} for i in range(8)]


def write_task(root: Path, train: object = GOOD, test: object = GOOD, name: str = "Mine") -> None:
    folder = root / name
    folder.mkdir(parents=True)
    for split, content in (("train", train), ("test", test)):
        (folder / f"{split}.json").write_text(content if isinstance(content, str) else json.dumps(content))


def prepared(root: Path, **options: Any) -> TaskSequence:
    data = TaskSequence(root=str(root), order=["Mine"], **{"validation_samples": 2, **options})
    data.prepare(random_tokenizer(), False)
    return data


def fault(root: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        prepared(root, **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_good_data_is_taken(tmp_path: Path) -> None:
    write_task(tmp_path)
    task = prepared(tmp_path).tasks[0]
    assert (len(task.train), len(task.validation), len(task.test), task.dropped) == (6, 2, 8, 0)


def test_malformed_json_is_reported_with_file_and_line(tmp_path: Path) -> None:
    write_task(tmp_path, '[\n {"prompt": "a", "answer": "b"},\n {"prompt": "c" "answer": "d"}\n]')
    assert re.search(r"Mine/train\.json, line 3, column 17: not valid JSON", fault(tmp_path))


@pytest.mark.parametrize("key", ["prompt", "answer"])
def test_a_record_without_prompt_or_answer(tmp_path: Path, key: str) -> None:
    write_task(tmp_path, test=[*GOOD[:3], {k: v for k, v in GOOD[3].items() if k != key}])
    other = {"prompt": "answer", "answer": "prompt"}[key]
    assert re.search(rf"test\.json: record 4 has no '{key}'; its keys: {other}$", fault(tmp_path))


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split(tmp_path: Path, split: str) -> None:
    write_task(tmp_path, **{split: []})
    assert re.search(rf"Mine/{split}\.json: empty split", fault(tmp_path))


def test_a_missing_split_and_a_missing_task(tmp_path: Path) -> None:
    write_task(tmp_path)
    (tmp_path / "Mine" / "test.json").unlink()
    assert re.search(r"test\.json is missing; the folder holds: train\.json$", fault(tmp_path))
    with pytest.raises(UserError, match="unknown task 'Mime'; did you mean Mine"):
        TaskSequence(root=str(tmp_path), order=["Mime"])


def test_a_long_answer_is_refused_or_dropped_from_train(tmp_path: Path) -> None:
    write_task(tmp_path, [*GOOD, {"prompt": "long", "answer": "x" * 40}])
    output = fault(tmp_path, max_answer_tokens=10)
    assert re.search(
        r"^Mine/train/8: the answer has 4\d tokens, data\.max_answer_tokens is 10; .*long_answers=drop$", output
    )
    task = prepared(tmp_path, max_answer_tokens=10, long_answers="drop").tasks[0]
    assert (task.dropped, len(task.train)) == (1, 6)
    assert "long" not in {e.prompt for e in task.raw_train}


def test_dropping_all_answers_is_reported(tmp_path: Path) -> None:
    write_task(tmp_path, [{"prompt": "p", "answer": "x" * 40}] * 8)
    output = fault(tmp_path, max_answer_tokens=10, long_answers="drop")
    assert output == (
        "Mine: 0 answers fit data.max_answer_tokens=10, and data.validation_samples takes 2; none is left to train on, "
        "so raise the limit"
    )


def test_a_long_reference_of_the_test_split_is_kept(tmp_path: Path) -> None:
    write_task(tmp_path, test=[{"prompt": "p", "answer": "x" * 40}])
    assert prepared(tmp_path, max_answer_tokens=10).tasks[0].test[0].example.answer == "x" * 40


def test_validation_that_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    write_task(tmp_path)
    assert re.search(
        r"validation_samples: 8 leaves no training example of Mine \(8 in", fault(tmp_path, validation_samples=8)
    )


def test_data_faults_end_the_command_before_it_leaves_anything(tmp_path: Path) -> None:
    write_task(tmp_path / "data", "[{]")
    output = refused(tmp_path, f"--data.root={tmp_path / 'data'}", "--data.order=[Mine]")
    assert re.search(r"Mine/train\.json, column 3: not valid JSON", output)
