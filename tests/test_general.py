# ruff: noqa: E402 (without lm-eval these tests are skipped before they import)
"""General ability: presets, items from files, scores against plain forward passes, and a run with and without it."""

import csv
import json
import math
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
import yaml

datasets = pytest.importorskip("datasets", reason="lm-eval is not installed (the extra 'general')")
pytest.importorskip("lm_eval", reason="lm-eval is not installed (the extra 'general')")

from lm_eval.config.group import GroupConfig
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Kind
from lm_eval.tasks._yaml_loader import load_yaml

from callbacks.general_ability import GeneralAbility
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.backbone import Backbone
from cl_lightning.errors import ConfigError, DataError
from cl_lightning.evaluation import general
from cl_lightning.evaluation.bootstrap import interval
from cl_lightning.evaluation.general import TASK_FILES, load, measure
from cl_lightning.evaluation.general_presets import Entry, read_preset, shipped
from cl_lightning.evaluation.harness import HarnessLM
from cl_lightning.module import ContinualLM
from tests.conftest import ROOT, SHARED
from tests.test_sequence import adapters, command, record, same_bits, smoke

REAL = SHARED / "data" / "general"
LIMA = SHARED / "data" / "trace" / "Lima" / "train.json"
PRESET = {
    "GP": {
        "BoolQ": {"task": "local_boolq", "metric": "acc"},
        "BBH": {"task": "local_bbh", "metric": "exact_match,stripped"},
    },
    "IP": {"BoolQ": {"task": "local_boolq", "metric": "acc", "shots": 2}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up files in the layout of the local tasks."""
    folder = tmp_path_factory.mktemp("general")
    questions = [{"question": f"is {i} even", "passage": f"{i} is a number", "label": i % 2 == 0} for i in range(30)]
    counts = [
        {"task": kind, "input": f"{kind} {i} ?", "target": str(i)} for kind in ("adding", "counting") for i in range(6)
    ]
    for name, rows in {"boolq_val": questions, "bbh": counts}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "preset.yaml").write_text(yaml.safe_dump(PRESET, sort_keys=False))
    return folder


class Says:
    """A scripted answer to every prompt, in the place of generation."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer = answer

    def __call__(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        return [self.answer(request.args[0]) for request in requests]


def scripted(tiny: Callable[..., ContinualLM], answer: Callable[[str], str]) -> HarnessLM:
    module = tiny("float32")
    lm = HarnessLM(module.llm, module.tokenizer, module.answer_logits, 4)
    lm.generate_until = Says(answer)
    return lm


# ---- presets and items ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index() -> dict[str, Any]:
    """What lm-eval and we have, by name: entries with their YAML files, no data."""
    return TaskManager(include_path=str(TASK_FILES)).task_index


def configs(index: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The task files that a task, group or tag comes down to."""
    entry = index[name]
    if entry.kind == Kind.TAG:
        return [config for member in sorted(entry.tags) for config in configs(index, member)]
    config = load_yaml(entry.yaml_path, resolve_func=False)
    members = config["task"] if isinstance(config["task"], list) else []
    return [found for member in members for found in configs(index, member)] or [config]


def shown(config: dict[str, Any]) -> float:
    """How many demonstrations a task has: those written into its file, or a split of them."""
    samples = (config.get("fewshot_config") or {}).get("samples")
    if isinstance(samples, list):
        return len(samples)
    return math.inf if any(config.get(f"{split}_split") for split in ("fewshot", "training", "validation")) else 0


@pytest.mark.parametrize("name", ["offline", "slice_core", "trace"])
def test_shipped_presets_ask_for_metrics_and_demonstrations_that_are_there(index: dict[str, Any], name: str) -> None:
    for entry in (entry for tasks in read_preset(name).values() for entry in tasks.values()):
        metric, _, chosen = entry.metric.rpartition(",")
        found = configs(index, entry.task)
        assert found
        for config in found:
            filters = config.get("filter_list") or [{"name": "none"}]
            assert metric in {each["metric"] for each in config["metric_list"]}, config["task"]
            assert chosen in {each["name"] for each in filters}, config["task"]
            assert entry.shots <= shown(config), config["task"]
        if index[entry.task].kind == Kind.GROUP:
            group = GroupConfig(**load_yaml(index[entry.task].yaml_path, resolve_func=False))
            ways = [way for way in group.aggregate_metric_list if way.metric == metric]
            assert any(way.filter_list is None or chosen in way.filter_list for way in ways), entry.task


def test_without_the_hub_a_run_says_so_before_training(tmp_path: Path) -> None:
    told = smoke(tmp_path / "run", *options(tmp_path, preset="slice_core"), check=False)
    lines = [line for line in told.stderr.splitlines() if line.startswith("error")]
    assert told.returncode == 2 and len(lines) == 1
    assert "observers.general: the data of hellaswag cannot be had" in lines[0]
    assert "take observers.general.preset=offline" in lines[0]
    assert not (tmp_path / "run").exists()


def test_shipped_presets_name_what_lm_eval_has(index: dict[str, Any]) -> None:
    assert shipped() == ["offline", "slice_core", "trace"]
    known = set(index)
    presets = {name: read_preset(name) for name in shipped()}
    for preset in presets.values():
        assert {"GP", "IP"} <= preset.keys()
        assert all(entry.task in known for tasks in preset.values() for entry in tasks.values())
        assert {entry.shots for entry in preset["GP"].values()} == {0}
        shots = {name: entry.shots for name, entry in preset["IP"].items()}
        assert {n for name, n in shots.items() if name.startswith("BBH")} == {3}
        assert {n for name, n in shots.items() if not name.startswith("BBH")} == {5}
    assert set(presets["slice_core"]["GP"]) == {"HellaSwag", "CommonsenseQA", "BBH object counting", "Alpaca"}
    assert set(presets["trace"]["GP"]) == {"MMLU", "GSM8K", "BBH", "TyDiQA", "BoolQ", "PIQA"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("GP: [boolq]", "GP must map names to tasks"),
        ("[]", "must map settings"),
        ("GP: {A: {task: boolq}}", "GP: A: expected"),
        ("GP: {A: {task: boolq, metric: acc, shot: 5}}", "GP: A: expected"),
        ("GP: {A: {task: boolq, metric: acc, shots: -1}}", "shots: -1 must be 0 or more"),
        ("GP: {A: ", "not valid YAML"),
        ("GP: {mean: {task: boolq, metric: acc}}", "'mean' is the mean of the others"),
    ],
)
def test_a_bad_preset_is_told(tmp_path: Path, content: str, told: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=told) as error:
        read_preset(str(file))
    assert str(file) in str(error.value)


def test_bad_options_are_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no preset 'slice'.*did you mean slice_core"):
        GeneralAbility("slice")
    with pytest.raises(ConfigError, match="limit 0 must be 1 or more"):
        GeneralAbility("offline", limit=0)
    with pytest.raises(ConfigError, match="name their folder with data_dir"):
        load([Entry("local_boolq", "acc,none")], None)
    with pytest.raises(DataError, match=r"boolq_val.jsonl is missing; .*data_dir"):
        load([Entry("local_boolq", "acc,none")], tmp_path)
    (tmp_path / "boolq_val.jsonl").write_text('{"question": "a"}\n{"question": \n')
    with pytest.raises(DataError, match=r"boolq_val.jsonl, line 2: not valid JSON"):
        load([Entry("local_boolq", "acc,none")], tmp_path)
    with pytest.raises(ConfigError, match="lm-eval knows no task 'piqaa'; did you mean piqa or "):
        load([Entry("piqaa", "acc,none")], None)
    assert GeneralAbility("offline").check({}, None) == []
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
    with pytest.raises(DataError, match="3 demonstrations of 'adding', 4 are wanted"):
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


def test_a_groups_items_are_weighted_as_its_score(
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


def test_our_files_of_hub_tasks_score_as_they_say(
    tiny: Callable[..., ContinualLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alpaca by ROUGE-L, object counting by its first number; the hub's data stands in memory."""
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
def test_instructions_of_ones_own_are_scored_by_rouge_l(
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


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "jsonl",
            '{"prompt": "a", "response": "b"}\n{"prompt": "a"}',
            "line 2: expected an object with 'prompt' and 'resp",
        ),
        ("json", '[{"prompt": "a", "answer": ""}]', "record 1: expected an object with 'prompt' and 'answer'"),
        ("json", '{"prompt": "a", "answer": "b"}', "expected a list of objects"),
        ("jsonl", '{"prompt": "a", "response": "b"}', "no item is left beside the 5 demonstrations"),
    ],
)
def test_bad_instructions_are_told(tmp_path: Path, name: str, content: str, told: str) -> None:
    (tmp_path / f"instructions.{name}").write_text(content)
    with pytest.raises(DataError, match=rf"instructions\.{name}.*{told}"):
        load([Entry("local_instructions", "rouge_l,none")], tmp_path)


@pytest.mark.skipif(not LIMA.is_file(), reason="needs ../shared/data/trace")
def test_limas_answers_as_trace_has_them(tmp_path: Path) -> None:
    shutil.copy(LIMA, tmp_path / "instructions.json")
    entry = Entry("local_instructions", "rouge_l,none")
    (task,) = load([entry], tmp_path)[entry]["tasks"].values()
    assert len(task.eval_docs) == 1030 - 5
    assert all(doc["output"].strip() for doc in task.eval_docs)


# ---- a real model, real items --------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data/general")
def test_the_offline_preset_on_a_real_model_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    preset = read_preset("offline")
    # Generation on two cores takes half a minute more; the tiny model's run below has it.
    wanted = {"GP": ("MMLU", "BBH", "BoolQ", "PIQA"), "IP": ("MMLU", "PIQA")}
    loaded = load([preset[setting][name] for setting, names in wanted.items() for name in names], REAL)
    module = ContinualLM(Backbone("smollm2-135m-instruct", dtype="float32"), SeqLoRA())
    module.load(module.backbone.load_tokenizer())
    lm = HarnessLM(module.llm, module.tokenizer, module.answer_logits, 8)
    module.llm.train()
    before = torch.get_rng_state()
    scores = measure(lm, loaded, 4, False)
    assert module.llm.training and torch.equal(torch.get_rng_state(), before)
    assert len(scores) == 6 and {score.items for score in scores.values()} == {4}
    module.llm.eval()
    assert scores[preset["GP"]["BoolQ"]].value == boolq_by_hand(module, 4)
    assert scores[preset["GP"]["PIQA"]].value == piqa_by_hand(module, 4)


def likelihood(module: ContinualLM, context: str, continuation: str) -> float:
    """Sum of log-probabilities, from a plain forward pass of one row."""
    ids, length = module.tokenizer.encode(context + continuation), len(module.tokenizer.encode(context))
    with torch.no_grad():
        scores = module.llm(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(scores[i - 1, ids[i]]) for i in range(length, len(ids)))


def read(name: str, skip: int, count: int) -> list[dict[str, Any]]:
    with (REAL / name).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file][skip : skip + count]


def boolq_by_hand(module: ContinualLM, count: int) -> float:
    right = 0
    for row in read("boolq_val.jsonl", 16, count):
        context = f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"
        said = likelihood(module, context, " yes") > likelihood(module, context, " no")
        right += said == bool(row["label"])
    return 100.0 * right / count


def piqa_by_hand(module: ContinualLM, count: int) -> float:
    right = 0
    for row in read("piqa_val.jsonl", 16, count):
        context = f"Question: {row['goal']}\nAnswer:"
        second = likelihood(module, context, f" {row['sol2']}") > likelihood(module, context, f" {row['sol1']}")
        right += second == bool(row["label"])
    return 100.0 * right / count


# ---- in a run ------------------------------------------------------------------------------------------------


def options(folder: Path, limit: int = 4, preset: str | None = None) -> list[str]:
    return [
        "--observers.general=GeneralAbility",
        f"--observers.general.preset={preset or folder / 'preset.yaml'}",
        "--observers.general.when=each",
        f"--observers.general.limit={limit}",
        f"--observers.general.data_dir={folder}",
    ]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    run = tmp_path_factory.mktemp("runs") / "measured"
    told = smoke(run, *options(folder))
    assert "general ability of the base model" in told.stdout
    assert "general ability, preset preset, by lm-eval (first 4 items of each task only)" in told.stdout
    assert "Running" not in told.stderr, "lm-eval's own bars and logs"
    return run


def ability(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "general" / "ability.csv").open()))


def test_it_changes_no_score_and_no_bit(measured: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    smoke(bare)
    assert record(bare)["R"] == record(measured)["R"]
    assert adapters(bare) and same_bits(bare, measured)
    assert record(bare)["identity"] == record(measured)["identity"]
    for file in bare.glob("predictions/*.jsonl"):
        assert (measured / "predictions" / file.name).read_text() == file.read_text()


def test_the_base_stands_beside_every_value(measured: Path) -> None:
    rows = ability(measured)
    assert [r["after"] for r in rows] == ["base"] * 5 + ["FOMC"] * 5 + ["NumGLUE-cm"] * 5
    base = {(r["setting"], r["task"]): float(r["score"]) for r in rows[:5]}
    for row in rows:
        assert float(row["base"]) == base[row["setting"], row["task"]]
        assert float(row["difference"]) == pytest.approx(float(row["score"]) - float(row["base"]))
    means = [float(r["score"]) for r in rows[:3]]
    assert rows[2]["task"] == "mean" and means[2] == pytest.approx((means[0] + means[1]) / 2)
    tables = record(measured)["tables"]["general"]
    told = ["after NumGLUE-cm", "95 % interval", "base", "difference", "its 95 % interval"]
    assert tables[0]["columns"][-5:] == told and len(tables[0]["rows"][0]) == len(tables[0]["columns"])
    assert [row[0] for row in tables[1]["rows"]] == ["base", "after FOMC", "after NumGLUE-cm"]
    assert "general/ability.csv" in record(measured)["files"]
    logged = list(csv.DictReader((measured / "logs/attempt_0/metrics.csv").open()))
    assert sum(bool(row.get("general/GP/difference")) for row in logged) == 3


def test_every_score_has_its_items_and_intervals(measured: Path) -> None:
    """Recomputed from the files alone: the mean, the interval, the paired interval of the difference."""
    rows, files = ability(measured), record(measured)["files"]
    items = {}
    for moment, name in {"base": "base", "FOMC": "after_FOMC", "NumGLUE-cm": "after_NumGLUE-cm"}.items():
        assert f"general/samples_{name}.jsonl" in files
        for line in (measured / "general" / f"samples_{name}.jsonl").read_text().splitlines():
            row = json.loads(line)
            items.setdefault((moment, row["setting"], row["task"]), {})[row["id"]] = row
    assert {len(of) for of in items.values()} == {4} and len(items) == 9
    for row in rows:
        if row["task"] == "mean":
            assert all(row[end] for end in ("low", "high", "difference_low", "difference_high"))
            continue
        mine, base = (list(items[when, row["setting"], row["task"]].values()) for when in (row["after"], "base"))
        assert [item["id"] for item in mine] == [item["id"] for item in base]
        scores, others = np.array([[item["score"] for item in of] for of in (mine, base)])
        assert scores.mean() == pytest.approx(float(row["score"]))
        seed = crc32(mine[0]["lm_eval_task"].encode())
        assert (float(row["low"]), float(row["high"])) == pytest.approx(interval(scores, seed))
        paired = interval(scores - others, seed)
        assert (float(row["difference_low"]), float(row["difference_high"])) == pytest.approx(paired)
    assert any(float(row["low"]) < float(row["high"]) for row in rows)


def test_killed_in_the_second_task_the_base_value_is_known(measured: Path, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    out = subprocess.DEVNULL
    process = subprocess.Popen(command(run, *options(folder)), cwd=ROOT, stdout=out, stderr=out)
    deadline = time.monotonic() + 120
    while not (run / "surgery" / "NumGLUE-cm.csv").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    other = smoke(run, *options(folder, limit=3), check=False)
    assert other.returncode == 2 and "measured with another preset, limit" in other.stderr
    told = smoke(run, *options(folder))
    assert "of the base model" not in told.stdout
    assert ability(run) == ability(measured)
    assert record(run)["tables"]["general"] == record(measured)["tables"]["general"]


def test_two_ranks_share_the_items(measured: Path, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "two"
    smoke(run, *options(folder), "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu")
    assert record(run)["world_size"] == 2
    assert ability(run) == ability(measured)
    for name in ("base", "after_FOMC", "after_NumGLUE-cm"):
        file = f"general/samples_{name}.jsonl"
        assert (run / file).read_text() == (measured / file).read_text()


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data/general")
def test_the_whole_offline_preset_in_a_run(tmp_path: Path) -> None:
    run = tmp_path / "offline"
    smoke(run, *options(REAL, limit=1, preset="offline"), "--data.order=[FOMC]")
    rows = ability(run)
    assert {(r["setting"], r["task"]) for r in rows} == {
        (setting, task) for setting in ("GP", "IP") for task in ("MMLU", "GSM8K", "BBH", "BoolQ", "PIQA", "mean")
    }
