"""Which examples train, validate and score: validation is carved from the training split, nothing is in two places."""

from types import SimpleNamespace

import pytest

from cl_lightning.data.task_sequence import TaskSequence
from tests.ragged_words import RaggedWords, words


def ids(examples: object) -> list[str]:
    return [e.example.id for e in examples]


@pytest.mark.parametrize("options", [{}, {"train_samples": 5}, {"train_samples": 5, "test_samples": 3}, {"seed": 7}])
def test_validation_is_carved_from_the_training_split(options: dict[str, int]) -> None:
    data = words(**options)
    for task in data.tasks:
        splits = RaggedWords().load(None, task.spec.name)
        train, validation, test = (ids(split) for split in (task.train, task.validation, task.test))
        assert set(train) | set(validation) <= {e.id for e in splits.train}
        assert set(test) <= {e.id for e in splits.test}
        assert not set(train) & set(validation)
        assert len(validation) == len(set(validation)) == 3
        assert len(train) == len(set(train)) == options.get("train_samples", 9)
        assert len(test) == len(set(test)) == options.get("test_samples", 2)


def test_what_is_drawn_depends_on_seed_and_task_alone() -> None:
    def drawn(data: TaskSequence) -> dict[str, tuple[list[str], ...]]:
        return {t.spec.name: (ids(t.train), ids(t.validation), ids(t.test)) for t in data.tasks}

    one = drawn(words())
    assert drawn(words(("three", "one"))) == {name: one[name] for name in ("three", "one")}
    other = drawn(words(seed=3))
    assert all(one[name][k] != other[name][k] for name in one for k in (0, 1)), "another seed draws others"
    assert any(one[name][2] != other[name][2] for name in one), "of the test split too"
    assert len({tuple(sorted(int(i.rsplit("/")[-1]) for i in one[name][1])) for name in one}) > 1, "and another task"
    few = drawn(words(train_samples=5))
    assert all(few[name][0] == one[name][0][:5] and few[name][1] == one[name][1] for name in one), (
        "fewer are some of them"
    )


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_validation_loader_serves_the_carved_examples_once(world: int) -> None:
    data = words(validation_samples=4, batch_size=2)
    data.activate(1)
    wanted = sorted((*e.prompt_ids, *e.answer_ids) for e in data.tasks[1].validation)
    rows: list[tuple[int, ...]] = []
    counts: set[int] = set()
    for rank in range(world):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world)
        mine = list(data.val_dataloader())
        assert mine, "every rank has a batch"
        counts.add(len(mine))
        for batch in mine:
            kept = batch["attention_mask"].bool()
            rows += [tuple(ids[mask].tolist()) for ids, mask in zip(batch["input_ids"], kept, strict=True)]
    assert len(counts) == 1, "passes are collectives where ranks share the base"
    assert sorted(rows) == wanted


@pytest.mark.parametrize("world", [1, 2, 3])
def test_boundary_batches_are_dealt_to_ranks_each_once(world: int) -> None:
    data = words(batch_size=2)
    examples = data.tasks[0].train
    found = [b["index"] for rank in range(world) for b in data.boundary_loader(examples, 2, rank, world)]
    assert sorted(i for index in found for i in index) == list(range(len(examples)))
