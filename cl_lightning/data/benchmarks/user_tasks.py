"""The user's own tasks: a file or hub data set, a prompt template, an answer field and a metric each. No torch."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from string import Formatter
from typing import Any

from cl_lightning.common.errors import ConfigError, DataError, nearest
from cl_lightning.common.numbers import Finite, Integer
from cl_lightning.data.base import Benchmark, Example, Splits, TaskSpec
from cl_lightning.data.benchmarks.json_files import kind
from cl_lightning.data.benchmarks.tables import Row, hub_rows, read_rows

#: Types of a field that have one obvious text. A datetime is a date, a boolean an int.
WRITTEN = (str, int, float, Decimal, date, time)

#: Advice about words that YAML reads as booleans.
QUOTES = "quote words like yes, no, on, off, true, false in YAML"
#: Most bytes in a task's name: file names, of at most 255 bytes, contain two of them.
LONGEST_NAME = 100


@dataclass(frozen=True)
class UserTask:
    """One task, an item of `data.benchmark.tasks`.

    Attributes:
        name: the name used in `data.order`; no spaces or slashes, at most 100 bytes.
        prompt: template with {field}s, and {{ and }} for braces. A long prompt is truncated in the middle, never in the
            text before the first field or after the last.
        answer: name of the field with the answer. A list holds several correct answers; the first is the training
            target.
        metric: key of `cl_lightning.metrics.registry.METRICS`.
        also: further metrics, reported beside the score.
        train: file (.json, .jsonl, .csv, .tsv, .parquet; relative to `data.root`, else to the current folder), or the
            name of a split of `hub`.
        test: the same for the test examples; null: `test_share` of train.
        test_share: share of train held out instead of `test`, between 0 and 1. The split does not depend on the order
            of rows, and equal prompts are on one side.
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
    prompt: str
    answer: str
    metric: str
    train: str
    test: str | None = None
    test_share: Finite | None = None
    hub: str | None = None
    hub_config: str | None = None
    labels: dict[str, str | bool] | None = None
    max_new_tokens: Integer = 32
    keep_head: Finite = 0.5
    language: str = "en"
    source: str = ""
    also: list[str] | None = None

    def __post_init__(self) -> None:
        if self.labels is not None:  # YAML reads the key of {0: bad} as a number; fields are compared as text
            object.__setattr__(self, "labels", {str(answer): word for answer, word in self.labels.items()})
            for answer, word in self.labels.items():
                if isinstance(word, bool):
                    raise ConfigError(f"{_where(self.name)}.labels: {answer!r} has {word}, which is not text; {QUOTES}")

    def template(self) -> list[tuple[str, str | None]]:
        """Split the prompt into pairs of text and the name of the field after it. Raises ConfigError."""
        try:
            parts = list(Formatter().parse(self.prompt))
        except ValueError as error:
            raise ConfigError(f"{_where(self.name)}.prompt: {error}; write {{{{ and }}}} for braces") from None
        for _, field, form, conversion in parts:
            if field == "" or form or conversion:
                raise ConfigError(f"{_where(self.name)}.prompt: {{{field}}} must be the plain name of a field")
        if not any(field for _, field, _, _ in parts):
            raise ConfigError(f"{_where(self.name)}.prompt: has no {{field}}, so all prompts would be the same")
        return [(text, field) for text, field, _, _ in parts]


def _where(name: str) -> str:
    return f"data.benchmark.tasks, {name!r}"


class UserTasks(Benchmark):
    """The user's own tasks, in the order given.

    Args:
        tasks: the tasks; see UserTask.
    """

    def __init__(self, tasks: list[UserTask]) -> None:
        self.by_name = {task.name: task for task in tasks}
        if not tasks:
            raise ConfigError("data.benchmark.tasks: names no task")
        for task in tasks:
            if not task.name.strip(".") or set(task.name) & {" ", "/", "\\"} or not task.name.isprintable():
                raise ConfigError(f"{_where(task.name)}: a name has no blanks and no slashes, and is not dots alone")
            if len(task.name.encode()) > LONGEST_NAME:
                raise ConfigError(
                    f"{_where(task.name)}: a name has at most {LONGEST_NAME} bytes; files are named by it"
                )
            if [t.name for t in tasks].count(task.name) > 1:
                raise ConfigError(f"{_where(task.name)}: the name appears twice")
            if (task.test is None) == (task.test_share is None):
                raise ConfigError(f"{_where(task.name)}: needs test or test_share, and not both")
            if task.test_share is not None and not 0 < task.test_share < 1:
                raise ConfigError(f"{_where(task.name)}.test_share: {task.test_share} must lie between 0 and 1")
            if task.max_new_tokens < 1:
                raise ConfigError(f"{_where(task.name)}.max_new_tokens: {task.max_new_tokens} must be 1 or more")
            if not 0 <= task.keep_head <= 1:
                raise ConfigError(f"{_where(task.name)}.keep_head: {task.keep_head} must lie in 0..1")
            task.template()

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
            )
            for t in self.by_name.values()
        }

    def load(self, root: Path | None, name: str) -> Splits:
        """Read one task.

        Raises:
            DataError: an unusable file or row; the message names both.
            ConfigError: a library for this kind of data is not installed.
        """
        task = self.by_name[name]
        train = tuple(_examples(task, self._rows(root, task, task.train), "train"))
        if task.test is not None:
            return Splits(train, tuple(_examples(task, self._rows(root, task, task.test), "test")))
        held_out = [_hash_share(e.prompt) < (task.test_share or 0) for e in train]
        splits = Splits(
            tuple(e for e, out in zip(train, held_out, strict=True) if not out),
            tuple(e for e, out in zip(train, held_out, strict=True) if out),
        )
        if not splits.train or not splits.test:
            raise DataError(
                f"{name}: test_share={task.test_share} of {len(train)} rows leaves one side empty; they have "
                f"{len({e.prompt for e in train})} different prompts, and a prompt is never on both sides"
            )
        return splits

    def _rows(self, root: Path | None, task: UserTask, what: str) -> Iterator[Row]:
        return read_rows((root or Path()) / what) if task.hub is None else hub_rows(task.hub, task.hub_config, what)

    def places(self, root: Path | None, name: str) -> Sequence[Path]:
        """Return the train file; none for hub data sets."""
        task = self.by_name[name]
        return () if task.hub is not None else [(root or Path()) / task.train]

    def describe(self, root: Path | None) -> str:
        """Name the tasks."""
        return f"own data ({', '.join(self.by_name)})"


def _examples(task: UserTask, rows: Iterable[Row], split: str) -> Iterator[Example]:
    template = task.template()
    before, after = _fixed_lengths(template)
    for index, (where, row) in enumerate(rows):
        # Concatenated rather than formatted, because fields may contain braces.
        fields = ["" if field is None else _text(row, field, where) for _, field in template]
        if not "".join(fields).strip():
            names = ", ".join(field for _, field in template if field)
            raise DataError(f"{where}: all that the prompt takes from it is blank ({names})")
        prompt = "".join(text + field for (text, _), field in zip(template, fields, strict=True))
        value = _field(row, task.answer, where)
        answers = tuple(dict.fromkeys(_answer(task, v, where) for v in (value if isinstance(value, list) else [value])))
        if not answers:
            raise DataError(f"{where}: {task.answer!r} is empty")
        several = answers if len(answers) > 1 else ()
        yield Example(f"{task.name}/{split}/{index}", prompt, answers[0], several, instruction=before, cue=after)


def _fixed_lengths(template: Sequence[tuple[str, str | None]]) -> tuple[int, int]:
    """Count the characters before the first field and after the last one."""
    texts, fields = zip(*template, strict=True)
    first = next(i for i, field in enumerate(fields) if field is not None)
    last = max(i for i, field in enumerate(fields) if field is not None)
    return sum(map(len, texts[: first + 1])), sum(map(len, texts[last + 1 :]))


def _field(row: Mapping[str, Any], field: str, where: str) -> Any:
    if field not in row:
        raise DataError(f"{where} has no field {field!r}; {nearest(field, map(str, row))}")
    return row[field]


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    value = _field(row, field, where)
    if not isinstance(value, WRITTEN):
        raise DataError(f"{where}: {field!r} is {kind(value)}, expected text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{where}: {field!r} is {value}, expected text or a finite number")
    return str(value)


def _answer(task: UserTask, value: Any, where: str) -> str:
    text = _text({task.answer: value}, task.answer, where)
    if task.labels is not None:
        if text not in task.labels:
            raise DataError(f"{where}: {task.answer!r} is {text!r}, which labels has no word for; {_some(task.labels)}")
        text = str(task.labels[text])
    if not text.strip():
        raise DataError(f"{where}: {task.answer!r} is empty")
    return text


def _some(labels: Mapping[str, Any]) -> str:
    return f"it has {', '.join(labels)}{f'; {QUOTES}' if {'True', 'False'} & labels.keys() else ''}"


def _hash_share(prompt: str) -> float:
    """Hash the prompt to a number in 0..1."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") / 2**64
