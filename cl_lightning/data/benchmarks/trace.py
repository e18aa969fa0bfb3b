"""TRACE: eight tasks that differ in language, skill and answer form, read from the user's own copy.

The benchmark is Wang et al. 2023, arXiv:2310.06762. Nothing of it is shipped with this package: several
parts are non-commercial or state no licence (see `TaskSpec.source` of each task). The reader knows only
the layout, so a folder of the user's own tasks in the same layout loads in the same way. No torch here.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from cl_lightning.common.errors import DataError, nearest
from cl_lightning.data.base import Example, Splits, TaskSpec
from cl_lightning.data.benchmarks.file_benchmark import FileBenchmark
from cl_lightning.data.benchmarks.json_files import kind, read_json, records_in, text_of
from cl_lightning.data.prompt_parts import mark_parts

Order = Literal["order1", "order2", "slice6"]

PREFIX = "LLM-CL-Benchmark_"  # the folder name the TRACE authors ship, followed by the size of its train sets


#: The sizes in the names of the authors' folders: examples in each train file there. Copies that lie elsewhere count as
#: the largest.
SUBSETS = (500, 1000, 5000)

#: Examples in the authors' test files of sizes 1000 and 5000.
TEST_SIZES: dict[str, int] = {
    "C-STANCE": 2000, "FOMC": 496, "MeetingBank": 692, "Py150": 2000, "ScienceQA": 2000, "NumGLUE-cm": 81,
    "NumGLUE-ds": 325, "20Minuten": 200,
}  # fmt: skip


def published_sizes(name: str, subset: int) -> tuple[int | None, int | None]:
    """Examples in the authors' train and test file of a task; None for a size that they do not have."""
    if subset not in SUBSETS:
        return None, None
    # The tests of 500 hold 100 where there are so many.
    return subset, min(100, TEST_SIZES[name]) if subset == min(SUBSETS) else TEST_SIZES[name]


#: What the authors' evaluator reports beside the score, under our names.
ALSO: dict[str, tuple[str, ...]] = {
    "MeetingBank": ("bleu",),
    "ScienceQA": ("rationale_rouge_l", "rationale_bleu"),
    "20Minuten": ("bleu", "rouge_l"),
}


def _spec(name: str, metric: str, max_new_tokens: int, language: str, terms: str, keep_head: float = 0.5) -> TaskSpec:
    sizes, also = published_sizes(name, max(SUBSETS)), ALSO.get(name, ())
    return TaskSpec(name, metric, max_new_tokens, keep_head, language, f"TRACE {name}: {terms}", sizes, also)


TASKS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        _spec("C-STANCE", "accuracy", 4, "zh", "no licence stated, research"),
        _spec("FOMC", "accuracy", 4, "en", "CC BY-NC 4.0"),
        _spec("MeetingBank", "rouge_l", 128, "en", "CC BY-NC-SA 4.0"),
        # Code is continued where it ends, so a cut keeps only the end of the prompt.
        _spec("Py150", "edit_similarity", 48, "code", "research, code under many licences", keep_head=0.0),
        # Scored by the first letter; the budget leaves room for the opening of the rationale.
        _spec("ScienceQA", "first_letter", 64, "en", "CC BY-NC-SA 4.0"),
        _spec("NumGLUE-cm", "accuracy", 8, "en", "MIT"),
        _spec("NumGLUE-ds", "accuracy", 8, "en", "MIT"),
        _spec("20Minuten", "sari", 128, "de", "no licence stated, research, news text"),
    )
}

ORDERS: dict[str, tuple[str, ...]] = {
    "order1": tuple(TASKS),
    "order2": (
        "NumGLUE-cm", "NumGLUE-ds", "FOMC", "20Minuten", "C-STANCE", "Py150", "MeetingBank", "ScienceQA",
    ),
    "slice6": tuple(TASKS)[:6],
}  # fmt: skip
"""The two published task orders, and the six tasks that SLICE runs (on a split of their train files, scored by exact
match and ROUGE-L; here each has its own test split and metric)."""

EPOCHS: dict[str, int] = dict(zip(TASKS, (5, 3, 7, 5, 3, 5, 5, 7), strict=True))
"""Passes over each task's train set in the TRACE authors' own LoRA runs, by task name (order-independent)."""

#: Passes over each task's train set in SLICE's runs, its six tasks of TRACE like all others.
SLICE_EPOCHS = 3


#: Folders of the authors' that are no tasks: Lima is for replay, and the answers of its test file are empty.
NO_TASKS = ("Lima",)


def load(root: Path, name: str, subset: int | None = None) -> Splits:
    """Read one task; `eval.json` is ignored, since in TRACE it may repeat the test set.

    Looks for `<root>/trace/<name>`, then `<root>/<name>`, then the authors' `<root>/LLM-CL-Benchmark_<size>/<name>`.
    `root` may itself be one of the authors' folders.

    Args:
        root: folder that holds the tasks.
        name: folder of the task; any name, TRACE's or the user's own.
        subset: size in the authors' folder name (5000, 1000, 500); None takes the plain layout if the task
            is there, else the largest subset that has it.

    Raises:
        DataError: no such folder or file, malformed JSON, a record without usable prompt or answer,
            an empty split; one line that names the place.
    """
    folder = _find(Path(root), name, subset)
    splits = Splits(
        train=tuple(_examples(folder / "train.json", f"{name}/train")),
        test=tuple(_examples(folder / "test.json", f"{name}/test")),
    )
    return mark_parts(splits)


def _find(root: Path, name: str, subset: int | None) -> Path:
    if not root.is_dir():
        raise DataError(f"data root {root} is not a folder")
    places = _places(root, name, subset)
    for place in places:
        if place.is_dir():
            return place
    tried = ", ".join(str(place) for place in dict.fromkeys(places))
    present = {path.parent.name for place in places for path in place.parent.glob("*/train.json")}
    hint = nearest(name, present) if present else "no task folder there"
    raise DataError(f"task {name!r} not found: looked for {tried}; {hint}")


def _places(root: Path, name: str, subset: int | None) -> list[Path]:
    """Where the task may lie, best first."""
    sizes = _subsets(root)
    if subset is None:
        return [base / name for base in (root / "trace", root, *(sizes[size] for size in sorted(sizes, reverse=True)))]
    if subset not in sizes:
        there = ", ".join(map(str, sorted(sizes))) or "none"
        raise DataError(f"no folder {PREFIX}{subset} in {root}; sizes there: {there}")
    return [sizes[subset] / name]


def _subsets(root: Path) -> dict[int, Path]:
    """The authors' folders by size: those inside `root`, and `root` if it is one of them."""
    named = ((path.name.removeprefix(PREFIX), path) for path in (root.resolve(), *root.glob(f"{PREFIX}*")))
    return {int(size): path for size, path in named if size.isdecimal() and path.name != size}


def subset_of(folder: Path) -> int | None:
    """The size in the name of the authors' folder that holds a task's `folder`; None where another one does."""
    name = Path(os.path.realpath(folder)).parent.name  # a link to itself is no error here, it is when read
    size = name.removeprefix(PREFIX)
    return int(size) if size.isdecimal() and size != name else None


def _examples(path: Path, prefix: str) -> Iterator[Example]:
    for index, record in enumerate(records_in(read_json(path), path)):
        where = f"{path}: record {index + 1}"
        if not isinstance(record, dict):
            raise DataError(f"{where} is {kind(record)}, expected an object with prompt and answer")
        yield Example(f"{prefix}/{index}", text_of(record, "prompt", where), text_of(record, "answer", where))


class TRACE(FileBenchmark):
    """TRACE from files, or the built-in sample in its formats where there is no root.

    Args:
        subset: which LLM-CL-Benchmark_<size> folder to read (the authors have 500, 1000 and 5000), see `load`.
        order: which of `ORDERS` `data.order=null` stands for; null: every task that is there.
    """

    title = "TRACE"
    evaluator = "trace"
    official_also = {
        "bleu": ("bleu_1_trace", "bleu_4_trace"),
        "rouge_l": ("rouge_l_trace",),
        "rationale_bleu": ("rationale_bleu_1_trace", "rationale_bleu_4_trace"),
        "rationale_rouge_l": ("rationale_rouge_l_trace",),
    }
    official_max_new_tokens = 512

    def __init__(self, subset: int | None = None, order: Order | None = None) -> None:
        self.subset, self.order = subset, order

    def tasks_at(self, root: Path) -> Mapping[str, TaskSpec]:
        """The eight tasks, then any other task folder there (ROUGE-L)."""
        others = {p.parent.name for base in (root / "trace", root) for p in base.glob("*/train.json")}
        others -= {*TASKS, *NO_TASKS}
        found = {name: TaskSpec(name, "rouge_l", 64, source=f"found in {root.name}") for name in sorted(others)}
        return {**{name: replace(spec, published=self._sizes(root, name)) for name, spec in TASKS.items()}, **found}

    def _sizes(self, root: Path, name: str) -> tuple[int | None, int | None]:
        if self.subset is not None:
            return published_sizes(name, self.subset)
        there = [subset_of(place) for place in self.places_at(root, name) if place.is_dir()]
        return published_sizes(name, there[0] if there and there[0] is not None else max(SUBSETS))

    def order_at(self, root: Path) -> list[str]:
        """The chosen order."""
        return list(self.tasks_at(root)) if self.order is None else list(ORDERS[self.order])

    def sample_order(self) -> list[str]:
        """The chosen order: the sample has the same task names."""
        return super().sample_order() if self.order is None else list(ORDERS[self.order])

    def load_at(self, root: Path, name: str) -> Splits:
        """See the module's `load`."""
        return load(root, name, self.subset)

    def places_at(self, root: Path, name: str) -> Sequence[Path]:
        """The task's folder."""
        return _places(root, name, self.subset)

    def development_at(self, root: Path, name: str) -> tuple[Example, ...]:
        """eval.json; FOMC's equals test.json."""
        return tuple(_examples(_find(root, name, self.subset) / "eval.json", f"{name}/eval"))

    def published_epochs(self) -> Mapping[str, int]:
        """TRACE's own for LoRA; with order slice6 SLICE's for its six tasks."""
        return dict.fromkeys(ORDERS["slice6"], SLICE_EPOCHS) if self.order == "slice6" else EPOCHS

    def describe_at(self, root: Path) -> str:
        """Which files these are."""
        return "TRACE files" if self.subset is None else f"TRACE files, subset {self.subset}"
