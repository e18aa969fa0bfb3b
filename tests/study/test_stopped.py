"""Ctrl-C ends the study and the cell under way; the same command goes on, and ends with the same rows."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cl_lightning.data.benchmarks.trace import TRACE
from cl_lightning.study.rows import read_rows
from tests.conftest import ROOT


def write_sample(folder: Path) -> None:
    """Write a few of the built-in sample's examples as files of TRACE."""
    for name in ("FOMC", "NumGLUE-cm"):
        splits = TRACE().load(None, name)
        for split, examples in (("train", splits.train[:40]), ("test", splits.test[:8])):
            file = folder / "trace" / name / f"{split}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps([{"prompt": e.prompt, "answer": e.answer} for e in examples]))


def command(definition: Path, folder: Path) -> list[str]:
    files = {"data": folder, "definition": definition, "results": folder / "r.csv", "runs": folder / "runs"}
    options = [f"--{name}={path}" for name, path in files.items()]
    few = ["--sequences", "dev", "--seeds", "1", "--rates", "0.01", "--methods", "plain"]
    return [sys.executable, "-m", "cl_lightning", "study", "run", *options, *few]


@pytest.mark.long
def test_ctrl_c_loses_one_cell_at_most(definition: Path, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        write_sample(folder)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command(definition, stopped), env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(stopped.glob("runs/dev/*/sequence.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=30)
    assert process.returncode == 130
    assert output.strip() == "stopped: finished cells are in the file of results; run the same command again to go on"
    assert read_rows(stopped / "r.csv") == []
    children = subprocess.run(["pgrep", "-f", str(stopped)], capture_output=True, text=True, check=False).stdout
    assert not children, "the cell ended with the study"
    for folder in (stopped, whole):
        subprocess.run(command(definition, folder), env=environment, check=True)
    (again,), (once,) = (read_rows(folder / "r.csv") for folder in (stopped, whole))
    costs = ("seconds", "cpu_seconds", "peak_bytes")
    assert replace(again, **{name: getattr(once, name) for name in costs}) == once
