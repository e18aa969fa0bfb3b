"""Reference protocols: joint training on all tasks, and each task alone from the base model."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from cl_lightning.adapters import AdapterStrategy, IncLoRA, OLoRA, SeqLoRA
from cl_lightning.common.errors import StateError
from cl_lightning.sequence.load import load_run
from tests.commands.test_bad_input import refused
from tests.ragged_words import finished_run, words
from tests.runs import adapters, record, smoke

PLAIN = ("--boundary.memory=null", "--boundary.init=null")
THREE = "--data.order=[FOMC,NumGLUE-cm,Sentiment]"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "alone"
    result = smoke(run, *PLAIN, THREE, "--data.protocol=independent")
    assert "3 tasks, each from the base model," in result.stdout.splitlines()[1]
    return run


def test_each_task_alone_equals_a_run_of_that_task(alone: Path, tmp_path: Path) -> None:
    smoke(tmp_path / "one", *PLAIN, "--data.order=[FOMC]")
    smoke(tmp_path / "sequence", *PLAIN)
    kept, one, both = adapters(alone), adapters(tmp_path / "one"), adapters(tmp_path / "sequence")
    assert all(torch.equal(t, kept["FOMC"][name]) for name, t in one["FOMC"].items())
    # The second starts as in a sequence, but from the base model.
    assert not all(torch.equal(t, kept["NumGLUE-cm"][name]) for name, t in both["NumGLUE-cm"].items())
    R = record(alone)["R"]
    assert [[score is not None for score in row] for row in R] == torch.eye(3).bool().tolist()
    assert R[0][0] == record(tmp_path / "one")["R"][0][0]
    metrics = record(alone)["metrics"]
    assert metrics["ap"] == pytest.approx(sum(R[i][i] for i in range(3)) / 3)
    assert metrics["fp"] is None
    with pytest.raises(StateError, match="one model per task"):
        load_run(alone)


@pytest.mark.parametrize(
    "strategy", [IncLoRA, OLoRA, partial(SeqLoRA, per_task="continue")], ids=["IncLoRA", "OLoRA", "SeqLoRA"]
)
def test_no_task_sees_another_with_any_strategy(strategy: Callable[..., AdapterStrategy], tmp_path: Path) -> None:
    def second(first: str, **options: str) -> dict[str, torch.Tensor]:
        folder = tmp_path / "_".join([first, *options])
        finished_run(folder, words((first, "two"), **options), adapter=strategy(rank=2), lr=0.01)
        return adapters(folder)["two"]

    one, other = (second(first, protocol="independent") for first in ("one", "three"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    if strategy is not IncLoRA:  # in a sequence, it does
        assert not all(torch.equal(tensor, one[name]) for name, tensor in second("one").items()), "the control"


def test_joint_training_scores_all_tasks_once(tmp_path: Path) -> None:
    result = smoke(tmp_path / "run", *PLAIN, THREE, "--data.protocol=joint", "--sequence.zero_shot=true")
    assert "joint training on 3 tasks together, 90 training examples" in result.stdout.splitlines()[1]
    state = record(tmp_path / "run")
    assert state["order"] == ["joint"]
    assert state["columns"] == ["FOMC", "NumGLUE-cm", "Sentiment"]
    (row,) = state["R"]
    assert state["metrics"]["fp"] == pytest.approx(sum(row) / 3)
    assert state["metrics"]["ap"] is None
    assert len(state["zero_shot"]) == 3
    assert {p.name for p in (tmp_path / "run" / "predictions").glob("joint_*")} == {
        f"joint_{name}.jsonl" for name in state["columns"]
    }
    assert load_run(tmp_path / "run").matrix == state["R"]


def test_joint_training_accepts_an_initialiser(tmp_path: Path) -> None:
    smoke(tmp_path / "run", "--boundary.memory=null", "--boundary.init.operator=null", "--data.protocol=joint")
    assert any(name.endswith("lora_B0") for name in adapters(tmp_path / "run")["joint"])
    assert (tmp_path / "run" / "surgery" / "joint.csv").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--data.protocol=joint"], "boundary.memory needs earlier tasks, which data.protocol=joint does not have"),
        ([*PLAIN, "--data.protocol=joint", "--data.epochs=[1,2]"], "data.epochs: [1, 2] differ"),
        (
            [*PLAIN, "--data.protocol=both"],
            "data.protocol: expected 'sequential' or 'joint' or 'independent', not 'both'",
        ),
        (
            [*PLAIN, "--data.max_prompt_tokens=100"],
            "data.max_prompt_tokens: 100 leaves no room for the prompt of FOMC/tra",
        ),
        (
            [*PLAIN, "--data.protocol=joint", "--sequence.continue_from=x"],
            "data.protocol=joint continues no other",
        ),
    ],
)
def test_refused_before_training(tmp_path: Path, options: list[str], expected: str) -> None:
    assert expected in refused(tmp_path, *options)
