"""Runs that score old tasks rarely and on few prompts: same training, the scores that are due, exact resuming."""

import json
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from callbacks import Charts
from cl_lightning import ContinualTrainer, SequenceSettings, TaskSequence
from cl_lightning.commands.trainer import Result
from cl_lightning.common.errors import StateError
from cl_lightning.results.reevaluate import evaluate, moved
from cl_lightning.sequence import run as sequence_run
from cl_lightning.sequence.media import Grid, Scatter
from cl_lightning.sequence.stages import Stages
from cl_lightning.sequence.time_left import SCORING
from tests.commands.test_trainer import model
from tests.runs import record, same_bits
from tests.sequence.test_stages import PROMPT, PROMPTS, Run

ORDER = ["FOMC", "C-STANCE", "Sentiment", "ScienceQA", "NumGLUE-cm"]
#: Of which most runs here have four.
COUNT, LAST = 4, 3
EVERY, FEW = 2, 3


def data(count: int = COUNT, **options: Any) -> TaskSequence:
    """Tasks of the sample, scored by their most likely labels, of which the tiny model has some right."""
    few = {"train_samples": 12, "validation_samples": 0, "test_samples": 6, "batch_size": 4, "max_prompt_tokens": 176}
    return TaskSequence(order=ORDER[:count], score_by="likelihood", **few, **options)


def trainer(run: Path, continue_from: Path | None = None, **observers: Any) -> ContinualTrainer:
    old = None if continue_from is None else str(continue_from)
    settings = SequenceSettings(run_dir=str(run), wandb="off", threads=1, report=False, continue_from=old)
    return ContinualTrainer({}, observers=observers, sequence=settings)


class Shown(Charts):
    """Keeps what it would log."""

    def on_task_scored(self, run: Any, task: int) -> None:
        self.logged = [*getattr(self, "logged", []), {}]
        with patch.object(run, "log", self.logged[-1].update):
            super().on_task_scored(run, task)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return trainer(tmp_path_factory.mktemp("whole") / "run").fit(model(), data())


@pytest.fixture(scope="module")
def shown() -> Shown:
    return Shown()


@pytest.fixture(scope="module")
def thinned(tmp_path_factory: pytest.TempPathFactory, shown: Shown) -> Result:
    run = tmp_path_factory.mktemp("thinned") / "run"
    return trainer(run, charts=shown).fit(model(), data(score_every=EVERY, score_samples_old=FEW))


def rows(run: Path, after: str, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / f"predictions/{after}_{task}.jsonl").read_text().splitlines()]


def test_scoring_less_trains_the_same_and_scores_what_is_due(whole: Result, thinned: Result) -> None:
    assert same_bits(whole.folder, thinned.folder)
    there = [[score is not None for score in row] for row in thinned.matrix]
    assert there == [[j <= i and (i != 2 or j == 2) for j in range(COUNT)] for i in range(COUNT)]
    assert thinned.metrics["thinning"] == {"every": EVERY, "samples": FEW}
    for i, j in (cell for cell in product(range(COUNT), range(COUNT)) if there[cell[0]][cell[1]]):
        all_, some = (rows(each.folder, ORDER[i], ORDER[j]) for each in (whole, thinned))
        assert len(some) == (6 if i in (j, LAST) else FEW)
        assert some == [row for row in all_ if row["id"] in {row["id"] for row in some}]
        assert thinned.matrix[i][j] == pytest.approx(sum(row["score"] for row in some) / len(some))
    assert thinned.matrix[LAST] == whole.matrix[LAST]
    assert len({score for row in whole.matrix for score in row}) > 3, "or this is no test"
    for name in ("ap", "fp", "forget_T", "bwt"):
        assert thinned.metrics[name] == whole.metrics[name]
    assert thinned.record["identity"] != whole.record["identity"]


def test_old_prompts_are_the_same_each_time(thinned: Result) -> None:
    made = planned()
    once, again = ([encoded.example.id for encoded in made.scored(i, 0).test] for i in (1, 3))
    assert [row["id"] for row in rows(thinned.folder, ORDER[1], ORDER[0])] == once == again


class Breaks:
    """Ends the process, as it were, while it scores its n-th cell."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.left -= 1
        if not self.left:
            raise RuntimeError("broken off")
        return self.real(*arguments, **options)

    real = staticmethod(sequence_run.score_task)


def test_a_half_done_scoring_goes_on(thinned: Result, tmp_path: Path) -> None:
    """Broken off at the second of the two tasks that are scored after the second."""
    options = {"score_every": EVERY, "score_samples_old": FEW}
    with patch.object(sequence_run, "score_task", Breaks(COUNT + 1 + 2)), pytest.raises(RuntimeError, match="off"):
        trainer(tmp_path / "run").fit(model(), data(**options))
    inside = record(tmp_path / "run")["unfinished"]
    assert (inside["stage"], list(inside["cells"][ORDER[1]])) == ("scoring", ORDER[:1])
    counted = Breaks(99)
    with patch.object(sequence_run, "score_task", counted):
        again = trainer(tmp_path / "run").fit(model(), data(**options))
    assert 99 - counted.left == 1 + 1 + COUNT, "the one that was left, the third task's own, and all after the last"
    assert again.matrix == thinned.matrix
    assert again.metrics == thinned.metrics
    assert same_bits(again.folder, thinned.folder)


def test_a_run_goes_on_with_what_it_scored_before(tmp_path: Path) -> None:
    first = trainer(tmp_path / "first").fit(model(), data(3, score_every=EVERY))
    more = {"score_every": EVERY}
    with pytest.raises(StateError, match=r"with data\.score_every=2 and data\.score_samples_old=null"):
        trainer(tmp_path / "second", first.folder).fit(model(), data(4))
    second = trainer(tmp_path / "second", first.folder).fit(model(), data(4, **more))
    assert [sum(score is not None for score in row) for row in second.matrix] == [1, 2, 3, 4]
    assert second.matrix[:3] == [[*row, None] for row in first.matrix]


def test_evaluating_again_fills_what_was_left_out(thinned: Result) -> None:
    view = evaluate(thinned.folder)
    there = record(view)
    assert all(None not in row for row in there["R"])
    assert there["metrics"]["thinning"] == {"every": 1, "samples": None}
    assert there["R"][LAST] == thinned.matrix[LAST]
    assert any(
        old is not None and old != new for olds, news in zip(thinned.matrix, there["R"], strict=True)
        for old, new in zip(olds, news, strict=True)
    ), "few prompts have another mean"  # fmt: skip
    assert moved(thinned.folder, view) == [], "on the same prompts they are equal"


def test_loggers_get_the_scores_of_this_task_only(thinned: Result, shown: Shown) -> None:
    assert [isinstance(each.get("scores/plane"), Scatter) for each in shown.logged] == [True, True, False, True]
    samples = [each["scores/predictions"] for each in shown.logged]
    assert all(isinstance(each, Grid) for each in samples)
    assert [sorted({row[1] for row in each.rows}) for each in samples] == [
        ORDER[:1], sorted(ORDER[:2]), ORDER[2:3], sorted(ORDER[:COUNT])
    ]  # fmt: skip


def test_the_time_left_knows_what_is_scored() -> None:
    """Two prompts of old tasks after every second task; the control counts all of them."""
    run = Run()
    full = run.stages.plan
    run.task(0)
    known = run.stages.left()
    thin = [{key: n for key, n in full[i].items() if key[0] != SCORING or i % 2 or key[1] == name}
            for i, name in enumerate(run.stages.order)]  # fmt: skip
    stages = Stages(run.stages.order, thin, clock=run.clock, costs=run.stages.costs)
    stages.begin_task(0, before=run.stages.costs.tasks["a"])
    stages.end_task()
    saved = PROMPTS * (PROMPT["a"] + PROMPT["b"])
    assert known is not None and stages.left() == pytest.approx(known - saved)


def planned() -> TaskSequence:
    """Five thinned tasks, prepared."""
    made = data(5, score_every=EVERY, score_samples_old=FEW)
    made.prepare(model().backbone.load_tokenizer(), False)
    return made


def test_the_plan_of_a_run_is_that_of_its_scores() -> None:
    made = planned()
    counts = [{j: len(made.scored(i, j).test) for j in made.scored_after(i)} for i in range(5)]
    assert counts == [{0: 6}, {0: 3, 1: 6}, {2: 6}, {0: 3, 1: 3, 2: 3, 3: 6}, dict.fromkeys(range(5), 6)]
