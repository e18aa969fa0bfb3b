"""Further metrics of a task: computed from the same predictions, stored, resumed, reported, and never part of R."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from cl_lightning.data import TRACE, SuperNI
from cl_lightning.data.base import TaskSpec
from cl_lightning.data.task_data import official_task
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.metrics.parity import DEVIATIONS
from cl_lightning.metrics.registry import METRICS
from cl_lightning.metrics.scored import score_predictions
from cl_lightning.results.reevaluate import evaluate
from cl_lightning.results.report import tables
from cl_lightning.results.rescore import rescore
from cl_lightning.results.tables import cell
from tests.runs import record, smoke
from tests.sequence.test_protocols import PLAIN

ROWS = [
    {"id": "0", "prediction": "B. It floats on water.", "reference": "B\nIt floats on water."},
    {"id": "1", "prediction": "C", "reference": ["A\nIt sinks.", "C\nIt sinks at once."]},
]
ALSO = ("rationale_rouge_l", "rationale_bleu")


def test_further_metrics_equal_the_same_metrics_used_alone() -> None:
    alone = score_predictions("first_letter", ROWS, ["", ""])
    scored = score_predictions("first_letter", ROWS, ["", ""], ALSO)
    assert (scored.score, scored.interval) == (alone.score, alone.interval) == (100.0, (100.0, 100.0))
    assert [row["score"] for row in scored.rows] == [row["score"] for row in alone.rows]
    assert alone.further == {}
    assert list(scored.further) == list(ALSO)
    for name in ALSO:
        single = score_predictions(name, ROWS, ["", ""])
        assert scored.further[name] == {"score": single.score, "interval": single.interval}
        assert [row["also"][name] for row in scored.rows] == [row["score"] for row in single.rows]
    assert scored.further["rationale_rouge_l"]["score"] == 50.0, "the letter alone has no rationale"


def test_trace_names_what_its_evaluator_reports() -> None:
    ours, official = TaskSequence(TRACE()).specs, TaskSequence(TRACE(), metrics="official").specs
    assert {name: spec.also for name, spec in ours.items() if spec.also} == {
        "MeetingBank": ("bleu",),
        "ScienceQA": ("rationale_rouge_l", "rationale_bleu"),
        "20Minuten": ("bleu", "rouge_l"),
    }
    assert {name: spec.also for name, spec in official.items() if spec.also} == {
        "MeetingBank": ("bleu_1_trace", "bleu_4_trace"),
        "ScienceQA": ("rationale_rouge_l_trace", "rationale_bleu_1_trace", "rationale_bleu_4_trace"),
        "20Minuten": ("bleu_1_trace", "bleu_4_trace", "rouge_l_trace"),
    }
    listed = {(d.ours, d.official) for d in DEVIATIONS}
    assert {(name, o) for name, several in TRACE.official_also.items() for o in several} <= listed
    assert {name for spec in (*ours.values(), *official.values()) for name in spec.also} <= METRICS.keys()
    # Ours is kept if the evaluator has no such metric.
    assert official_task(TaskSpec("mine", "rouge_l", 4, also=("bleu",)), SuperNI()).also == ("bleu",)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options for three user tasks, two of them with further metrics."""
    folder = tmp_path_factory.mktemp("own")
    rows = [{"q": f"number {i}", "parity": "odd" if i % 2 else "even", "next": f"the {i + 1}"} for i in range(60)]
    (folder / "a.json").write_text(json.dumps(rows))
    tasks = [
        {"name": name, "prompt": "{q}?", "answer": answer, "metric": "accuracy", "max_new_tokens": 4, "also": also}
        | {"train": "a.json", "test_share": 0.2}
        for name, answer, also in (
            ("parity", "parity", ["edit_similarity", "f1"]), ("next", "next", ["edit_similarity"]),
            ("third", "parity", None), ("fourth", "next", ["f1"]),
        )
    ]  # fmt: skip
    benchmark = {"class_path": "cl_lightning.data.UserTasks", "init_args": {"tasks": tasks}}
    (folder / "own.yaml").write_text(
        json.dumps({"data": {"benchmark": benchmark, "order": ["parity", "next", "third"]}})
    )
    hot = ("--model.lr=0.05", "--data.epochs=3")  # large enough for partly correct answers
    return (f"--config={folder / 'own.yaml'}", *PLAIN, f"--data.root={folder}", *hot)


@pytest.fixture(scope="module")
def finished(own: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "further"
    result = smoke(run, *own, "--sequence.zero_shot=true")
    assert "further metrics" in result.stdout
    return run


def lines(run: Path, after: str, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / f"predictions/{after}_{task}.jsonl").read_text().splitlines()]


def table(run: Path, title: str = "further metrics") -> dict[tuple[str, str], list[str]]:
    """A report's rows by task and metric."""
    (found,) = [t for t in tables(run) if str(t.title).startswith(title)]
    return {(task, metric): [cell(value) for value in rest] for task, metric, *rest in found.rows}


def long_answers(run: Path) -> dict[str, str]:
    """The report's cell on answers longer than the budget, by task."""
    return {task: row[-1] for (task, _), row in table(run, "each task's last score").items()}


def test_further_metrics_are_stored_with_intervals_and_not_in_R(finished: Path) -> None:
    state = record(finished)
    further = state["metrics"]["further"]
    assert {after: sorted(tasks) for after, tasks in further.items()} == {
        after: ["parity"] if after == "parity" else ["next", "parity"] for after in ("zero-shot", *state["order"])
    }
    for after, tasks in further.items():
        for task, metrics in tasks.items():
            rows = lines(finished, after, task)
            for name, value in metrics.items():
                assert value["score"] == pytest.approx(sum(row["also"][name] for row in rows) / len(rows))
                low, high = value["interval"]
                assert low <= value["score"] <= high
    assert any(value["score"] for value in further["parity"]["parity"].values()), (
        "some answer must be right for this test to mean anything"
    )
    for i, after in enumerate(state["order"]):
        for j, task in enumerate(state["order"][: i + 1]):
            rows = lines(finished, after, task)
            assert state["R"][i][j] == pytest.approx(sum(row["score"] for row in rows) / len(rows))
            assert ("also" in rows[0]) == (task != "third")
    assert json.loads((finished / "metrics.json").read_text())["further"] == further


def test_further_metrics_and_budgets_are_reported_and_logged(finished: Path) -> None:
    further, shown = record(finished)["metrics"]["further"], table(finished)
    assert list(shown) == [("parity", "edit_similarity"), ("parity", "f1"), ("next", "edit_similarity")]
    for (task, metric), (learnt, now, between) in shown.items():
        assert learnt == f"{further[task][task][metric]['score']:.2f}"
        assert now == f"{further['third'][task][metric]['score']:.2f}"
        assert " .. " in between
    # A token is a byte: "even" has four, "the 7" five.
    assert long_answers(finished)["next"] == "6 of 6 over 4 tokens"
    assert long_answers(finished)["parity"] == ""
    rows = csv.DictReader((finished / "logs/attempt_0/metrics.csv").open())
    logged = [float(row["task/parity/edit_similarity"]) for row in rows if row["cl/tasks_done"]]
    assert logged == [further[after]["parity"]["edit_similarity"]["score"] for after in record(finished)["order"]]


def test_further_metrics_survive_resuming_and_continuing(finished: Path, own: tuple[str, ...], tmp_path: Path) -> None:
    further = record(finished)["metrics"]["further"]
    (finished / "metrics.json").unlink()
    smoke(finished, *own, "--sequence.zero_shot=true")
    assert json.loads((finished / "metrics.json").read_text())["further"] == further
    longer = (*own, "--data.order+=fourth", f"--sequence.continue_from={finished}")
    smoke(tmp_path / "more", *longer)
    after = record(tmp_path / "more")["metrics"]["further"]
    assert {name: after[name] for name in further} == further
    assert sorted(after["fourth"]) == ["fourth", "next", "parity"]
    result = smoke(tmp_path / "other", *longer, "--data.per_task.next={max_new_tokens: 5}", check=False)
    assert result.returncode == 2
    assert "generated up to 4 tokens for next, now it would be 5; use the same data.max_new_tokens" in result.stderr
    assert not (tmp_path / "other").exists()


def test_rescoring_keeps_further_metrics_and_new_predictions_renew_them(finished: Path) -> None:
    state = record(finished)
    view = rescore(finished, "rouge_1")
    assert {*record(view)["metrics"]["metric_of_task"].values()} == {"rouge_1"}
    assert record(view)["metrics"]["further"] == state["metrics"]["further"]
    assert table(view) == table(finished)
    again = record(evaluate(finished))["metrics"]["further"]
    assert sorted(again["parity"]) == ["next", "parity"], "above the diagonal, too"
    assert again["third"] == state["metrics"]["further"]["third"]


def test_the_trace_sample_has_further_metrics(tmp_path: Path) -> None:
    few = ("--data.order=[ScienceQA]", "--data.train_samples=7")
    smoke(tmp_path / "run", *PLAIN, *few, "--data.max_answer_tokens=120")
    assert [*table(tmp_path / "run")] == [("ScienceQA", "rationale_rouge_l"), ("ScienceQA", "rationale_bleu")]
    assert long_answers(tmp_path / "run") == {"ScienceQA": "6 of 6 over 16 tokens"}
    official = rescore(tmp_path / "run", "official")
    assert [name for _, name in table(official)] == [
        "rationale_rouge_l_trace", "rationale_bleu_1_trace", "rationale_bleu_4_trace",
    ]  # fmt: skip
    assert table(rescore(official, "official")) == table(official)
