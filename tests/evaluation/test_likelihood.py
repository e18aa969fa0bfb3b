"""Labels chosen by likelihood: the values, the choice, and what a run reports."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cl_lightning.data.base import Example
from cl_lightning.data.labels import label_set
from cl_lightning.data.prompt import Encoded
from cl_lightning.evaluation.generate import generate
from cl_lightning.evaluation.likelihood import Choice, log_likelihoods, most_likely
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from tests.conftest import random_examples, save_tiny_t5
from tests.runs import all_tables, record, smoke

PAD = 0


def reference(module: ContinualLM, row: Encoded) -> float:
    """Compute log p(answer | prompt) token by token, without batching, padding or sharing."""
    total, llm = 0.0, module.llm
    with torch.no_grad():
        for i, token in enumerate(row.answer_ids):
            said = list(row.answer_ids[:i])
            if module.encoder_decoder:
                start = [llm.config.decoder_start_token_id, *said]
                logits = llm(input_ids=torch.tensor([row.prompt_ids]), decoder_input_ids=torch.tensor([start])).logits
            else:
                logits = llm(input_ids=torch.tensor([[*row.prompt_ids, *said]])).logits
            total += float(logits[0, -1].double().log_softmax(-1)[token])
    return total


@pytest.fixture(params=["llama", "t5"])
def module(request: pytest.FixtureRequest, tiny: Callable[..., ContinualLM], tmp_path: Path) -> ContinualLM:
    if request.param == "llama":
        made = tiny()
    else:
        made = ContinualLM(Backbone(str(save_tiny_t5(tmp_path / "t5", 1, 0.1)), dtype="float32"))
        made.load(made.backbone.load_tokenizer())
    made.adapter.begin_task(0, torch.Generator().manual_seed(0))
    for layer in made.adapter.layers.values():
        layer.lora_B.data.normal_(0, 1.0)
    return made


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_likelihoods_equal_those_computed_token_by_token(module: ContinualLM, batch_size: int) -> None:
    rows = random_examples(6)
    # Answers that share all but the last token run once.
    rows += [replace(rows[0], answer_ids=(*rows[0].answer_ids[:-1], token)) for token in (7, 9)]
    module.llm.train()
    found = log_likelihoods(module.llm, module.answer_logits, PAD, rows, batch_size)
    assert module.llm.training
    module.llm.eval()
    wanted = [reference(module, row) for row in rows]
    assert len({round(value, 3) for value in wanted}) == len(rows)
    assert [value for value, _ in found] == pytest.approx(wanted, abs=2e-5)


def test_the_end_token_is_part_of_a_label(module: ContinualLM) -> None:
    """A label that is a prefix of another is scored with its end token; without, it would always win."""
    prompts = [replace(e, answer_ids=()) for e in random_examples(12, seed=1)]
    labels = {"no": (5, 2), "no comment": (5, 6, 2), "yes": (8, 2)}
    chosen = most_likely(module.llm, module.answer_logits, PAD, prompts, labels, 8)
    module.llm.eval()
    values = [{name: reference(module, replace(p, answer_ids=ids)) for name, ids in labels.items()} for p in prompts]
    assert chosen == [max(each, key=each.__getitem__) for each in values]
    assert len({*chosen}) > 1
    cut = {name: ids[:-1] for name, ids in labels.items()}
    without = most_likely(module.llm, module.answer_logits, PAD, prompts, cut, 8)
    assert "no comment" not in without, "negative control"


def examples(*answers: str) -> list[Example]:
    return [Example(f"t/{i}", f"prompt {i}", answer) for i, answer in enumerate(answers)]


def test_label_sets_are_few_and_repeated() -> None:
    assert label_set(examples("yes", "no ", "no", "yes")) == ["no", "yes"]
    assert label_set(examples("yes", "yes", "yes")) == []
    assert label_set(examples("a", "b", "c", "a")) == [], "three answers of four examples"
    assert label_set(examples(*[str(i) for i in range(27)] * 5)) == []


#: Fewer examples, and no start from gradients.
FEW = ("--boundary.init=null", "--boundary.memory=null", "--data.train_samples=7", "--data.test_samples=4")


@pytest.fixture(scope="module")
def by_likelihood(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("likelihood") / "run"
    smoke(run, *FEW, "--data.score_by=likelihood")
    return run


def test_a_run_reports_which_tasks_are_scored_by_likelihood(by_likelihood: Path) -> None:
    assert "accuracy by likelihood" in all_tables(by_likelihood)
    found = record(by_likelihood)
    assert found["metrics"]["by_likelihood"] == ["FOMC"]
    made = {
        task: {
            json.loads(line)["prediction"]
            for path in (by_likelihood / "predictions").glob(f"*_{task}.jsonl")
            for line in path.read_text().splitlines()
        }
        for task in found["order"]
    }
    assert made["FOMC"] <= {"A", "B", "C"}
    assert made["NumGLUE-cm"] - {"A", "B", "C"}, "its answers are numbers, and generated"


def test_tasks_without_labels_are_refused_before_anything_runs(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = smoke(run, "--data.score_by=likelihood", "--data.order=[NumGLUE-cm,Py150]", check=False)
    assert done.returncode == 2
    assert not run.exists()
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert line.startswith("error: data.score_by: no closed label set among NumGLUE-cm, Py150")


def test_choosing_beside_generation_equals_choosing_alone(tiny: Callable[..., ContinualLM]) -> None:
    module = tiny()
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    for layer in module.adapter.layers.values():
        layer.lora_B.data.normal_(0, 1.0)
    prompts = [replace(e, answer_ids=()) for e in random_examples(24, seed=1)]
    labels = {"no": (5, 2), "no comment": (5, 6, 2), "yes": (8, 2)}
    alone = generate(module.llm, module.tokenizer, [p.prompt_ids for p in prompts], 4, 7)
    choice = Choice(labels, len(prompts))
    beside = generate(module.llm, module.tokenizer, [p.prompt_ids for p in prompts], 4, 7, read=choice)
    assert beside == alone
    assert choice.chosen == most_likely(module.llm, module.answer_logits, PAD, prompts, labels, 8)
    assert len({*choice.chosen}) > 1


def test_scored_by_both(by_likelihood: Path, tmp_path: Path) -> None:
    """R is that of generated answers, whatever is scored beside them; the labels have scores of their own."""
    for by in ("both", "generation"):
        smoke(tmp_path / by, *FEW, f"--data.score_by={by}")
    both, generated, chosen = map(record, (tmp_path / "both", tmp_path / "generation", by_likelihood))
    assert both["R"] == generated["R"]
    assert both["metrics"]["by_likelihood"] == []
    assert both["metrics"]["budgets"] == generated["metrics"]["budgets"]
    column = both["columns"].index("FOMC")
    rows = {"zero-shot": chosen["zero_shot"], **dict(zip(chosen["order"], chosen["R"], strict=True))}
    further = both["metrics"]["further"]
    assert {after: of["FOMC"]["constrained"]["score"] for after, of in further.items()} == {
        after: row[column] for after, row in rows.items() if row[column] is not None
    }
    assert all(of.keys() == {"FOMC"} for of in further.values()), "other tasks have no labels"
