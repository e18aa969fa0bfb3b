"""docs/own_data.md: each file, layout and option that it shows is read as it says."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from cl_lightning.commands import data_check
from cl_lightning.data.base import Example
from cl_lightning.data.benchmarks.user_tasks import UserTask, UserTasks
from cl_lightning.data.files.read import READERS, read_rows
from cl_lightning.data.layouts import LAYOUTS
from cl_lightning.data.per_task import TaskOptions
from tests.commands.test_cli import configs, parse
from tests.conftest import ROOT
from tests.test_documents import block

PAGE = ROOT / "docs" / "own_data.md"
ROW = {"text": "Good.", "label": "1"}


def table(head: str) -> list[list[str]]:
    """The cells of the table with this head line."""
    _, _, rows = PAGE.read_text().partition(f"{head}\n")
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rows.split("\n\n")[0].splitlines()[1:]]


def unwritten(text: str) -> str:
    return text.strip("`").replace("⏎", "\n").replace("⇥", "\t")


def first_word(cell: str) -> str:
    return re.match(r"`([.\w]+)`", cell)[1]


FILES, LAYOUT_ROWS = table("| file | example |"), table("| `layout` | options | a row | prompt | answer |")
OPTIONS = table("| option of a task | what it replaces |")


@pytest.mark.parametrize(("name", "example"), FILES)
def test_files(tmp_path: Path, name: str, example: str) -> None:
    path = tmp_path / f"a{first_word(name)}"
    path.write_text(unwritten(example))
    assert [row for _, row in read_rows(path)] == [ROW]


def test_tables_of_arrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="datasets (extra `data`) is not installed")
    monkeypatch.chdir(tmp_path)
    exec(block(PAGE, "python", "import pyarrow"), {})
    made = sorted(tmp_path.iterdir())
    assert [path.name for path in made] == ["reviews", "reviews.arrow", "reviews.feather", "reviews.parquet"]
    for path in made:
        assert [row for _, row in read_rows(path)] == [ROW]


def test_all_kinds_of_files_and_layouts_are_on_the_page() -> None:
    text = PAGE.read_text()
    assert [suffix for suffix in READERS if f"`{suffix}`" not in text] == []
    assert {re.match(r"`(\w+)`", row[0])[1] for row in table("| `layout` | options | a row | prompt | answer |")} == {
        *LAYOUTS
    }
    listed = {
        name for row in table("| option of a task | what it replaces |") for name in re.findall(r"`(\w+)`", row[0])
    }
    assert listed == {field.name for field in fields(TaskOptions)}


@pytest.mark.parametrize(
    ("layout", "options", "row", "prompt", "answer"), table("| `layout` | options | a row | prompt | answer |")
)
def test_layouts(tmp_path: Path, layout: str, options: str, row: str, prompt: str, answer: str) -> None:
    (tmp_path / "a.jsonl").write_text(row.strip("`"))
    name = first_word(layout)
    assert {*re.findall(r"`(\w+)[`:]", options)} == LAYOUTS[name].takes
    given = yaml.safe_load("\n".join(re.findall(r"`(\w+: [^`]+)`", options))) or {}
    task = UserTask("t", "f1", "a.jsonl", "a.jsonl", layout=name, **given)
    (found,) = UserTasks([task]).load(tmp_path, "t").train
    assert found == Example("t/train/0", unwritten(prompt), unwritten(answer), instruction=found.instruction)


def test_options_of_single_tasks(tmp_path: Path) -> None:
    file = tmp_path / "more.yaml"
    file.write_text(block(PAGE, "yaml", "data:\n  per_task"))
    data = parse(*configs("smoke"), "--data.order=[FOMC,Py150]", f"--config={file}").datamodule
    assert data.per_task == {
        name: TaskOptions(**given) for name, given in yaml.safe_load(file.read_text())["data"]["per_task"].items()
    }
    (argument,) = re.findall(r"`ARGS='(--data\.per_task[^']+)'`", PAGE.read_text())
    assert parse(*configs("smoke"), argument).datamodule.per_task == {"ScienceQA": TaskOptions(train_samples=64)}


def test_links_that_lead_out_are_followed_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def check() -> str:
        task: dict[str, Any] = {"name": "t", "metric": "f1", "train": "a.json", "test": "b.json"}
        task |= {"prompt": "{q}", "answer": "a"}
        config = {"data": {"benchmark": {"init_args": {"tasks": [task]}}}}
        (tmp_path / "own.yaml").write_text(json.dumps(config))
        data_check.main([str(tmp_path / "root"), "--words", "--config", str(tmp_path / "own.yaml")])
        return capsys.readouterr().out

    root, outside = tmp_path / "root", tmp_path / "outside.json"
    root.mkdir()
    for path, word in ((outside, "a"), (root / "b.json", "b")):
        path.write_text(json.dumps([{"q": f"{word}{i}", "a": word} for i in range(5)]))
    (root / "a.json").symlink_to("b.json")
    assert "out of" not in check(), "the control: this one stays inside"
    (root / "a.json").unlink()
    (root / "a.json").symlink_to(outside)
    assert f"note: 1 link out of {root}, followed: a.json -> {outside}" in check().replace("\n", " ")
