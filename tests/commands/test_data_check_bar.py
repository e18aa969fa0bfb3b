"""The data check's progress bar: there on a terminal, and nothing of it left behind wherever the command ends."""

import io
import json
import sys
from pathlib import Path

import pytest

from cl_lightning.commands import data_check


class Terminal(io.StringIO):
    """What is printed to a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_cursor_is_never_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal ends the process without clean-up, so what is hidden stays hidden."""
    folder = tmp_path / "trace" / "Mine"
    folder.mkdir(parents=True)
    for split in ("train", "eval", "test"):
        (folder / f"{split}.json").write_text(json.dumps([{"prompt": "p", "answer": "a"}]))
    out, err = Terminal(), Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    data_check.main([str(tmp_path), "--words"])
    assert "reading " in err.getvalue()
    assert "\x1b[?25" not in out.getvalue() + err.getvalue()
    assert "Mine" in out.getvalue()
