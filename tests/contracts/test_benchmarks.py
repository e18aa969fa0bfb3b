"""The contract of benchmarks, for every one that `cl_lightning.data` exports. No files needed."""

import inspect
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cl_lightning import data
from cl_lightning.common.errors import ConfigError, DataError
from cl_lightning.data import DatasetTasks, UserTasks
from cl_lightning.data.base import Benchmark, Splits, TaskSpec, check_order, digest
from cl_lightning.data.benchmarks.dataset_tasks import DatasetTask
from cl_lightning.data.benchmarks.file_benchmark import FileBenchmark
from cl_lightning.data.benchmarks.trace import TRACE
from cl_lightning.data.benchmarks.user_tasks import UserTask
from cl_lightning.metrics.registry import metric
from tests.contracts import contract
from tests.contracts.contract import Clause, Contract, exported, refuses, require, torch_users

CONTRACT = Contract("benchmark", Benchmark)

#: Words of `describe` without a root.
KINDS = ("built-in sample", "own data", "generated")


@pytest.fixture(scope="module", autouse=True)
def own_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Files and rows for the benchmarks that are nothing without the user's."""
    folder = tmp_path_factory.mktemp("own")
    for split in ("train", "test"):
        rows = [{"q": f"{split} {k}", "a": "yes"} for k in range(3)]
        (folder / f"{split}.json").write_text(json.dumps(rows))
    rows = [(f"prompt {k}", "yes") for k in range(20)]
    given[DatasetTasks] = {"tasks": [DatasetTask("mine", rows)]}
    given[UserTasks] = {
        "tasks": [
            UserTask(
                "mine", "accuracy", *(str(folder / f"{s}.json") for s in ("train", "test")), prompt="{q}?", answer="a"
            )
        ]
    }


#: Values of options that have no default.
given: dict[type, dict[str, Any]] = {}


def made(kind: type[Benchmark]) -> Benchmark:
    return kind(**given.get(kind, {}))


@cache
def loaded(kind: type[Benchmark]) -> dict[str, Splits]:
    """The tasks of the benchmark's own order without a data root."""
    benchmark = made(kind)
    return {name: benchmark.load(None, name) for name in benchmark.default_order(None)}


# --- the clauses ------------------------------------------------------------------------------------------


@CONTRACT.clause
def is_complete(kind: type) -> None:
    """Defines every method of a benchmark."""
    contract.complete(kind, Benchmark)


@CONTRACT.clause
def is_documented(kind: type) -> None:
    """Has a docstring with Args; where the data is from stands in each task's `source`."""
    contract.documented(kind, sourced=False)


@CONTRACT.clause
def checks_options(kind: type) -> None:
    """Has defaults, and refuses a bad option in one line."""
    contract.options_are_checked(kind, given.get(kind))


@CONTRACT.clause
def runs_without_files(kind: type[Benchmark]) -> None:
    """Without a data root there is something to run, and `describe` says in one line what it is."""
    output = made(kind).describe(None)
    kept = isinstance(output, str) and "\n" not in output and any(word in output for word in KINDS)
    require(kept, f"describe(None) says {output!r}, which has none of: {', '.join(KINDS)}")


@CONTRACT.clause
def specifies_its_tasks(kind: type[Benchmark]) -> None:
    """Every task has a known metric, a budget, a source, and its own name."""
    for name, spec in made(kind).tasks(None).items():
        require(isinstance(spec, TaskSpec) and spec.name == name, f"tasks(None)[{name!r}] is {spec!r}")
        for each in (spec.metric, *spec.also):
            try:
                metric(each)
            except ConfigError as error:
                raise AssertionError(f"{name}: {error}") from error
        require(spec.max_new_tokens >= 1, f"{name}: max_new_tokens is {spec.max_new_tokens}")
        require(0 <= spec.keep_head <= 1, f"{name}: keep_head is {spec.keep_head}, not 0..1")
        require(
            bool(spec.source) and "\n" not in spec.source, f"{name}: source is {spec.source!r}; say where from, licence"
        )
        require(not set(name) & {" ", "/", "\\"}, f"{name!r}: files are named by it; no blanks, no slashes")


@CONTRACT.clause
def has_an_order(kind: type[Benchmark]) -> None:
    """The default order names known tasks, each once; passes are published for known tasks only."""
    benchmark = made(kind)
    try:
        check_order(benchmark.default_order(None), benchmark.tasks(None))
    except ConfigError as error:
        raise AssertionError(f"default_order(None): {error}") from error
    for name, count in benchmark.published_epochs().items():
        require(isinstance(count, int) and count >= 1, f"published_epochs() has {name}: {count!r}")


@CONTRACT.clause
def splits_without_overlap(kind: type[Benchmark]) -> None:
    """Each task has training and test examples with ids of their own, prompts apart, and answers."""
    for name, splits in loaded(kind).items():
        require(isinstance(splits, Splits), f"load(None, {name!r}) gives {type(splits).__name__}, not Splits")
        require(bool(splits.train) and bool(splits.test), f"{name}: a split is empty")
        every = (*splits.train, *splits.test)
        require(len({e.id for e in every}) == len(every), f"{name}: ids are not unique over both splits")
        shared = {e.prompt for e in splits.train} & {e.prompt for e in splits.test}
        require(not shared, f"{name}: {len(shared)} prompts are in train and in test")
        for e in every:
            require(bool(e.prompt.strip()) and bool(e.answer.strip()), f"{e.id}: prompt or answer is blank")
            require(e.answer in e.accepted, f"{e.id}: the answer is not among its references")
            require(e.instruction + e.cue <= len(e.prompt), f"{e.id}: instruction and cue are longer than the prompt")


@CONTRACT.clause
def loads_the_same_again(kind: type[Benchmark]) -> None:
    """Another object with the same options loads the same examples in the same order."""
    for name, splits in loaded(kind).items():
        again = made(kind).load(None, name)
        for split in ("train", "test"):
            same = digest(getattr(again, split)) == digest(getattr(splits, split))
            require(same, f"{name}: {split} has other examples the second time; draw from a fixed seed")


@CONTRACT.clause
def looks_for_its_files(kind: type[Benchmark]) -> None:
    """A benchmark of files says where it looks, needs none without a root, and misses them in one line."""
    benchmark, root = made(kind), Path("/nowhere")
    if not isinstance(benchmark, FileBenchmark):
        return
    names = benchmark.default_order(root)
    unknown = [name for name in names if name not in benchmark.tasks(root)]
    require(not unknown, f"default_order(root) names {unknown}, which tasks(root) has not")
    require(
        not any(benchmark.places(None, name) for name in benchmark.default_order(None)), "places(None, ..) has some"
    )
    for name in names or ["no_such_task"]:
        places = benchmark.places(root, name)
        kept = bool(places) and all(isinstance(p, Path) and p.is_relative_to(root) for p in places)
        require(kept, f"places(root, {name!r}) gives {places!r}, not paths below the root")
        refuses(lambda name=name: benchmark.load(root, name), DataError, f"load({name!r}) from a folder without it")


@CONTRACT.clause
def needs_no_torch(kind: type[Benchmark]) -> None:
    """Its file is imported without torch: reports and data checks start at once."""
    file = Path(inspect.getsourcefile(kind))
    require(file not in torch_users(file), "importing its file imports torch; import it in the method that needs it")


# --- what is exported keeps them --------------------------------------------------------------------------

TOGETHER = [clause for clause in CONTRACT.clauses if clause is not needs_no_torch]
KINDS_EXPORTED = exported(data, Benchmark)


@pytest.mark.parametrize("clause", TOGETHER, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("kind", KINDS_EXPORTED, ids=lambda kind: kind.__name__)
def test_every_exported_benchmark_keeps_the_contract(kind: type, clause: Clause) -> None:
    CONTRACT.hold(kind, clause)


def test_no_benchmark_needs_torch() -> None:
    assert torch_users(*(Path(inspect.getsourcefile(kind)) for kind in KINDS_EXPORTED)) == set()


# --- each clause can fail ---------------------------------------------------------------------------------


class Abstract(Benchmark):
    """Leaves methods out."""


class Undescribed(TRACE):
    """Takes a share."""

    def __init__(self, share: bool = True) -> None:
        super().__init__()


class Demanding(TRACE):
    """Takes what nobody gives.

    Args:
        folder: of no data.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()


class Boasts(TRACE):
    """Calls the sample by its own name."""

    def describe(self, root: Path | None) -> str:
        return "TRACE"


class Scores(TRACE):
    """Has a metric that is none."""

    def tasks(self, root: Path | None) -> Mapping[str, TaskSpec]:
        return {"FOMC": TaskSpec("FOMC", "acuracy", 4, source="ours")}


class Misorders(TRACE):
    """Begins with a task of another benchmark."""

    def sample_order(self) -> list[str]:
        return ["yelp", *super().sample_order()]


class Leaks(TRACE):
    """Trains on a test example."""

    def load(self, root: Path | None, name: str) -> Splits:
        splits = super().load(root, name)
        return Splits(splits.train[:2], splits.test[:2] + splits.train[:1])


class Wanders(TRACE):
    """Is in another order every time."""

    turn = 0

    def load(self, root: Path | None, name: str) -> Splits:
        Wanders.turn += 1
        splits = super().load(root, name)
        return Splits(splits.train[Wanders.turn % 7 :], splits.test)


class Hides(TRACE):
    """Says nothing of its files."""

    def places_at(self, root: Path, name: str) -> Sequence[Path]:
        return []


BROKEN: dict[Clause, tuple[Any, str]] = {
    is_complete: (Abstract, "does not define describe, load, tasks"),
    is_documented: (Undescribed, "describes no share"),
    checks_options: (Demanding, "folder has no default"),
    runs_without_files: (Boasts, "describe.None. says 'TRACE', which has none of: built-in sample, own data"),
    specifies_its_tasks: (Scores, "FOMC: unknown metric 'acuracy'; did you mean accuracy"),
    has_an_order: (Misorders, "unknown task 'yelp'"),
    splits_without_overlap: (Leaks, "ids are not unique over both splits"),
    loads_the_same_again: (Wanders, "train has other examples the second time"),
    looks_for_its_files: (Hides, "places.root, 'C-STANCE'. gives .., not paths below the root"),
}


@pytest.mark.parametrize("clause", TOGETHER, ids=lambda clause: clause.__name__)
def test_a_broken_benchmark_is_said_what_is_missing(clause: Clause) -> None:
    broken, what = BROKEN[clause]
    with pytest.raises(AssertionError, match=what) as said:
        CONTRACT.hold(broken, clause)
    assert f"benchmark {broken.__name__} (tests/contracts/test_benchmarks.py) breaks the contract" in str(said.value)
    assert "See Benchmark in cl_lightning/data/base.py" in str(said.value)


def test_a_benchmark_that_imports_torch_is_said_so(tmp_path: Path) -> None:
    file = tmp_path / "heavy.py"
    file.write_text("import sys\n\nsys.modules['torch'] = sys\n")
    assert torch_users(Path(inspect.getsourcefile(TRACE)), file) == {file}
