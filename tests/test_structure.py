"""The house: imports point one way, pages stay thin, packages are lazy, the public names exist."""

import ast
import configparser
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cl_lightning
from tests.conftest import ROOT

#: Rooms from the ground up: each imports only from those before it, and from itself.
ROOMS = (
    "common", "linalg", "metrics", "gradients", "surgery", "initializers", "adapters", "data", "model", "evaluation",
    "sequence", "callbacks", "planning", "results", "study", "mining", "export", "commands", "__main__",
)  # fmt: skip


def sources() -> Iterator[tuple[str, Path]]:
    for package in ("cl_lightning", "callbacks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(p for p in parts if p != "__init__"), path


MODULES = dict(sources())


def room(module: str) -> str:
    """The top-level package `callbacks` is a room; the others are folders of `cl_lightning`."""
    return "callbacks" if module.split(".")[0] == "callbacks" else module.split(".")[1]


def imports(path: Path) -> Iterator[str]:
    """Our own modules that a file imports anywhere: at its top, in a function, for type checking."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{a.name}" for a in node.names]
        else:
            continue
        for name in (n for n in names if n.split(".")[0] in ("cl_lightning", "callbacks", "experiments", "tests")):
            yield name if name in MODULES else name.rpartition(".")[0] if isinstance(node, ast.ImportFrom) else name


@pytest.mark.parametrize(("module", "path"), list(MODULES.items()), ids=lambda v: v if isinstance(v, str) else "")
def test_imports_point_one_way(module: str, path: Path) -> None:
    if module == "cl_lightning":
        assert set(imports(path)) == {"cl_lightning.common.lazy"}
        return
    for name in imports(path):
        assert name in MODULES, f"{module} imports {name}"
        if name != "cl_lightning":
            assert ROOMS.index(room(name)) <= ROOMS.index(room(module)), f"{module} imports {name}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    waiting = {module: {name for name in imports(path) if name != module} for module, path in MODULES.items()}
    while free := [module for module, names in waiting.items() if not names & waiting.keys()]:
        for module in free:
            del waiting[module]
    assert not waiting


def test_every_folder_of_the_package_is_a_room_and_is_installed() -> None:
    folders = {p.name for p in (ROOT / "cl_lightning").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders == set(ROOMS) - {"callbacks", "__main__"}
    loose = {p.name for p in (ROOT / "cl_lightning").iterdir() if p.is_file()}
    assert loose == {"__init__.py", "__main__.py", "py.typed"}
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packages = {str(p.parent.relative_to(ROOT)).replace("/", ".") for p in (ROOT / "cl_lightning").rglob("__init__.py")}
    inside = {"cl_lightning.callbacks", "cl_lightning.experiments"}
    assert set(setup["options"]["packages"].split()) == packages | inside


def test_files_stay_small() -> None:
    lengths = sorted(len(path.read_text().splitlines()) for _, path in sources())
    assert lengths[len(lengths) // 2] <= 180
    assert lengths[-1] <= 400
    assert max(len(path.read_text().splitlines()) for path in (ROOT / "tests").rglob("*.py")) <= 400


def test_names_and_reports_need_no_torch() -> None:
    code = (
        "import sys, callbacks, cl_lightning.__main__, cl_lightning.adapters, cl_lightning.initializers,"
        "cl_lightning.gradients, cl_lightning.surgery, cl_lightning.data, cl_lightning.data.benchmarks.trace,"
        "cl_lightning.results.report, cl_lightning.commands.precheck, cl_lightning.sequence.folder;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_public_names() -> None:
    assert len(cl_lightning.__all__) == 19
    for name in cl_lightning.__all__:
        assert getattr(cl_lightning, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = cl_lightning.nothing


def test_every_public_thing_is_documented() -> None:
    for module, path in sources():
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), module
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node) or node.name == "main", f"{module}.{node.name}"
