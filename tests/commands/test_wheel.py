"""An installed wheel runs from any folder, with its own experiments, and never with somebody else's `callbacks`."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which a wheel of this checkout was unpacked, as an installer does."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for folder in ("cl_lightning", "callbacks", "experiments"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source / file)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(site)], cwd=source, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = site.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def command(site: Path, cwd: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """`python -m cl_lightning ARGV` in `cwd`, which Python puts first on its path."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    line = [sys.executable, "-m", "cl_lightning", *argv]
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_the_wheel_holds_the_experiments_and_the_licence(installed: Path) -> None:
    shipped = {p.relative_to(ROOT / "experiments") for p in (ROOT / "experiments").rglob("*.yaml")}
    found = installed / "cl_lightning" / "experiments"
    assert {p.relative_to(found) for p in found.rglob("*.yaml")} == shipped
    others = {p.relative_to(ROOT) for p in (ROOT / "cl_lightning").rglob("*") if p.is_file() and p.suffix[:3] != ".py"}
    assert {Path("cl_lightning/results/page/templates/page.html")} < others
    assert [path for path in others if not (installed / path).exists()] == []
    assert not (installed / "callbacks").exists(), "a name that any other wheel may have"
    (metadata,) = installed.glob("*.dist-info/METADATA")
    assert "License-Expression: Apache-2.0" in metadata.read_text()
    assert (metadata.parent / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_an_experiment_runs_by_name_beside_a_foreign_callbacks_package(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "__init__.py").write_text("raise SystemExit('the foreign callbacks were imported')\n")
    done = command(installed, tmp_path, "run", "smoke", "--print_config")
    assert done.returncode == 0, done.stderr
    assert "SliceInit" in done.stdout
    control = subprocess.run(
        [sys.executable, "-c", "import callbacks"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert "the foreign callbacks were imported" in control.stderr, "without the command Python takes the folder's"


def test_experiments_are_listed_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    done = command(installed, tmp_path, "experiments")
    assert done.returncode == 0, done.stderr
    names = {p.stem for p in (ROOT / "experiments").glob("*.yaml")} - {"_base"}
    assert names <= set(done.stdout.split())
