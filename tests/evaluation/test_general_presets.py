# ruff: noqa: E402 (without lm-eval these tests are skipped before they import)
"""General ability: presets against lm-eval's own task files, items from files, scores from items."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

datasets = pytest.importorskip("datasets", reason="lm-eval is not installed (the extra 'general')")
pytest.importorskip("lm_eval", reason="lm-eval is not installed (the extra 'general')")

import lm_eval.tasks
from lm_eval.config.group import GroupConfig
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Kind
from lm_eval.tasks._yaml_loader import load_yaml

from callbacks.general_ability import GeneralAbility
from cl_lightning.common.errors import ConfigError, DataError
from cl_lightning.evaluation.general import measure as general
from cl_lightning.evaluation.general.harness import HarnessLM
from cl_lightning.evaluation.general.measure import TASK_FILES, load, measure
from cl_lightning.evaluation.general.presets import Entry, read_preset, shipped
from cl_lightning.model.module import ContinualLM
from cl_lightning.sequence.stages import Stages
from tests.commands.test_cli import configs as experiment
from tests.commands.test_cli import launch
from tests.conftest import SHARED
from tests.evaluation.test_general import folder, options

__all__ = ["folder"]  # the fixture
LIMA = SHARED / "data" / "trace" / "Lima" / "train.json"


class Says:
    """Gives a scripted answer to every prompt in place of generation."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer = answer

    def __call__(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        return [self.answer(request.args[0]) for request in requests]


def scripted(tiny: Callable[..., ContinualLM], answer: Callable[[str], str]) -> HarnessLM:
    module = tiny("float32")
    lm = HarnessLM(module.llm, module.tokenizer, module.answer_logits, 4)
    lm.generate_until = Says(answer)
    return lm


#: Folders of lm-eval's tasks that the shipped presets name. Indexing all of its folders takes 17 s.
FOLDERS = ("bbh", "commonsense_qa", "gsm8k", "hellaswag", "mmlu", "piqa", "super_glue", "tydiqa")


@pytest.fixture(scope="session")
def manager() -> TaskManager:
    """The manager of lm-eval's tasks in FOLDERS and of ours."""
    theirs = [str(Path(lm_eval.tasks.__file__).with_name(name)) for name in FOLDERS]
    return TaskManager(include_path=[str(TASK_FILES), *theirs], include_defaults=False)


@pytest.fixture(scope="session")
def index(manager: TaskManager) -> dict[str, Any]:
    """The tasks of lm-eval and ours by name: entries with their YAML files, no data."""
    return manager.task_index


@pytest.fixture
def indexed(manager: TaskManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the one index wherever all of lm-eval's tasks are asked for."""

    def made(include_defaults: bool = True, **options: Any) -> TaskManager:
        return manager if include_defaults else TaskManager(include_defaults=False, **options)

    monkeypatch.setattr(general, "TaskManager", made)


def configs(index: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the task files of a task, group or tag."""
    entry = index[name]
    if entry.kind == Kind.TAG:
        return [config for member in sorted(entry.tags) for config in configs(index, member)]
    config = load_yaml(entry.yaml_path, resolve_func=False)
    members = config["task"] if isinstance(config["task"], list) else []
    return [found for member in members for found in configs(index, member)] or [config]


def demonstrations(config: dict[str, Any]) -> float:
    """Return the number of demonstrations of a task: those in its file, or infinity for a split."""
    samples = (config.get("fewshot_config") or {}).get("samples")
    if isinstance(samples, list):
        return len(samples)
    return math.inf if any(config.get(f"{split}_split") for split in ("fewshot", "training", "validation")) else 0


@pytest.mark.parametrize("name", ["instructions", "offline", "slice_core", "trace"])
def test_shipped_presets_use_existing_metrics_and_demonstrations(index: dict[str, Any], name: str) -> None:
    for entry in (entry for tasks in read_preset(name).values() for entry in tasks.values()):
        metric, _, chosen = entry.metric.rpartition(",")
        found = configs(index, entry.task)
        assert found
        for config in found:
            filters = config.get("filter_list") or [{"name": "none"}]
            assert metric in {each["metric"] for each in config["metric_list"]}, config["task"]
            assert chosen in {each["name"] for each in filters}, config["task"]
            assert entry.shots <= demonstrations(config), config["task"]
        if index[entry.task].kind == Kind.GROUP:
            group = GroupConfig(**load_yaml(index[entry.task].yaml_path, resolve_func=False))
            ways = [way for way in group.aggregate_metric_list if way.metric == metric]
            assert any(way.filter_list is None or chosen in way.filter_list for way in ways), entry.task


@pytest.mark.usefixtures("indexed")
def test_without_the_hub_a_run_ends_before_training(tmp_path: Path) -> None:
    run = f"--sequence.run_dir={tmp_path / 'run'}"
    result = launch(*experiment("smoke"), run, *options(tmp_path, preset="slice_core"))
    lines = [line for line in result.err.splitlines() if line.startswith("error")]
    assert result.code == 2 and len(lines) == 1
    assert "observers.general: the data of hellaswag is not available" in lines[0]
    assert "use observers.general.preset=offline" in lines[0]
    assert not (tmp_path / "run").exists()


def test_shipped_presets_name_existing_tasks(index: dict[str, Any]) -> None:
    assert shipped() == ["instructions", "offline", "slice_core", "trace"]
    known = set(index)
    presets = {name: read_preset(name) for name in shipped()}
    for preset in presets.values():
        assert {"GP", "IP"} <= preset.keys()
        assert all(entry.task in known for tasks in preset.values() for entry in tasks.values())
        assert {entry.shots for entry in preset["GP"].values()} == {0}
        assert all(e.shots == (3 if name.startswith("BBH") else 5) for name, e in preset["IP"].items())
    assert set(presets["slice_core"]["GP"]) == {"HellaSwag", "CommonsenseQA", "BBH object counting", "Alpaca"}
    assert set(presets["trace"]["GP"]) == {"MMLU", "GSM8K", "BBH", "TyDiQA", "BoolQ", "PIQA"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("GP: [boolq]", "GP must map names to tasks"),
        ("[]", "must map settings"),
        ("GP: {A: {task: boolq}}", "GP: A: expected"),
        ("GP: {A: {task: boolq, metric: acc, shot: 5}}", "GP: A: expected"),
        ("GP: {A: {task: boolq, metric: acc, shots: -1}}", "shots: -1 must be 0 or more"),
        ("GP: {A: ", "not valid YAML"),
        ("GP: {mean: {task: boolq, metric: acc}}", "the name 'mean' is reserved"),
    ],
)
def test_a_bad_preset_is_refused(tmp_path: Path, content: str, expected: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=expected) as error:
        read_preset(str(file))
    assert str(file) in str(error.value)


@pytest.mark.usefixtures("indexed")
def test_bad_options_are_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no preset or file 'slice'; did you mean slice_core"):
        GeneralAbility("slice")
    with pytest.raises(ConfigError, match="limit 0 must be 1 or more"):
        GeneralAbility("offline", limit=0)
    with pytest.raises(ConfigError, match="name their folder with data_dir"):
        load([Entry("local_boolq", "acc,none")], None)
    with pytest.raises(DataError, match=r"boolq_val.jsonl is missing; .*data_dir"):
        load([Entry("local_boolq", "acc,none")], tmp_path)
    (tmp_path / "boolq_val.jsonl").write_text('{"question": "a"}\n{"question": \n')
    with pytest.raises(DataError, match=r"boolq_val.jsonl, line 2, column 14: not valid JSON"):
        load([Entry("local_boolq", "acc,none")], tmp_path)
    (tmp_path / "boolq_val.jsonl").write_bytes(b'{"question": "\xff"}\n')
    with pytest.raises(DataError, match=r"boolq_val.jsonl: not UTF-8 text \(byte 14\)"):
        load([Entry("local_boolq", "acc,none")], tmp_path)
    (tmp_path / "boolq_val.jsonl").write_text('{"question": "\\ud83d"}\n')
    with pytest.raises(DataError, match=r"boolq_val.jsonl, line 1: 'question' holds .*half a surrogate pair"):
        load([Entry("local_boolq", "acc,none")], tmp_path)
    (tmp_path / "bbh.jsonl").write_text('{"task": ["a"]}\n')
    with pytest.raises(DataError, match=r"bbh.jsonl, line 1: expected an object with a string under 'task'"):
        load([Entry("local_bbh", "exact_match,stripped", 3)], tmp_path)
    with pytest.raises(ConfigError, match=r"lm-eval has no task 'piqaa'; did you mean piqa\?"):
        load([Entry("piqaa", "acc,none")], None)
    ability = GeneralAbility("offline")
    with pytest.raises(ConfigError, match="a task cannot be named 'base'"):
        ability.check_run(SimpleNamespace(order=["base"]))
    with pytest.raises(ConfigError, match="has no scores of single items"):
        ability.load({"asked": ability.state()["asked"], "items": {}, "base": {}, "after": {}})
    assert ability.check({}, None) == []
    monkeypatch.setattr("callbacks.general_ability.find_spec", lambda name: None)
    assert "pip install -c constraints.txt -e '.[general]'" in GeneralAbility("offline").check({}, None)[0]


def test_demonstrations_are_of_the_same_kind_and_never_scored(folder: Path, tiny: Callable[..., ContinualLM]) -> None:
    prompts: list[str] = []

    def answer(prompt: str) -> str:
        prompts.append(prompt)
        return f" {prompt.split()[-3]}.\n"  # "counting 4 ? A:"

    entry = Entry("local_bbh", "exact_match,stripped", 3)
    lm = scripted(tiny, answer)
    loaded = load([entry], folder)
    whole = measure(lm, loaded, None, False)[entry]
    assert (whole.value, whole.items) == (100.0, 6), "3 of 6 of each kind are demonstrations"
    assert prompts[0] == "Q: adding 0 ?\nA: 0\n\nQ: adding 1 ?\nA: 1\n\nQ: adding 2 ?\nA: 2\n\nQ: adding 3 ?\nA:"
    assert [p.split("Q: ")[-1][:-3] for p in prompts[:4]] == [
        "adding 3 ?",
        "counting 3 ?",
        "adding 4 ?",
        "counting 4 ?",
    ]
    first = list(prompts)
    assert measure(lm, loaded, 2, False)[entry].items == 2
    assert prompts[6:] == first[:2], "the same again, up to the limit"
    with pytest.raises(ConfigError, match="no metric 'acc,none'"):
        wrong = Entry("local_bbh", "acc,none")
        measure(lm, load([wrong], folder), 1, False)
    with pytest.raises(DataError, match="3 demonstrations of 'adding', 4 are needed"):
        many = Entry("local_bbh", "exact_match,stripped", 4)
        measure(lm, load([many], folder), 1, False)


MADE = {
    "small": "include: local_bbh.yaml\ndataset_kwargs: {items: bbh.jsonl, shown: 3, kind: task}",
    "large": "include: local_bbh.yaml\ndataset_kwargs: {items: bbh.jsonl, shown: 1, kind: task}",
    "corpus": "include: local_bbh.yaml\nmetric_list: [{metric: bleu, aggregation: bleu, higher_is_better: true}]",
    "middle": "include: local_bbh.yaml\nmetric_list: [{metric: exact_match, aggregation: median}]",
}
GROUP = (
    "group: {name}\ntask: [small, large]\n"
    "aggregate_metric_list: [{{metric: exact_match, filter_list: [stripped], weight_by_size: {by_size}}}]"
)


@pytest.mark.long
def test_a_groups_items_are_weighted_like_its_score(
    folder: Path, tiny: Callable[..., ContinualLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = Path(shutil.copytree(TASK_FILES, tmp_path / "tasks", ignore=shutil.ignore_patterns("__pycache__")))
    for name, text in MADE.items():
        (tasks / f"{name}.yaml").write_text(f"{text}\ntask: {name}\n")
    for name, by_size in {"by_size": True, "even": False}.items():
        (tasks / f"{name}.yaml").write_text(GROUP.format(name=name, by_size=by_size))
    monkeypatch.setattr(general, "TASK_FILES", tasks)
    lm = scripted(tiny, lambda prompt: " 3" if "adding 3" in prompt else " 0")
    metrics = {"by_size": "exact_match", "even": "exact_match", "corpus": "bleu", "middle": "exact_match"}
    entries = {name: Entry(name, f"{metric},stripped") for name, metric in metrics.items()}
    scores = measure(lm, load(list(entries.values()), folder), None, False)
    found = {name: scores[entry] for name, entry in entries.items()}
    for name, expected in {"by_size": 100 * 2 / 16, "even": (100 / 6 + 10) / 2}.items():
        assert [(part.task, len(part.ids)) for part in found[name].parts] == [("small", 6), ("large", 10)]
        assert [sum(part.scores) for part in found[name].parts] == [100.0, 100.0], "one item right in each"
        assert found[name].value == pytest.approx(expected) and found[name].averaged
    assert found["corpus"].parts == () and not found["corpus"].averaged, "BLEU is of the corpus"
    assert found["middle"].value == 0.0 < sum(found["middle"].parts[0].scores) and not found["middle"].averaged


def test_our_task_files_of_hub_tasks_score_as_documented(
    tiny: Callable[..., ContinualLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alpaca by ROUGE-L, object counting by its first number; the hub's data is replaced by data in memory."""
    rows = [{"instruction": f"Say {i}", "input": "now" if i % 2 else "", "output": f"number {i}"} for i in range(200)]
    counts = [{"input": f"How many is {i}?", "target": str(i)} for i in range(10)]
    asked: list[str] = []

    def hub(path: str, **_: Any) -> Any:
        asked.append(path)
        alpaca = path == "tatsu-lab/alpaca"
        return {"train" if alpaca else "test": datasets.Dataset.from_list(rows if alpaca else counts)}

    monkeypatch.setattr(datasets, "load_dataset", hub)
    alpaca, counting = Entry("cl_alpaca", "rouge_l,none", 5), Entry("cl_object_counting", "exact_match,first-number", 3)
    prompts: list[str] = []

    def answer(prompt: str) -> str:
        prompts.append(prompt)
        if "Instruction" in prompt:
            return f"\nnumber {prompt.split('Say ')[-1].split()[0]} and a"
        return f" {prompt.split('How many is ')[-1].split('?')[0]} things, not 77"

    lm = scripted(tiny, answer)
    scores = measure(lm, load([alpaca, counting], None), 4, False)
    assert asked == ["tatsu-lab/alpaca", "SaylorTwift/bbh"]
    assert (scores[counting].value, scores[counting].items) == (100.0, 4), "a blank before the number is no error"
    # Two of the answer's four words are the reference's two: precision 1/2, recall 1.
    assert (scores[alpaca].value, scores[alpaca].items) == (pytest.approx(100 * 2 / 3), 4)
    assert prompts[1].startswith("### Instruction:\nSay 190\n\n### Response:\nnumber 190\n\n### Instruction:\nSay 191")
    assert prompts[1].endswith("### Instruction:\nSay 1\n\n### Input:\nnow\n\n### Response:\n")
    assert prompts[4].count("A: ") == 3


INSTRUCTIONS = [{"prompt": f"Say {i} twice.\n", "response": f"number {i} {i}"} for i in range(8)]


@pytest.mark.parametrize("listed", [False, True])
def test_user_instructions_are_scored_by_rouge_l(
    tiny: Callable[..., ContinualLM], tmp_path: Path, listed: bool
) -> None:
    if listed:  # as TRACE has LIMA's
        rows = [{"prompt": row["prompt"], "answer": row["response"]} for row in INSTRUCTIONS]
        (tmp_path / "instructions.json").write_text(json.dumps(rows))
    else:
        (tmp_path / "instructions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in INSTRUCTIONS))
    prompts: list[str] = []

    def answer(prompt: str) -> str:
        prompts.append(prompt)
        number = prompt.split("Say ")[-1].split()[0]
        return f" number {number} {number}" if number == "5" else f"nothing {number}"

    entries = [Entry("local_instructions", "rouge_l,none", shots) for shots in (0, 1)]
    found = measure(scripted(tiny, answer), load(entries, tmp_path), None, False)[entries[0]]
    # "nothing 6" against "number 6 6": precision 1/2, recall 1/3.
    assert found.parts[0].scores == pytest.approx((100.0, 40.0, 40.0)) and found.averaged
    assert prompts[0] == "### Instruction:\nSay 5 twice.\n\n### Response:\n", "the first five are demonstrations"
    assert prompts[3].startswith(
        "### Instruction:\nSay 0 twice.\n\n### Response:\nnumber 0 0\n\n### Instruction:\nSay 5"
    )


def test_the_preset_of_instructions(
    tiny: Callable[..., ContinualLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the data root's folder, zero-shot and in context; where the file is absent, one line before training."""

    def generate_until(_: HarnessLM, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """Answers in the right form only after five demonstrations."""
        prompts = [request.args[0] for request in requests]
        numbers = [prompt.split("Say ")[-1].split()[0] for prompt in prompts]
        return [f"number {n} {n}" if p.count("Say ") == 6 else n for n, p in zip(numbers, prompts, strict=True)]

    monkeypatch.setattr(HarnessLM, "generate_until", generate_until)
    run = SimpleNamespace(order=["FOMC"], data=SimpleNamespace(root=tmp_path), module=tiny("float32"))
    run.record = SimpleNamespace(stages=Stages(run.order))
    run.say, run.log, run.write = (lambda *_: None for _ in range(3))
    ability = GeneralAbility("instructions")
    with pytest.raises(DataError) as error:
        ability.check_run(run)
    file = tmp_path / "general" / "instructions.jsonl"
    assert str(error.value) == f"{file} is missing; observers.general.data_dir must hold the preset's files"
    file.parent.mkdir()
    file.write_text("".join(json.dumps(row) + "\n" for row in INSTRUCTIONS))
    ability.check_run(run)
    ability.on_base(run)
    found = {setting: scores["Instructions"] for setting, scores in ability.base.items()}
    assert {score.items for score in found.values()} == {3}, "of eight, five are demonstrations"
    # "6" against "number 6 6": precision 1, recall 1/3.
    assert found["GP"].value == pytest.approx(50.0) and found["IP"].value == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "jsonl",
            '{"prompt": "a", "response": "b"}\n{"prompt": "a"}',
            "line 2: expected an object with 'prompt' and 'resp",
        ),
        ("json", '[{"prompt": "a", "answer": ""}]', "record 1: expected an object with 'prompt' and 'answer'"),
        ("json", '{"prompt": "a", "answer": "b"}', "expected a list of records"),
        ("jsonl", '{"prompt": "a", "response": "b"}', "no items are left besides the 5 demonstrations"),
    ],
)
def test_bad_instructions_are_refused(tmp_path: Path, name: str, content: str, expected: str) -> None:
    (tmp_path / f"instructions.{name}").write_text(content)
    with pytest.raises(DataError, match=rf"instructions\.{name}.*{expected}"):
        load([Entry("local_instructions", "rouge_l,none")], tmp_path)


@pytest.mark.skipif(not LIMA.is_file(), reason="needs ../shared/data/trace")
def test_limas_answers_in_traces_format(tmp_path: Path) -> None:
    shutil.copy(LIMA, tmp_path / "instructions.json")
    entry = Entry("local_instructions", "rouge_l,none")
    (task,) = load([entry], tmp_path)[entry]["tasks"].values()
    assert len(task.eval_docs) == 1030 - 5
    assert all(doc["output"].strip() for doc in task.eval_docs)
