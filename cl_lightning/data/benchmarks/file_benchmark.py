"""Base class of benchmarks read from the user's files, which fall back on the built-in sample without a root."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from cl_lightning.data.base import Benchmark, Example, Splits, TaskSpec
from cl_lightning.data.sample import tasks as sample


class FileBenchmark(Benchmark):
    """A benchmark read from files, or the built-in sample without a data root. Subclasses only read files.

    Attributes:
        title: display name of the data.
    """

    title: ClassVar[str]

    def tasks(self, root: Path | None) -> Mapping[str, TaskSpec]:
        """Return the tasks of the files at `root`; without a root, the sample's."""
        return sample.TASKS if root is None else self.tasks_at(root)

    def default_order(self, root: Path | None) -> list[str]:
        """Return the published order; without a root, the sample's own."""
        return self.sample_order() if root is None else self.order_at(root)

    def load(self, root: Path | None, name: str) -> Splits:
        """Read one task, or generate the sample's.

        Raises:
            DataError: no such folder or file, malformed content, or an empty split; the message names the place.
        """
        return sample.load(name) if root is None else self.load_at(root, name)

    def places(self, root: Path | None, name: str) -> Sequence[Path]:
        """List the paths that may hold the task's data; none for the sample."""
        return () if root is None else self.places_at(root, name)

    def development(self, root: Path | None, name: str) -> tuple[Example, ...]:
        """Read the development split; the sample has none."""
        return () if root is None else self.development_at(root, name)

    def describe(self, root: Path | None) -> str:
        """Describe the files, or state that the data is the sample."""
        return f"built-in sample, NOT {self.title}" if root is None else self.describe_at(root)

    def sample_order(self) -> list[str]:
        """Return the sample's tasks in its order."""
        return list(sample.TASKS)

    @abstractmethod
    def tasks_at(self, root: Path) -> Mapping[str, TaskSpec]:
        """Return the benchmark's tasks, and any others at `root` in its layout."""

    @abstractmethod
    def order_at(self, root: Path) -> list[str]:
        """Return the order used for `data.order=null`."""

    @abstractmethod
    def load_at(self, root: Path, name: str) -> Splits:
        """Read one task. Raises DataError."""

    @abstractmethod
    def places_at(self, root: Path, name: str) -> Sequence[Path]:
        """List the paths that may hold a task's data, in order of preference."""

    def development_at(self, root: Path, name: str) -> tuple[Example, ...]:
        """Read the benchmark's own development split; none by default."""
        return ()

    def describe_at(self, root: Path) -> str:
        """Describe the files in a few words."""
        return f"{self.title} files"
