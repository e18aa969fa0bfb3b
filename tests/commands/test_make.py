"""`make` refuses what it does not know before it sets anything up."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run make in a copy of the checkout that was never set up."""
    for name in ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt", "hashes.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}

    def run(*argv: str) -> subprocess.CompletedProcess:
        return subprocess.run(["make", *argv], cwd=tmp_path, capture_output=True, text=True, timeout=60, env=env)

    return run


@pytest.mark.parametrize("name", ["trace_slise", "", "_base"])
def test_make_refuses_an_unknown_experiment_before_any_set_up(
    make: Callable[..., subprocess.CompletedProcess], tmp_path: Path, name: str
) -> None:
    done = make("run", f"EXP={name}")
    assert done.returncode == 2
    close = r"did you mean trace_slice or trace_\w+ or trace_\w+\? " if name == "trace_slise" else ""
    assert re.search(
        f"^error: unknown experiment EXP='{name}'; {close}make help lists them$", done.stderr, re.MULTILINE
    )
    assert not (tmp_path / ".venv").exists()


def test_make_help_lists_every_experiment(make: Callable[..., subprocess.CompletedProcess]) -> None:
    done = make()
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "ARGS" not in done.stdout.split("Experiments")[1]
    for path in (ROOT / "experiments").glob("[a-z]*.yaml"):
        assert re.search(rf"^  {path.stem} +\S.{{15}}", done.stdout, re.MULTILINE)


ODD = 'it\'s a "héritage" *; $PWD'


@pytest.mark.parametrize(
    ("target", "variable"),
    [
        ("run EXP=smoke", "DATA"),
        ("run EXP=smoke", "RUN_DIR"),
        ("sweep EXP=smoke OVER=model.lr VALUES=1", "DATA"),
        ("study", "DATA"),
        ("mine EXP=smoke", "DATA"),
        ("mine EXP=smoke", "OUT"),
        ("mine", "RUN"),
        ("report", "RUN"),
        ("score", "RUN"),
        ("data", "DATA"),
        ("data-check", "DATA"),
    ],
)
def test_a_folder_reaches_the_program_whatever_its_name(
    make: Callable[..., subprocess.CompletedProcess], target: str, variable: str
) -> None:
    done = make("-n", *target.split(), f"{variable}={ODD.replace('$', '$$')}")
    command = next(line for line in done.stdout.splitlines() if f"-m cl_lightning {target.split()[0]}" in line)
    end = done.stdout[done.stdout.index(command) :]
    assert [word for word in shlex.split(end) if word.rpartition("=")[2] == ODD]


def test_every_target_that_takes_a_folder_is_tried() -> None:
    tried = {
        (mark[0].split()[0], mark[1])
        for mark in test_a_folder_reaches_the_program_whatever_its_name.pytestmark[0].args[1]
    }
    shown = re.findall(r"^([a-z-]+):.*## (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    takes = {(t, v) for t, text in shown for v in re.findall(r"\b(DATA|RUN_DIR|OUT|RUN)=", text)}
    assert tried == takes
