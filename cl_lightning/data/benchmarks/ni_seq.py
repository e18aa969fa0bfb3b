"""NI-Seq: sequences of five Super-NaturalInstructions tasks, from the user's own copy of the collection.

C (classification), G (generation) and M (mixed) are those of Jiang et al. (ICLR 2025), as SLICE runs them;
`opposite1` to `opposite7` are the most conflicting sets of five that SLICE mined from a pool (2, 3 and 4 are in its
paper). The collection is Wang et al. 2022, arXiv:2204.07705. A task is named by its number; its file is
`<root>/tasks/task<number>_<anything>.json` (the collection's own layout) or the same directly below `<root>`.

The files have no test split. As in SLICE, 200 instances are held out (all but one if there are fewer), the same rows as
there (a shuffle by `datasets` with seed 42, then a split with seed 42). Prompt (definition, blank line, "Input: ..")
and answer (the first output) are SLICE's; scores are the best over all outputs. Imports no torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from cl_lightning.common.errors import DataError
from cl_lightning.data.base import Example, Splits, TaskSpec
from cl_lightning.data.benchmarks import superni
from cl_lightning.data.benchmarks.file_benchmark import FileBenchmark
from cl_lightning.data.benchmarks.ni_files import read_task

Sequences = Literal[
    "C1", "C2", "G1", "G2", "M1", "M2",
    "opposite1", "opposite2", "opposite3", "opposite4", "opposite5", "opposite6", "opposite7",
]  # fmt: skip

HELD_OUT, SEED = 200, 42
MAX_NEW_TOKENS, EPOCHS = 64, 3

NUMBERS: dict[str, tuple[int, ...]] = {
    "C1": (195, 1343, 1310, 1292, 363),
    "C2": (231, 1343, 220, 224, 273),
    "G1": (618, 1290, 589, 511, 1357),
    "G2": (1355, 141, 619, 163, 2),
    "M1": (360, 363, 1290, 339, 1510),
    "M2": (195, 611, 292, 488, 24),
    "opposite1": (141, 1510, 360, 363, 611),
    "opposite2": (88, 90, 1510, 363, 611),
    "opposite3": (88, 1510, 181, 243, 363),
    "opposite4": (88, 1510, 243, 363, 611),
    "opposite5": (88, 141, 181, 243, 363),
    "opposite6": (88, 1429, 181, 243, 363),
    "opposite7": (86, 88, 1510, 181, 243),
}
"""Task numbers of each sequence in the collection, in training order."""

ORDERS: dict[str, tuple[str, ...]] = {
    sequence: tuple(f"task{number:03d}" for number in numbers) for sequence, numbers in NUMBERS.items()
}
"""Task names of each sequence, as `data.order` takes them."""

#: Tasks whose stated licence we know from Super-NI's files; for others see `Splits.licence`.
_SEEN = frozenset(task.partition("_")[0] for task in superni.ORDERS["order1"])


def _spec(name: str) -> TaskSpec:
    licence = superni.LICENCES.get(name, "none stated") if name in _SEEN else "one of their own"
    source = f"Super-NaturalInstructions {name}: collection Apache-2.0, licence of its texts: {licence}"
    return TaskSpec(name, "rouge_l", MAX_NEW_TOKENS, source=source)


class NISeq(FileBenchmark):
    """NI-Seq from files, or the built-in sample without a root.

    Args:
        sequence: key of `NUMBERS`; the sequence used for `data.order=null`.
    """

    title = "NI-Seq"
    evaluator = "slice"
    official_max_new_tokens = MAX_NEW_TOKENS

    def __init__(self, sequence: Sequences = "C1") -> None:
        self.sequence = sequence

    def tasks_at(self, root: Path) -> Mapping[str, TaskSpec]:
        """Return the tasks of the chosen sequence, then those of all others."""
        names = dict.fromkeys([*ORDERS[self.sequence], *(name for names in ORDERS.values() for name in names)])
        return {name: _spec(name) for name in names}

    def order_at(self, root: Path) -> list[str]:
        """Return the chosen sequence."""
        return list(ORDERS[self.sequence])

    def load_at(self, root: Path, name: str) -> Splits:
        """Read one task and hold out its test examples.

        Raises:
            DataError: no such file, or several; malformed JSON; an instance without usable input or output; too few
                instances.
        """
        found = [path for path in self.places_at(root, name) if path.is_file()]
        if len(found) != 1:
            what = "several files" if found else "no file"
            raise DataError(f"{name}: {what} for it: {', '.join(map(str, found or self.places_at(root, name)))}")
        file = read_task(found[0], skip_blank=True)
        before = f"{file.definition}\n\nInput: "
        examples = {
            i.index: Example(
                f"{name}/{i.index}", f"{before}{i.input}", i.answers[0], i.references, instruction=len(before)
            )
            for i in file.instances
        }
        order = shuffled(len(examples) + file.blank)  # SLICE shuffles blank instances, too
        held_out = min(HELD_OUT, len(order) - 1)
        test, train = ([examples[i] for i in part if i in examples] for part in (order[:held_out], order[held_out:]))
        if not train or not test:
            raise DataError(
                f"{found[0]}: has {len(order)} instances, {file.blank} of them without an answer; once {held_out} are "
                f"held out for the test, none is left to {'test' if train else 'train'} on"
            )
        return Splits(tuple(train), tuple(test), file.blank, licence=file.licence)

    def places_at(self, root: Path, name: str) -> Sequence[Path]:
        """List the files of that number; if there are none, the patterns that were searched."""
        patterns = [base / f"{name}_*.json" for base in (root / "tasks", root)]
        found = [path for pattern in patterns for path in sorted(pattern.parent.glob(pattern.name))]
        return found or patterns

    def published_epochs(self) -> Mapping[str, int]:
        """Return SLICE's epochs, the same for all its sequences."""
        return dict.fromkeys((name for names in ORDERS.values() for name in names), EPOCHS)

    def describe_at(self, root: Path) -> str:
        """Describe the files in a few words."""
        return "Natural Instructions files"


def shuffled(count: int) -> list[int]:
    """Return row indices in the order in which SLICE draws them, held-out rows first.

    `datasets` shuffles with numpy's generator and splits by a second permutation from the same seed.
    """
    first, second = (np.random.default_rng(SEED).permutation(count) for _ in range(2))
    return first[second].tolist()
