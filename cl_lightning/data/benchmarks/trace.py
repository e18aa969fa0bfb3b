"""TRACE: eight tasks that differ in language, skill and answer form, read from the user's own copy.

The benchmark is Wang et al. 2023, arXiv:2310.06762. None of it is shipped with this package, because several parts are
non-commercial or state no licence (see `TaskSpec.source` of each task). The reader depends only on the layout, so the
user's own tasks in the same layout load in the same way. Imports no torch.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from cl_lightning.common.errors import DataError, nearest
from cl_lightning.common.numbers import Integer
from cl_lightning.data.base import Example, Splits, TaskSpec
from cl_lightning.data.benchmarks.file_benchmark import FileBenchmark
from cl_lightning.data.benchmarks.json_files import kind, read_json, records_in, text_of
from cl_lightning.data.prompt_parts import mark_parts

Order = Literal["order1", "order2", "slice6"]

PREFIX = "LLM-CL-Benchmark_"  # the folder name the TRACE authors ship, followed by the size of its train sets


#: Sizes in the names of the authors' folders: examples per train file. Copies in other folders count as the largest.
SUBSETS = (500, 1000, 5000)

#: Numbers of examples in the authors' test files of sizes 1000 and 5000.
TEST_SIZES: dict[str, int] = {
    "C-STANCE": 2000, "FOMC": 496, "MeetingBank": 692, "Py150": 2000, "ScienceQA": 2000, "NumGLUE-cm": 81,
    "NumGLUE-ds": 325, "20Minuten": 200,
}  # fmt: skip


def published_sizes(name: str, subset: int) -> tuple[int | None, int | None]:
    """Return the numbers of examples in the authors' train and test files of a task; None for an unknown size."""
    if subset not in SUBSETS:
        return None, None
    # The test files of size 500 hold at most 100.
    return subset, min(100, TEST_SIZES[name]) if subset == min(SUBSETS) else TEST_SIZES[name]


#: Further metrics that the authors' evaluator reports, under our names.
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

#: Passes over each task's train set in SLICE's runs.
SLICE_EPOCHS = 3


#: Folders of the authors that are not tasks: Lima is for replay, and the answers in its test file are empty.
NO_TASKS = ("Lima",)


def load(root: Path, name: str, subset: int | None = None) -> Splits:
    """Read one task. `eval.json` is ignored, because in TRACE it may repeat the test set.

    Looks for `<root>/trace/<name>`, then `<root>/<name>`, then the authors' `<root>/LLM-CL-Benchmark_<size>/<name>`.
    `root` may itself be one of the authors' folders.

    Args:
        root: folder that holds the tasks.
        name: name of the task's folder, TRACE's or the user's own.
        subset: size in the authors' folder name (5000, 1000, 500); None takes the plain layout if the task
            is there, else the largest subset that has it.

    Raises:
        DataError: no such folder or file, malformed JSON, a record without usable prompt or answer,
            or an empty split; the message names the place.
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
    """List the folders that may hold the task, in order of preference."""
    sizes = _subsets(root)
    if subset is None:
        return [base / name for base in (root / "trace", root, *(sizes[size] for size in sorted(sizes, reverse=True)))]
    if subset not in sizes:
        there = ", ".join(map(str, sorted(sizes))) or "none"
        raise DataError(f"no folder {PREFIX}{subset} in {root}; sizes there: {there}")
    return [sizes[subset] / name]


def _subsets(root: Path) -> dict[int, Path]:
    """Return the authors' folders by size: those inside `root`, and `root` if it is one of them."""
    named = ((path.name.removeprefix(PREFIX), path) for path in (root.resolve(), *root.glob(f"{PREFIX}*")))
    return {int(size): path for size, path in named if size.isdecimal() and path.name != size}


def subset_of(folder: Path) -> int | None:
    """Return the size in the name of the authors' folder that holds a task's `folder`; None for another folder."""
    name = Path(os.path.realpath(folder)).parent.name  # resolve() would fail on a link to itself
    size = name.removeprefix(PREFIX)
    return int(size) if size.isdecimal() and size != name else None


def _examples(path: Path, prefix: str) -> Iterator[Example]:
    for index, record in enumerate(records_in(read_json(path), path)):
        where = f"{path}: record {index + 1}"
        if not isinstance(record, dict):
            raise DataError(f"{where} is {kind(record)}, expected an object with prompt and answer")
        yield Example(f"{prefix}/{index}", text_of(record, "prompt", where), text_of(record, "answer", where))


class TRACE(FileBenchmark):
    """TRACE from files, or the built-in sample in its formats without a root.

    Args:
        subset: size of the LLM-CL-Benchmark_<size> folder to read (the authors have 500, 1000 and 5000), see `load`.
        order: key of `ORDERS`, the order used for `data.order=null`; null: every task that is there.
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

    def __init__(self, subset: Integer | None = None, order: Order | None = None) -> None:
        self.subset, self.order = subset, order

    def tasks_at(self, root: Path) -> Mapping[str, TaskSpec]:
        """Return the eight tasks, then any other task folder there (scored by ROUGE-L)."""
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
        """Return the chosen order."""
        return list(self.tasks_at(root)) if self.order is None else list(ORDERS[self.order])

    def sample_order(self) -> list[str]:
        """Return the chosen order; the sample has the same task names."""
        return super().sample_order() if self.order is None else list(ORDERS[self.order])

    def load_at(self, root: Path, name: str) -> Splits:
        """Read one task with `load`."""
        return load(root, name, self.subset)

    def places_at(self, root: Path, name: str) -> Sequence[Path]:
        """List the folders that may hold the task."""
        return _places(root, name, self.subset)

    def development_at(self, root: Path, name: str) -> tuple[Example, ...]:
        """Read eval.json (FOMC's equals test.json)."""
        return tuple(_examples(_find(root, name, self.subset) / "eval.json", f"{name}/eval"))

    def published_epochs(self) -> Mapping[str, int]:
        """Return TRACE's epochs for LoRA or, with order slice6, SLICE's for its six tasks."""
        return dict.fromkeys(ORDERS["slice6"], SLICE_EPOCHS) if self.order == "slice6" else EPOCHS

    def describe_at(self, root: Path) -> str:
        """Describe the files in a few words."""
        return "TRACE files" if self.subset is None else f"TRACE files, subset {self.subset}"
