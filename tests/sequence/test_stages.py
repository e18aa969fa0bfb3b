"""The time left of a run, from what its stages cost."""

from dataclasses import dataclass

import pytest

from cl_lightning.sequence.stages import Stages
from cl_lightning.sequence.time_left import SCORING, TRAINING, ZERO_SHOT, Key

ORDER = ["a", "b", "c", "d"]
#: Seconds of an example in training, of a prompt of each task, and of the start of a task.
EXAMPLE, PROMPT, START = 2.0, {"a": 1.0, "b": 3.0, "c": 0.5, "d": 2.0}, 10.0
EXAMPLES, PROMPTS = [5, 10, 20, 40], 4


@dataclass
class Clock:
    """A clock that is set by hand."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def plan(task: int) -> dict[Key, float]:
    return {(TRAINING, ""): EXAMPLES[task], **{(SCORING, name): PROMPTS for name in ORDER[: task + 1]}}


def cost(task: int) -> float:
    """What a task truly takes."""
    return START + EXAMPLE * EXAMPLES[task] + sum(PROMPT[name] * PROMPTS for name in ORDER[: task + 1])


class Run:
    """A run by a clock: `step` makes a unit of work take so long."""

    def __init__(self, zero_shot: float | None = 2.0) -> None:
        self.clock = Clock()
        self.stages = Stages(ORDER, [plan(task) for task in range(4)], clock=self.clock)
        self.stages.begin_task(0)
        if zero_shot is not None:
            for name in ORDER:
                self.work(ZERO_SHOT, PROMPTS, PROMPT[name] * zero_shot, name)

    def work(self, name: str, units: int, seconds: float, item: str = "") -> None:
        self.stages.begin(name, units, item)
        for _ in range(units):
            self.clock.now += seconds
            self.stages.advance()

    def task(self, task: int) -> None:
        self.stages.begin_task(task)
        self.stages.begin("start")
        self.clock.now += START
        self.work(TRAINING, EXAMPLES[task] // 5, 5 * EXAMPLE)  # five examples a step
        for name in ORDER[: task + 1]:
            self.work(SCORING, PROMPTS, PROMPT[name], name)
        self.stages.end_task()


def test_it_is_known_from_the_first_finished_task_on() -> None:
    run = Run()
    run.stages.begin("start")
    assert run.stages.left() is None
    run.task(0)
    assert run.stages.left() == pytest.approx(sum(map(cost, (1, 2, 3))))


def test_scoring_grows_with_the_number_of_seen_tasks() -> None:
    """Tasks never scored after training are scaled from before it; without that, they cost the mean prompt."""
    run = Run(zero_shot=None)
    run.task(0)
    known = START + EXAMPLE * 10 + PROMPTS * (1.0 + 1.0)
    assert run.stages.costs.of_task(plan(1)) == pytest.approx(known)
    run.task(1)
    both = START * 2 + EXAMPLE * 60 + PROMPTS * (2 * (1.0 + 3.0) + 2.0 * 3)
    assert run.stages.left() == pytest.approx(both)
    # Negative control: the mean of the finished tasks is far off.
    assert (cost(0) + cost(1)) / 2 * 2 < 0.6 * both


def test_it_shrinks_by_the_time_that_passes() -> None:
    run = Run()
    run.task(0)
    before = run.stages.left()
    run.stages.begin_task(1)
    run.stages.begin("start")
    run.clock.now += START / 2
    assert run.stages.left() == pytest.approx(before - START / 2)
    run.clock.now += START / 2
    run.work(TRAINING, 1, 5 * EXAMPLE)
    run.stages.current.total = 2
    assert run.stages.left() == pytest.approx(before - START - 5 * EXAMPLE)
    run.clock.now += 1
    assert run.stages.left() == pytest.approx(before - START - 5 * EXAMPLE - 1)
    run.clock.now += 1000
    assert run.stages.left() > 0, "what follows still takes its time"


def test_a_pace_that_changes_is_followed() -> None:
    run = Run()
    run.task(0)
    run.stages.begin_task(1)
    run.work(TRAINING, 1, 5 * EXAMPLE * 3)
    run.stages.current.total = 2
    rest = START + PROMPTS * (1.0 + 3.0) + cost(2) + cost(3)  # `start` was skipped
    assert run.stages.left() == pytest.approx(5 * EXAMPLE * 3 + rest)


def test_batches_are_a_stage_of_their_own_within_another() -> None:
    run = Run()
    run.stages.begin("start")
    run.clock.now += 1
    for _ in run.stages.counted("gradients", range(3), 3):
        assert run.stages.current.name == "gradients"
        run.clock.now += 2
    assert run.stages.current.name == "start"
    run.clock.now += 1
    run.stages.end_task()
    assert run.stages.costs.of(("start", "")) == 2
    assert run.stages.costs.of(("gradients", "")) == 6


def test_tokens_per_second_are_those_of_the_steps() -> None:
    run = Run()
    run.stages.begin(TRAINING, 2)
    assert run.stages.rate() is None
    run.clock.now += 2
    run.stages.step(1.5, 100)
    run.clock.now += 7  # the next step has not ended
    assert (run.stages.rate(), run.stages.current.loss) == (50.0, 1.5)
