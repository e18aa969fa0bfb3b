"""What a task is: examples, splits and the facts needed to prompt, cut and score them. No torch here."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cl_lightning.common.errors import ConfigError, nearest


@dataclass(frozen=True)
class Example:
    """One prompt with its reference answer.

    Attributes:
        id: unique inside its task and stable over runs.
        answer: what is trained on.
        references: all answers that count as right, `answer` among them; empty where it is the only one.
        instruction: characters at the prompt's beginning that are instruction, which a cut leaves.
        cue: characters at its end that ask for the answer, which a cut leaves too.
    """

    id: str
    prompt: str
    answer: str
    references: tuple[str, ...] = ()
    instruction: int = 0
    cue: int = 0

    @property
    def accepted(self) -> tuple[str, ...]:
        """All answers that count as right."""
        return self.references or (self.answer,)


@dataclass(frozen=True)
class TaskSpec:
    """The fixed facts of a task.

    Attributes:
        name: as it is written in `data.order`.
        metric: key of `cl_lightning.metrics.registry.METRICS`; scores run over 0..100.
        also: further metrics of the same predictions, reported beside the score and never part of R.
        max_new_tokens: generation budget when scoring, tokens.
        keep_head: where a long prompt is cut: what stays between its instruction and its cue is by this share of the
            beginning there, and for the rest of the end.
        language: ISO 639-1 code, or "code".
        source: where the data comes from, one line, with its licence.
        published: examples in the published train and test files, for `data_check`; None: not known to us.
    """

    name: str
    metric: str
    max_new_tokens: int
    keep_head: float = 0.5
    language: str = "en"
    source: str = ""
    published: tuple[int | None, int | None] = (None, None)
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Splits:
    """The examples of one task. `validation` is carved from `train` by the data module, never from `test`.

    Attributes:
        blank: training examples left out because their answer is blank.
        leaked: training examples left out because their prompt is in the test split, whatever `data.drop_leaks` says.
        licence: what the task's file says of its texts' licence; "" where it says nothing or is not asked.
    """

    train: tuple[Example, ...]
    test: tuple[Example, ...]
    blank: int = 0
    leaked: int = 0
    licence: str = ""


class Benchmark(ABC):
    """A named family of tasks: one class in one file, chosen by `data.benchmark`'s class_path.

    Reads files (or generates), knows nothing of models, tokenizers or torch.

    Attributes:
        evaluator: ending of the official metrics' names (`data.metrics=official`); None where there is no evaluator.
        official_also: what that evaluator reports in the place of ours, among `TaskSpec.also`; others stay.
        official_max_new_tokens: the published generation budget of every task (`data.max_new_tokens=official`).
    """

    evaluator: ClassVar[str | None] = None
    official_also: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    official_max_new_tokens: ClassVar[int | None] = None

    @abstractmethod
    def tasks(self, root: Path | None) -> Mapping[str, TaskSpec]:
        """The tasks that `order` may name, in the benchmark's own order, for data at `root` (None: built in)."""

    def default_order(self, root: Path | None) -> list[str]:
        """The task names that `data.order=null` stands for: all tasks."""
        return list(self.tasks(root))

    @abstractmethod
    def load(self, root: Path | None, name: str) -> Splits:
        """Read one task. Raises DataError with file and line or record."""

    def places(self, root: Path | None, name: str) -> Sequence[Path]:
        """Where `load` looks for a task's data, any one of them will do; none where it needs no file."""
        return ()

    def development(self, root: Path | None, name: str) -> tuple[Example, ...]:
        """The benchmark's own development split, for `data_check` alone: some repeat the test split."""
        return ()

    def published_epochs(self) -> Mapping[str, int]:
        """Epochs per task as published, for `data.epochs=published`; empty where none are."""
        return {}

    @abstractmethod
    def describe(self, root: Path | None) -> str:
        """Which data this is, in one line for people: printed first, stored in every result."""


def digest(examples: Iterable[Example]) -> str:
    """Content hash of examples (id, prompt, answers), 16 hex digits."""
    hashed = hashlib.blake2b(digest_size=8)
    for example in examples:
        hashed.update("\0".join((example.id, example.prompt, example.answer, *example.references, "")).encode())
    return hashed.hexdigest()


def check_order(order: Sequence[object], valid: Iterable[str]) -> None:
    """Refuse an order of tasks that names none, one that is unknown, or one twice. Raises ConfigError."""
    names, asked = set(valid), [str(name) for name in order]
    if not asked:
        raise ConfigError("data.order: names no task")
    for name in order:
        if str(name) not in names:
            # None of them is known: most likely they are another benchmark's, from an earlier configuration file.
            other = "" if names & {*asked} else "; data.order=null takes the benchmark's own order"
            raise ConfigError(f"data.order: unknown task {name!r}; {nearest(str(name), names)}{other}")
        if asked.count(str(name)) > 1:
            raise ConfigError(f"data.order: {name} appears twice")


def data_root(option: str | None) -> Path | None:
    """The folder of real data: the option, else the variable CL_DATA, else None (the built-in sample)."""
    chosen = option or os.environ.get("CL_DATA")
    return Path(chosen).expanduser() if chosen else None
