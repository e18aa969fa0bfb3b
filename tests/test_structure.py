"""The house: imports point one way, pages stay thin, packages are lazy, the ten public names exist."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cl_lightning
from tests.conftest import ROOT

#: Who may import whom; the longest matching prefix decides.
GROUND = {"cl_lightning.common.errors", "cl_lightning.common.lazy", "cl_lightning.sequence.folder", "cl_lightning.common.seeding",
          "cl_lightning.common.distributed", "cl_lightning.common.memory", "cl_lightning.model.names",
          "cl_lightning.common.yaml_files", "cl_lightning.common.paths", "cl_lightning.sequence.run_files",
          "cl_lightning.common.terminal"}  # fmt: skip
MATHEMATICS = {"cl_lightning.gradients", "cl_lightning.surgery", "cl_lightning.initializers",
               "cl_lightning.linalg.subspaces", "cl_lightning.metrics.matrix"}  # fmt: skip
ALLOWED = {
    "cl_lightning.metrics.matrix": set(),
    "cl_lightning.linalg.subspaces": set(),
    "cl_lightning.linalg.low_rank": set(),
    "cl_lightning.surgery": GROUND | {"cl_lightning.linalg.low_rank", "cl_lightning.initializers.directions"},
    "cl_lightning.gradients": GROUND | {"cl_lightning.surgery"},
    "cl_lightning.initializers": GROUND | MATHEMATICS,
    "cl_lightning.adapters": GROUND | MATHEMATICS,
    "cl_lightning.data": GROUND,
    "cl_lightning.model.prefix_cache": GROUND | {"cl_lightning.data"},
    "cl_lightning.evaluation": GROUND | {"cl_lightning.data", "cl_lightning.model.prefix_cache"},
    "cl_lightning.model.module": GROUND
    | MATHEMATICS
    | {"cl_lightning.adapters", "cl_lightning.data", "cl_lightning.model.backbone", "cl_lightning.model.prefix_cache"},
    "cl_lightning.sequence.callback": GROUND,
    "callbacks": GROUND
    | MATHEMATICS
    | {"cl_lightning.sequence.callback", "cl_lightning.data", "cl_lightning.adapters", "cl_lightning.evaluation"},
}


def sources() -> Iterator[tuple[str, Path]]:
    for package in ("cl_lightning", "callbacks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(p for p in parts if p != "__init__"), path


def runtime_imports(path: Path) -> Iterator[str]:
    """Our own modules that a file imports, those under TYPE_CHECKING apart."""
    tree = ast.parse(path.read_text())
    typing_only = {
        node for block in ast.walk(tree) if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }  # fmt: skip
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{a.name}" for a in node.names]
        else:
            continue
        yield from (n for n in names if n.split(".")[0] in ("cl_lightning", "callbacks", "experiments", "tests"))


def under(name: str, prefixes: set[str]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in prefixes)


@pytest.mark.parametrize(("module", "path"), list(sources()), ids=lambda v: v if isinstance(v, str) else "")
def test_imports_point_one_way(module: str, path: Path) -> None:
    floor = max((p for p in ALLOWED if under(module, {p})), key=len, default=None)
    for name in runtime_imports(path):
        assert not under(name, {"experiments", "tests"})
        if module != "cl_lightning.commands.run":
            assert not under(name, {"callbacks"}) or under(module, {"callbacks"}), f"{module} imports {name}"
        if floor is not None:
            assert under(name, ALLOWED[floor] | {floor}), f"{module} imports {name}"


def test_files_stay_small() -> None:
    lengths = sorted(len(path.read_text().splitlines()) for _, path in sources())
    assert lengths[len(lengths) // 2] <= 180
    assert lengths[-1] <= 400


def test_names_and_reports_need_no_torch() -> None:
    code = (
        "import sys, callbacks, cl_lightning, cl_lightning.adapters, cl_lightning.initializers, cl_lightning.gradients,"
        "cl_lightning.surgery,"
        "cl_lightning.data, cl_lightning.data.benchmarks.trace, cl_lightning.results.report, cl_lightning.commands.precheck, cl_lightning.sequence.folder;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_public_names() -> None:
    assert len(cl_lightning.__all__) == 10
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
