"""The memory and its share of training: quotas, what is kept of which task, draws, and each batch by source."""

import copy
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest

from callbacks.replay_buffer import ReplayBuffer
from cl_lightning.common.errors import ConfigError
from cl_lightning.data.base import Example
from cl_lightning.data.mix import Mix
from cl_lightning.data.task_sequence import TaskSequence
from tests.ragged_words import TASKS, small_run, words


@pytest.fixture(scope="module")
def data() -> TaskSequence:
    return words()


def run_of(data: TaskSequence, seed: int = 42) -> SimpleNamespace:
    """What the memory asks of a run: its data, under a seed."""
    seeded = copy.copy(data)
    seeded.seed = seed
    return SimpleNamespace(data=seeded)


def ids(examples: Sequence[Example]) -> list[str]:
    return [e.id for e in examples]


def filled(data: TaskSequence, capacity: int, tasks: Sequence[int] = range(5), seed: int = 42) -> ReplayBuffer:
    memory = ReplayBuffer(capacity)
    for task in tasks:
        memory.on_task_end(run_of(data, seed), task)
    return memory


# --- what is kept -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [*range(1, 9), 20, 44, 45, 1000])
def test_never_more_than_capacity_in_equal_quotas_of_training_examples_that_only_shrink(
    data: TaskSequence, capacity: int
) -> None:
    memory, before = ReplayBuffer(capacity), {}
    for task, name in enumerate(TASKS):
        memory.on_task_end(run_of(data), task)
        kept = {name: ids(examples) for name, examples in memory.examples.items()}
        assert sum(map(len, kept.values())) <= capacity
        seen = task + 1
        quota = min(9, capacity // seen) if capacity >= seen else 1
        assert {len(k) for k in kept.values()} == {quota}, "the newest task keeps no more than the others"
        assert len(kept) == min(seen, capacity)
        assert set(kept) <= {*before, name}, "what has left does not return"
        for old, examples in before.items():
            assert set(kept.get(old, [])) <= set(examples)
        for old, examples in kept.items():
            at = data.tasks[TASKS.index(old)]
            assert set(examples) <= {e.example.id for e in at.train}
            assert not set(examples) & {e.example.id for e in (*at.validation, *at.test)}
            assert len(set(examples)) == len(examples)
        before = kept


def test_what_is_kept_of_a_task_depends_on_seed_and_task_alone(data: TaskSequence) -> None:
    one, other = filled(data, 12, (0, 1, 2)), filled(data, 12, (2, 0, 1))
    assert one.examples == {name: other.examples[name] for name in one.examples}
    assert filled(data, 12, (0, 1, 2), seed=1).examples != one.examples
    places = [[ids([e.example for e in data.tasks[TASKS.index(name)].train]).index(i) for i in ids(kept)]
              for name, kept in one.examples.items()]  # fmt: skip
    assert len({tuple(at) for at in places}) == 3, "each task has a draw of its own"


def test_equal_examples_come_in_another_order_in_another_task() -> None:
    data = words(TASKS[:2], batch_size=2)
    data.tasks = [data.tasks[0], replace(data.tasks[1], train=data.tasks[0].train)]
    orders = []
    for task in (0, 1):
        data.activate(task)
        orders.append(steps(data, task, 0))
    assert orders[0] != orders[1]


def test_every_training_example_is_as_likely_to_be_kept(data: TaskSequence) -> None:
    seeds = 300
    kept = Counter(i for seed in range(seeds) for i in ids(filled(data, 3, [0], seed).examples["one"]))
    assert set(kept) == {e.example.id for e in data.tasks[0].train}
    chance = seeds * 3 / 9
    assert all(abs(n - chance) < 5 * (chance * 2 / 3) ** 0.5 for n in kept.values()), "five standard deviations"


# --- more tasks than room ---------------------------------------------------------------------------------


def share_kept(data: TaskSequence, capacity: int, rule: type[ReplayBuffer] = ReplayBuffer) -> dict[str, float]:
    """How often each task is still in memory after all five, over seeds."""
    seeds = 400
    counts: Counter[str] = Counter()
    for seed in range(seeds):
        memory = rule(capacity)
        for task in range(5):
            memory.on_task_end(run_of(data, seed), task)
        counts.update(list(memory.examples))
    return {name: counts[name] / seeds for name in TASKS}


class NewestStays(ReplayBuffer):
    """A rule that is not fair: the newest tasks keep an example."""

    def on_task_end(self, run: SimpleNamespace, task: int) -> None:
        super().on_task_end(run, task)
        data = run.data.tasks[task]
        self.examples.setdefault(data.spec.name, [data.train[0].example])
        self.examples = dict(list(self.examples.items())[-self.capacity :])


@pytest.mark.parametrize("capacity", [1, 2, 3, 4])
def test_who_keeps_an_example_is_a_fair_draw_whatever_the_order(data: TaskSequence, capacity: int) -> None:
    deviation = (capacity / 5 * (1 - capacity / 5) / 400) ** 0.5
    fair = share_kept(data, capacity)
    assert all(abs(share - capacity / 5) < 4 * deviation for share in fair.values()), fair
    assert abs(share_kept(data, capacity, NewestStays)["five"] - capacity / 5) > 4 * deviation, "negative control"
    forth, back = filled(data, capacity), filled(data, capacity, (4, 3, 2, 1, 0))
    assert forth.examples == {name: back.examples[name] for name in forth.examples}


def test_a_task_that_has_left_breaks_neither_draws_nor_state(data: TaskSequence) -> None:
    memory = filled(data, 2)
    run = run_of(data)
    left = [name for name in TASKS if name not in memory.examples]
    assert len(left) == 3
    assert set(memory.draw(run, 7)) == set(memory.examples)
    restored = ReplayBuffer(2)
    restored.load(json.loads(json.dumps(memory.state())))
    assert restored.examples == memory.examples
    name, kept = next(iter(memory.examples.items()))
    assert [e.example for e in restored.encoded(run, name)] == kept


def test_state_restores_every_field_and_goes_on_alike(data: TaskSequence) -> None:
    memory, run = filled(data, 7, (0, 1)), run_of(data)
    memory.examples["one"][0] = Example("one/train/x", "who? Answer:", "a", ("a", "b"), instruction=4, cue=7)
    restored = ReplayBuffer(7)
    restored.load(json.loads(json.dumps(memory.state())))
    assert restored.examples == memory.examples and list(restored.examples) == list(memory.examples)
    for task in (2, 3):
        for buffer in (memory, restored):
            buffer.on_task_end(run, task)
    assert restored.examples == memory.examples


# --- draws ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, 24))
@pytest.mark.parametrize("tasks", [1, 2, 3, 5])
def test_draws_are_equal_shares_with_at_least_one_of_each(data: TaskSequence, tasks: int, count: int) -> None:
    memory = filled(data, 1000, range(tasks))
    drawn = memory.draw(run_of(data), count)
    assert list(drawn) == list(TASKS[:tasks])
    sizes = [len(examples) for examples in drawn.values()]
    assert max(sizes) - min(sizes) <= 1, "nobody is favoured, the newest neither"
    assert sum(sizes) == min(max(count, tasks), 9 * tasks), "more than asked only for the sake of one of each"
    for name, examples in drawn.items():
        assert [e.example for e in examples] == memory.examples[name][: len(examples)]


def test_no_task_gives_more_than_it_keeps(data: TaskSequence) -> None:
    drawn = filled(data, 6, (0, 1, 2)).draw(run_of(data), 30)
    assert [len(examples) for examples in drawn.values()] == [2, 2, 2]
    assert ReplayBuffer(4).draw(run_of(data), 3) == {}


# --- what a batch is made of ------------------------------------------------------------------------------


def served(data: TaskSequence, memory: ReplayBuffer, task: int, ratio: float) -> None:
    data.activate(task)
    memory.train_ratio = ratio
    memory.on_task_start(SimpleNamespace(data=data), task)


def steps(data: TaskSequence, task: int, epoch: int, world: int = 1, accumulate: int = 1) -> list[list[str]]:
    """The ids of the examples of each optimiser step, over all ranks and micro-batches; stand-ins left out."""
    examples = [*data.tasks[task].train, *data._replay]
    ranks = []
    for rank in range(world):
        sampler = data.sampler(rank, world, accumulate)
        sampler.set_epoch(epoch)
        ranks.append(list(sampler))
        assert len(ranks[-1]) == len(sampler)
    parts = range(0, len(ranks[0]), accumulate)
    micro = [[m for r in ranks for m in r[at : at + accumulate]] for at in parts]
    return [[examples[i].example.id for m in step if m.weight for i in m.indices] for step in micro]


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize(("ratio", "quota"), [(0.25, 1), (0.5, 2), (0.75, 3)])
def test_every_batch_has_its_quota_of_memory_and_every_epoch_all_new_examples(
    data: TaskSequence, ratio: float, quota: int, world: int, accumulate: int
) -> None:
    memory = filled(data, 6, (0, 1, 2))
    kept = {e.id: name for name, examples in memory.examples.items() for e in examples}
    new = Counter(e.example.id for e in data.tasks[3].train)
    served(data, memory, 3, ratio)
    epochs = [steps(data, 3, epoch, world, accumulate) for epoch in range(4)]
    for batches in epochs:
        old = [[i for i in batch if i not in new] for batch in batches]
        assert Counter(i for batch in batches for i in batch if i in new) == new
        assert [len(batch) for batch in old] == [quota] * len(batches)
        assert [len(batch) for batch in batches[:-1]].count(4) >= len(batches) - 2, "one batch at most is short"
        drawn: Counter[str] = Counter(dict.fromkeys(kept, 0))
        for batch in old:
            drawn.update(batch)
            assert set(drawn) == set(kept), "of the memory alone"
            assert max(drawn.values()) - min(drawn.values()) <= 1, "all of it before any of it again"
    assert len({json.dumps(batches) for batches in epochs}) == 4
    assert len({json.dumps([i for b in batches for i in b if i not in new]) for batches in epochs}) > 1
    assert [[sorted(b) for b in e] for e in epochs] == [
        [sorted(b) for b in steps(data, 3, epoch)] for epoch in range(4)
    ], "the same steps for any ranks and accumulation"


def test_each_past_task_has_an_equal_share_of_an_epoch(data: TaskSequence) -> None:
    served(data, filled(data, 6, (0, 1, 2)), 3, 0.5)  # 5 steps of 2: a pass of 6 and 4 more
    total: Counter[str] = Counter()
    for epoch in range(12):
        shares = Counter(i.split("/")[0] for batch in steps(data, 3, epoch) for i in batch)
        assert shares.pop("four") == 9
        assert sum(shares.values()) == 10 and min(shares.values()) >= 2
        total += shares
    assert all(abs(n - 40) <= 6 for n in total.values()), total


def test_no_memory_in_the_first_task_and_none_left_over_from_the_last(data: TaskSequence) -> None:
    served(data, ReplayBuffer(6), 0, 0.5)
    assert sorted(i for b in steps(data, 0, 0) for i in b) == sorted(e.example.id for e in data.tasks[0].train)
    served(data, filled(data, 6, (0,)), 1, 0.5)
    assert any(i.startswith("one/") for b in steps(data, 1, 0) for i in b)
    data.activate(2)
    assert {i.split("/")[0] for b in steps(data, 2, 0) for i in b} == {"three"}
    served(data, filled(data, 6, (0,)), 1, 0.0)
    assert {i.split("/")[0] for b in steps(data, 1, 0) for i in b} == {"two"}, "a ratio of 0 serves others only"


def test_examples_are_replayed_as_they_were_trained(data: TaskSequence) -> None:
    served(data, filled(data, 6, (0, 1)), 2, 0.5)
    trained = {e.example.id: e for task in data.tasks for e in task.train}
    assert len(data._replay) == 6
    assert all(e == trained[e.example.id] for e in data._replay)


# --- the ratio --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 10, 32])
@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.25, 0.3, 0.5, 0.75, 0.99])
def test_the_ratio_is_the_nearest_whole_number_that_leaves_room_for_a_new_example(size: int, ratio: float) -> None:
    found = Mix(ratio).replayed(size)
    assert 0 <= found <= size - 1
    off = abs(found - Fraction(str(ratio)) * size)
    assert off <= Fraction(1, 2) or found == size - 1


@pytest.mark.parametrize(("ratio", "wanted"), [(0.0, 3), (0.25, 3), (0.5, 5), (0.75, 9)])
def test_replay_costs_steps_and_no_new_example(ratio: float, wanted: int) -> None:
    data = words(TASKS[:2])
    served(data, filled(data, 6, (0,)), 1, ratio)
    assert data.sampler(0, 1, 1).steps_per_epoch == len(data.sampler(0, 1, 1)) == wanted, "9 new ones / those a step"
    assert len(data.sampler(1, 2, 3)) == 3 * wanted


def test_a_ratio_of_no_whole_example_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"0\.1 of data\.batch_size=4 leaves no whole .*; use 0\.25 or more"):
        small_run(tmp_path / "a", words(TASKS[:2]), {"memory": ReplayBuffer(4, train_ratio=0.1)})
    with pytest.raises(ConfigError, match=r"data\.batch_size=1 leaves no whole .*; raise data\.batch_size, or use"):
        small_run(tmp_path / "b", words(TASKS[:2], batch_size=1), {"memory": ReplayBuffer(4, train_ratio=0.9)})
    for capacity, ratio in ((0, 0.5), (4, 1.0), (4, -0.1)):
        with pytest.raises(ConfigError, match=r"boundary\.memory\."):
            ReplayBuffer(capacity, ratio)
