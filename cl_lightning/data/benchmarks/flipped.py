"""Conflicting twins of a classification task: the same prompts with different answers.

For a task T of any benchmark this adds another task, its twin, over the same prompts. A *label flip* permutes the
labels (a derangement: no label keeps its meaning); a *format flip* writes each label in another way. Without an
instruction, nothing in the prompt distinguishes T from its twin, so no model is right on both. With one, the twin's
prompts begin with a line that says what to answer instead, and a model can learn both. Imports no torch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase
from typing import Literal

from cl_lightning.common.errors import ConfigError, DataError, nearest
from cl_lightning.data.base import Benchmark, Example, Splits, TaskSpec
from cl_lightning.data.benchmarks.trace import TRACE
from cl_lightning.data.labels import answers, are_labels

Kind = Literal["labels", "letters", "numbers", "upper", "lower", "words"]

#: New answers for the sorted labels.
NEW_ANSWERS: dict[str, Callable[[Sequence[str]], Sequence[str]]] = {
    "labels": lambda labels: [*labels[1:], labels[0]],
    "letters": lambda labels: ascii_uppercase[: len(labels)],
    "numbers": lambda labels: [str(i) for i in range(1, len(labels) + 1)],
    "upper": lambda labels: [label.upper() for label in labels],
    "lower": lambda labels: [label.lower() for label in labels],
}

#: Least generation budget of a format flip, in tokens: capitals and words may need more tokens than labels.
ROOM = 16


class Flipped(Benchmark):
    """A benchmark's tasks plus the twin of one of them; `data.order=null` trains that pair.

    The twin is called `<task>-flipped` for a label flip and `<task>-<kind>` for a format flip, with `-instructed`
    appended if its prompts are. Flips nest: `base` may itself be a Flipped. Training prompts that are also test prompts
    (ignoring surrounding whitespace) are left out of both tasks and counted in `Splits.leaked`. Both use exact match,
    since other metrics fold case.

    Args:
        base: the benchmark that has the task.
        task: the classification task.
        kind: "labels": replace each label, in sorted order, by the next one. Otherwise the format of the twin's
            answers: "letters" (A, B, ...), "numbers" (1, 2, ...), "upper", "lower", or "words" of your own.
        instructed: whether the twin's prompts say what to answer instead.
        words: the twin's answer for each label, for kind "words", e.g. {A: dovish, B: hawkish, C: neutral}.
    """

    def __init__(
        self,
        base: Benchmark = TRACE(),  # noqa: B008
        task: str = "FOMC",
        kind: Kind = "labels",
        instructed: bool = False,
        words: dict[str, str] | None = None,
    ) -> None:
        if (kind == "words") != bool(words):
            raise ConfigError("data.benchmark.words: give it together with kind=words, as {label: answer, ...}")
        self.base, self.task, self.kind, self.instructed, self.words = base, task, kind, instructed, words

    @property
    def evaluator(self) -> str | None:
        """TRACE's evaluator over TRACE, else None: other evaluators fold case, on which some pairs depend."""
        return self.base.evaluator if self.base.evaluator == TRACE.evaluator else None

    @property
    def official_also(self) -> Mapping[str, tuple[str, ...]]:
        """The base's, if there is an evaluator."""
        return self.base.official_also if self.evaluator else {}

    @property
    def official_max_new_tokens(self) -> int | None:
        """The base's."""
        return self.base.official_max_new_tokens

    @property
    def twin(self) -> str:
        """The twin's name."""
        suffix = "flipped" if self.kind == "labels" else self.kind
        return f"{self.task}-{suffix}{'-instructed' if self.instructed else ''}"

    def tasks(self, root: Path | None) -> Mapping[str, TaskSpec]:
        """Return the base's tasks, then the twin.

        Raises:
            ConfigError: the base has no such task.
        """
        known = self.base.tasks(root)
        if self.task not in known:
            raise ConfigError(f"data.benchmark.task: unknown task {self.task!r}; {nearest(self.task, known)}")
        original = replace(known[self.task], metric="accuracy")
        longest = max((len(word.encode()) + 1 for word in (self.words or {}).values()), default=0)
        twin = replace(
            original,
            name=self.twin,
            max_new_tokens=max(original.max_new_tokens, 0 if self.kind == "labels" else ROOM, longest),
            source=f"{original.source}; answers changed ({self.kind})",
        )
        return {**known, self.task: original, self.twin: twin}

    def default_order(self, root: Path | None) -> list[str]:
        """Return the task and its twin."""
        return [self.task, self.twin]

    def load(self, root: Path | None, name: str) -> Splits:
        """Read one task; the twin is made from the same two splits as its original.

        Raises:
            DataError: the base's own, or the task is not a classification task.
            ConfigError: the answers cannot be written in this format.
        """
        if name not in (self.task, self.twin):
            return self.base.load(root, name)
        splits, answers = self._pair(root)
        if name == self.task:
            return splits
        train, test = (tuple(self._twins(examples, answers)) for examples in (splits.train, splits.test))
        return replace(splits, train=train, test=test)

    def _pair(self, root: Path | None) -> tuple[Splits, dict[str, str]]:
        """Return the original's splits without leaks, and the twin's answer for each of its labels."""
        splits = self.base.load(root, self.task)
        tested = {e.prompt.strip() for e in splits.test}
        train = tuple(e for e in splits.train if e.prompt.strip() not in tested)
        if not train:
            raise DataError(f"{self.task}: every training prompt is a test prompt too; nothing is left to learn from")
        splits = replace(splits, train=train, leaked=splits.leaked + len(splits.train) - len(train))
        return splits, self._answers(_labels(self.task, splits))

    def places(self, root: Path | None, name: str) -> Sequence[Path]:
        """List the base's paths; the twin has those of its original."""
        return self.base.places(root, self.task if name == self.twin else name)

    def development(self, root: Path | None, name: str) -> tuple[Example, ...]:
        """Read the base's development split; the twin's is made from its original's.

        Raises:
            DataError: the base's own, or an answer that the training examples lack.
        """
        if name != self.twin:
            return self.base.development(root, name)
        dev, (_, answers) = self.base.development(root, self.task), self._pair(root)
        strange = sorted({e.answer.strip() for e in dev} - answers.keys())
        if strange:
            raise DataError(
                f"{self.task}: its development split has answers that train lacks, such as {strange[0][:40]!r}"
            )
        return tuple(self._twins(dev, answers))

    def published_epochs(self) -> Mapping[str, int]:
        """Return the base's epochs; the twin has those of its original."""
        published = self.base.published_epochs()
        return {**published, self.twin: published[self.task]} if self.task in published else published

    def describe(self, root: Path | None) -> str:
        """Describe the base; the tasks' names say what was changed."""
        return self.base.describe(root)

    def _answers(self, labels: list[str]) -> dict[str, str]:
        """Return the twin's answer for each label: all different and, for a format flip, none of them a label."""
        if self.words is not None:
            if self.words.keys() != {*labels}:
                raise ConfigError(
                    f"data.benchmark.words: must name each answer of {self.task} once; they are {', '.join(labels)}"
                )
            new: Sequence[str] = [self.words[label] for label in labels]
        else:
            new = NEW_ANSWERS[self.kind](labels)
        if len({*new}) < len(labels):
            raise ConfigError(
                f"data.benchmark.kind: {self.kind} gives two answers of {self.task} the same text; choose another"
            )
        if self.kind != "labels" and {*new} & {*labels}:
            raise ConfigError(
                f"data.benchmark.kind: {self.kind} changes nothing where answers of {self.task} are {labels[0]!r}, "
                f"{labels[1]!r}; choose another format, or labels"
            )
        return dict(zip(labels, new, strict=True))

    def _twins(self, examples: Sequence[Example], answers: dict[str, str]) -> Iterator[Example]:
        changes = ", ".join(f"{new} instead of {old}" for old, new in answers.items())
        instruction = f"In this task answer {changes}.\n" if self.instructed else ""
        for e in examples:
            yield replace(
                e,
                id=e.id.replace(self.task, self.twin, 1),
                prompt=instruction + e.prompt,
                answer=answers[e.answer.strip()],
                references=(),
                instruction=len(instruction) + e.instruction,
            )


def _labels(task: str, splits: Splits) -> list[str]:
    """Return the closed label set, sorted. Raises DataError if train has no such set or test has other answers."""
    labels = answers(splits.train)
    strange = {e.answer.strip() for e in splits.test} - {*labels}
    if any(len(e.accepted) > 1 for split in (splits.train, splits.test) for e in split):
        reason = "some of its prompts have several right answers"
    elif not are_labels(labels, len(splits.train)):
        reason = f"its {len(splits.train)} training examples have {len(labels)} different answers"
    elif strange:
        reason = f"its test split has answers that train lacks, such as {min(strange)[:40]!r}"
    else:
        return labels
    raise DataError(f"data.benchmark.task: {task} has no closed label set ({reason}); choose a classification task")
