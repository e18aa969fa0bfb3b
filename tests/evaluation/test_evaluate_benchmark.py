"""How benchmarks/evaluate.py reports strings that differ: shares, differences, ties, notes; all by hand."""

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from cl_lightning.data.base import TaskSpec
from cl_lightning.data.prompt import PromptEncoder
from cl_lightning.data.sample.tasks import TASKS, load
from cl_lightning.data.task_data import TaskData
from cl_lightning.model.module import ContinualLM
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def evaluate() -> ModuleType:
    """benchmarks/evaluate.py, imported like a script beside its neighbours, and removed from sys.modules afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(ROOT / "benchmarks")])
        patch.setitem(sys.modules, "_common", None)
        patch.delitem(sys.modules, "_common")
        spec = importlib.util.spec_from_file_location("evaluate_benchmark", ROOT / "benchmarks" / "evaluate.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


class TwoTasks:
    """As much of a task sequence as is compared: two tasks of four and two prompts, scored by exact match."""

    def __init__(self, tokenizer: Any) -> None:
        encoder = PromptEncoder(tokenizer, 600, "")
        examples = [encoder.encode(e, TASKS["FOMC"]) for e in load("FOMC").test]
        by_letter = {letter: [e for e in examples if e.example.answer == letter] for letter in "ABC"}
        self.tasks = []
        for name, letters in {"four": "ABCA", "two": "AB"}.items():
            test = tuple(by_letter[letter][i] for i, letter in enumerate(letters))
            self.tasks.append(TaskData(TaskSpec(name, "accuracy", 2), (), (), test, 1, 0, whole=""))


@pytest.fixture
def module(tiny: Callable[..., ContinualLM]) -> ContinualLM:
    """A model to which A and B are always a tie, being equal to it, and C is not."""
    module = tiny("float32")
    a, b = module.tokenizer.encode("AB", add_special_tokens=False)
    with torch.no_grad():
        weight = module.llm.get_output_embeddings().weight
        weight[b] = weight[a]
    module.llm.eval()
    return module


def rows_of(module: ContinualLM, *answers: str) -> list[list[list[int]]]:
    """Rows of each task: an answer's tokens, the end token, and padding that a batch may bring."""
    end, pad = module.tokenizer.eos_token_id, module.tokenizer.pad_token_id
    return [[[*module.tokenizer.encode(c, add_special_tokens=False), end, pad] for c in task] for task in answers]


def test_equal_strings_have_no_differences(evaluate: ModuleType, module: ContinualLM) -> None:
    rows = rows_of(module, "ABCB", "AA")
    shorter = [[row[:-1] for row in task] for task in rows]
    result = evaluate.compare(module, module.tokenizer, TwoTasks(module.tokenizer), {"plain": rows, "ours": shorter})
    assert result == {
        "strings": 6,
        "different": 0,
        "different_not_at_a_tie": 0,
        "equal_share": 1.0,
        "mean_score_difference": 0.0,
        "largest_score_difference": 0.0,
    }


def test_differences_are_counted(evaluate: ModuleType, module: ContinualLM) -> None:
    """Of ABCA three right by plain, one by ours; of AB one by plain, both by ours. B for A is a tie, C for A is not."""
    rows = {"plain": rows_of(module, "ABCB", "AA"), "ours": rows_of(module, "BCCB", "AB")}
    result = evaluate.compare(module, module.tokenizer, TwoTasks(module.tokenizer), rows)
    assert result == {
        "strings": 6,
        "different": 3,
        "different_not_at_a_tie": 1,  # C for B
        "equal_share": 0.5,
        "mean_score_difference": 0.0,  # -50 and +50
        "largest_score_difference": 50.0,
    }
    rows["ours"] = rows_of(module, "ABCB", "CA")
    result = evaluate.compare(module, module.tokenizer, TwoTasks(module.tokenizer), rows)
    assert (result["different"], result["different_not_at_a_tie"], result["equal_share"]) == (1, 1, 0.8333)
    assert (result["mean_score_difference"], result["largest_score_difference"]) == (-25.0, 50.0)


def test_a_longer_answer_is_not_a_tie(evaluate: ModuleType, module: ContinualLM) -> None:
    rows = {"plain": rows_of(module, "ABCA", "AB"), "ours": rows_of(module, "ABCA", "AB")}
    rows["ours"][0][0] = rows["plain"][0][0][:1] * 2
    result = evaluate.compare(module, module.tokenizer, TwoTasks(module.tokenizer), rows)
    assert (result["different"], result["different_not_at_a_tie"]) == (1, 1)


def test_notes(evaluate: ModuleType) -> None:
    def of(dtype: str, difference: float) -> list[str]:
        return evaluate.remarks(dtype, {"mean_score_difference": difference}, [80] * 7 + [64])

    assert of("bfloat16", 0.5) == of("bfloat16", -0.5) == []
    (timed,) = of("float32", 0.0)
    assert timed == "the goal of 2 is stated for bfloat16; this was timed in float32"
    for difference, signed in ((0.501, "+0.501"), (-0.75, "-0.750")):
        (note,) = of("bfloat16", difference)
        assert note == (
            f"in bfloat16 the mean score differs by {signed} points, more than 0.5; one string is up to 1.56 points of "
            "its task's score and 0.20 of the mean"
        )
    assert len(of("float32", 0.6)) == 2
