"""docs/extending.md: every example is put where the page says, exported by its one line, and held to its contract."""

import re
import sys
from collections.abc import Iterator
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

import pytest

import callbacks
from cl_lightning import adapters, data, initializers, surgery
from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.commands import precheck
from cl_lightning.commands.experiments import expanded
from cl_lightning.commands.parser import make_cli
from cl_lightning.commands.score import listed
from cl_lightning.data.audit.check import in_folders
from cl_lightning.data.base import Benchmark
from cl_lightning.initializers.base import Initializer
from cl_lightning.metrics import registry
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.surgery.base import SurgeryOperator
from tests.conftest import ROOT
from tests.contracts import (
    test_benchmarks,
    test_callbacks,
    test_initializers,
    test_metrics,
    test_operators,
    test_strategies,
)
from tests.contracts.contract import exported

PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
LINES = dict(re.findall(r'Export line[^`]*(?:`[^"`]+`[^"`]*)*`"(\w+)": "([\w.]+)",`', PAGE))
COMMANDS = [line.split() for line in re.findall(r"cl-lightning run ([^`\n]+)", PAGE) if "my_package" not in line]
OWN = [line.split() for line in re.findall(r"cl-lightning run ([^`\n]+)", PAGE) if "my_package" in line]

#: Folder of each kind -> who exports it, what it derives from, its contract.
KINDS: dict[str, tuple[Any, Any, Any]] = {
    "cl_lightning/adapters": (adapters, AdapterStrategy, test_strategies.CONTRACT),
    "cl_lightning/initializers": (initializers, Initializer, test_initializers.CONTRACT),
    "cl_lightning/surgery": (surgery, SurgeryOperator, test_operators.CONTRACT),
    "cl_lightning/data/benchmarks": (data, Benchmark, test_benchmarks.CONTRACT),
    "cl_lightning/metrics": (registry, None, test_metrics.CONTRACT),
    "callbacks": (callbacks, TaskCallback, test_callbacks.CONTRACT),
}


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The examples as a user would add them: files in the packages, and one export line each."""
    clone = tmp_path_factory.mktemp("clone")
    with pytest.MonkeyPatch.context() as patch:
        for path, code in BLOCKS:
            file, folder = clone / path, str(Path(path).parent)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(code)
            package = import_module(folder.replace("/", "."))
            patch.setattr(package, "__path__", [*package.__path__, str(file.parent)])
            name = next(name for name, home in LINES.items() if home.endswith(file.stem))
            patch.setitem(KINDS[folder][0].EXPORTS, name, LINES[name])
        invalidate_caches()
        for name in registry.EXPORTS.keys() - registry.METRICS.keys():
            score = getattr(import_module(f"cl_lightning.metrics.{registry.EXPORTS[name]}"), name)
            patch.setitem(registry.METRICS, name, registry.per_sample(score))
        yield LINES
    # The modules stay imported: jsonargparse keeps their classes, and imports them by name in later tests.


def test_the_page_has_a_whole_example_of_each_kind() -> None:
    assert [str(Path(path).parent) for path, _ in BLOCKS] == [*KINDS]
    assert len(LINES) == len(KINDS) and len(COMMANDS) == len(KINDS) - 1  # metrics go with tasks
    for path, code in BLOCKS:
        assert len(code.splitlines()) <= 60 and not (ROOT / path).exists()


def test_the_suite_finds_each_example_and_it_keeps_the_contract(added: dict[str, str]) -> None:
    for exporter, base, contract in KINDS.values():
        if exporter is registry:
            found = [score for name, score in registry.METRICS.items() if name in added]
        else:
            found = [kind for kind in exported(exporter, base) if kind.__name__ in added]
        assert len(found) == 1
        assert contract.broken(found[0]) == {}
    assert "JsonlFolders" in in_folders() and "\nchrf " in listed()


@pytest.mark.parametrize("argv", COMMANDS, ids=lambda argv: argv[-1])
def test_the_commands_are_accepted(
    argv: list[str], added: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "test"):
        file = tmp_path / "FOLDER" / "greetings" / f"{split}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('{"prompt": "Hello", "answer": "Hi"}\n')
    monkeypatch.chdir(tmp_path)
    options = made_options(argv, monkeypatch)
    cli = make_cli()
    assert any(name in cli.resolved() for name in added), options


def test_classes_of_ones_own_package_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from my_package.frozen_a import FrozenA\nfrom my_package.mgda import MGDA\n"
        "from my_package.branch_norms import BranchNorms\n"
    )
    for path, code in BLOCKS:
        (package / Path(path).name).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    invalidate_caches()
    settings = tmp_path / "own.yaml"
    settings.write_text(re.search(r"```yaml\n(observers:.*?)```", PAGE, re.DOTALL)[1])
    assert len(OWN) == 2
    for argv in OWN:
        made_options([*argv, f"--config={settings}"], monkeypatch)
        resolved = make_cli().resolved()
        assert "my_package.branch_norms.BranchNorms" in resolved or "my_package.BranchNorms" in resolved
        assert argv[-1].rpartition(".")[2] in resolved


def made_options(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The options of `cl-lightning run ARGV`, checked as the command does, in sys.argv."""
    options = expanded(argv)
    precheck.check(options)
    monkeypatch.setattr(sys, "argv", ["cl-lightning", *options])
    return options
