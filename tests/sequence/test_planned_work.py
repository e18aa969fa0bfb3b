"""The work that a run expects is the work that it does: what the time left rests on."""

from typing import Any

import pytest

from callbacks import Probes, ReplayBuffer, SliceInit
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.context import RunContext
from cl_lightning.sequence.run import SequenceRun
from cl_lightning.sequence.stages import Stage, Stages
from cl_lightning.sequence.time_left import SCORING, TRAINING
from tests.ragged_words import small_run, words

ORDER = ("two", "four", "five")


class Watch(TaskCallback):
    """Keeps every stage of each task, and what was left when it began."""

    def __init__(self) -> None:
        self.stages: list[list[Stage]] = [[] for _ in ORDER]
        self.left: list[list[float | None]] = [[] for _ in ORDER]
        self.tokens: list[int] = []

    def on_stage(self, run: RunContext, stages: Stages) -> None:
        if all(stages.current is not stage for stage in self.stages[stages.task]):
            self.stages[stages.task].append(stages.current)
        self.left[stages.task].append(stages.left())

    def on_task_scored(self, run: RunContext, task: int) -> None:
        self.tokens.append(run.record.clock.tokens)

    def done(self, task: int, name: str) -> float:
        return sum(stage.done for stage in self.stages[task] if stage.name == name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[SequenceRun, Watch]:
    watch = Watch()
    boundary = {
        "memory": ReplayBuffer(16, train_ratio=0.5),
        "init": SliceInit(samples=6, memory_samples=4, batch_size=4),
    }
    observers = {"probes": Probes(every=2, samples=2), "watch": watch}
    run = small_run(tmp_path_factory.mktemp("run") / "run", words(ORDER, epochs=2), boundary, observers, lr=0.01)
    run.run()
    run.folder.close()
    return run, watch


@pytest.mark.parametrize("task", range(3))
def test_scores_and_gradients_are_as_many_as_planned(made: tuple[SequenceRun, Watch], task: int) -> None:
    run, watch = made
    plan = run.stages.plan[task]
    assert watch.done(task, "gradients") == plan["gradients", ""] == (6 if task == 0 else 10)
    scored = {stage.item: stage.done for stage in watch.stages[task] if stage.name == SCORING}
    assert scored == {item: units for (name, item), units in plan.items() if name == SCORING}


@pytest.mark.parametrize("task", range(3))
def test_training_has_about_as_many_tokens_as_planned(made: tuple[SequenceRun, Watch], task: int) -> None:
    """Replayed ones included: which examples are drawn is not known before. Without replay they are as many."""
    run, watch = made
    tokens = watch.tokens[task] - (watch.tokens[task - 1] if task else 0)
    planned = run.stages.plan[task][TRAINING, ""]
    assert tokens == pytest.approx(planned, rel=0.1 if task else 0)
    if task:
        assert run.data.tasks[task].tokens < 0.6 * planned, "or this is no test of replay"


def test_probes_are_as_many_as_planned_without_replay(made: tuple[SequenceRun, Watch]) -> None:
    run, watch = made
    plans = [plan["probes", ""] for plan in run.stages.plan]
    assert watch.done(0, "probes") == plans[0]
    assert plans == [plans[0] * (task + 1) for task in range(3)], "of every task seen"


def test_all_the_time_of_a_task_is_in_its_costs(made: tuple[SequenceRun, Watch]) -> None:
    run, watch = made
    for task, name in enumerate(ORDER):
        seconds = run.record.costs.tasks[name]["seconds"]
        assert {"start", "gradients", "training", "probes", "end", "scoring", "saving"} <= seconds.keys()
        counted: dict[str, float] = {}
        for stage in watch.stages[task]:
            counted[stage.name] = counted.get(stage.name, 0.0) + stage.seconds
        assert seconds == pytest.approx(counted)


def test_the_time_left_is_known_from_the_first_score_on(made: tuple[SequenceRun, Watch]) -> None:
    _, watch = made
    first = next(i for i, stage in enumerate(watch.stages[0]) if stage.name == SCORING)
    assert watch.left[0][0] is None
    assert watch.left[0][-1] is not None and first
    later: list[Any] = [left for task in watch.left[1:] for left in task]
    assert None not in later and min(later) >= 0
