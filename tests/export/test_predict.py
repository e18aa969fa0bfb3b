"""`cl-lightning predict`: rows kept, answers added, nothing overwritten, no formula for a spreadsheet to run."""

import csv
import json
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import pytest

import cl_lightning
from cl_lightning.common import stopping
from cl_lightning.common.files import plain_cell
from cl_lightning.export.loaded import LoadedModel
from tests.commands.test_cli import Result, launch
from tests.export.tiny import BUDGET, TASKS, Trained, stored

Predict = Callable[..., Result]


@pytest.fixture
def predict(trained: Trained) -> Predict:
    return lambda *argv: launch("predict", str(trained("GainLoRA")), *map(str, argv))


def lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_of_json_lines_keeps_its_rows_and_gets_the_runs_answers(
    trained: Trained, predict: Predict, tmp_path: Path
) -> None:
    prompts, predictions = stored(trained("GainLoRA"), TASKS[0], TASKS[0])
    rows = [{"n": i, "question": prompt, "more": {"a": [1, None]}} for i, prompt in enumerate(prompts)]
    file, out = lines(tmp_path / "in.jsonl", rows), tmp_path / "new" / "out.jsonl"
    options = ("--prompt-field=question", f"--max-new-tokens={BUDGET}", "--batch-size=2", f"--after={TASKS[0]}")
    result = predict(file, "--out", out, *options)
    assert (result.code, result.err) == (0, "")
    model = "random-llama with GainLoRA after FOMC (1 task learnt), in float64 on cpu"
    assert result.out.splitlines() == [
        f"{len(prompts)} prompts of {file}, answered by {model}",
        f"written: {out}",
    ]
    wanted = [{**row, "prediction": text} for row, text in zip(rows, predictions, strict=True)]
    assert [json.loads(line) for line in out.read_text().split("\n")[:-1]] == wanted
    assert predict(file, "--out", tmp_path / "base.jsonl", *options, "--after=0").code == 0
    assert (tmp_path / "base.jsonl").read_text() != out.read_text()


def test_a_csv_file_keeps_its_fields_as_they_are(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = signature(LoadedModel.generate).parameters["max_new_tokens"].default
    said = ['=HYPERLINK("x")', "-2.5", "plain; =1+1", ' @x "y"']
    given: dict[str, object] = {}

    def answers(self: LoadedModel, prompts: list[str], **more: object) -> list[str]:
        given.update(more)
        return said[: len(prompts)]

    monkeypatch.setattr(LoadedModel, "generate", answers)
    rows = [["name", "prompt"], *([f"=A{i}", f"ask, {i}\n?"] for i in range(4))]
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert predict(tmp_path / "in.csv", "--out", tmp_path / "out.csv").code == 0
    written = list(csv.reader((tmp_path / "out.csv").open(newline="")))
    assert [row[:2] for row in written] == rows
    assert [row[2] for row in written] == ["prediction", '\'=HYPERLINK("x")', "-2.5", "plain; =1+1", '\' @x "y"']
    assert given["max_new_tokens"] == default, "without the option, answers are as long as those from Python"


@pytest.mark.parametrize(
    ("text", "cell"),
    [("=1", "'=1"), ("+a", "'+a"), ("-a", "'-a"), ("@a", "'@a"), ("\t=1", "'\t=1"), ("\uff1d1", "'\uff1d1"),
     ("-1", "-1"), ("+1.5", "+1.5"), ("-1+cmd", "'-1+cmd"), ("", ""), ("a=1", "a=1"), ("'a", "'a")],
)  # fmt: skip
def test_a_cell_is_no_formula(text: str, cell: str) -> None:
    assert plain_cell(text) == cell


def test_cut_prompts_are_said(trained: Trained, predict: Predict, tmp_path: Path) -> None:
    file = lines(tmp_path / "in.jsonl", [{"prompt": "long " * 100}, {"prompt": "short"}])
    result = predict(file, "--out", tmp_path / "out.jsonl", "--max-new-tokens=2")
    assert result.code == 0
    assert result.err == (
        "note: 1 of 2 prompts exceeded 400 tokens and lost the middle; raise max_prompt_tokens to keep more\n"
    )
    assert predict(file, "--out", tmp_path / "whole.jsonl", "--max-new-tokens=2", "--max-prompt-tokens=900").err == ""


BAD: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "another kind": ("in.txt", "", (), r"in.txt: unsupported file type; predict reads .jsonl and .csv"),
    "kinds that differ": ("in.csv", "prompt\nx\n", (), "out.jsonl must end in .csv, as {in} does"),
    "no rows": ("in.jsonl", "", (), "in.jsonl: has no rows"),
    "no JSON": ("in.jsonl", '{"prompt": "x"}\n{', (), "in.jsonl, row 2, column 2: not valid JSON"),
    "no field": ("in.jsonl", '{"text": "x"}\n', (), "in.jsonl, row 1 has no 'prompt'; its keys: text"),
    "no text": ("in.jsonl", '{"prompt": 3}\n', (), "in.jsonl, row 1: 'prompt' is a number, expected text"),
    "a blank": ("in.jsonl", '{"prompt": " "}\n', (), "in.jsonl, row 1: 'prompt' is empty"),
    "half a pair": ("in.jsonl", '{"prompt": "\\ud800"}\n', (), "half a surrogate pair"),
    "a field of that name": (
        "in.jsonl", '{"prompt": "x", "prediction": "y"}\n', (), "row 1: already has a field 'prediction'"
    ),
    "no budget": ("in.jsonl", '{"prompt": "x"}\n', ("--max-new-tokens=0",), "0 must be 1 or more"),
    "no such task": ("in.jsonl", '{"prompt": "x"}\n', ("--after=FOCM",), "no finished task is called 'FOCM'"),
    "too many tasks": ("in.jsonl", '{"prompt": "x"}\n', ("--after=7",), "after=7 is not in 0..2"),
    "no room": ("in.jsonl", '{"prompt": "x"}\n', ("--max-new-tokens=3000",), "exceed the model's context of 2048"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(predict: Predict, name: str, tmp_path: Path) -> None:
    file, text, options, said = BAD[name]
    (tmp_path / file).write_text(text)
    result = predict(tmp_path / file, "--out", tmp_path / "out.jsonl", *options)
    assert result.code == 2
    assert said.replace("{in}", str(tmp_path / file)) in result.line
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_nothing_is_overwritten_unasked(predict: Predict, tmp_path: Path) -> None:
    file, out = lines(tmp_path / "in.jsonl", [{"prompt": "x"}]), tmp_path / "out.jsonl"
    out.write_text("mine")
    result = predict(file, "--out", out, "--max-new-tokens=2")
    assert (result.code, out.read_text()) == (2, "mine")
    assert result.line == f"--out: {out} already exists; name another file, or add --overwrite to replace it"
    assert predict(file, "--out", out, "--overwrite", "--max-new-tokens=2").code == 0
    assert json.loads(out.read_text())["prompt"] == "x"
    result = predict(file, "--out", file, "--overwrite")
    assert (result.code, result.line) == (2, f"--out: {file} is the file of prompts itself; name another")
    out.unlink()
    out.symlink_to(tmp_path / "nowhere.jsonl")
    assert "already exists" in predict(file, "--out", out).line
    assert not (tmp_path / "nowhere.jsonl").exists()


def test_a_model_that_was_exported_predicts_the_same(trained: Trained, predict: Predict, tmp_path: Path) -> None:
    file = lines(tmp_path / "in.jsonl", [{"prompt": "What comes after 7?"}])
    short = "--max-new-tokens=8"
    assert predict(file, "--out", tmp_path / "run.jsonl", short).code == 0
    assert launch("export", str(trained("GainLoRA")), "--format=native", f"--out={tmp_path / 'model'}").code == 0
    result = launch("predict", str(tmp_path / "model"), str(file), f"--out={tmp_path / 'export.jsonl'}", short)
    assert result.code == 0, result.err
    assert (tmp_path / "export.jsonl").read_bytes() == (tmp_path / "run.jsonl").read_bytes()
    row = json.loads((tmp_path / "run.jsonl").read_text())
    assert [row["prediction"]] == cl_lightning.load(tmp_path / "model").generate([row["prompt"]], max_new_tokens=8)


def test_errors_name_the_file_and_the_row(predict: Predict, tmp_path: Path) -> None:
    file = lines(tmp_path / "in.jsonl", [{"prompt": "short"}, {"prompt": "long " * 500}])
    result = predict(file, "--out", tmp_path / "out.jsonl", "--max-prompt-tokens=100000", "--max-new-tokens=100000")
    assert result.code == 2
    assert result.line.startswith(f"{file}, row 1: ") and "exceed the model's context" in result.line


def test_answers_so_far_are_kept_when_it_is_stopped(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def answers(self: LoadedModel, prompts: list[str], *_: object, **__: object) -> list[str]:
        calls.append(len(prompts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return ["yes"] * len(prompts)

    monkeypatch.setattr(LoadedModel, "generate", answers)
    file, out = lines(tmp_path / "in.jsonl", [{"prompt": f"p{i}"} for i in range(70)]), tmp_path / "out.jsonl"
    argv = (file, "--out", out, "--batch-size=2", "--max-new-tokens=2")
    with pytest.raises(KeyboardInterrupt):
        predict(*argv)
    part = tmp_path / "out.part.jsonl"
    kept = [json.loads(line) for line in part.read_text().splitlines()]
    assert kept == [{"prompt": f"p{i}", "prediction": "yes"} for i in range(64)]
    assert not out.exists()
    assert stopping._Command.message == f"the first 64 of 70 answers are in {part}"
    assert f"--out: {part} already exists" in predict(*argv).line
    calls[:] = [0] * 3
    assert predict(*argv, "--overwrite").code == 0
    assert len(out.read_text().splitlines()) == 70 and not part.exists()
