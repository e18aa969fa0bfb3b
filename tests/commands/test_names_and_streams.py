"""What a shell hands over: names that are no text, and standard streams that are closed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cl_lightning.__main__ import main
from cl_lightning.commands import experiments, precheck
from cl_lightning.commands.execution import _run_dir
from cl_lightning.common.errors import ConfigError
from cl_lightning.sequence.settings import SequenceSettings
from tests.commands.test_user_files import BEGIN
from tests.conftest import ROOT
from tests.runs import put_record

NO_TEXT = "a\udcff"  # as Python reads the bytes a, 255


@pytest.mark.parametrize("option", ["--sequence.experiment=", "--sequence.run_dir=w/", "--config=", "--data.root="])
def test_a_name_that_is_not_text_is_reported_before_anything_is_read(option: str) -> None:
    with pytest.raises(ConfigError, match=r"^the command line: .* is not valid UTF-8; rename it") as error:
        precheck.check([option + NO_TEXT])
    str(error.value).encode()


def test_names_that_come_from_elsewhere_are_reported_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, experiment in (
        (SequenceSettings(run_dir=str(tmp_path / "run")), NO_TEXT),
        (SequenceSettings(), NO_TEXT),
    ):
        with pytest.raises(ConfigError, match=r"^sequence\.experiment: 'a\\udcff' is not valid UTF-8"):
            _run_dir(settings, experiment)
    (tmp_path / NO_TEXT).mkdir()
    monkeypatch.chdir(tmp_path / NO_TEXT)
    for run_dir in (None, "run"):
        with pytest.raises(ConfigError, match=r"^sequence\.run_dir: .* is not valid UTF-8"):
            _run_dir(SequenceSettings(run_dir=run_dir), "x")
    assert _run_dir(SequenceSettings(run_dir=str(tmp_path / "Größe")), "é") == tmp_path / "Größe", "the control"


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_command_without_standard_streams_does_its_work(tmp_path: Path, closed: str) -> None:
    put_record(tmp_path, {**BEGIN, "schema": 4, "files": {}, "large": {}, "writing": []})
    before = (tmp_path / "sequence.json").read_bytes()
    line = f'exec "{sys.executable}" -m cl_lightning report "$0" --tables {closed}'
    done = subprocess.run(["sh", "-c", line, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "sequence.json").read_bytes() == before


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--help", ""),
        ("experiments", ""),
        ("run smoke", "stopped: nothing had started, and what was saved before is kept; run the same command again\n"),
    ],
)
def test_a_command_whose_output_nobody_reads_ends_as_on_a_signal(tmp_path: Path, command: str, message: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    given = [*command.split(), f"--sequence.run_dir={tmp_path / 'run'}"][: 3 if message else -1]
    done = subprocess.run(
        [sys.executable, "-m", "cl_lightning", *given],
        cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, message)


@pytest.mark.long
def test_a_run_whose_reader_leaves_after_a_line_ends_as_on_a_signal(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cl_lightning", "run", "smoke", f"--sequence.run_dir={tmp_path / 'run'}"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "loading PyTorch, Lightning and transformers\n"
    process.stdout.close()
    message = "stopped: none of 2 tasks was finished; run the same command again to begin\n"
    assert (process.stderr.read(), process.wait(60)) == (message, 141)
    process.stderr.close()


def test_another_pipe_that_breaks_is_reported_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(argv: list[str]) -> None:
        raise BrokenPipeError("a worker has gone")

    monkeypatch.setattr(experiments, "main", breaks)
    monkeypatch.setattr(sys, "argv", ["cl-lightning", "experiments"])
    with pytest.raises(BrokenPipeError, match="a worker has gone"):
        main()
