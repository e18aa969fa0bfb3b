"""A chat template that writes today's date, in a run: said first, kept in the record, held to when the run goes on."""

import json
from pathlib import Path

import pytest

from cl_lightning.data.chat import DAY
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.random_llama import random_model, random_tokenizer
from cl_lightning.sequence.load import load_run
from tests.commands.test_cli import Result, configs, launch
from tests.data.test_chat import DATED, REFUSES

FEW = ("--data.train_samples=8", "--data.test_samples=1", "--boundary.init=null", "--boundary.memory=null",
       "--sequence.zero_shot=false", "--data.max_new_tokens=2")  # fmt: skip


def saved(folder: Path, template: str) -> Path:
    tokenizer = random_tokenizer()
    tokenizer.chat_template = template
    random_model(len(tokenizer), {}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(model: Path, folder: Path, *options: str) -> Result:
    return launch(*configs("smoke"), *FEW, f"--model.backbone.name={model}", f"--sequence.run_dir={folder}", *options)


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("dated") / "model", DATED)


def test_the_date_is_said_kept_and_held_to(dated: Path, tmp_path: Path) -> None:
    result = run(dated, tmp_path / "one", "--data.order=[FOMC]", "--data.date=2023-05-06")
    assert result.code == 0, result.err
    assert "  template  the chat template writes the date 2023-05-06 (data.date)" in result.out.splitlines()[:6]
    record = json.loads((tmp_path / "one/sequence.json").read_text())
    assert record["template"] == {"system_prompt": "", "date": "2023-05-06", "template_args": {}}
    more = ("--data.order=[FOMC, NumGLUE-cm]", f"--sequence.continue_from={tmp_path / 'one'}")
    result = run(dated, tmp_path / "two", *more, "--data.date=2023-05-07", "--data.system_prompt=null")
    assert result.code == 2
    assert result.line.endswith(
        f"{tmp_path / 'one'} was trained with another data.system_prompt, data.date; use the same"
    )
    loaded = load_run(tmp_path / "one")
    assert loaded.record["template"]["date"] == "2023-05-06"


def test_where_no_date_is_written_none_is_reported() -> None:
    dates = []
    for template in (REFUSES, DATED):
        tokenizer = random_tokenizer()
        tokenizer.chat_template = template
        data = TaskSequence(order=["FOMC"], train_samples=2, validation_samples=0, test_samples=1, long_answers="drop")
        data.prepare(tokenizer, False)
        dates.append(data.template["date"])
    assert dates == [None, DAY]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--data.system_prompt=Be.", "data.system_prompt: the model's chat template takes no system message (System"),
        ("--data.date=26.7.2024", "data.date: '26.7.2024' is not a date; write it as 2024-07-26"),
        ("--data.template_args.thinking=false", "data.template_args: the model's chat template reads no variable"),
    ],
)  # fmt: skip
def test_refused_before_training(tmp_path: Path, option: str, said: str) -> None:
    result = run(saved(tmp_path / "model", REFUSES), tmp_path / "run", option)
    assert result.code == 2
    assert result.line.startswith(said)
    assert not (tmp_path / "run").exists()
