"""Tasks of gated branches, tiny Llama and tiny T5, float64: gates and logits of everything learnt stay put."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cl_lightning.data.collate import training_batch
from cl_lightning.data.prompt import Encoded
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.sequence.load import load_run
from tests.commands.test_cli import configs, launch
from tests.conftest import save_tiny_t5
from tests.random_words import RandomWords
from tests.runs import record

TASKS = ["one", "two", "three", "four", "five"]
DATA: dict[str, Any] = {
    "train_samples": 6, "validation_samples": 0, "test_samples": 2, "batch_size": 3, "max_prompt_tokens": 48,
}  # fmt: skip
OPTIONS = (
    "--model.backbone.dtype=float64", "--model.adapter.branches=IncLoRA", "--model.adapter.branches.rank=2",
    "--model.adapter.width=40", "--model.lr=0.01", "--model.weight_decay=0.1", "--model.warmup=0",
    "--data.benchmark=tests.random_words.RandomWords", *(f"--data.{name}={value}" for name, value in DATA.items()),
    "--data.epochs=8", "--boundary.subspaces=null",
    "--boundary.gates.share=1", "--sequence.wandb=off", "--sequence.threads=1", "--sequence.zero_shot=false",
)  # fmt: skip
MODELS = {
    "llama": ("--model.backbone.name=random-llama", "--model.adapter.branches.targets=[q_proj,v_proj]"),
    "t5": ("--model.adapter.branches.targets=[q,v]",),
}


def order(tasks: int) -> str:
    return f"--data.order=[{','.join(TASKS[:tasks])}]"


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    if request.param == "llama":
        return MODELS["llama"]
    t5 = save_tiny_t5(tmp_path_factory.mktemp("t5"), layers=2, dropout=0.0)
    return (f"--model.backbone.name={t5}", *MODELS["t5"])


def trained(run: Path, *options: str) -> Path:
    result = launch(*configs("superni_gainlora_inflora"), *OPTIONS, *options, f"--sequence.run_dir={run}")
    assert result.code == 0, result.out + result.err
    return run


@torch.no_grad()
def outputs(run: Path, done: int, seen: list[list[Encoded]]) -> tuple[list[Tensor], list[Tensor]]:
    """Gates (n, done) and logits of the answers to each task's training prompts, by the model after `done` tasks."""
    module = load_run(run, done).module
    batches = [training_batch(examples, module.tokenizer.pad_token_id, module.encoder_decoder) for examples in seen]
    gates = [module.adapter.forward_kwargs(batch)["gates"] for batch in batches]
    return gates, [module.answer_logits(batch)[0] for batch in batches]


def moved(run: Path) -> tuple[float, float]:
    """Largest later gate on earlier tasks' prompts, largest change of their logits from when they were learnt."""
    stored = record(run)
    order, count = stored["order"], len(stored["order"])
    data = TaskSequence(RandomWords(), order=order, seed=stored["seed"], system_prompt="", **DATA)
    module = load_run(run, 1).module
    data.prepare(module.tokenizer, module.encoder_decoder)
    assert all(data.fingerprint([task]) == stored["fingerprints"][task.spec.name] for task in data.tasks)
    seen = [list(task.train) for task in data.tasks]
    after = {done: outputs(run, done, seen) for done in range(1, count + 1)}
    gates, last = after[count]
    opened = max(float(gates[j][:, j + 1 :].max()) for j in range(count - 1))
    own = min(float(gates[j][:, j].max()) for j in range(count))
    changed = 0.0
    for j in range(count - 1):
        before, untaught = after[j + 1][1][j], after[1][1][j]
        changed = max(changed, float((last[j] - before).abs().max()))
        assert j == 0 or float((untaught - before).abs().max()) > 1e-3, "each task changes what is said to its own"
    assert own > 1e-2, "every gate opens on its own prompts"
    return opened, changed


@pytest.mark.parametrize("tasks", [3, pytest.param(5, marks=pytest.mark.long)])
def test_what_was_learnt_stays_as_it_was(model: tuple[str, ...], tasks: int, tmp_path: Path) -> None:
    opened, changed = moved(trained(tmp_path / "run", *model, order(tasks)))
    assert opened < 1e-10
    assert changed < 1e-9


@pytest.mark.parametrize(
    ("model", "option"),
    [
        ("llama", "--boundary.gates.row_norms=true"),
        pytest.param("t5", "--boundary.gates.row_norms=true", marks=pytest.mark.long),
        pytest.param("llama", "--boundary.gates.ablation=no_update", marks=pytest.mark.long),
        pytest.param("t5", "--boundary.gates.ablation=no_update", marks=pytest.mark.long),
    ],
    indirect=["model"],
)
def test_wrong_variants_do_not(model: tuple[str, ...], tmp_path: Path, option: str) -> None:
    opened, changed = moved(trained(tmp_path / "run", *model, order(3), option))
    assert opened > 1e-4
    assert changed > 1e-6
