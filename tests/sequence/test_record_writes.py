"""How often a run writes its record does not grow with the number of tasks, and what is not saved is scored again."""

from collections import Counter
from pathlib import Path

import pytest

from cl_lightning.data.benchmarks.dataset_tasks import DatasetTask, DatasetTasks
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.random_llama import random_tokenizer
from cl_lightning.sequence import run as sequence
from cl_lightning.sequence.folder import RunFolder
from cl_lightning.sequence.record_file import read_record_file
from tests.ragged_words import finished_run

#: Scored after the one task that is trained, and how often its row is saved.
COLUMNS, SAVES = 16, 5


@pytest.fixture(autouse=True)
def _few_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence, "SAVES", SAVES)


def run(folder: Path) -> None:
    rows = [("1?", "yes"), ("2?", "no")]
    made = [DatasetTask(f"t{k}", rows, test=rows[:1], max_new_tokens=1) for k in range(COLUMNS)]
    data = TaskSequence(DatasetTasks(made), batch_size=COLUMNS, validation_samples=0, protocol="joint")
    data.prepare(random_tokenizer(), encoder_decoder=False)
    finished_run(folder, data)


def test_a_row_of_many_columns_is_saved_a_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, put = Counter[str](), RunFolder._put

    def count(folder: RunFolder, name: str, *rest: object) -> str:
        written[name] += 1
        return put(folder, name, *rest)

    monkeypatch.setattr(RunFolder, "_put", count)
    run(tmp_path / "run")
    assert sum(name.startswith("predictions/") for name in written) == COLUMNS
    assert written["sequence.json"] < SAVES + 10


def test_cells_that_were_not_saved_are_scored_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored, score, broken = [], sequence.score_task, COLUMNS - 4

    def until(module: ContinualLM, task: object, *rest: object) -> object:
        scored.append(task.spec.name)
        if len(scored) == broken:
            raise RuntimeError("the power fails")
        return score(module, task, *rest)

    monkeypatch.setattr(sequence, "score_task", until)
    with pytest.raises(RuntimeError, match="the power fails"):
        run(tmp_path / "run")
    run(tmp_path / "run")
    again = [name for name, count in Counter(scored).items() if count > 1]
    every = -(-COLUMNS // SAVES)
    assert len(again) == (broken - 1) % every + 1
    record = read_record_file(tmp_path / "run")
    assert record["done"] == 1
    assert record["writing"] == []
    assert None not in record["R"][0]
