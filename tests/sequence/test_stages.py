"""The stages of a run: one clock for the costs in the record and for the time left that they tell."""

from dataclasses import dataclass

import pytest
import torch

from cl_lightning.sequence.stages import Stages
from cl_lightning.sequence.time_left import SCORING, TRAINING, ZERO_SHOT, Plan

ORDER = ["a", "b", "c", "d"]
#: Seconds of a token in training, of a prompt of each task, and of the start of a task.
TOKEN, PROMPT, START = 2.0, {"a": 1.0, "b": 3.0, "c": 0.5, "d": 2.0}, 10.0
TOKENS, PROMPTS, STEPS = [50, 100, 200, 400], 4, 5
#: Scoring the untrained model takes so many times as long.
SLOWER = 2.0


@dataclass
class Clock:
    """A clock that is set by hand."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def plan(task: int, zero_shot: bool = True) -> Plan:
    untrained = {(ZERO_SHOT, name): PROMPTS for name in ORDER} if zero_shot and not task else {}
    return {(TRAINING, ""): TOKENS[task], **{(SCORING, name): PROMPTS for name in ORDER[: task + 1]}, **untrained}


def cost(task: int) -> float:
    """What a task truly takes, without scores of the untrained model."""
    return START + TOKEN * TOKENS[task] + sum(PROMPT[name] * PROMPTS for name in ORDER[: task + 1])


class Run:
    """A run by a clock: `work` makes each unit take so long."""

    def __init__(self, zero_shot: bool = True) -> None:
        self.clock = Clock()
        self.stages = Stages(ORDER, [plan(task, zero_shot) for task in range(4)], clock=self.clock)
        self.stages.begin_task(0)
        for name in ORDER if zero_shot else ():
            self.work(ZERO_SHOT, PROMPTS, SLOWER * PROMPT[name], name)

    def work(self, name: str, units: int, seconds: float, item: str = "", **options: float) -> None:
        self.stages.begin(name, units, item, **options)
        self.advance(units, seconds)

    def advance(self, units: int, seconds: float) -> None:
        for _ in range(units):
            self.clock.now += seconds
            self.stages.advance()

    def start(self, task: int) -> None:
        if task:
            self.stages.begin_task(task)
        self.stages.begin("start")
        self.clock.now += START

    def train(self, task: int, steps: int = STEPS, slower: float = 1.0) -> None:
        self.stages.begin(TRAINING, STEPS, planned=TOKENS[task])
        self.advance(steps, slower * TOKEN * TOKENS[task] / STEPS)

    def score(self, task: int) -> None:
        for name in ORDER[: task + 1]:
            self.work(SCORING, PROMPTS, PROMPT[name], name)
        self.stages.end_task()

    def task(self, task: int) -> None:
        self.start(task)
        self.train(task)
        self.score(task)


def test_it_is_known_within_the_first_task() -> None:
    """As soon as training is measured: scores are expected to cost what those of the untrained model did."""
    run = Run()
    run.start(0)
    assert run.stages.left() is None, "no training is measured"
    run.train(0, steps=1)
    assert run.stages.left() is None, "a first step also warms up"
    run.advance(1, TOKEN * TOKENS[0] / STEPS)
    rest = 3 / STEPS * TOKEN * TOKENS[0] + SLOWER * PROMPTS * PROMPT["a"]
    later = sum(
        START + TOKEN * TOKENS[t] + SLOWER * PROMPTS * sum(PROMPT[n] for n in ORDER[: t + 1]) for t in (1, 2, 3)
    )
    assert run.stages.left() == pytest.approx(rest + later)


def test_it_is_not_known_before_each_kind_of_work_is_measured() -> None:
    run = Run(zero_shot=False)
    run.start(0)
    run.train(0)
    assert run.stages.left() is None, "no score is measured"
    run.work(SCORING, PROMPTS, PROMPT["a"], "a")
    assert run.stages.left() is not None


def test_after_each_task_it_is_what_the_rest_takes() -> None:
    run = Run()
    for task in range(4):
        run.task(task)
        assert run.stages.left() == pytest.approx(sum(map(cost, range(task + 1, 4))))


def test_scoring_grows_with_the_number_of_seen_tasks() -> None:
    """Without scores of the untrained model, tasks never scored cost the mean prompt."""
    run = Run(zero_shot=False)
    run.task(0)
    run.task(1)
    prompts = 2 * (PROMPT["a"] + PROMPT["b"]) + 3 * (PROMPT["a"] + PROMPT["b"]) / 2
    both = START * 2 + TOKEN * (TOKENS[2] + TOKENS[3]) + PROMPTS * prompts
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
    run.train(1, steps=1)
    step = TOKEN * TOKENS[1] / STEPS
    assert run.stages.left() == pytest.approx(before - START - step)
    run.clock.now += 1
    assert run.stages.left() == pytest.approx(before - START - step - 1)
    run.clock.now += 10_000
    assert run.stages.left() == pytest.approx(cost(2) + cost(3) + PROMPTS * 4.0), "what follows still takes its time"


def test_a_stage_that_was_shorter_leaves_nothing() -> None:
    run = Run()
    run.task(0)
    run.stages.begin_task(1)
    run.stages.begin("start")
    run.clock.now += 0.1 * START
    run.train(1, steps=0)
    prompts = PROMPTS * (PROMPT["a"] + PROMPT["b"])
    assert run.stages.left() == pytest.approx(TOKEN * TOKENS[1] + prompts + cost(2) + cost(3))


def test_a_pace_is_measured_over_a_tenth_of_a_stage() -> None:
    run = Run()
    run.start(0)
    run.stages.begin(TRAINING, 40, planned=TOKENS[0])
    known = []
    for _ in range(6):
        run.advance(1, 1.0)
        known.append(run.stages.left() is not None)
    assert known == [False, False, False, False, True, True], "the first step is not one of them"
    before = run.stages.left()
    run.clock.now += 0.5
    assert run.stages.left() == pytest.approx(before - 0.5), "of the step that goes on"


def test_a_pace_that_changes_is_followed() -> None:
    """In the rest of the task, and in later tasks."""
    run = Run()
    run.task(0)
    run.start(1)
    run.train(1, steps=2, slower=3.0)
    tokens = 3 / STEPS * TOKENS[1] + TOKENS[2] + TOKENS[3]
    scores = PROMPTS * sum(PROMPT[n] for t in (1, 2, 3) for n in ORDER[: t + 1])
    assert run.stages.left() == pytest.approx(3.0 * TOKEN * tokens + scores + 2 * START)


def test_what_an_earlier_process_measured_is_known_from_the_start() -> None:
    """Also of the task that it had begun."""
    run = Run()
    run.task(0)
    left = run.stages.left()
    again = Stages(ORDER, run.stages.plan, costs=run.stages.costs, clock=run.clock)
    again.begin_task(1)
    assert again.left() == pytest.approx(left)
    again.begin_task(1, before={"seconds": {"start": START}, "parts": {}, "peak_bytes": {}}, over={(TRAINING, "")})
    assert again.left() == pytest.approx(left - START - TOKEN * TOKENS[1])
    # A training that goes on from its third step counts only its own steps.
    again.begin_task(1)
    again.begin(TRAINING, STEPS, done=2, planned=TOKENS[1])
    for _ in range(2):
        run.clock.now += 100
        again.advance()
    tokens = TOKENS[1] / STEPS + TOKENS[2] + TOKENS[3]
    scores = PROMPTS * sum(PROMPT[n] for t in (1, 2, 3) for n in ORDER[: t + 1])
    token = 100 / (TOKENS[1] / STEPS)
    assert again.left() == pytest.approx(token * tokens + scores + 3 * START)
    run.clock.now += 100
    again.advance()
    again.begin(SCORING, PROMPTS, "a")
    assert again.left() == pytest.approx(token * (TOKENS[2] + TOKENS[3]) + scores + 3 * START)


def test_batches_are_a_stage_within_another() -> None:
    run = Run()
    seen: list[str] = []
    run.stages.watch = lambda stages: seen.append(stages.current.name)
    run.stages.begin("start")
    run.clock.now += 1
    for rows in run.stages.counted("gradients", [2, 1], 3, lambda rows: rows):
        assert run.stages.current.name == "gradients"
        run.clock.now += 2 * rows
    assert run.stages.current.name == "start"
    run.clock.now += 1
    run.stages.end_task()
    assert seen == ["start", "gradients", "start"]
    seconds = run.stages.costs.tasks["a"]["seconds"]
    assert (seconds["start"], seconds["gradients"]) == (2, 6)


def test_training_goes_on_after_a_stage_within_it() -> None:
    """With its own steps, loss and pace; its tokens per second leave out what was within it."""
    run = Run()
    run.stages.begin(TRAINING, 4)
    for loss in (2.0, 1.5):
        with run.stages.within("probes", total=1):
            run.clock.now += 50
            run.stages.advance()
        run.clock.now += 2
        run.stages.step(loss, 100)
    stage = run.stages.current
    assert (stage.name, stage.done, stage.loss, run.stages.rate()) == (TRAINING, 2, 1.5, 50.0)
    run.stages.end_task()
    seconds = run.stages.costs.tasks["a"]["seconds"]
    assert (seconds[TRAINING], seconds["probes"]) == (4, 100)


def test_tokens_per_second_are_those_of_the_steps() -> None:
    run = Run()
    run.stages.begin(TRAINING, 2)
    assert run.stages.rate() is None
    run.clock.now += 2
    run.stages.step(1.5, 100)
    run.clock.now += 7  # the next step has not ended
    assert (run.stages.rate(), run.stages.current.loss) == (50.0, 1.5)


def test_a_stage_that_fails_stays_the_current_one() -> None:
    """Messages name it."""
    stages = Stages(ORDER)
    stages.begin_task(0, torch.device("cpu"))
    stages.begin("start")
    with pytest.raises(MemoryError), stages.within("gradients"):
        raise MemoryError
    assert stages.current.name == "gradients"


def test_all_the_time_of_a_task_is_in_its_costs() -> None:
    run = Run()
    run.task(0)
    seconds = run.stages.costs.tasks["a"]["seconds"]
    assert sum(seconds.values()) == run.clock.now
    parts = run.stages.costs.tasks["a"]["parts"]
    assert parts == {**{f"{ZERO_SHOT}/{n}": SLOWER * PROMPTS * PROMPT[n] for n in ORDER}, f"{SCORING}/a": PROMPTS * 1.0}
