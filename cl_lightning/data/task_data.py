"""One task of a sequence, prepared for training and scoring."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cl_lightning.data.base import Benchmark, Example, TaskSpec
from cl_lightning.data.mix import NEW_ONLY, Mix
from cl_lightning.data.prompt import Encoded

#: Name of the one task that protocol=joint trains.
ALL_TASKS = "joint"


@dataclass(frozen=True)
class TaskData:
    """One task, ready to train and score.

    `raw_train`: the chosen training examples as text; `whole`: content hash of all its examples, chosen or not;
    `labels`: token ids of the labels that are compared by likelihood; empty if answers are only generated;
    `both`: answers are generated even where there are labels, and the most likely label is scored beside them.
    """

    spec: TaskSpec
    train: tuple[Encoded, ...]
    validation: tuple[Encoded, ...]
    test: tuple[Encoded, ...]
    epochs: int
    dropped: int
    whole: str
    labels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    both: bool = False

    @property
    def generated(self) -> bool:
        """Whether R has the scores of generated answers."""
        return self.both or not self.labels

    @property
    def budget(self) -> dict[str, int]:
        """Generation budget in tokens, and how many test answers are longer (the first of several references)."""
        longer = sum(len(e.answer_ids) - 1 > self.spec.max_new_tokens for e in self.test)  # without the end token
        return {"max_new_tokens": self.spec.max_new_tokens, "longer": longer, "answers": len(self.test)}

    @property
    def tokens(self) -> int:
        """Tokens of its training examples over all epochs."""
        return self.epochs * sum(e.length for e in self.train)

    def steps(self, batch_size: int, mix: Mix = NEW_ONLY) -> int:
        """Return its optimiser steps over all epochs, with replayed examples as in `mix`."""
        return self.epochs * mix.steps(len(self.train), batch_size)

    @property
    def raw_train(self) -> tuple[Example, ...]:
        return tuple(e.example for e in self.train)


def official_task(spec: TaskSpec, benchmark: Benchmark) -> TaskSpec:
    """Return the task with the metrics of its official evaluator."""
    also = tuple(name for ours in spec.also for name in benchmark.official_also.get(ours, (ours,)))
    return replace(spec, metric=f"{spec.metric}_{benchmark.evaluator}", also=also)


def joined(tasks: Sequence[TaskData]) -> TaskData:
    """Join all tasks' training and validation examples into one task."""
    spec = TaskSpec(ALL_TASKS, metric="", max_new_tokens=0, source=f"all of {', '.join(t.spec.name for t in tasks)}")
    train = tuple(e for t in tasks for e in t.train)
    validation = tuple(e for t in tasks for e in t.validation)
    return TaskData(spec, train, validation, (), tasks[0].epochs, sum(t.dropped for t in tasks), whole="")
