"""What reaches the training step in real runs with replay, and what each task draws: on one rank, two, after a stop."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.replay_buffer import ReplayBuffer
from cl_lightning.common.errors import TrainingError
from cl_lightning.data.task_sequence import TaskSequence
from tests.ragged_words import small_run, words
from tests.recorder import Batches
from tests.runs import adapters, record, same_bits, smoke

ORDER = ("two", "four", "one")
CAPACITY, RATIO, EPOCHS = 6, 0.5, 2
Noted = list[dict[str, Any]]


def data() -> TaskSequence:
    return words(ORDER, epochs=EPOCHS)


def replaying(folder: Path, fail_in: int | None = None, ratio: float = RATIO) -> Path:
    """Train, noting batches; the folder of the run."""
    noted = Batches(str(folder / "noted"), fail_in)
    run = small_run(folder / "run", data(), {"memory": ReplayBuffer(CAPACITY, ratio)}, {"batches": noted})
    try:
        run.run()
    finally:
        run.folder.close()
    return folder


def noted(folder: Path, rank: int = 0) -> Noted:
    return [json.loads(line) for line in (folder / "noted" / f"{rank}.jsonl").read_text().splitlines()]


def steps(*ranks: Noted) -> dict[tuple[int, int, int], list[tuple[int, ...]]]:
    """(task, epoch, step) -> its rows, over ranks and micro-batches, sorted; stand-ins left out."""
    found: dict[tuple[int, int, int], list[tuple[int, ...]]] = {}
    for line in (line for lines in ranks for line in lines if line.get("weight")):
        key = line["task"], line["epoch"], line["step"]
        found.setdefault(key, []).extend(tuple(row) for row in line["rows"])
    return {key: sorted(rows) for key, rows in found.items()}


def drawn(lines: Noted, key: str) -> list[Any]:
    return [line[key] for line in lines if key in line]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return replaying(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on two ranks with two micro-batches each, by the command."""
    folder = tmp_path_factory.mktemp("two")
    smoke(
        folder / "run", "--data.benchmark=tests.ragged_words.RaggedWords", f"--data.order=[{','.join(ORDER)}]",
        "--data.train_samples=null", "--data.validation_samples=3", "--data.test_samples=2", "--data.batch_size=4",
        f"--data.epochs={EPOCHS}", "--boundary.init=null", f"--boundary.memory.capacity={CAPACITY}",
        f"--boundary.memory.train_ratio={RATIO}", "--observers.batches=tests.recorder.Batches",
        f"--observers.batches.folder={folder / 'noted'}", "--sequence.zero_shot=false",
        "--trainer.accumulate_grad_batches=2", ranks=2,
    )  # fmt: skip
    return folder


def test_each_batch_trains_its_quota_of_memory_and_each_epoch_every_new_example(one: Path) -> None:
    prepared = data()
    source = {(*e.prompt_ids, *e.answer_ids): e.example.id for task in prepared.tasks for e in task.train}
    assert len(source) == 27, "every row tells its example"
    batches = {key: [source[row] for row in rows] for key, rows in steps(noted(one)).items()}
    for task in range(3):
        new = Counter(e.example.id for e in prepared.tasks[task].train)
        kept = json.loads((one / "run" / "state" / f"memory-{task}.json").read_text())["examples"] if task else {}
        old = {e["id"] for examples in kept.values() for e in examples}
        quota = 2 if task else 0
        for epoch in range(EPOCHS):
            of_epoch = [batch for key, batch in batches.items() if key[:2] == (task, epoch)]
            assert len(of_epoch) == (5 if task else 3), "9 new ones, 2 or 4 at a time"
            assert Counter(i for batch in of_epoch for i in batch if i in new) == new
            replayed = [[i for i in batch if i not in new] for batch in of_epoch]
            assert [len(batch) for batch in replayed] == [quota] * len(of_epoch)
            assert {i for batch in replayed for i in batch} == old, "all of the memory, and nothing else"
    assert {key[0] for key in batches} == {0, 1, 2}


def test_what_is_replayed_is_labelled_and_counted_as_new_examples_are(one: Path) -> None:
    answers = {(*e.prompt_ids, *e.answer_ids): list(e.answer_ids) for task in data().tasks for e in task.train}
    for line in (line for line in noted(one) if "rows" in line):
        assert line["labels"] == [answers[tuple(row)] for row in line["rows"]]
        assert line["tokens"] == sum(map(len, line["labels"])), "one micro-batch is the whole step"


def test_the_memory_changes_what_is_learnt_after_the_first_task_only(one: Path, tmp_path: Path) -> None:
    without = adapters(replaying(tmp_path, ratio=0.0) / "run")
    replayed = adapters(one / "run")
    same = {task: all(torch.equal(t, without[task][k]) for k, t in ts.items()) for task, ts in replayed.items()}
    assert same == {"two": True, "four": False, "one": False}
    assert record(one / "run")["clock"]["step"] == 2 * (3 + 5 + 5)
    assert record(tmp_path / "run")["clock"]["step"] == 2 * (3 + 3 + 3)


def test_two_ranks_train_the_same_steps_on_rows_of_their_own(one: Path, two_ranks: Path) -> None:
    ranks = [noted(two_ranks, rank) for rank in (0, 1)]
    assert steps(*ranks) == steps(noted(one))
    counts = [sum(map(len, steps(rank).values())) for rank in ranks]
    assert max(counts) - min(counts) <= len(steps(noted(one))), "one row more a step at most"


def test_a_run_that_broke_off_goes_on_with_the_same_batches_and_draws(one: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="told to break off"):
        replaying(tmp_path, fail_in=2)
    broken = noted(tmp_path)
    assert record(tmp_path / "run")["done"] == 2
    assert [line for line in broken if "rows" in line] == [line for line in noted(one) if "rows" in line][
        : len(broken) - 6
    ]
    (tmp_path / "noted" / "0.jsonl").unlink()
    replaying(tmp_path)
    assert noted(tmp_path) == [line for line in noted(one) if line["task"] == 2]
    assert same_bits(tmp_path / "run", one / "run")


def test_each_task_has_a_seed_of_its_own(one: Path) -> None:
    """Of the adapter's start, and of torch's, Python's and NumPy's generators. After a stop: see above."""
    assert len(set(drawn(noted(one), "start"))) == 3
    assert all(len(set(states)) == 3 for states in zip(*drawn(noted(one), "generators"), strict=True))


def test_all_ranks_have_the_same_seeds(one: Path, two_ranks: Path) -> None:
    ranks = [noted(two_ranks, rank) for rank in (0, 1)]
    assert all(drawn(rank, "start") == drawn(noted(one), "start") for rank in ranks)
    assert drawn(ranks[0], "generators") == drawn(ranks[1], "generators")
