"""Small runs of the smoke experiment for tests, and what they left in their folders."""

import hashlib
import io
import json
import os
import signal
import subprocess
import time
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file

from cl_lightning.results import report
from cl_lightning.sequence.record_file import CHECKSUM, sealed
from tests.conftest import ROOT
from tests.launch import launched, started

#: Without a report, which only tests of reports look at: drawing it takes longer than most of these runs.
BASE = ["--config", "experiments/_base.yaml", "--config", "experiments/smoke.yaml", "--sequence.report=false"]


def smoke(
    run: Path, *options: str, check: bool = True, ranks: int = 1, strategy: str = "ddp"
) -> subprocess.CompletedProcess[str]:
    """Run the smoke experiment into the folder `run`."""
    done = launched([*BASE, f"--sequence.run_dir={run}", *options], ROOT, ranks, strategy)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def all_tables(run: Path) -> str:
    """What `cl-lightning report RUN --tables` prints, in a wide terminal."""
    shown = io.StringIO()
    with patch.dict(os.environ, COLUMNS="200"), redirect_stdout(shown):
        report.show_all(run)
    return shown.getvalue()


def killed(run: Path, moment: str, *options: str) -> None:
    """Start the smoke experiment and end it by SIGKILL as soon as its folder holds the file `moment`."""
    with TemporaryDirectory() as folder:
        process, *_ = started([*BASE, f"--sequence.run_dir={run}", *options], ROOT, Path(folder))
        deadline = time.monotonic() + 120
        while not (run / moment).exists():
            assert process.exitcode is None and time.monotonic() < deadline, "ended before the moment came"
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL


def record(run: Path) -> dict[str, Any]:
    """The run's record, without its checksum."""
    return {k: v for k, v in json.loads((run / "sequence.json").read_text()).items() if k != CHECKSUM}


def put_record(run: Path, record: dict[str, Any]) -> None:
    """Replace the run's record, with the checksum of what it then holds."""
    (run / "sequence.json").write_bytes(sealed(record))


def put_file(run: Path, name: str, data: bytes) -> None:
    """Put other content into a file of the run, under its right checksum."""
    there = record(run)
    (run / name).write_bytes(data)
    there["files"][name] = hashlib.sha256(data).hexdigest()
    put_record(run, there)


def adapters(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Task -> the tensors of its branch."""
    return {p.parent.name: load_file(p) for p in run.glob("adapters/*/adapter.safetensors")}


def same_bits(one: Path, two: Path) -> bool:
    """Whether all branches of both runs are equal."""
    a, b = adapters(one), adapters(two)
    return a.keys() == b.keys() and all(torch.equal(t, b[task][k]) for task, ts in a.items() for k, t in ts.items())


def relative(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest relative difference over matrices, by norm."""
    return max(float((a[k] - b[k]).norm() / b[k].norm().clamp_min(1e-12)) for k in b)


def continued_and_whole(folder: Path, *options: str) -> Path:
    """Run the smoke experiment's tasks at once, and the second one from a run of the first: to the same bits.

    Returns the folder of the first of these.
    """
    smoke(folder / "one", *options, "--data.order=[FOMC]")
    smoke(folder / "on", *options, f"--sequence.continue_from={folder / 'one'}")
    smoke(folder / "whole", *options)
    assert record(folder / "whole")["done"] == 2
    assert same_bits(folder / "on", folder / "whole")
    return folder / "whole"
