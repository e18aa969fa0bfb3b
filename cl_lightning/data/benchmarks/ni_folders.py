"""Base class of benchmarks with one folder per task, in Super-NaturalInstructions' layout."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from cl_lightning.data.base import Example, Splits
from cl_lightning.data.benchmarks.file_benchmark import FileBenchmark
from cl_lightning.data.benchmarks.ni_files import find_folder, read_task


class NIFolders(FileBenchmark):
    """Tasks as folders of {"Definition": [..], "Instances": [{"input": .., "output": ..}, ..]} files.

    Attributes:
        cue: text after the input in every prompt.
        needs_definition: whether a file without an instruction is an error.
    """

    cue: ClassVar[str]
    needs_definition: ClassVar[bool] = True

    @abstractmethod
    def bases(self, root: Path) -> Sequence[Path]:
        """List the folders that may hold the tasks' folders, in order of preference."""

    @abstractmethod
    def before_input(self, definition: str) -> str:
        """Return the text before the input in a prompt."""

    def places_at(self, root: Path, name: str) -> Sequence[Path]:
        """List the folders that may hold the task."""
        return [base / name for base in self.bases(root)]

    def load_at(self, root: Path, name: str) -> Splits:
        """Read train.json and test.json. `dev.json` is not used, because the published ones equal test."""
        folder = find_folder(name, self.places_at(root, name))
        (train, blank), (test, _) = (self._examples(folder, name, split) for split in ("train", "test"))
        return Splits(train, test, blank)

    def development_at(self, root: Path, name: str) -> tuple[Example, ...]:
        """Read dev.json."""
        return self._examples(find_folder(name, self.places_at(root, name)), name, "dev")[0]

    def _examples(self, folder: Path, name: str, split: str) -> tuple[tuple[Example, ...], int]:
        """Read a split's examples, and count those left out."""
        file = read_task(folder / f"{split}.json", split == "train", self.needs_definition)
        # Concatenated rather than formatted, because definitions and inputs contain braces.
        before = self.before_input(file.definition)
        examples = tuple(
            Example(
                f"{name}/{split}/{i.index}",
                f"{before}{i.input}{self.cue}",
                i.answers[0],
                i.references,
                instruction=len(before),
                cue=len(self.cue),
            )
            for i in file.instances
        )
        return examples, file.blank
