"""What a command imports before it answers, and what it says before that takes long."""

import json
import subprocess
import sys

import pytest

from tests.commands.test_cli import SHORT_NAMES
from tests.conftest import ROOT

#: Answers one command after the other in one process, each with the modules that have been imported by then.
RUN = """
import gc, io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from cl_lightning.__main__ import main
for argv in json.load(sys.stdin):
    sys.argv, out, err = ["cl-lightning", *argv], io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main()
    print(json.dumps([code, out.getvalue(), err.getvalue(), sorted(sys.modules), gc.get_freeze_count()]))
"""
HELP = ["--help"]
#: Classes by their short names, of which none has been imported, and a value that the parser alone reads.
LATE = ["run", "smoke", *SHORT_NAMES, "--boundary.init.initializer.directions=.nan"]
EARLY = [["run", "smoke", option] for option in ("--modle.lr=1", "--model.lrr=1", "--boundary.init.strenght=1")]
#: The parser of a single option checks the value; the constructor's own check, which runs alone, the range.
VALUE, RANGE = ["run", "smoke", "--model.lr=abc"], ["run", "smoke", "--model.adapter.rank=0"]
#: What no refusal needs.
NEVER = {"pandas", "sklearn", "wandb", "plotly", "peft", "bitsandbytes", "mlflow", "scipy.stats", "scipy.spatial"}
HEAVY = {"torch", "lightning", "transformers", "numpy", "matplotlib", "jsonargparse", "scipy"}

Answer = tuple[int, str, str, set[str], int]


@pytest.fixture(scope="module")
def answers() -> list[Answer]:
    """Answers to HELP, EARLY, VALUE, RANGE and LATE: exit code, standard output, standard error, imported
    modules, frozen objects."""
    commands = json.dumps([HELP, *EARLY, VALUE, RANGE, LATE])
    done = subprocess.run([sys.executable, "-c", RUN], input=commands, cwd=ROOT, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 7, done.stderr
    return [(code, out, err, set(modules), frozen) for code, out, err, modules, frozen in lines]


def test_help_and_early_refusals_import_little(answers: list[Answer]) -> None:
    assert [code for code, *_ in answers] == [0, 2, 2, 2, 2, 2, 2]
    for _, out, _, modules, _ in answers[:4]:
        assert not modules & (HEAVY | NEVER) and "loading" not in out
    _, out, err, modules, _ = answers[4]
    assert err == "error: model.lr: expected float, not 'abc'\n"
    assert modules & (HEAVY | NEVER) == {"jsonargparse"} and "loading" not in out
    _, out, err, modules, _ = answers[5]
    assert err == "error: model.adapter.rank: 0 must be 1 or more\n"
    assert modules & (HEAVY | NEVER) == {"jsonargparse"} and "loading" not in out


def test_the_parser_imports_what_options_need(answers: list[Answer]) -> None:
    _, _, err, modules, frozen = answers[6]
    assert err.startswith("error: LoRAGA.directions: expected "), "all classes were found by their short names"
    assert "lightning.pytorch.cli" in modules and not modules & NEVER
    assert frozen > 100 * len(modules), "garbage collections need not scan what is imported"


def test_a_run_says_that_it_loads_before_it_does(answers: list[Answer]) -> None:
    assert answers[6][1] == "loading PyTorch, Lightning and transformers\n"
