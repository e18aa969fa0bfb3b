"""Tasks whose examples a script holds: lists, PyTorch data sets, data sets of the library `datasets`. No torch here."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cl_lightning.common.described import OF_A_SCRIPT, UNRECORDED
from cl_lightning.common.errors import ConfigError, DataError
from cl_lightning.common.expected import expect
from cl_lightning.common.numbers import Finite, Integer
from cl_lightning.data.base import Example
from cl_lightning.data.benchmarks.json_files import kind
from cl_lightning.data.benchmarks.user_tasks import UserTask, UserTasks, examples_of
from cl_lightning.data.files.rows import Row

#: Fields of a pair.
PAIR = ("prompt", "answer")


@dataclass(frozen=True)
class DatasetTask:
    """One task of a script.

    Attributes:
        name: the name used in `data.order`; no spaces or slashes, at most 100 bytes.
        train: rows in anything that has a length and an index, or can be iterated over. A row is a pair (prompt,
            answer), or a mapping of fields. A run folder holds no rows.
        test: the same for the test examples; None: `test_share` of train.
        test_share: share of train held out where `test` is None, between 0 and 1.
        prompt: template with the {field}s of a row.
        answer: name of the field with the answer. A list holds several correct answers; the first is the training
            target.
        metric: key of `cl_lightning.metrics.registry.METRICS`.
        also: further metrics, reported beside the score.
        labels: words for answers, as {0: "negative", 1: "positive"}.
        max_new_tokens: generation budget when scoring, in tokens.
        keep_head: see TaskSpec.
        language: ISO 639-1 code, or "code".
        source: where the data comes from, with its licence.
    """

    name: str
    train: Any = field(metadata=UNRECORDED)
    test: Any = field(default=None, metadata=UNRECORDED)
    test_share: Finite = 0.2
    prompt: str = "{prompt}"
    answer: str = "answer"
    metric: str = "exact_match"
    also: list[str] | None = None
    labels: dict[str, str | bool] | None = None
    max_new_tokens: Integer = 32
    keep_head: Finite = 0.5
    language: str = "en"
    source: str = ""

    def as_user_task(self) -> UserTask:
        """Return the task with the names of its splits in place of their rows."""
        share = self.test_share if self.test is None else None
        return UserTask(
            self.name, self.metric, "train", None if self.test is None else "test", share,
            prompt=self.prompt, answer=self.answer,
            labels=self.labels, max_new_tokens=self.max_new_tokens, keep_head=self.keep_head, language=self.language,
            source=self.source or "own data: a script's", also=self.also,
        )  # fmt: skip


class DatasetTasks(UserTasks):
    """The script's own tasks, in the order given; for `cl_lightning.ContinualTrainer`.

    Args:
        tasks: the tasks; see DatasetTask.
    """

    def __init__(self, tasks: list[DatasetTask]) -> None:
        expect("tasks", tasks, list, "a list: DatasetTasks([DatasetTask(..), ..])")
        for task in tasks:
            expect("tasks", task, DatasetTask, "a list of DatasetTask(name, train, ..)")
        super().__init__([task.as_user_task() for task in tasks])
        self._splits = {
            (task.name, split): list(rows) if isinstance(rows, Iterator) else rows  # which are read again
            for task in tasks
            for split, rows in (("train", task.train), ("test", task.test))
        }

    def places(self, root: Path | None, name: str) -> Sequence[Path]:
        """Return none: the rows are in memory."""
        return ()

    def _examples(self, root: Path | None, task: UserTask, what: str, split: str) -> Sequence[Example]:
        return tuple(examples_of(task, self._rows(task, what), split))

    def _rows(self, task: UserTask, what: str) -> Iterator[Row]:
        data = self._splits[task.name, what]
        where = f"{task.name}, {what}"
        if isinstance(data, str) and data == OF_A_SCRIPT:
            raise ConfigError(
                f"{where}: the rows are those of a script (cl_lightning.ContinualTrainer), and no file holds them; "
                "do this in the script"
            )
        if hasattr(data, "to_dict") and hasattr(data, "columns"):  # of pandas
            raise DataError(f"{where}: is a {type(data).__name__}, expected rows: give its .to_dict('records')")
        if isinstance(data, str | bytes | Mapping) or not (_is_indexed(data) or isinstance(data, Iterable)):
            raise DataError(f"{where}: is {kind(data)}, expected rows: a list, or a data set of one split")
        rows = (data[index] for index in range(len(data))) if _is_indexed(data) else iter(data)
        index = -1
        for index, row in enumerate(rows):
            yield f"{where}, row {index}", _fields(row, f"{where}, row {index}")
        if index < 0:
            raise DataError(f"{where}: holds no row")


def _is_indexed(data: Any) -> bool:
    """Return whether rows are found by number: a map-style data set of PyTorch need not end when it is iterated."""
    return hasattr(data, "__len__") and hasattr(data, "__getitem__")


def _fields(row: Any, where: str) -> dict[str, Any]:
    if isinstance(row, Mapping):
        return {str(name): _plain(value) for name, value in row.items()}
    if isinstance(row, list | tuple) and len(row) == len(PAIR):
        return dict(zip(PAIR, map(_plain, row), strict=True))
    raise DataError(f"{where}: is {kind(row)}, expected a pair (prompt, answer) or a mapping of fields")


def _plain(value: Any) -> Any:
    """Return a number of numpy or torch as one of Python."""
    return value.item() if getattr(value, "shape", None) == () else value
