# ruff: noqa: E402 (without lm-eval these tests are skipped before they import)
"""General ability: presets, items from files, scores against plain forward passes, and a run with and without it."""

import csv
import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
import yaml

datasets = pytest.importorskip("datasets", reason="lm-eval is not installed (the extra 'general')")
pytest.importorskip("lm_eval", reason="lm-eval is not installed (the extra 'general')")


from callbacks.general_ability import GeneralAbility
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.evaluation.general.harness import HarnessLM
from cl_lightning.evaluation.general.measure import load, measure
from cl_lightning.evaluation.general.presets import read_preset
from cl_lightning.metrics.bootstrap import interval
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.sequence.stages import Stages
from tests.conftest import SHARED
from tests.runs import adapters, all_tables, killed, record, same_bits, smoke

REAL = SHARED / "data" / "general"
PRESET = {
    "GP": {
        "BoolQ": {"task": "local_boolq", "metric": "acc"},
        "BBH": {"task": "local_bbh", "metric": "exact_match,stripped"},
    },
    "IP": {"BoolQ": {"task": "local_boolq", "metric": "acc", "shots": 2}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write made-up files in the layout of the local tasks."""
    folder = tmp_path_factory.mktemp("general")
    questions = [{"question": f"is {i} even", "passage": f"{i} is a number", "label": i % 2 == 0} for i in range(30)]
    counts = [
        {"task": kind, "input": f"{kind} {i} ?", "target": str(i)} for kind in ("adding", "counting") for i in range(6)
    ]
    for name, rows in {"boolq_val": questions, "bbh": counts}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "preset.yaml").write_text(yaml.safe_dump(PRESET, sort_keys=False))
    return folder


# ---- a real model, real items --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> ContinualLM:
    torch.set_num_threads(1)
    module = ContinualLM(Backbone("smollm2-135m-instruct", dtype="float32"), SeqLoRA())
    module.load(module.backbone.load_tokenizer())
    return module


@pytest.mark.long
@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data/general")
def test_the_whole_offline_preset_on_a_real_model_without_network(
    real: ContinualLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    lines: list[str] = []
    files: dict[str, bytes] = {}
    run = SimpleNamespace(order=["FOMC"], data=SimpleNamespace(root=REAL.parent), module=real)
    run.record = SimpleNamespace(stages=Stages(run.order))
    run.say, run.log, run.write = lines.append, lambda values: None, files.__setitem__
    real.llm.train()
    before = torch.get_rng_state()
    ability = GeneralAbility("offline", limit=1)
    ability.check_run(run)
    ability.on_base(run)
    assert real.llm.training and torch.equal(torch.get_rng_state(), before)
    assert ability.base.keys() == {"GP", "IP"}
    for scores in ability.base.values():
        assert scores.keys() == {"MMLU", "GSM8K", "BBH", "BoolQ", "PIQA"}
        assert {score.items for score in scores.values()} == {1}
        assert {score.value for score in scores.values()} <= {0.0, 100.0}
    # One item each: the real model is right in some and wrong in others, and the reported value is their mean.
    right = {s: sum(score.value for score in scores.values()) / 5 for s, scores in ability.base.items()}
    assert all(0 < mean < 100 for mean in right.values())
    assert f"GP {right['GP']:.1f} (+0.0)  IP {right['IP']:.1f} (+0.0) (first 1 items" in lines[0] and len(lines) == 1
    rows = [json.loads(line) for line in files["general/samples_base.jsonl"].splitlines()]
    assert [row["score"] for row in rows] == [score.value for of in ability.base.values() for score in of.values()]


@pytest.mark.long
@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data/general")
def test_scores_equal_plain_forward_passes(real: ContinualLM) -> None:
    entries = {name: read_preset("offline")["GP"][name] for name in ("BoolQ", "PIQA")}
    scores = measure(
        HarnessLM(real.llm, real.tokenizer, real.answer_logits, 8), load(list(entries.values()), REAL), 4, False
    )
    real.llm.eval()
    assert {score.items for score in scores.values()} == {4}
    assert scores[entries["BoolQ"]].value == boolq_by_hand(real, 4)
    assert scores[entries["PIQA"]].value == piqa_by_hand(real, 4)


def likelihood(module: ContinualLM, context: str, continuation: str) -> float:
    """Compute the sum of log-probabilities with a plain forward pass of one row."""
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


#: Few examples, since what is measured is not what they are learnt to.
FEW = ("--data.train_samples=14", "--data.test_samples=2")


def options(folder: Path, limit: int = 4, preset: str | None = None) -> list[str]:
    return [
        *FEW,
        "--observers.general=GeneralAbility",
        f"--observers.general.preset={preset or folder / 'preset.yaml'}",
        "--observers.general.when=each",
        f"--observers.general.limit={limit}",
        f"--observers.general.data_dir={folder}",
    ]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    run = tmp_path_factory.mktemp("runs") / "measured"
    result = smoke(run, *options(folder))
    assert "general ability of the base model" in result.stdout
    assert "general ability, preset preset, by lm-eval (first 4 items of each task only)" in all_tables(run)
    assert "Running" not in result.stderr, "lm-eval's own bars and logs"
    return run


def ability(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "general" / "ability.csv").open()))


def test_measuring_changes_no_score_and_no_bit(measured: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    smoke(bare, *FEW)
    assert record(bare)["R"] == record(measured)["R"]
    assert adapters(bare) and same_bits(bare, measured)
    assert record(bare)["identity"] == record(measured)["identity"]
    for file in bare.glob("predictions/*.jsonl"):
        assert (measured / "predictions" / file.name).read_text() == file.read_text()


def test_every_value_is_reported_beside_the_bases(measured: Path) -> None:
    rows = ability(measured)
    assert [r["after"] for r in rows] == ["base"] * 5 + ["FOMC"] * 5 + ["NumGLUE-cm"] * 5
    base = {(r["setting"], r["task"]): float(r["score"]) for r in rows[:5]}
    for row in rows:
        assert float(row["base"]) == base[row["setting"], row["task"]]
        assert float(row["difference"]) == pytest.approx(float(row["score"]) - float(row["base"]))
    means = [float(r["score"]) for r in rows[:3]]
    assert rows[2]["task"] == "mean" and means[2] == pytest.approx((means[0] + means[1]) / 2)
    tables = record(measured)["tables"]["general"]
    expected = ["after NumGLUE-cm", "95 % interval", "base", "difference", "its 95 % interval"]
    assert tables[0]["columns"][-5:] == expected and len(tables[0]["rows"][0]) == len(tables[0]["columns"])
    assert [row[0] for row in tables[1]["rows"]] == ["base", "after FOMC", "after NumGLUE-cm"]
    assert "general/ability.csv" in record(measured)["files"]
    logged = list(csv.DictReader((measured / "logs/attempt_0/metrics.csv").open()))
    assert sum(bool(row.get("general/GP/difference")) for row in logged) == 3


def test_every_score_has_items_and_intervals(measured: Path) -> None:
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


@pytest.mark.long
def test_the_base_value_survives_a_kill_in_the_second_task(measured: Path, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    killed(run, "surgery/NumGLUE-cm.csv", *options(folder))
    other = smoke(run, *options(folder, limit=3), check=False)
    assert other.returncode == 2 and "measured with another preset, limit" in other.stderr
    result = smoke(run, *options(folder))
    assert "of the base model" not in result.stdout
    assert ability(run) == ability(measured)
    assert record(run)["tables"]["general"] == record(measured)["tables"]["general"]


@pytest.mark.long
def test_two_ranks_share_the_items(measured: Path, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "two"
    smoke(run, *options(folder), ranks=2)
    assert record(run)["world_size"] == 2
    assert ability(run) == ability(measured)
    for name in ("base", "after_FOMC", "after_NumGLUE-cm"):
        file = f"general/samples_{name}.jsonl"
        assert (run / file).read_text() == (measured / file).read_text()


@pytest.mark.long
@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data/general")
def test_the_whole_offline_preset_in_a_run(tmp_path: Path) -> None:
    run = tmp_path / "offline"
    smoke(run, *options(REAL, limit=1, preset="offline"), "--data.order=[FOMC]")
    rows = ability(run)
    assert {(r["setting"], r["task"]) for r in rows} == {
        (setting, task) for setting in ("GP", "IP") for task in ("MMLU", "GSM8K", "BBH", "BoolQ", "PIQA", "mean")
    }
