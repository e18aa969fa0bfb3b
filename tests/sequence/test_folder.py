"""RunFolder.write: reserved names, and a full disk."""

import copy
import os
from pathlib import Path
from typing import Any

import pytest

from cl_lightning.common.errors import StateError, TrainingError
from cl_lightning.sequence.folder import RunFolder
from cl_lightning.sequence.run_files import LOCK, RECORD, SCRATCH
from tests.commands.test_user_files import BEGIN


@pytest.mark.parametrize("name", [RECORD, LOCK, SCRATCH, "matrix.csv", "curves.csv", "metrics.json"])
def test_callbacks_cannot_write_reserved_files(tmp_path: Path, name: str) -> None:
    folder = RunFolder(tmp_path)
    folder.open("0123456789ab", False, copy.deepcopy(BEGIN))
    with pytest.raises(StateError, match="is reserved"):
        folder.write(name, b"")
    folder.close()


def test_a_full_disk_leaves_no_scratch_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.open("0123456789ab", False, BEGIN)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(TrainingError, match="No space left"):
            folder.write("a.csv", b"1")
    folder.close()
    assert {p.name for p in tmp_path.iterdir()} <= {RECORD, LOCK}
