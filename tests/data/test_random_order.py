"""`data.random_order`: drawn by the seed, epochs go with their tasks, examples stay the same."""

from cl_lightning.data.benchmarks.trace import TASKS, TRACE
from cl_lightning.data.task_sequence import TaskSequence


def drawn(seed: int) -> TaskSequence:
    return TaskSequence(TRACE(), random_order=True, seed=seed, order=list(TASKS), epochs=list(range(1, 9)))


def test_the_order_is_drawn_by_the_seed_and_epochs_go_with_their_tasks() -> None:
    orders = {seed: drawn(seed).order for seed in range(6)}
    assert orders[3] == drawn(3).order
    assert len({tuple(order) for order in orders.values()}) == 6
    epochs = dict(zip(TASKS, range(1, 9), strict=True))
    for seed, order in orders.items():
        assert sorted(order) == sorted(TASKS)
        assert drawn(seed).epochs_per_task == [epochs[name] for name in order]
    assert TaskSequence(TRACE(), order=list(TASKS), seed=3).order == list(TASKS)
