"""`data.per_task`: options of single tasks; what is refused, what obeys, what is part of a run's identity."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from cl_lightning.commands import data_check
from cl_lightning.common.errors import ConfigError, UserError
from cl_lightning.data import TRACE
from cl_lightning.data.base import Example, Splits
from cl_lightning.data.benchmarks.user_tasks import UserTask, UserTasks
from cl_lightning.data.per_task import TaskOptions, with_prompt
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.random_llama import random_tokenizer
from tests.commands.test_cli import configs, launch, record


def prepared(**options: Any) -> TaskSequence:
    chosen = {"order": ["FOMC", "Py150"], "train_samples": 6, "validation_samples": 2, "test_samples": 3, **options}
    data = TaskSequence(TRACE(), max_prompt_tokens=400, **chosen)
    data.prepare(random_tokenizer(), False)
    return data


def text(data: TaskSequence, task: int) -> str:
    return data.tokenizer.decode(data.tasks[task].train[0].prompt_ids)


def test_numbers_and_limits_of_one_task() -> None:
    limit = max(len(e.prompt_ids) for e in prepared(train_samples=4).tasks[0].train) - 1
    mine = TaskOptions(train_samples=4, validation_samples=1, test_samples=2, max_prompt_tokens=limit, max_new_tokens=9)
    fomc, other = prepared(per_task={"FOMC": mine}).tasks
    assert [len(split) for split in (fomc.train, fomc.validation, fomc.test)] == [4, 1, 2]
    assert [len(split) for split in (other.train, other.validation, other.test)] == [6, 2, 3]
    assert max(len(e.prompt_ids) for e in fomc.train) == limit and any(e.cut for e in fomc.train)
    assert not any(e.cut for e in other.train)
    assert (fomc.spec.max_new_tokens, other.spec.max_new_tokens) != (9, 9) and fomc.spec.max_new_tokens == 9
    with pytest.raises(UserError, match=r"FOMC/train/\d+: the answer has \d+ tokens, data\.max_answer_tokens is 1"):
        prepared(per_task={"FOMC": TaskOptions(max_answer_tokens=1)})


def test_metrics_of_one_task_go_before_the_official_ones() -> None:
    mine = {"FOMC": TaskOptions(metric="f1", also=["bleu"], keep_head=0.25)}
    specs = TaskSequence(TRACE(), metrics="official", per_task=mine).specs
    assert (specs["FOMC"].metric, specs["FOMC"].also, specs["FOMC"].keep_head) == ("f1", ("bleu",), 0.25)
    assert specs["Py150"].metric.endswith("_trace")
    assert TaskSequence(TRACE(), per_task={"FOMC": TaskOptions(also=[])}).specs["FOMC"].also == ()


def test_a_system_prompt_of_one_task() -> None:
    data = prepared(system_prompt="For all.", per_task={"FOMC": TaskOptions(system_prompt="For one.")})
    assert text(data, 0).startswith("<|start|>system\nFor one.<|end|>")
    assert text(data, 1).startswith("<|start|>system\nFor all.<|end|>")
    none = prepared(system_prompt="For all.", per_task={"FOMC": TaskOptions(system_prompt="")})
    assert text(none, 0).startswith("<|start|>user\n")
    replayed = data.encoder.encode(data.tasks[0].train[0].example, data.specs["FOMC"])
    assert replayed == data.tasks[0].train[0], "as the memory encodes it"


def test_a_system_prompt_that_a_model_cannot_take_names_the_task() -> None:
    tokenizer = random_tokenizer()
    tokenizer.chat_template = "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}:"
    data = TaskSequence(TRACE(), order=["FOMC"], per_task={"FOMC": TaskOptions(system_prompt="Be kind.")})
    with pytest.raises(ConfigError, match=r"^FOMC: data\.system_prompt: the model's chat template takes no system mes"):
        data.prepare(tokenizer, False)
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match=r"^FOMC: system_prompt: the model has no chat template to give it to; write"):
        data.prepare(tokenizer, False)


def test_a_task_of_ones_own_has_its_system_prompt(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(f'{{"q": "{i}?", "a": "{i}"}}\n' for i in range(9)))
    own = {"name": "a", "metric": "f1", "train": "a.jsonl", "test_share": 0.4, "prompt": "{q}", "answer": "a"}
    benchmark = UserTasks([UserTask(**own, system_prompt="Mine.")])
    for per_task, said in (({}, "Mine."), ({"a": TaskOptions(system_prompt="Other.")}, "Other.")):
        data = TaskSequence(benchmark, str(tmp_path), validation_samples=0, per_task=per_task)
        data.prepare(random_tokenizer(), False)
        assert text(data, 0).startswith(f"<|start|>system\n{said}<|end|>")


def test_a_prompt_around_the_prompts_of_one_task() -> None:
    plain, mine = prepared(), prepared(per_task={"FOMC": TaskOptions(prompt="Think.\n{prompt}\nSo: ")})
    for one, other in zip(plain.tasks[0].test, mine.tasks[0].test, strict=True):
        assert other.example.prompt == f"Think.\n{one.example.prompt}\nSo: "
        assert other.example.instruction == one.example.instruction + 7
        assert other.example.cue == one.example.cue + 5
    assert plain.tasks[1] == mine.tasks[1]
    assert plain.fingerprint() != mine.fingerprint()
    turns = (("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"))
    talk = Example("1", "whatever", "d", turns=turns)
    (output,) = with_prompt(Splits((talk,), ()), "t", TaskOptions(prompt="Well: {prompt}")).train
    assert output.turns == (*turns[:-1], ("user", "Well: c"))
    assert output.prompt == "s\n\nUser: a\nAssistant: b\nUser: Well: c\nAssistant:"


@pytest.mark.parametrize(
    ("per_task", "said"),
    [
        ({"FMOC": TaskOptions()}, r"data\.per_task: unknown task 'FMOC'; did you mean FOMC\?"),
        ({"FOMC": TaskOptions(train_samples=0)}, r"data\.per_task\.FOMC\.train_samples: 0 must be 1 or more"),
        ({"FOMC": TaskOptions(validation_samples=-1)}, r"FOMC\.validation_samples: -1 must be 0 or more"),
        ({"FOMC": TaskOptions(keep_head=1.5)}, r"FOMC\.keep_head: 1\.5 must lie in 0\.\.1"),
        ({"FOMC": TaskOptions(prompt="Think.")}, r"FOMC\.prompt: has no {field}"),
        ({"FOMC": TaskOptions(prompt="{text}")}, r"FOMC\.prompt: must have {prompt} once and no other field"),
    ],
)
def test_what_is_refused(per_task: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TaskSequence(TRACE(), per_task=per_task)


def test_an_unknown_option_is_one_line() -> None:
    result = launch(*configs("smoke"), "--data.per_task.FOMC={metrik: f1}")
    assert result.code == 2 and "metrik" in result.line, result.err
    result = launch(*configs("smoke"), "--data.per_task.FOMC={train_samples: many}")
    assert result.code == 2 and "many" in result.line, result.err
    result = launch(*configs("smoke"), "--data.per_task.FOMC.train_samples=6")
    said = "data.per_task.FOMC: its options are given together: --data.per_task.FOMC='{train_samples: 6}'"
    assert (result.code, result.line) == (2, said)


def test_a_run_with_them_has_another_identity_and_goes_on(tmp_path: Path) -> None:
    option = "--data.per_task.FOMC={train_samples: 7, metric: f1, system_prompt: Be kind.}"
    result = launch(*configs("smoke"), option, f"--sequence.run_dir={tmp_path / 'run'}")
    assert result.code == 0, result.err
    state = record(tmp_path / "run")
    assert state["done"] == len(state["order"])
    again = launch(*configs("smoke"), option, f"--sequence.run_dir={tmp_path / 'run'}")
    assert again.code == 0, again.err
    other = launch(*configs("smoke"), option.replace("kind", "rude"), f"--sequence.run_dir={tmp_path / 'run'}")
    assert other.code == 2 and "holds a run of another configuration" in other.line, other.err


def test_the_data_check_knows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, table = tmp_path / "own.yaml", tmp_path / "out.csv"
    rows = [{"q": f"{i} and some words more", "a": "one two"} for i in range(20)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    task = {"metric": "f1", "train": "a.json", "test": "a.json", "prompt": "{q}", "answer": "a"}
    tasks = [{"name": name, **task} for name in ("one", "two")]

    def check(per_task: Any) -> dict[str, dict[str, str]]:
        data = {"benchmark": {"init_args": {"tasks": tasks}}, "per_task": per_task}
        config.write_text(json.dumps({"data": data}))
        data_check.main([str(tmp_path), "--words", "--config", str(config), "--csv", str(table)])
        with table.open() as file:
            return {row["task"]: row for row in csv.DictReader(file)}

    found = check(
        {"two": {"max_new_tokens": 1, "max_answer_tokens": 1, "max_prompt_tokens": 6, "prompt": "{prompt} so:"}}
    )
    for name, value in {"budget": "1", "long_answers": "20", "over_budget": "20", "cut_prompts": "0"}.items():
        assert found["two"][name] == value
        assert found["one"][name] == {"budget": "32"}.get(name, "0")
    assert (found["one"]["prompts_max"], found["two"]["prompts_max"]) == ("5", "6")
    with pytest.raises(ConfigError, match=r"data\.per_task: unknown task 'three'; valid: one, two"):
        check({"three": {}})
    with pytest.raises(ConfigError, match="metrik"):
        check({"two": {"metrik": "f1"}})
