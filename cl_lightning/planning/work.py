"""The amount of work of a run: steps, tokens and prompts of its tasks, and its largest batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cl_lightning.data.mix import NEW_ONLY, Mix
from cl_lightning.data.prompt import Encoded
from cl_lightning.data.task_data import TaskData
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.sequence.rehearsal import Size


@dataclass(frozen=True)
class TaskWork:
    """Work of one task.

    Attributes:
        examples, steps: training examples, and optimiser steps over all epochs.
        tokens: of new training examples, on all ranks.
        padded: of training on one rank, with padding and replayed examples.
        scored: prompts that are scored after it, of all tasks seen.
        read, generated: tokens of these prompts, and generation budgets together.
    """

    name: str
    examples: int
    steps: int
    tokens: int
    padded: int
    scored: int
    read: int
    generated: int


@dataclass(frozen=True)
class Division:
    """How a step's batch is divided: over `ranks`, and on each over `parts`, one after another.

    Attributes:
        sharded: the ranks share the base too.
    """

    ranks: int = 1
    parts: int = 1
    sharded: bool = False


class Work:
    """Work of a run.

    Args:
        data: prepared.
        kept: examples that the replay memory keeps at most.
        mix: how they are replayed.
        division: of each step's batch.

    Attributes:
        tasks: work of each task.
        micro_batch: the largest of training.
    """

    def __init__(self, data: TaskSequence, division: Division, kept: int = 0, mix: Mix = NEW_ONLY) -> None:
        self.data, self.division, self.kept, self.mix = data, division, kept, mix
        self.tasks: list[TaskWork] = []
        self.micro_batch = Size(0, 0, 0, 0, 0)
        for task in range(len(data.order)):
            self.tasks.append(self._task(task))

    @property
    def steps(self) -> int:
        """Optimiser steps of all tasks."""
        return sum(task.steps for task in self.tasks)

    def _task(self, task: int) -> TaskWork:
        data, new = self.data, self.data.tasks[task]
        data.activate(task)
        if task and self.mix != NEW_ONLY:
            data.set_replay(list(self._kept(task)), self.mix)
        sampler, padded = data.sampler(0, self.division.ranks, self.division.parts), 0
        examples = [*new.train, *data.replay]
        for micro in sampler:
            size = size_of([examples[i] for i in micro.indices], data.encoder_decoder)
            padded += size.tokens
            self.micro_batch = max(self.micro_batch, size, key=lambda size: (size.tokens, size.labelled))
        after = scored([data.scored(task, column) for column in data.scored_after(task)])
        return TaskWork(
            data.order[task],
            new.epochs * len(new.train),
            new.epochs * sampler.steps_per_epoch,
            new.epochs * sum(e.length for e in new.train),
            new.epochs * padded,
            after.scored,
            after.read,
            after.generated,
        )

    def _kept(self, task: int) -> Iterator[Encoded]:
        """Examples of earlier tasks in the memory, as many as it keeps of each. Which ones is not known before."""
        quota = max(1, self.kept // task)
        for earlier in self.data.tasks[:task]:
            yield from earlier.train[:quota]

    def drawn(self, rows: int) -> Size:
        """Return the size of a batch of `rows` of a task's longest examples. No draw makes a larger one."""
        longest = [sorted(task.train, key=lambda e: -e.length)[:rows] for task in self.data.tasks]
        sizes = [size_of(examples, self.data.encoder_decoder) for examples in longest]
        return max(sizes, key=lambda size: (size.tokens, size.labelled))

    def prompts(self, rows: int) -> Size:
        """Return the largest batch of at most `rows` prompts in scoring; its answers are the generation budget."""
        largest = Size(0, 0, 0, 0, 0)
        for task in self.data.evaluated:
            share = sorted((len(e.prompt_ids) for e in task.test), reverse=True)[:: self.division.ranks][:rows]
            new = task.spec.max_new_tokens
            size = Size(len(share), share[0], new, share[0] + new, 0)
            largest = max(largest, size, key=lambda size: size.tokens)
        return largest

    def zero_shot(self) -> "Scored":
        """Return the work of scoring all tasks."""
        return scored(self.data.evaluated)


@dataclass(frozen=True)
class Scored:
    """Work of scoring: prompts, their tokens, and the tokens of the longest answers together."""

    scored: int
    read: int
    generated: int


def scored(tasks: Sequence[TaskData]) -> Scored:
    """Return the work of scoring tasks."""
    return Scored(
        sum(len(one.test) for one in tasks),
        sum(len(e.prompt_ids) for one in tasks for e in one.test),
        sum(len(one.test) * one.spec.max_new_tokens for one in tasks if one.generated),
    )


def size_of(examples: Sequence[Encoded], encoder_decoder: bool) -> Size:
    """Return the size of a batch of these examples."""
    prompt, answer = max(len(e.prompt_ids) for e in examples), max(len(e.answer_ids) for e in examples)
    length = prompt if encoder_decoder else max(e.length for e in examples)
    return Size(len(examples), prompt, answer, length, sum(e.labelled for e in examples))
