"""Markup, escape sequences and direction marks in names and answers are printed as text, never interpreted."""

import json
import re
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from cl_lightning.commands import compare, data_check, report, score
from cl_lightning.common.console import Screen, table, tables
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.terminal import printable, say, say_error
from cl_lightning.sequence.context import RunContext
from tests.commands.test_bad_runs import go_on
from tests.conftest import ROOT
from tests.results.test_compare import MakeRun, run
from tests.results.test_report import METRICS
from tests.sequence.test_stored import command

__all__ = ["run"]  # the fixture
#: Ends a style that never began; a style; a link; a picture; a colour, a line above, a title, a sound; turned round;
#: nothing to see; other line ends.
NASTY = (
    "[/x]", "[bold]b[/bold]", "[link=https://example.org]l[/link]", ":smile:", "\x1b[31mred", "\x1b[1A\x1b[2Kgone",
    "\x1b]0;title\x07", "\x9b31m", "\u202eevil\u202c", "zero\u200bwidth", "a\rb", "a\nb", "a\tb", "a\x00b", "a\u2028b",
    "\u2066x\u2069", "\ufeffbom", "\ud800",
)  # fmt: skip


def control_characters(text: str) -> set[str]:
    """Return the characters that a terminal interprets, line feeds apart."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c != "\n"}


@pytest.mark.parametrize("nasty", NASTY)
def test_every_way_to_print_escapes(nasty: str, capsys: pytest.CaptureFixture) -> None:
    say(nasty)
    say_error(ConfigError(nasty))
    Screen().show(nasty, tables([nasty, "b"], [[nasty, nasty]], width=80))
    Screen().print(nasty.strip("\n\r\t\x00\ud800") and printable(nasty))
    out, err = capsys.readouterr()
    assert not control_characters(out + err)
    assert len(err.splitlines()) == 1 and err.startswith("error: ")
    lines = out.splitlines()
    assert lines[0] == printable(nasty)
    assert sum(printable(nasty) in line for line in lines) >= 4, out


def test_printable_text_is_unchanged() -> None:
    for text in (
        "20Minuten",
        "C-STANCE 立场",
        "Größe",
        "95 % interval",
        "a\u00a0b\u3000c",
        "é",
        "cafe\u0301",
        "😀",
        "\\x1b",
        "",
    ):
        assert printable(text) == text
    assert printable("a\x1b\r\n\t\x85\u202e\ud800") == "a\\x1b\\r\\n\\t\\x85\\u202e\\ud800"
    assert printable(3) == "3"


def test_lines_of_a_run(capsys: pytest.CaptureFixture) -> None:
    RunContext.say(object(), "\x1b[2J [/x]")  # type: ignore[arg-type]
    assert capsys.readouterr().out == "\\x1b[2J [/x]\n"


# ---- reports and comparisons -------------------------------------------------------------------------------


@pytest.mark.parametrize("nasty", NASTY[:-1])
def test_a_report(run: MakeRun, nasty: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {**METRICS, "metric_of_task": dict.fromkeys(("FOMC", "Py150"), nasty)}
    own = {"title": nasty, "columns": [nasty], "rows": [[nasty]]}
    path = run("plain", 1, facts={"metrics": metrics, "experiment": nasty, "data": nasty, "tables": {"own": [own]}})
    assert command(report, str(path), "--tables", monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert not control_characters(out)
    assert "".join(printable(f"{nasty}: scores 0..100 on {nasty}").split()) in "".join(out.split())
    assert out.count(printable(nasty)) >= 8


@pytest.mark.parametrize("nasty", [*NASTY[:4], "a\u00a0b"])
def test_task_names_and_folders(
    run: MakeRun, nasty: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = nasty.replace("/", "|")
    if not task.isprintable():
        task = "[b]"
    metrics = {**METRICS, "metric_of_task": dict.fromkeys((task, "Py150"), "accuracy")}
    path = run("plain", 1, order=(task, "Py150"), facts={"metrics": metrics, "tables": {}})
    folder = tmp_path / nasty.replace("/", "|")
    shutil.move(path, folder)
    assert command(report, str(folder), "--tables", monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"run folder: {folder}"
    assert f"1 {task}" in out


@pytest.mark.parametrize("form", ["markdown", "latex", "csv"])
@pytest.mark.parametrize("nasty", NASTY[:-1])
def test_a_comparison(
    run: MakeRun, nasty: str, form: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {**METRICS, "metric_of_task": dict.fromkeys(("FOMC", "Py150"), nasty)}
    facts = {"metrics": metrics, "experiment": nasty, "data": nasty}
    options = {"model.lr": nasty}
    paths = [str(run("a", 1, facts=facts)), str(run("b", 1, facts={**facts, "experiment": "b"}, **options))]
    assert command(compare, *paths, f"--format={form}", monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert not control_characters(out)
    if form == "markdown":
        assert printable(nasty).replace("|", "/") in out
        assert len({line.count("|") for line in out.splitlines() if line.startswith("|")}) == 1, "one table, whole"
    if form == "latex":
        assert "\\textbackslash{}x1b" in out or "\x1b" not in nasty


def test_errors_of_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    nasty = str(tmp_path / "\x1b[31m[/x]\n")
    for module, *argv in ((report, nasty), (compare, nasty), (score, nasty, "--metrics=own"), (data_check, nasty)):
        assert command(module, *argv, monkeypatch=monkeypatch) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1 and not control_characters(err)
        assert "\\x1b[31m[/x]\\n" in err


# ---- from the data to the last line ------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write a configuration of a user task whose name, labels and texts are nasty."""
    rows = [{"text": f"{NASTY[i % 17]} {i}", "label": ("[/x]", "\x1b[31mred", "[bold]")[i % 3]} for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"name": "[/x]".replace("/", "|"), "prompt": "{text}: ", "answer": "label", "metric": "accuracy"}
    task |= {"train": str(tmp_path / "rows.jsonl"), "test_share": 0.5, "max_new_tokens": 2}
    benchmark = {"class_path": "cl_lightning.data.UserTasks", "init_args": {"tasks": [task]}}
    file = tmp_path / "data.yaml"
    file.write_text(json.dumps({"data": {"benchmark": benchmark, "order": None}}))
    return file


def test_a_whole_run(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "[bold]run[" / "x]"
    result = go_on(folder, f"--config={data}", "--sequence.experiment=[/x][link=y]\x1b[31m", f"--data.root={tmp_path}")
    assert result.code == 0, result.err
    assert not control_characters(result.out)
    assert result.out.startswith("[/x][link=y]\\x1b[31m: DATA = own data ([|x])")
    assert "[/x][link=y]\\x1b[31m: scores 0..100" in result.out
    assert re.search(r"^  scores after task 1/1: \[\|x\] ", result.out, re.MULTILINE)
    assert result.out.splitlines()[-1] == f"run folder: {folder}"


def test_the_data_check(data: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(data_check, f"--config={data}", "--words", monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert not control_characters(out)
    assert "own [|x]" in out and "\\x1b[31mred" in out and "[bold]" in out and "[/x]" in out


# ---- the house ---------------------------------------------------------------------------------------------


def test_nothing_else_prints() -> None:
    """Lines are printed by `say` and tables by `console.Screen` only."""
    ways = re.compile(r"(?<![\w.\"'>])print\(|Console\(|[^.\w]Table\(title=|sys\.std(out|err)\.write")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for package in ("cl_lightning", "callbacks")
        for path in (ROOT / package).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if ways.search(line) and path.name not in ("terminal.py", "console.py")
    ]
    assert found == []


def test_cells_are_text() -> None:
    made: Any = table(["[b]"], [["[b]"]])
    assert all(isinstance(part, Text) for part in (made.columns[0].header, *made.columns[0].cells))
