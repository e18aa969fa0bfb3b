"""Runs that stop, whose state is damaged or belongs elsewhere: one line, and nothing is lost."""

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cl_lightning.common.errors import UserError
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.folder import RunFolder, read_checked, read_record
from tests.commands.test_bad_input import SMALL, refused
from tests.commands.test_cli import Result, launch, record
from tests.conftest import ROOT

# ---------------------------------------------------------------- stops during training


class Diverges(TaskCallback):
    """Sets an absurd learning rate in one task: its loss is really not finite then. As an observer it is no part
    of the run's identity, so that the same run goes on without it."""

    def __init__(self, task: str) -> None:
        self.task = task

    def on_task_start(self, run: Any, task: int) -> None:
        self.on = run.order[task] == self.task

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.on:
            trainer.optimizers[0].param_groups[0]["lr"] = 1e30


def go_on(run: Path, *options: str) -> Result:
    return launch(*SMALL, f"--sequence.run_dir={run}", *options)


def intact(run: Path) -> bool:
    state = read_record(run)
    return all(read_checked(run, state, name) is not None for name in state["files"])


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run whose second task diverged."""
    run = tmp_path_factory.mktemp("diverged") / "run"
    fault = f"{__name__}.{Diverges.__name__}"
    return run, go_on(run, f"--observers.fault={fault}", "--observers.fault.task=NumGLUE-cm")


@pytest.fixture
def stopped(diverged: tuple[Path, Result], tmp_path: Path) -> Path:
    """A copy of a run with its first task done."""
    return shutil.copytree(diverged[0], tmp_path / "stopped")


@pytest.fixture(scope="module")
def finished(diverged: tuple[Path, Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run gone on to its end. Not to be written to."""
    run = shutil.copytree(diverged[0], tmp_path_factory.mktemp("finished") / "run")
    result = go_on(run)
    assert result.code == 0, result.err
    return run


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "copy")


def test_a_loss_that_is_not_finite_stops_and_keeps_finished_tasks(diverged: tuple[Path, Result]) -> None:
    run, result = diverged
    assert result.code == 1
    expected = (
        r"error: non-finite loss or gradient in task NumGLUE-cm at step 2; finished tasks are kept\. Lower model\.lr, "
        r"or look at the task's data \((not finite|in the batch): NumGLUE-cm/\S+, NumGLUE-cm/\S+"
    )
    assert re.search(expected, result.err.splitlines()[-1])
    assert "Traceback" not in result.err
    assert record(run)["done"] == 1
    assert intact(run)


def test_a_learning_rate_that_diverges_at_once_leaves_no_state(tmp_path: Path) -> None:
    result = go_on(tmp_path / "run", "--model.lr=1e30")
    assert result.code == 1
    assert "in task FOMC at step 2" in result.err.splitlines()[-1]
    assert (record(tmp_path / "run")["done"], record(tmp_path / "run")["R"]) == (0, [])
    result = go_on(tmp_path / "run")
    assert result.code == 2 and "holds a run of another configuration" in result.line, "never emptied unasked"
    assert go_on(tmp_path / "run", "--sequence.fresh=true", "--data.order=[FOMC]").code == 0
    assert intact(tmp_path / "run")


def test_the_same_command_goes_on_after_the_cause_is_gone(finished: Path) -> None:
    state = record(finished)
    assert (state["done"], state["attempts"]) == (2, 2)
    assert intact(finished)


def test_a_full_disk_stops_with_one_line_and_keeps_the_state(stopped: Path, finished: Path) -> None:
    size = (finished / "adapters" / "NumGLUE-cm" / "adapter.safetensors").stat().st_size
    largest = max((stopped / name).stat().st_size for name in ("config.yaml", "sequence.json"))
    assert largest < size - 1
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, before[1]))
    try:
        done = go_on(stopped)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.code == 1, done.err
    last = done.err.splitlines()[-1]
    assert re.search(
        r"^error: .*NumGLUE-cm/adapter\.safetensors: cannot be written \(File too large\); .*RUN_DIR=", last
    )
    assert "Traceback" not in done.err
    assert record(stopped)["done"] == 1
    assert intact(stopped)
    assert go_on(stopped).code == 0
    assert record(stopped)["R"] == record(finished)["R"]


def test_a_log_that_cannot_be_written_is_reported_in_one_line(stopped: Path) -> None:
    shutil.rmtree(stopped / "logs")
    (stopped / "logs").write_text("in the way")
    result = go_on(stopped)
    assert result.code == 1
    assert re.search(r"^error: .*stopped: cannot be written \(", result.err.splitlines()[-1])
    assert "Traceback" not in result.err


@pytest.mark.parametrize("folder", ["{tmp}/file/run", "{tmp}/file", "/proc/run"])
def test_a_run_folder_that_cannot_be_written(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("")
    result = go_on(Path(folder.format(tmp=tmp_path)))
    assert result.code == 2
    assert re.search(r"cannot be written \(.*choose another folder with RUN_DIR=", result.line)
    assert (tmp_path / "file").read_text() == ""


# ---------------------------------------------------------------- damaged and foreign state


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"schema": 4, "done"', "damaged; restore it, or move the folder away and run again"),
        ('[1, "schema"]', "damaged; restore it"),
        ("\x00\x01", "damaged; restore it"),
        ('{"schema": 4, "identity": "x"}', r"damaged \(no order, columns, protocol, done, R,"),
        ('{"schema": 1}', "has schema 1, this version of the code reads schema 4"),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "sequence.json").write_text(content)
    for act in (lambda: read_record(tmp_path), lambda: RunFolder(tmp_path).open("x", fresh=False, begin={})):
        with pytest.raises(UserError, match=rf"sequence\.json: {expected}") as caught:
            act()
        assert caught.value.exit_code == 2


def test_a_run_with_a_damaged_record_is_not_touched(stopped: Path) -> None:
    file = stopped / "sequence.json"
    file.write_bytes(file.read_bytes()[:-20])
    before = {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()}
    result = go_on(stopped)
    assert result.code == 2
    assert result.line == f"{file}: damaged; restore it, or move the folder away and run again"
    assert {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()} == before


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_a_damaged_adapter_is_named_and_refused(stopped: Path) -> None:
    file = stopped / "adapters" / "FOMC" / "adapter.safetensors"
    flip(file)
    result = go_on(stopped)
    assert result.code == 2
    assert result.line.startswith(f"{file}: damaged (its checksum is not the recorded one)")
    assert record(stopped)["done"] == 1


def test_a_missing_adapter_is_named_and_refused(stopped: Path) -> None:
    file = stopped / "adapters" / "FOMC" / "adapter.safetensors"
    file.unlink()
    result = go_on(stopped)
    assert result.code == 2
    assert result.line.startswith(f"{file}: missing; restore it")


def test_the_folder_of_another_configuration_is_refused_unless_fresh(stopped: Path) -> None:
    before = (stopped / "sequence.json").read_bytes()
    result = go_on(stopped, "--model.lr=2e-3")
    assert result.code == 2
    assert result.line == (
        f"{stopped}: holds a run of another configuration, data or model; "
        "choose another RUN_DIR=, or start over with FRESH=1"
    )
    assert (stopped / "sequence.json").read_bytes() == before
    assert yaml.safe_load((stopped / "config.yaml").read_text())["model"]["lr"] == 1e-3


def test_a_finished_run_asked_for_in_another_way_stays_intact(copy: Path) -> None:
    result = go_on(copy, "--observers.progress=null", "--sequence.log_every_n_steps=7")
    assert result.code == 0
    assert intact(copy)


def test_fresh_starts_over(stopped: Path) -> None:
    begin = {**record(stopped), "identity": "another", "done": 0, "R": [], "attempts": 0}
    folder = RunFolder(stopped)
    folder.open("another", fresh=True, begin=begin)
    folder.close()
    assert {p.name for p in stopped.iterdir()} <= {"sequence.json", ".cl_lightning.lock"}
    assert folder.files == read_record(stopped)["files"] == {}
    assert (read_record(stopped)["identity"], read_record(stopped)["writing"]) == ("another", [])


def test_fresh_does_not_delete_a_run_in_use(stopped: Path) -> None:
    first = RunFolder(stopped)
    first.open(record(stopped)["identity"], fresh=False, begin={})
    with pytest.raises(UserError, match="another process is running this experiment"):
        RunFolder(stopped).open("another", fresh=True, begin={})
    assert intact(stopped)
    first.close()


# ---------------------------------------------------------------- going on from another run


def longer(tmp_path: Path, parent: Path, *options: str) -> str:
    return refused(tmp_path, f"--sequence.continue_from={parent}", "--data.order+=Sentiment", *options)


def test_going_on_from_no_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for parent in (tmp_path / "empty", tmp_path / "nowhere"):
        assert longer(tmp_path, parent) == f"{parent}: is not a run folder (no sequence.json)"


def test_going_on_from_an_unfinished_run(tmp_path: Path, stopped: Path) -> None:
    assert re.search(r"stopped has 1 of 2 tasks done; finish it first$", longer(tmp_path, stopped))


@pytest.mark.parametrize("order", ["[NumGLUE-cm, FOMC, Sentiment]", "[FOMC, NumGLUE-cm]", "[Sentiment]"])
def test_going_on_in_another_order(tmp_path: Path, finished: Path, order: str) -> None:
    output = refused(tmp_path, f"--sequence.continue_from={finished}", f"--data.order={order}")
    assert "data.order must begin with FOMC, NumGLUE-cm and add at least one task (--data.order+=NAME)" in output
    assert output.endswith(f"it is {order[1:-1]}")


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--model.adapter.alpha=3", r"another adapter \(class, rank, alpha, layers or start_from\)$"),
        ("--model.backbone.config={initializer_range: 0.2}", "another base model"),
        ("--data.train_samples=13", "was trained on other data for FOMC"),
    ],
)
def test_going_on_with_something_else(tmp_path: Path, finished: Path, option: str, expected: str) -> None:
    assert re.search(expected, longer(tmp_path, finished, option))


def test_going_on_from_a_damaged_run(tmp_path: Path, copy: Path) -> None:
    flip(copy / "adapters" / "NumGLUE-cm" / "adapter.safetensors")
    assert re.search(r"NumGLUE-cm/adapter\.safetensors: damaged", longer(tmp_path, copy))


# ---------------------------------------------------------------- report and make

REPORT_ALL = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from cl_lightning.__main__ import main
for argv in json.load(sys.stdin):
    sys.argv, out, err = ["cl-lightning", "report", *argv], io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main()
    print(json.dumps([code, out.getvalue(), err.getvalue(), "torch" in sys.modules]))
"""


def test_report_without_torch_names_what_is_wrong(tmp_path: Path, finished: Path, copy: Path) -> None:
    (copy / "sequence.json").write_text("{")
    (tmp_path / "file").write_text("")
    cases: list[tuple[list[str], int, str]] = [
        ([str(finished), "--tables"], 0, ""),
        ([str(copy)], 2, f"error: {copy}/sequence.json: damaged"),
        ([str(tmp_path)], 2, f"error: {tmp_path}: is not a run folder (no sequence.json)"),
        ([str(tmp_path / "file")], 2, f"error: {tmp_path}/file: is not a run folder"),
        ([], 2, "error: cl-lightning report: the following arguments are required: RUN; "),
    ]
    done = subprocess.run(
        [sys.executable, "-c", REPORT_ALL],
        input=json.dumps([argv for argv, _, _ in cases]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(cases), done.stderr
    for (code, out, err, torch_imported), (_, expected, line) in zip(answers, cases, strict=True):
        assert (code, torch_imported) == (expected, False)
        assert err.startswith(line) and len(err.splitlines()) == (expected != 0)
        assert ("sequence metrics" in out) == (expected == 0)
