"""Super-NI files: layout, prompt, several references; what is wrong is said with file and instance."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cl_lightning.common.errors import DataError
from cl_lightning.data.base import Example
from cl_lightning.data.benchmarks.superni import ORDERS, SuperNI
from cl_lightning.evaluation.baselines import baseline_items
from cl_lightning.metrics.registry import best_scores
from tests.conftest import SHARED

REAL = SHARED / "data"
NAME = "task002_quoref_answer_generation"


def written(root: Path, split: Any, name: str = NAME) -> Path:
    folder = root / "superni" / name
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        (folder / f"{part}.json").write_text(json.dumps(split))
    return root


def task(*instances: dict[str, Any]) -> dict[str, Any]:
    return {"Definition": [" Copy {this}. "], "Instances": list(instances)}


def test_prompts_are_the_published_ones_and_references_are_kept(tmp_path: Path) -> None:
    root = written(tmp_path, task({"input": "a {b}", "output": ["x", "y", "x"]}, {"input": "c", "output": "z"}))
    both, one = SuperNI().load(root, NAME).test
    assert both.prompt == "Definition: Copy {this}.\n\nNow complete the following example -\nInput: a {b}\nOutput: "
    assert both.prompt[both.instruction : -both.cue] == "a {b}"
    assert (both.answer, both.references, both.accepted) == ("x", ("x", "y"), ("x", "y"))
    assert (one.answer, one.references, one.accepted) == ("z", (), ("z",))
    assert both.id == f"{NAME}/test/0"
    assert SuperNI().load(root / "superni", NAME).train[1].prompt.endswith("Input: c\nOutput: ")


def test_orders_hold_the_same_fifteen_tasks() -> None:
    assert len(set(ORDERS["order1"])) == 15
    assert set(ORDERS["order1"]) == set(ORDERS["order2"])
    for order in ("order1", "order2"):
        assert tuple(SuperNI(order).default_order(Path("anywhere"))) == ORDERS[order]
        assert SuperNI(order).published_epochs() == dict.fromkeys(ORDERS[order], 100)


def test_a_folder_of_the_users_own_is_found_beside_them(tmp_path: Path) -> None:
    written(tmp_path, task({"input": "a", "output": "b"}), "task900_mine")
    assert "task900_mine" in SuperNI().tasks(tmp_path)
    assert "task900_mine" not in SuperNI().default_order(tmp_path)
    assert SuperNI().load(tmp_path, "task900_mine").train[0].answer == "b"


def test_without_files_the_sample_says_what_it_is() -> None:
    assert SuperNI().describe(None) == "built-in sample, NOT Super-NI"
    assert SuperNI().load(None, "FOMC").test


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], r"train\.json: holds a list, expected an object with Definition and Instances"),
        ({"Instances": []}, r"train\.json: 'Definition' is null, expected text"),
        ({"Definition": ["a"]}, r"train\.json: Instances: holds null, expected a list"),
        ({"Definition": "a", "Instances": []}, r"Instances: empty split"),
        (task({"output": "b"}), r"instance 1 has no 'input'"),
        (task({"input": "a", "output": "b"}, {"input": "a", "output": []}), r"instance 2: 'output' is empty"),
        (task({"input": "a", "output": [3]}), r"instance 1: 'output' is a number, expected text"),
        (task({"input": " ", "output": "b"}), r"instance 1: 'input' is empty"),
        (task("text"), r"instance 1 is text, expected an object"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        SuperNI().load(written(tmp_path, content), NAME)


def test_a_task_that_is_not_there_is_named(tmp_path: Path) -> None:
    written(tmp_path, task({"input": "a", "output": "b"}))
    with pytest.raises(DataError, match=r"task 'task003' not found: looked for .*valid: task002"):
        SuperNI().load(tmp_path, "task003")
    shutil.rmtree(tmp_path / "superni")
    with pytest.raises(DataError, match="no task folder there"):
        SuperNI().load(tmp_path, NAME)


def test_a_blank_answer_is_left_out_of_train_and_refused_in_test(tmp_path: Path) -> None:
    root = written(tmp_path, task({"input": "a", "output": "b"}))
    folder = root / "superni" / NAME
    (folder / "train.json").write_text(json.dumps(task({"input": "a", "output": [""]}, {"input": "c", "output": "d"})))
    assert [(e.id, e.answer) for e in SuperNI().load(root, NAME).train] == [(f"{NAME}/train/1", "d")]
    (folder / "test.json").write_text(json.dumps(task({"input": "a", "output": [" "]})))
    with pytest.raises(DataError, match=r"test\.json: instance 1: 'output' is empty"):
        SuperNI().load(root, NAME)


def test_the_best_reference_counts() -> None:
    predictions, prompts = ["the red fox", "nothing"], ["", ""]
    several = [["a dog", "the red fox"], ["alike"]]
    assert best_scores("rouge_l", predictions, several, prompts) == [100.0, 0.0]
    assert best_scores("rouge_l", [], [], []) == []
    with pytest.raises(ValueError, match="zip"):
        best_scores("rouge_l", predictions, several[:1], prompts)
    test = [Example("t/0", "p", "a dog", ("a dog", "the red fox"))]
    assert baseline_items("rouge_l", [Example("t/1", "p", "the red fox")], test)["majority"] == [100.0]


@pytest.mark.skipif(not (REAL / "superni").is_dir(), reason="no Super-NI files beside this checkout")
def test_the_published_files_are_read_whole() -> None:
    sizes = {name: SuperNI().load(REAL, name) for name in ORDERS["order1"]}
    assert len(sizes["task073_commonsenseqa_answer_generation"].train) == 975
    assert {len(s.test) for s in sizes.values()} >= {100, 43, 16}
    assert sum(bool(e.references) for e in sizes[NAME].train + sizes[NAME].test) > 100
    assert not any(e.prompt == f.prompt for s in sizes.values() for e, f in zip(s.test, s.test[1:], strict=False))
