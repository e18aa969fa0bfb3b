"""Benchmarks that are read from the user's own files, with the built-in sample in their place where there are none."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from cl_lightning.data.base import Benchmark, Example, Splits, TaskSpec
from cl_lightning.data.sample import tasks as sample


class FileBenchmark(Benchmark):
    """What a benchmark does without a data root is said here, once; subclasses know their files only.

    Attributes:
        title: name of the data, for people.
    """

    title: ClassVar[str]

    def tasks(self, root: Path | None) -> Mapping[str, TaskSpec]:
        """The tasks of the files at `root`; without a root the sample's."""
        return sample.TASKS if root is None else self.tasks_at(root)

    def default_order(self, root: Path | None) -> list[str]:
        """The published order; without a root the sample's own."""
        return self.sample_order() if root is None else self.order_at(root)

    def load(self, root: Path | None, name: str) -> Splits:
        """Read one task, or make the sample's.

        Raises:
            DataError: no such folder or file, malformed content, an empty split; one line that names the place.
        """
        return sample.load(name) if root is None else self.load_at(root, name)

    def places(self, root: Path | None, name: str) -> Sequence[Path]:
        """Where the task's data may lie; nowhere for the sample."""
        return () if root is None else self.places_at(root, name)

    def development(self, root: Path | None, name: str) -> tuple[Example, ...]:
        """The development split of the files; the sample has none."""
        return () if root is None else self.development_at(root, name)

    def describe(self, root: Path | None) -> str:
        """Says plainly when it is the sample."""
        return f"built-in sample, NOT {self.title}" if root is None else self.describe_at(root)

    def sample_order(self) -> list[str]:
        """The sample's tasks, in its order."""
        return list(sample.TASKS)

    @abstractmethod
    def tasks_at(self, root: Path) -> Mapping[str, TaskSpec]:
        """The benchmark's tasks, and what else lies at `root` in its layout."""

    @abstractmethod
    def order_at(self, root: Path) -> list[str]:
        """The order that `data.order=null` stands for."""

    @abstractmethod
    def load_at(self, root: Path, name: str) -> Splits:
        """Read one task. Raises DataError."""

    @abstractmethod
    def places_at(self, root: Path, name: str) -> Sequence[Path]:
        """Where a task's data may lie, best first."""

    def development_at(self, root: Path, name: str) -> tuple[Example, ...]:
        """The benchmark's own development split, none by default."""
        return ()

    def describe_at(self, root: Path) -> str:
        """Which files these are."""
        return f"{self.title} files"
