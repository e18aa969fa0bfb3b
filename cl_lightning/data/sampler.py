"""Training order: assigns examples to optimiser steps, ranks and micro-batches.

The *global* batch of a step depends only on (seed, task, epoch). It is then dealt to ranks and micro-batches, so any
number of ranks and any accumulation give the same steps, and every rank knows the step's answer-token count without
communication. Replay is a second source: it fills a share of every global batch, or takes turns with new examples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from torch.utils.data import Sampler

from cl_lightning.common.seeding import generator
from cl_lightning.data.mix import NEW_ONLY, Mix

Item = TypeVar("Item")

#: Batches are cut from windows of this many batches, sorted by length: little padding, still random.
WINDOW = 8


def equal_parts(items: Sequence[Item], size: int, rank: int, world_size: int) -> list[Sequence[Item]]:
    """Divide one rank's share of `items` into parts of at most `size` (or 2), as many as each other rank has.

    Passes are collectives where ranks share the base, and validation ends in one. There must be an item for each rank,
    or none at all.
    """
    if not items:
        return []
    share, least, most = items[rank::world_size], len(items) // world_size, -(-len(items) // world_size)
    count = max(1, min(least, -(-most // size)))
    return [share[k * len(share) // count : (k + 1) * len(share) // count] for k in range(count)]


@dataclass(frozen=True)
class MicroBatch:
    """Indices of one rank's share of a micro-batch; `step_tokens`: answer tokens of the whole step, over all ranks.

    A rank without a share runs a stand-in example with weight 0, since it must take part in the step's collectives.
    """

    indices: tuple[int, ...]
    step_tokens: int
    weight: float


class StepSampler(Sampler[MicroBatch]):
    """Yields `accumulate` micro-batches per optimiser step for one rank.

    Args:
        lengths: tokens of each example; new examples first, then `replayed` memory examples.
        answer_lengths: answer tokens of each example.
        replayed: number of memory examples, at the end of `lengths`.
        batch_size: examples per optimiser step over all ranks and micro-batches.
        mix: how memory examples are replayed.
        seed: determines the order, e.g. (run seed, task).
        start: (epoch, micro-batches of it that are done): where a task that was not finished goes on.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        answer_lengths: Sequence[int],
        replayed: int,
        batch_size: int,
        mix: Mix,
        seed: Sequence[object],
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        start: tuple[int, int] = (0, 0),
    ) -> None:
        self.lengths, self.answer_lengths = lengths, answer_lengths
        self.new, self.replayed = len(lengths) - replayed, replayed
        self.mix = mix if replayed else NEW_ONLY
        self.batch_size = batch_size
        self.seed, self.rank, self.world_size, self.accumulate = tuple(seed), rank, world_size, accumulate
        self.start = start
        self.epoch = 0

    @property
    def steps_per_epoch(self) -> int:
        return self.mix.steps(self.new, self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps_per_epoch * self.accumulate

    def global_batches(self) -> list[list[int]]:
        """Return the epoch's steps, each as the indices of its examples, longest first."""
        rng = generator(*self.seed, "order", self.epoch)
        order = torch.randperm(self.new, generator=rng).tolist()
        shared = self.mix.replayed(self.batch_size)
        size = self.batch_size - shared
        batches: list[list[int]] = []
        for start in range(0, self.new, WINDOW * size):
            by_length = sorted(order[start : start + WINDOW * size], key=lambda i: self.lengths[i])
            batches += [by_length[i : i + size] for i in range(0, len(by_length), size)]
        replayed = self.batch_size if self.mix.turn else shared
        memory = self._memory(len(batches) * replayed)
        new = [batches[i] for i in torch.randperm(len(batches), generator=rng).tolist()]
        old = [[next(memory) for _ in range(replayed)] for _ in batches]
        steps = self._in_turns(new, old) if self.mix.turn else [a + b for a, b in zip(new, old, strict=True)]
        return [sorted(step, key=lambda i: -self.lengths[i]) for step in steps]

    def _in_turns(self, new: list[list[int]], old: list[list[int]]) -> list[list[int]]:
        steps, first = [], 0
        for turn in self.mix.turns(self.new, self.batch_size):
            steps += [*new[first : first + turn], *old[first : first + turn]]
            first += turn
        return steps

    def _memory(self, count: int) -> Iterator[int]:
        """Draw `count` memory indices in whole shuffled passes, so that no example is favoured."""
        rng = generator(*self.seed, "replay", self.epoch)
        drawn: list[int] = []
        while len(drawn) < count:
            drawn += (self.new + torch.randperm(self.replayed, generator=rng)).tolist()
        return iter(drawn)

    def __iter__(self) -> Iterator[MicroBatch]:
        epoch, done = self.start
        yield from islice(self._all(), done if self.epoch == epoch else 0, None)

    def _all(self) -> Iterator[MicroBatch]:
        for batch in self.global_batches():
            tokens = sum(self.answer_lengths[i] for i in batch)
            share = batch[self.rank :: self.world_size]
            for k in range(self.accumulate):
                low, high = k * len(share) // self.accumulate, (k + 1) * len(share) // self.accumulate
                part = tuple(share[low:high])
                # Stand-in: the step's shortest example.
                yield MicroBatch(part or (batch[-1],), tokens, 1.0 if part else 0.0)
