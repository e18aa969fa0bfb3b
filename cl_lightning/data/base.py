"""Tasks: examples, splits, and the facts needed to prompt, truncate and score them. Imports no torch."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from cl_lightning.common.described import Described
from cl_lightning.common.errors import ConfigError, nearest
from cl_lightning.common.paths import in_home

#: Who speaks ("system", "user" or "assistant"), and the text.
Turn = tuple[str, str]


@dataclass(frozen=True)
class Example:
    """One prompt with its reference answer.

    Attributes:
        id: unique inside its task and stable over runs.
        answer: the training target.
        references: all correct answers, including `answer`; empty if `answer` is the only one.
        instruction: number of characters at the start of the prompt that are instruction; truncation keeps them.
        cue: number of characters at the end of the prompt that ask for the answer; truncation keeps them too.
        turns: the turns of a conversation, up to the user's that is answered. A chat template writes them; `prompt` is
            the same as one text. Empty for a prompt that is a single message of the user.
        every_turn: whether training has a loss on the assistant's earlier turns too.
    """

    id: str
    prompt: str
    answer: str
    references: tuple[str, ...] = ()
    instruction: int = 0
    cue: int = 0
    turns: tuple[Turn, ...] = ()
    every_turn: bool = False

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> "Example":
        """Make an example of its fields as JSON has them."""
        lists = {"references": tuple(stored.get("references", ())), "turns": tuple(map(tuple, stored.get("turns", ())))}
        return cls(**{**stored, **lists})

    @property
    def accepted(self) -> tuple[str, ...]:
        """All correct answers."""
        return self.references or (self.answer,)


@dataclass(frozen=True)
class TaskSpec:
    """The fixed facts of a task.

    Attributes:
        name: the name used in `data.order`.
        metric: key of `cl_lightning.metrics.registry.METRICS`; scores run over 0..100.
        also: further metrics of the same predictions, reported beside the score and never part of R.
        max_new_tokens: generation budget when scoring, in tokens.
        keep_head: fraction of the kept context taken from its start when a long prompt is truncated; the rest is taken
            from its end.
        language: ISO 639-1 code, or "code".
        source: where the data comes from, one line, with its licence.
        system_prompt: system message of the task's prompts; None: `data.system_prompt`.
        max_prompt_tokens: length limit of the task's prompts; None: `data.max_prompt_tokens`.
        published: numbers of examples in the published train and test files, for `data-check`; None if not known.
    """

    name: str
    metric: str
    max_new_tokens: int
    keep_head: float = 0.5
    language: str = "en"
    source: str = ""
    published: tuple[int | None, int | None] = (None, None)
    also: tuple[str, ...] = ()
    system_prompt: str | None = None
    max_prompt_tokens: int | None = None


@dataclass(frozen=True)
class Splits:
    """The examples of one task, tuples or `data.streamed.Streamed`.

    The data module takes validation examples from `train`, never from `test`.

    Attributes:
        blank: training examples left out because their answer is blank.
        leaked: training examples that the benchmark itself leaves out because their prompt is in the test split.
        licence: licence of the texts as stated in the task's file; "" if the file states none.
    """

    train: Sequence[Example]
    test: Sequence[Example]
    blank: int = 0
    leaked: int = 0
    licence: str = ""


class Benchmark(Described, ABC):
    """A named family of tasks: one class in one file, chosen by `data.benchmark`'s class_path.

    Reads or generates examples; independent of models, tokenizers and torch.

    Attributes:
        evaluator: suffix of the official metrics' names (`data.metrics=official`); None without an official evaluator.
        official_also: official replacements for metrics in `TaskSpec.also`; metrics not listed stay.
        official_max_new_tokens: the published generation budget of every task (`data.max_new_tokens=official`).
    """

    evaluator: ClassVar[str | None] = None
    official_also: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    official_max_new_tokens: ClassVar[int | None] = None

    @abstractmethod
    def tasks(self, root: Path | None) -> Mapping[str, TaskSpec]:
        """Return the tasks that `order` may name, in the benchmark's own order. `root=None`: the built-in data."""

    def default_order(self, root: Path | None) -> list[str]:
        """Return the order used for `data.order=null`: all tasks by default."""
        return list(self.tasks(root))

    @abstractmethod
    def load(self, root: Path | None, name: str) -> Splits:
        """Read one task. Raises DataError with the file and the line or record."""

    def places(self, root: Path | None, name: str) -> Sequence[Path]:
        """List the paths where `load` looks for a task's data; one of them suffices. Empty if it needs no file."""
        return ()

    def development(self, root: Path | None, name: str) -> tuple[Example, ...]:
        """Read the benchmark's own development split. Only `data-check` uses it, since some repeat the test split."""
        return ()

    def published_epochs(self) -> Mapping[str, int]:
        """Return the published epochs per task, for `data.epochs=published`; empty if none are published."""
        return {}

    @abstractmethod
    def describe(self, root: Path | None) -> str:
        """Describe the data in one line, which is printed first and stored with every result."""


def digest(examples: Iterable[Example]) -> str:
    """Hash the content of examples (id, prompt, answers, turns) to 16 hex digits."""
    hashed = hashlib.blake2b(digest_size=8)
    for e in examples:
        turns = [*(part for turn in e.turns for part in turn), *(["every turn"] if e.every_turn else [])]
        hashed.update("\0".join((e.id, e.prompt, e.answer, *e.references, *turns, "")).encode())
    return hashed.hexdigest()


def check_order(order: Sequence[object], valid: Iterable[str]) -> None:
    """Raise ConfigError for an order that is empty, names an unknown task, or names one twice."""
    names, wanted = set(valid), [str(name) for name in order]
    if not wanted:
        raise ConfigError("data.order: the list is empty; name at least one task")
    for name in order:
        if str(name) not in names:
            # If none is known, they most likely belong to another benchmark, from an earlier configuration file.
            other = "" if names & {*wanted} else "; data.order=null takes the benchmark's own order"
            raise ConfigError(f"data.order: unknown task {name!r}; {nearest(str(name), names)}{other}")
        if wanted.count(str(name)) > 1:
            raise ConfigError(f"data.order: {name} appears twice")


def data_root(option: str | None) -> Path | None:
    """Return the folder of real data: the option, else the variable CL_DATA, else None (the built-in sample)."""
    chosen = option or os.environ.get("CL_DATA")
    return in_home(chosen, "data.root" if option else "CL_DATA") if chosen else None
