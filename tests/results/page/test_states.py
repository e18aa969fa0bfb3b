"""Pages of runs in every state: by protocol, unfinished, with nothing done, and what their first sentence says."""

from pathlib import Path

import pytest

from cl_lightning.results.page.parts import Missing, Section
from cl_lightning.results.page.sections import SECTIONS, ran, scores
from cl_lightning.results.page.source import Source
from cl_lightning.results.page.verdict import verdict
from tests.results.page.whole_run import whole_run
from tests.results.test_compare import INDEPENDENT, JOINT, NOTHING_MORE, PLAIN, MakeRun, run

__all__ = ["run"]  # the fixture
MEASURED = {**NOTHING_MORE, "metric_of_task": dict.fromkeys(("FOMC", "Py150"), "accuracy"), "zero_shot": None}
GAINED = {**PLAIN, (0, 0): [0.0, 0.0, 0.0, 0.0], (1, 0): [100.0, 100.0, 100.0, 100.0]}
KEPT = {**PLAIN, (1, 0): [100.0, 100.0, 0.0, 100.0]}


def titles(path: Path) -> set[str]:
    source = Source(path)
    parts = [make(source) for make in SECTIONS]
    assert all(isinstance(part, Section | Missing) for part in parts)
    return {part.title for part in parts if isinstance(part, Section)}


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (JOINT, {"protocol": "joint"}, "Learnt all 2 tasks together: "),
        (INDEPENDENT, {"protocol": "independent"}, "Learnt 2 tasks, each from the base model: "),
        (PLAIN, {"done": 1}, "Learnt one task: 75.00 (25.0 .. 100.0)."),
        (PLAIN, {"done": 0}, "No task is finished yet."),
        (GAINED, {}, "gained 50.00 (50.0 .. 50.0) points after tasks were learnt."),
        # Three or four more of four draws lose than gain with a chance of 9 in 256, four with 1 in 256: 300 / 4 / 2.
        (KEPT, {}, "forgot 0.00 (-37.5 .. 37.5) points, which these test examples do not distinguish from 0."),
        (PLAIN, {}, "forgot 12.50 ("),
    ],
)
def test_what_a_run_says_of_itself(run: MakeRun, scores: dict, options: dict, message: str) -> None:
    path = run("x", 1, scores, facts={"metrics": MEASURED}, **options)
    assert message in verdict(Source(path))
    assert {"What ran", "Configuration"} <= titles(path)


def test_the_control_a_loss_beyond_doubt_names_its_task(run: MakeRun) -> None:
    lost = {**PLAIN, (0, 0): [100.0] * 4, (1, 0): [0.0] * 4}
    output = verdict(Source(run("x", 1, lost, facts={"metrics": MEASURED})))
    assert output.endswith("forgot 50.00 (50.0 .. 50.0) points, most on FOMC: 100.00 (100.0 .. 100.0).")


def test_an_unfinished_run_shows_what_is_done(tmp_path: Path) -> None:
    source = Source(whole_run(tmp_path / "run", ["A", "B", "C"], done=2))
    assert ("tasks", "2 of 3 done: A, B, C") in ran.section(source).facts
    matrix = scores.section(source).charts[0].numbers
    assert [len(row) for row in matrix.rows] == [4, 4] and matrix.rows[1][3] is None
    assert len(titles(source.path)) == len(SECTIONS)


@pytest.mark.parametrize(
    ("protocol", "scores"), [("sequential", PLAIN), ("joint", JOINT), ("independent", INDEPENDENT)]
)
def test_a_run_is_compared_with_models_that_learn_nothing(run: MakeRun, protocol: str, scores: dict) -> None:
    """Learning to score what the untrained model scores is no learning."""
    counts = {j: len(values) for (_, j), values in scores.items()}
    facts, zero_shot = {"metrics": {**MEASURED, "majority": [50.0, 60.0]}}, [[75.0] * counts[0], [50.0] * counts[1]]
    output = verdict(Source(run("x", 1, scores, protocol=protocol, facts=facts, zero_shot=zero_shot)))
    assert output.endswith(
        ". For comparison, the untrained model scores 62.50, and the most frequent answer of each task scores 55.00."
    )
    assert "For comparison" not in verdict(Source(run("y", 1, scores, protocol=protocol, facts={"metrics": MEASURED})))


def test_tasks_that_lost_as_much_are_counted(run: MakeRun) -> None:
    lost = {(i, j): [100.0 * (i == j)] * 4 for i in range(3) for j in range(i + 1)}
    order = ("A", "B", "C")
    path = run(
        "x", 1, lost, order=order, facts={"metrics": {**MEASURED, "metric_of_task": dict.fromkeys(order, "accuracy")}}
    )
    assert ", most on A: 100.00 (100.0 .. 100.0) and as much on 1 more." in verdict(Source(path))
