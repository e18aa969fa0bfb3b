"""What a command imports before it answers, and what it says before that takes long."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

#: Answers one command after the other in one process, each with the modules that have been imported by then.
RUN = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from cl_lightning.__main__ import main
for argv in json.load(sys.stdin):
    sys.argv, out, err = ["cl-lightning", *argv], io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main()
    print(json.dumps([code, out.getvalue(), err.getvalue(), sorted(sys.modules)]))
"""
HELP, EARLY, LATE = ["--help"], ["run", "smoke", "--modle.lr=1"], ["run", "smoke", "--model.adapter.rank=0"]
#: What no refusal needs.
NEVER = {"pandas", "sklearn", "wandb", "plotly", "peft", "bitsandbytes", "mlflow", "scipy.stats", "scipy.spatial"}
HEAVY = {"torch", "lightning", "transformers", "numpy", "matplotlib", "jsonargparse", "scipy"}

Answer = tuple[int, str, str, set[str]]


@pytest.fixture(scope="module")
def answers() -> list[Answer]:
    """Answers to HELP, EARLY and LATE: exit code, standard output, standard error, imported modules."""
    commands = json.dumps([HELP, EARLY, LATE])
    done = subprocess.run([sys.executable, "-c", RUN], input=commands, cwd=ROOT, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 3, done.stderr
    return [(code, out, err, set(modules)) for code, out, err, modules in lines]


def test_help_and_early_refusals_import_little(answers: list[Answer]) -> None:
    for code, (given, out, _, modules) in zip((0, 2), answers[:2], strict=True):
        assert given == code and not modules & (HEAVY | NEVER)
        assert "loading" not in out


def test_the_parser_imports_what_options_need(answers: list[Answer]) -> None:
    code, _, err, modules = answers[2]
    assert code == 2 and err == "error: model.adapter.rank: 0 must be 1 or more\n"
    assert "lightning.pytorch.cli" in modules and not modules & NEVER


def test_a_run_says_that_it_loads_before_it_does(answers: list[Answer]) -> None:
    assert answers[2][1] == "loading PyTorch, Lightning and transformers\n"
