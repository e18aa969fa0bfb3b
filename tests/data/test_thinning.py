"""`data.score_every` and `data.score_samples_old`: which tasks are scored when, and on which prompts."""

import pytest

from cl_lightning.common.errors import ConfigError
from cl_lightning.data.protocol import INDEPENDENT, JOINT, SEQUENTIAL
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.data.thinning import Thinning
from cl_lightning.model.backbone import Backbone

ORDER = ["FOMC", "NumGLUE-cm", "Sentiment", "C-STANCE"]


def prepared(**options: object) -> TaskSequence:
    data = TaskSequence(order=ORDER, train_samples=4, validation_samples=0, test_samples=8, **options)
    data.prepare(Backbone("random-llama").load_tokenizer(), False)
    return data


def ids(data: TaskSequence, task: int | None, column: int) -> list[str]:
    return [e.example.id for e in data.scored(task, column).test]


@pytest.mark.parametrize(
    ("every", "whole"), [(1, {0, 1, 2, 3, 4, 5, 6}), (2, {0, 1, 3, 5, 6}), (4, {0, 3, 6}), (7, {0, 6}), (99, {0, 6})]
)
def test_old_tasks_are_scored_after_every_so_many_tasks_and_the_last(every: int, whole: set[int]) -> None:
    found = [Thinning(every).columns(SEQUENTIAL, task, 7) for task in range(7)]
    assert found == [range(task + 1) if task in whole else range(task, task + 1) for task in range(7)]


def test_references_have_no_old_tasks() -> None:
    thinning = Thinning(3, samples=2)
    assert thinning.columns(JOINT, 0, 5) == range(5)
    assert [thinning.columns(INDEPENDENT, task, 3) for task in range(3)] == [range(i, i + 1) for i in range(3)]
    assert {thinning.prompts(JOINT, 0, j, 5) for j in range(5)} == {None}
    assert thinning.note(JOINT) is thinning.note(INDEPENDENT) is Thinning().note(SEQUENTIAL) is None


def test_an_old_task_has_the_same_few_prompts_each_time_and_all_at_the_end() -> None:
    data = prepared(score_samples_old=3)
    every = ids(data, None, 0)
    assert len(every) == 8 and ids(data, 0, 0) == every, "the untrained model and the task just trained: all"
    few = ids(data, 1, 0)
    assert len(few) == 3 and set(few) < set(every) and few == sorted(few, key=every.index)
    assert ids(data, 2, 0) == few
    assert ids(data, 3, 0) == every and ids(data, 3, 3) == ids(data, None, 3)
    assert data.evaluated[0].test == data.scored(3, 0).test, "nothing is changed"


def test_more_prompts_hold_the_fewer_and_another_seed_draws_others() -> None:
    few = ids(prepared(score_samples_old=3), 1, 0)
    assert set(few) < set(ids(prepared(score_samples_old=5), 1, 0))
    assert ids(prepared(score_samples_old=50), 1, 0) == ids(prepared(), 1, 0)
    drawn = {tuple(ids(prepared(score_samples_old=3, seed=seed), 1, 0)) for seed in range(4)}
    assert len(drawn) > 1


@pytest.mark.parametrize(
    ("thinning", "said"),
    [
        (Thinning(4), "old tasks were scored after every 4 tasks, and after the last task"),
        (Thinning(1, 20), "old tasks were scored on 20 fixed prompts, and after the last task on all"),
        (Thinning(2, 1), "old tasks were scored after every 2 tasks on 1 fixed prompt, and after the last task on all"),
    ],
)
def test_it_is_said(thinning: Thinning, said: str) -> None:
    assert thinning.note(SEQUENTIAL) == said


@pytest.mark.parametrize("option", ["score_every", "score_samples_old"])
@pytest.mark.parametrize(
    ("value", "why"), [(0, "0 must be 1 or more"), (-1, "-1 must be 1 or more"), (True, "True must be a number")]
)
def test_what_leaves_nothing_to_score_is_refused(option: str, value: object, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.{option}: {why}$"):
        TaskSequence(order=ORDER, **{option: value})
