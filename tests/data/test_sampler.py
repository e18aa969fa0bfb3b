"""The order of training: the same global steps for any ranks and accumulation, exact token counts, replay share."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_lightning.data.mix import Mix
from cl_lightning.data.sampler import StepSampler


def make(count: int = 37, replayed: int = 0, batch: int = 8, ratio: float = 0.0, rank: int = 0, world: int = 1,
         accumulate: int = 1, seed: int = 0, turn: int = 0) -> StepSampler:  # fmt: skip
    lengths = [5 + (i * 7) % 40 for i in range(count)]
    answers = [1 + i % 5 for i in range(count)]
    return StepSampler(lengths, answers, replayed, batch, Mix(ratio, turn), (seed, "t"), rank, world, accumulate)


def test_every_example_once_per_epoch_in_another_order_each_epoch() -> None:
    sampler = make()
    first = sampler.global_batches()
    assert Counter(i for b in first for i in b) == Counter(range(37))
    assert len(first) == sampler.steps_per_epoch == len(sampler)
    sampler.set_epoch(1)
    assert sampler.global_batches() != first
    assert make().global_batches() == first
    assert make(seed=1).global_batches() != first


def test_batches_hold_similar_lengths() -> None:
    sampler = make(count=256)
    padded = sum(len(b) * max(sampler.lengths[i] for i in b) for b in sampler.global_batches())
    real = sum(sampler.lengths)
    assert padded < 1.15 * real
    plain = sum(8 * max(sampler.lengths[i : i + 8]) for i in range(0, 256, 8))
    assert plain > 1.4 * real  # what data order costs


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 40), st.integers(1, 9))
def test_ranks_and_micro_batches_share_the_same_steps(world: int, accumulate: int, count: int, batch: int) -> None:
    steps = make(count, batch=batch).global_batches()
    parts = [list(make(count, batch=batch, rank=r, world=world, accumulate=accumulate)) for r in range(world)]
    assert {len(p) for p in parts} == {len(steps) * accumulate}
    one = make(count, batch=batch)
    for s, step in enumerate(steps):
        micro = [m for p in parts for m in p[s * accumulate : (s + 1) * accumulate]]
        assert sorted(i for m in micro if m.weight for i in m.indices) == sorted(step)
        assert {m.step_tokens for m in micro} == {sum(one.answer_lengths[i] for i in step)}
        assert all(m.indices for m in micro), "a rank without a share still takes part"


def test_replay_fills_its_share_and_favours_nobody() -> None:
    sampler = make(count=30 + 6, replayed=6, batch=8, ratio=0.25)
    batches = sampler.global_batches()
    assert all(sum(i >= 30 for i in b) == 2 for b in batches)
    assert sorted(i for b in batches for i in b if i < 30) == list(range(30))
    drawn = Counter(i for b in batches for i in b if i >= 30)
    assert max(drawn.values()) - min(drawn.values()) <= 1
    assert len(batches) == 5  # 30 new examples, 6 of them per step


@pytest.mark.parametrize(("replayed", "ratio"), [(0, 0.5), (6, 0.0)])
def test_no_memory_or_no_ratio_means_no_replay(replayed: int, ratio: float) -> None:
    sampler = make(count=20 + replayed, replayed=replayed, ratio=ratio)
    assert {i for b in sampler.global_batches() for i in b} == set(range(20))
