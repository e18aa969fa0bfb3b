"""The user's own tasks: a file, folder or hub data set, a layout of its rows and a metric each. No torch."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cl_lightning.common.choices import check_choices
from cl_lightning.common.errors import ConfigError, DataError, nearest
from cl_lightning.common.numbers import Finite, Integer
from cl_lightning.common.wording import brief
from cl_lightning.data.base import Benchmark, Example, Splits, TaskSpec
from cl_lightning.data.cleaning import fingerprint
from cl_lightning.data.files.read import file_source, hub_source
from cl_lightning.data.files.rows import Reading, Row
from cl_lightning.data.files.text import checked_encoding
from cl_lightning.data.layouts import LAYOUTS
from cl_lightning.data.layouts.base import Layout, text
from cl_lightning.data.streamed import Streamed, changed, only

#: Advice about words that YAML reads as booleans.
QUOTES = "quote words like yes, no, on, off, true, false in YAML"
#: Most bytes in a task's name: file names, of at most 255 bytes, contain two of them.
LONGEST_NAME = 100
#: Most bytes of files or of a hub data set whose examples are held in memory, where they take some three times as many.
HELD = 1 << 28


@dataclass(frozen=True)
class UserTask:
    """One task, an item of `data.benchmark.tasks`.

    Attributes:
        name: the name used in `data.order`; no spaces or slashes, at most 100 bytes.
        metric: key of `cl_lightning.metrics.registry.METRICS`.
        also: further metrics, reported beside the score.
        train: file or folder of files (.json, .jsonl, .csv, .tsv, .parquet, .arrow, .feather; relative to `data.root`,
            else to the current folder), a data set written by `save_to_disk`, or the name of a split of `hub`.
        test: the same for the test examples; null: `test_share` of train.
        test_share: share of train held out instead of `test`, between 0 and 1. The split does not depend on the order
            of rows, and equal prompts are on one side.
        layout: how a row holds prompt and answer. "fields": a template and a field; "messages": a list of turns with
            role and content; "sharegpt": the same with from and value; "alpaca": instruction, input and output.
        prompt: template with {field}s, and {{ and }} for braces, for the layouts fields and alpaca. A long prompt is
            truncated in the middle, never in the text before the first field or after the last.
        answer: name of the field with the answer, for the layouts fields and alpaca (null: output). A list holds
            several correct answers; the first is the training target.
        turns: name of the field with the conversation, for the layouts messages and sharegpt; null: messages, or
            conversations.
        loss_on: turns of the assistant that are trained: the "last" one, which is the answer, or "every" one. The last
            one is scored.
        system_prompt: system message of the prompts that have none of their own; null: `data.system_prompt`.
        encoding: name of the text encoding; null: UTF-8, or what a byte order mark says.
        delimiter: character between the fields of CSV; null: comma, semicolon or tab, as the head line has it.
        hub: a hub data set to read instead of files, with the library `datasets`.
        hub_config: configuration of the hub data set.
        labels: words for answers, as {0: negative, 1: positive}; an answer without a word is an error. Quote words such
            as yes and no, which YAML otherwise reads as booleans.
        max_new_tokens: generation budget when scoring, in tokens.
        keep_head: see TaskSpec.
        language: ISO 639-1 code, or "code".
        source: where the data comes from, with its licence.
    """

    name: str
    metric: str
    train: str
    test: str | None = None
    test_share: Finite | None = None
    layout: str = "fields"
    prompt: str | None = None
    answer: str | None = None
    turns: str | None = None
    loss_on: Literal["last", "every"] = "last"
    system_prompt: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    hub: str | None = None
    hub_config: str | None = None
    labels: dict[str, str | bool] | None = None
    max_new_tokens: Integer = 32
    keep_head: Finite = 0.5
    language: str = "en"
    source: str = ""
    also: list[str] | None = None

    def __post_init__(self) -> None:
        check_choices(UserTask, (), vars(self))
        if self.labels is not None:  # YAML reads the key of {0: bad} as a number; fields are compared as text
            object.__setattr__(self, "labels", {str(answer): word for answer, word in self.labels.items()})
            for answer, word in self.labels.items():
                if isinstance(word, bool):
                    raise ConfigError(f"{_where(self.name)}.labels: {answer!r} has {word}, which is not text; {QUOTES}")

    @property
    def reading(self) -> Reading:
        """How its files are read."""
        return Reading(self.encoding, self.delimiter)

    def made_layout(self) -> Layout:
        """Make the layout of its rows. Raises ConfigError for options that do not suit it."""
        where = _where(self.name)
        if self.layout not in LAYOUTS:
            raise ConfigError(f"{where}.layout: unknown layout {self.layout!r}; {nearest(self.layout, LAYOUTS)}")
        kind = LAYOUTS[self.layout]
        given = {name: getattr(self, name) for name in ("prompt", "answer", "turns")}
        given["loss_on"] = None if self.loss_on == "last" else self.loss_on
        for name, value in given.items():
            if value is None and name in kind.needs:
                raise ConfigError(
                    f"{where}: layout {self.layout} needs {name}; if its rows hold conversations, set layout to "
                    "messages, sharegpt or alpaca"
                )
            if value is not None and name not in kind.takes:
                raise ConfigError(f"{where}.{name}: has no effect on layout {self.layout}; leave it out")
        return kind(self, where)


def _where(name: str) -> str:
    return f"data.benchmark.tasks, {brief(name)!r}"


class UserTasks(Benchmark):
    """The user's own tasks, in the order given.

    Args:
        tasks: the tasks; see UserTask.
    """

    def __init__(self, tasks: list[UserTask]) -> None:
        self.by_name = {task.name: task for task in tasks}
        if not tasks:
            raise ConfigError("data.benchmark.tasks: the list is empty; describe at least one task")
        for task in tasks:
            if not task.name.strip(".") or set(task.name) & {" ", "/", "\\"} or not task.name.isprintable():
                raise ConfigError(f"{_where(task.name)}: a name has no blanks and no slashes, and is not dots alone")
            if len(task.name.encode()) > LONGEST_NAME:
                raise ConfigError(
                    f"{_where(task.name)}: a name has at most {LONGEST_NAME} bytes, since files are named after it"
                )
            if [t.name for t in tasks].count(task.name) > 1:
                raise ConfigError(f"{_where(task.name)}: the name appears twice")
            if (task.test is None) == (task.test_share is None):
                raise ConfigError(f"{_where(task.name)}: give either test or test_share, not both")
            if task.test_share is not None and not 0 < task.test_share < 1:
                raise ConfigError(f"{_where(task.name)}.test_share: {task.test_share} must lie between 0 and 1")
            if task.max_new_tokens < 1:
                raise ConfigError(f"{_where(task.name)}.max_new_tokens: {task.max_new_tokens} must be 1 or more")
            if not 0 <= task.keep_head <= 1:
                raise ConfigError(f"{_where(task.name)}.keep_head: {task.keep_head} must lie in 0..1")
            task.made_layout()
            _check_reading(task)

    def tasks(self, root: Path | None) -> Mapping[str, TaskSpec]:
        """Return the tasks in the order given."""
        return {
            t.name: TaskSpec(
                t.name,
                t.metric,
                t.max_new_tokens,
                t.keep_head,
                t.language,
                t.source or f"own data: {t.hub or t.train}",
                also=tuple(t.also or ()),
                system_prompt=t.system_prompt,
            )
            for t in self.by_name.values()
        }

    def load(self, root: Path | None, name: str) -> Splits:
        """Read one task.

        Raises:
            DataError: an unusable file or row; the message names both.
            ConfigError: a library for this kind of data is not installed, or an option has no effect on it.
        """
        task = self.by_name[name]
        train = self._examples(root, task, task.train, "train")
        if task.test is not None:
            test = self._examples(root, task, task.test, "test")
        else:
            flags = bytes(_hash_share(e.prompt) < (task.test_share or 0) for e in train)
            if sum(flags) in (0, len(flags)):
                raise DataError(
                    f"{name}: test_share={task.test_share} of {len(flags)} rows leaves one side empty; they have "
                    f"{len({fingerprint(e.prompt) for e in train})} different prompts, and a prompt is never on both "
                    "sides"
                )
            train, test = only(train, bytes(1 - out for out in flags)), only(train, flags)
        return Splits(train, changed(test, lambda e: replace(e, every_turn=False)) if task.loss_on == "every" else test)

    def _examples(self, root: Path | None, task: UserTask, what: str, split: str) -> Sequence[Example]:
        """Read examples; of much data hold none, but read it through once, so that every fault shows."""
        if task.hub is not None:
            source = hub_source(task.hub, task.hub_config, what)
        else:
            source = file_source((root or Path()) / what, task.reading)

        def read() -> Iterator[Example]:
            return examples_of(task, source.rows(), split)

        return tuple(read()) if source.size <= HELD else Streamed(read, b"\1" * sum(1 for _ in read()), source.size)

    def places(self, root: Path | None, name: str) -> Sequence[Path]:
        """Return the train file; none for hub data sets."""
        task = self.by_name[name]
        return () if task.hub is not None else [(root or Path()) / task.train]

    def describe(self, root: Path | None) -> str:
        """Name the tasks."""
        return f"own data ({', '.join(self.by_name)})"


def _check_reading(task: UserTask) -> None:
    where = _where(task.name)
    if task.encoding is not None:
        checked_encoding(task.encoding, f"{where}.encoding")
    if task.delimiter is not None and (len(task.delimiter) != 1 or task.delimiter in '"\r\n'):
        raise ConfigError(f"{where}.delimiter: {task.delimiter!r} must be one character, and no quote or line end")
    for option in ("encoding", "delimiter"):
        if task.hub is not None and getattr(task, option) is not None:
            raise ConfigError(f"{where}.{option}: has no effect on a hub data set; leave it out")


def examples_of(task: UserTask, rows: Iterable[Row], split: str) -> Iterator[Example]:
    """Yield the examples of a task's rows, in its layout. Raises DataError that names the row."""
    layout = task.made_layout()
    for index, (where, row) in enumerate(rows):
        asked = layout.read(row, where)
        answers = tuple(dict.fromkeys(_answer(task, layout.answer, value, where) for value in asked.answers))
        if not answers:
            raise DataError(f"{where}: {layout.answer!r} is empty")
        yield Example(
            f"{task.name}/{split}/{index}",
            asked.prompt,
            answers[0],
            answers if len(answers) > 1 else (),
            asked.instruction,
            asked.cue,
            asked.turns,
            every_turn=task.loss_on == "every",
        )


def _answer(task: UserTask, name: str, value: Any, where: str) -> str:
    answer = text({name: value}, name, where)
    if task.labels is not None:
        if answer not in task.labels:
            said = brief(answer)
            raise DataError(f"{where}: {name!r} is {said!r}, which labels does not list; {_some(task.labels)}")
        answer = str(task.labels[answer])
    if not answer.strip():
        raise DataError(f"{where}: {name!r} is empty")
    return answer


def _some(labels: Mapping[str, Any]) -> str:
    return f"it lists {', '.join(labels)}{f'; {QUOTES}' if {'True', 'False'} & labels.keys() else ''}"


def _hash_share(prompt: str) -> float:
    """Hash the prompt to a number in 0..1."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") / 2**64
