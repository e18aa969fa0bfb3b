"""The script that benchmarks/sequence.py times against does its work: starts from gradients, steps, merges, answers."""

import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft.tuners.lora.layer import Linear
from transformers import Trainer

from tests.conftest import ROOT
from tests.families import FAMILIES, save

TASKS, EXAMPLES, BATCH = 2, 6, 2


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peer", ROOT / "benchmarks" / "peers" / "trainer_peft.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(3, 259, (count,), generator=rng).tolist()

    return {
        "model": str(save(FAMILIES["Llama"](), tmp_path_factory.mktemp("peer") / "model")),
        "dtype": "float32",
        "threads": None,
        "rank": 2,
        "alpha": 2,
        "lr": 1e-3,
        "batch_size": BATCH,
        "eval_batch_size": 4,
        "gradient_samples": 4,
        "tasks": [
            {
                "name": f"task {number}",
                "max_new_tokens": 2,
                "train": [{"prompt": ids(5 + i), "answer": ids(2)} for i in range(EXAMPLES)],
                "test": [ids(4 + i) for i in range(3)],
            }
            for number in range(TASKS)
        ],
    }


@pytest.mark.parametrize("authors", [False, True])
def test_each_task_is_started_trained_and_scored(
    authors: bool, peer: ModuleType, work: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: Counter[str] = Counter()
    step, start = Trainer.training_step, Linear.lora_ga_init

    def count_step(self: Trainer, *given: Any, **more: Any) -> Any:
        counts["steps"] += 1
        return step(self, *given, **more)

    def count_start(self: Linear, *given: Any) -> None:
        counts["starts"] += hasattr(self.get_base_layer(), "_peft_loraga_grad")
        start(self, *given)

    monkeypatch.setattr(Trainer, "training_step", count_step)
    monkeypatch.setattr(Linear, "lora_ga_init", count_start)
    settings = {"autocast": False, "random_order": False, "unfused": False}
    made = peer.Peer(work, authors, settings)
    before = {name: weight.clone() for name, weight in made.llm.state_dict().items()}
    made.run()
    assert counts == {"steps": TASKS * EXAMPLES // BATCH, "starts": TASKS * 2 * 7}
    assert set(made.seconds) == {"gradients", "start", "training", "scoring"}
    after = made.llm.state_dict()
    assert after.keys() == before.keys(), "merged"
    moved = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_answers_in_batches_are_those_of_one_prompt_at_a_time(peer: ModuleType, work: dict[str, Any]) -> None:
    prompts = work["tasks"][0]["test"]
    settings = {"autocast": False, "random_order": False, "unfused": False}
    batched, alone = (peer.Peer(work, authors, settings)._answers(prompts, 6) for authors in (False, True))
    assert batched == alone
    assert len(set(alone)) > 1


def test_gradients_that_oppose_are_reconciled(peer: ModuleType) -> None:
    new, old = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, 2.0]])
    assert torch.equal(peer._reconciled(new, old), torch.tensor([[1.0, 0.0]]))
    assert torch.equal(peer._reconciled(-new, old), -new), "control: they agree"


def test_the_fastest_settings_come_first(peer: ModuleType, work: dict[str, Any], tmp_path: Path) -> None:
    made = peer.Peer(work, False, {"autocast": False, "random_order": False, "unfused": False})
    tried = made.try_settings()
    assert len(tried) == 4, "in float32 PEFT keeps no other copies"
    assert tried == sorted(tried, key=lambda one: one[0])
    assert len({str(settings) for _, settings in tried}) == 4
