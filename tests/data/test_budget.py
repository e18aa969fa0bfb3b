"""`data.max_new_tokens`: ours, published, a number for all or for some; what is refused, what obeys."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from cl_lightning.commands.compare import compare
from cl_lightning.common.errors import ConfigError
from cl_lightning.data import TRACE, LongSequence, NISeq, SuperNI
from cl_lightning.data.base import Benchmark
from cl_lightning.data.benchmarks.user_tasks import UserTask, UserTasks
from cl_lightning.data.per_task import TaskOptions
from cl_lightning.data.task_sequence import TaskSequence
from tests.commands.test_cli import TINY, configs, launch, parse, record
from tests.data.test_data_check import checked, written
from tests.results.test_compare import LOW, MakeRun, run  # noqa: F401


def budgets(benchmark: Benchmark | None = None, **options: Any) -> dict[str, int]:
    specs = TaskSequence(benchmark or TRACE(), **options).specs
    return {name: spec.max_new_tokens for name, spec in specs.items()}


@pytest.mark.parametrize(
    ("benchmark", "published"), [(TRACE(), 512), (SuperNI(), 50), (LongSequence(), 50), (NISeq(), 64)]
)
def test_official_is_what_the_benchmark_published(benchmark: Benchmark, published: int) -> None:
    assert {*budgets(benchmark, max_new_tokens="official").values()} == {published}


def test_a_number_is_for_all_tasks_and_a_tasks_own_goes_before() -> None:
    ours = budgets()
    assert ours["FOMC"] == 4
    assert budgets(max_new_tokens=7) == dict.fromkeys(ours, 7)
    mine = {"ScienceQA": TaskOptions(max_new_tokens=200)}
    assert budgets(per_task=mine) == {**ours, "ScienceQA": 200}
    assert budgets(max_new_tokens="official", per_task=mine) == {**dict.fromkeys(ours, 512), "ScienceQA": 200}


@pytest.mark.parametrize(
    ("option", "chosen"),
    [
        ("=9", 9),
        ("=official", 512),
    ],
)
def test_the_command_line_takes_each_form(option: str, chosen: int) -> None:
    specs = parse(*configs("smoke"), f"--data.max_new_tokens{option}").datamodule.specs
    assert {spec.max_new_tokens for spec in specs.values()} == {chosen}


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("=0", "data.max_new_tokens: 0 must be 1 or more"),
        ("=2147483648", "data.max_new_tokens: expected an integer of at most 31 bits"),
        ("=offical", "data.max_new_tokens: expected int or 'official' or null, not 'offical'"),
        ("={FOMC: 8}", "data.max_new_tokens: expected int or 'official' or null, not \"{'FOMC': 8}\""),
        ("=2000", "FOMC: needs 2"),
    ],
)
def test_what_is_refused(option: str, said: str) -> None:
    result = launch(*configs("smoke"), f"--data.max_new_tokens{option}")
    assert result.code == 2
    assert result.line.startswith(said)


def test_own_tasks_have_no_official_budget_and_take_a_number(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    task = {"name": "a", "prompt": "{p}", "answer": "q", "metric": "f1", "train": "a.jsonl", "test_share": 0.5}
    own = UserTasks([UserTask(**task)])
    assert budgets(own, root=str(tmp_path), max_new_tokens=3) == {"a": 3}
    with pytest.raises(ConfigError, match="UserTasks has no published budget; give a number instead"):
        budgets(own, root=str(tmp_path), max_new_tokens="official")


def test_predictions_are_as_long_as_the_budget(tmp_path: Path) -> None:
    for tokens in (2, 9):
        result = launch(
            *configs("trace_lora"), *TINY, "--trainer.max_steps=1", f"--data.max_new_tokens={tokens}",
            f"--sequence.run_dir={tmp_path / str(tokens)}",
        )  # fmt: skip
        assert result.code == 0, result.err
    lengths = {
        tokens: max(
            len(json.loads(line)["prediction"].encode())
            for file in (tmp_path / str(tokens) / "predictions").glob("*.jsonl")
            for line in file.read_text().splitlines()
        )
        for tokens in (2, 9)
    }
    # The tiny model's tokens are bytes; one that is no text is written with three.
    assert lengths[2] <= 6 < lengths[9]
    assert record(tmp_path / "2")["identity"] != record(tmp_path / "9")["identity"]


@pytest.mark.parametrize("chosen", [512, "official", {"FOMC": 8}])
def test_runs_of_different_budgets_are_kept_apart(run: MakeRun, chosen: Any) -> None:  # noqa: F811
    table = compare([run("lora", 1), run("lora", 2, LOW, **{"data.max_new_tokens": chosen})])
    assert table.columns == ["A", "B"]
    assert any("B is kept apart from A: other data.max_new_tokens" in note for note in table.notes)
    same = {"data.max_new_tokens": chosen}
    assert compare([run("lora", 1, **same), run("lora", 2, LOW, **same)]).columns == ["A"]


def test_data_check_measures_with_the_budget_that_would_hold(tmp_path: Path) -> None:
    root = written(tmp_path / "data")

    def over(*options: str) -> list[str]:
        done = checked(str(root), "--words", "--csv", str(tmp_path / "out.csv"), "--overwrite", *options)
        assert done.returncode == 0, done.stderr
        with (tmp_path / "out.csv").open() as file:
            rows = {row["task"]: row for row in csv.DictReader(file)}
        return [rows[task][key] for task in ("Mine", "cb") for key in ("budget", "over_budget")]

    assert over() == ["64", "0", "50", "0"]
    assert over("--max-new-tokens=1") == ["1", "0", "1", "3"]
    assert over("--max-new-tokens=official") == ["512", "0", "50", "0"]
    done = checked(str(root), "--words", "--max-new-tokens=0")
    assert (done.returncode, done.stderr) == (2, "error: data.max_new_tokens: 0 must be 1 or more\n")
