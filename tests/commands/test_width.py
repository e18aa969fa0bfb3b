"""Help and listings keep to the terminal's width, and to one line each where there is none."""

import re
import sys
from importlib.metadata import version

import pytest

from cl_lightning.__main__ import main
from cl_lightning.commands import experiments
from cl_lightning.commands.arguments import Arguments

ABOUT = "Write a run's model for other programs. " * 4 + "\n\nA second paragraph of one line."


def test_a_listing_is_wrapped_and_one_line_each_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    experiments.main([])
    narrow = capsys.readouterr().out
    assert all(len(line) <= 80 for line in narrow.splitlines() if len(line.split()) > 1)
    monkeypatch.delenv("COLUMNS")
    experiments.main([])
    wide = capsys.readouterr().out
    assert max(map(len, wide.splitlines())) > 80, "negative control: there is something to wrap"
    assert wide.split() == narrow.split()
    assert [line.split()[0] for line in wide.splitlines() if line.startswith(" ")] == [
        *experiments.names(),
        *experiments.presets(),
    ]


def test_a_description_is_wrapped_by_paragraphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = Arguments("export", ABOUT).format_help()
    assert max(map(len, text.splitlines())) <= 60 < max(map(len, ABOUT.splitlines()))
    assert "\n\nA second paragraph of one line.\n" in text


def test_the_version_and_names_that_are_no_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def output(*argv: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["cl-lightning", *argv])
        code = main()
        return code, "".join(capsys.readouterr())

    assert output("--version") == (0, f"cl-lightning {version('cl-lightning')}\n")
    assert output("smoke") == (2, "error: no command 'smoke', but an experiment: cl-lightning run smoke\n")
    assert "did you mean report or export?" in output("repot")[1]
    code, listing = output("--help")
    assert code == 0 and "--quiet" in listing and "--version" in listing


def test_no_description_speaks_of_make(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    experiments.main([])
    assert not re.search(r"\b(ARGS|DATA)=", capsys.readouterr().out)
