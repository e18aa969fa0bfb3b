"""Long Sequence files: layout, prompt, orders; tasks without data are named, or left out when asked."""

import json
from pathlib import Path
from typing import Any

import pytest

from cl_lightning.common.errors import ConfigError, DataError
from cl_lightning.data.benchmarks.long_sequence import ORDERS, TASKS, LongSequence
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.metrics.registry import METRICS
from cl_lightning.model.random_llama import random_tokenizer
from tests.conftest import SHARED

REAL = SHARED / "data"


def written(root: Path, name: str, definition: Any, count: int = 2, base: str = "long_sequence") -> Path:
    folder = root / base / name
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        instances = [{"input": f"{split} {{{i}}}?\n", "output": "very positive"} for i in range(count)]
        (folder / f"{split}.json").write_text(json.dumps({"Definition": definition, "Instances": instances}))
    return root


@pytest.mark.parametrize("base", ["long_sequence", "Long_Sequence", "."])
def test_prompts_are_the_published_ones(tmp_path: Path, base: str) -> None:
    splits = LongSequence().load(written(tmp_path, "yelp", [" Choose {one}. \n"], base=base), "yelp")
    assert splits.test[1].prompt == "Choose {one}.\ntest {1}?\n\nOutput: "
    assert splits.test[1].prompt[splits.test[1].instruction : -splits.test[1].cue] == "test {1}?\n"
    assert (splits.train[0].id, splits.train[0].answer) == ("yelp/train/0", "very positive")


@pytest.mark.parametrize("definition", [[], [""], None])
def test_copa_has_no_instruction(tmp_path: Path, definition: Any) -> None:
    splits = LongSequence().load(written(tmp_path, "copa", definition), "copa")
    assert splits.train[0].prompt == "train {0}?\n\nOutput: "
    assert (splits.train[0].instruction, splits.train[0].cue) == (0, len("\nOutput: "))


def test_orders() -> None:
    assert len(TASKS) == 15
    assert {*ORDERS["order3"]} == {*ORDERS["order4"]} == {*TASKS}
    assert (ORDERS["order3"][0], ORDERS["order4"][-1]) == ("yelp", "yahoo")
    assert ORDERS["standard2"] == ("dbpedia", "amazon", "agnews", "yahoo")
    assert all({*ORDERS[f"standard{i}"]} == {"dbpedia", "amazon", "yahoo", "agnews"} for i in (1, 2, 3))
    assert {*LongSequence("order4").published_epochs().values()} == {10}
    assert LongSequence("standard1").published_epochs()["agnews"] == 1
    for order, names in ORDERS.items():
        assert LongSequence(order).default_order(Path("anywhere")) == list(names)


def test_labels_are_compared_as_the_official_evaluator_does() -> None:
    score = METRICS[TASKS["yelp"].metric]
    predictions = ["Very  positive.", "positive", "very positive indeed"]
    assert score(predictions, ["very positive"] * 3, [""] * 3) == [100.0, 0.0, 0.0]


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    root = written(tmp_path, "yelp", [3])
    with pytest.raises(DataError, match=r"yelp/train\.json: 'Definition' is a number, expected text"):
        LongSequence().load(root, "yelp")
    with pytest.raises(DataError, match=r"task 'wic' not found: looked for .*wic, .*Long_Sequence/wic.*valid: yelp"):
        LongSequence().load(root, "wic")


# ---------------------------------------------------------------- absent tasks


def test_absent_tasks_are_named_and_nothing_runs(tmp_path: Path) -> None:
    written(tmp_path, "yahoo", ["a"])
    with pytest.raises(ConfigError) as caught:
        TaskSequence(LongSequence("standard3"), root=str(tmp_path))
    output = str(caught.value)
    assert output.startswith("data.order: no data for amazon, agnews, dbpedia: looked for ")
    assert str(tmp_path / "long_sequence" / "amazon") in output
    assert "data.skip_missing=true" in output and "\n" not in output


def test_the_rest_runs_when_asked_and_says_so(tmp_path: Path) -> None:
    for name in ("yahoo", "agnews"):
        written(tmp_path, name, ["a"], count=5)
    order = {"epochs": [1, 2, 3, 4], "validation_samples": 1, "skip_missing": True}
    data = TaskSequence(LongSequence("standard3"), root=str(tmp_path), **order)
    assert data.order == ["yahoo", "agnews"]
    assert data.epochs_per_task == [1, 3], "numbers stay with their tasks"
    data.prepare(random_tokenizer(), False)
    assert [t.spec.name for t in data.tasks] == ["yahoo", "agnews"]
    assert data.source == "Long Sequence files, without amazon, dbpedia (no data)"
    whole = TaskSequence(LongSequence(), root=str(tmp_path), order=["yahoo"], skip_missing=True)
    assert whole.source == "Long Sequence files", "nothing was left out"


def test_no_data_at_all_is_refused_even_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no data for yahoo"):
        TaskSequence(LongSequence("standard3"), root=str(tmp_path), skip_missing=True)


@pytest.mark.skipif(not (REAL / "long_sequence").is_dir(), reason="no Long Sequence files beside this checkout")
def test_twelve_of_the_fifteen_real_tasks_are_read() -> None:
    data = TaskSequence(LongSequence(), root=str(REAL), skip_missing=True)
    assert len(data.order) == 12
    assert data.source == "Long Sequence files, without qqp, rte, agnews (no data)"
    splits = {name: LongSequence().load(REAL, name) for name in ("cb", "copa", "wic")}
    assert {n: (len(s.train), len(s.test)) for n, s in splits.items()} == {
        name: TASKS[name].published for name in splits
    }
    assert splits["copa"].train[0].prompt.startswith('Which sentence is the cause of "The host cancelled the party."?')
