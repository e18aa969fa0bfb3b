"""A spectral start trained, saved, loaded and exported: displaced, baked and folded forms give the same logits."""

from collections.abc import Callable, Iterator

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load, save

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.initializers.slice import SLICE
from cl_lightning.model.module import ContinualLM
from tests.conftest import batch_of, random_examples

RANK = 4
IDS = torch.arange(3, 43).reshape(4, 10)
FORMS = [("displacement", "stack"), ("displacement", "weight"), ("baked", "stack"), ("baked", "weight")]


def adapter(offset: str, fold_into: str) -> SeqLoRA:
    return SeqLoRA(RANK, alpha=8, offset=offset, fold_into=fold_into)


def learnt(module: ContinualLM, tasks: int = 2) -> Iterator[bytes]:
    """Start each task by SLICE, train it for three steps, fold it; gives each task's stored branch."""
    for task in range(tasks):
        batch, rng = batch_of(random_examples(6, seed=task)), torch.Generator().manual_seed(task)
        module.adapter.begin_task(task, rng)
        for name, g in module.gradients([batch]).items():
            layer = module.adapter.layers[name]
            factors = SLICE().factors(layer.dense_weight(), g, RANK, module.adapter.scaling, rng)
            module.adapter.set_factors(name, *factors)
        optimizer = torch.optim.AdamW(module.adapter.param_groups(), lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            (module.sample_nll(batch) * batch["sample_weight"]).sum().backward()
            optimizer.step()
        yield save({name: tensor.contiguous() for name, tensor in module.adapter.task_state().items()})
        module.adapter.end_task(task)


@torch.no_grad()
def logits(module: ContinualLM) -> torch.Tensor:
    return module.llm(input_ids=IDS).logits


@pytest.mark.parametrize(("offset", "fold_into"), FORMS)
def test_saved_loaded_and_folded_alike(tiny: Callable[..., ContinualLM], offset: str, fold_into: str) -> None:
    module = tiny(adapter=adapter(offset, fold_into))
    start = logits(module)
    stored = list(learnt(module))
    assert (logits(module) - start).abs().max() > 1e-2, "it learnt something"
    again = tiny(adapter=adapter(offset, fold_into))
    again.adapter.restore([load(state) for state in stored])
    assert torch.allclose(logits(again), logits(module), rtol=0, atol=1e-10)
    # Negative control: without its start the branch is another one.
    if offset == "displacement":
        lost = [{k: t for k, t in load(state).items() if not k.endswith("0")} for state in stored]
        wrong = tiny(adapter=adapter(offset, fold_into))
        wrong.adapter.restore(lost)
        assert (logits(wrong) - logits(module)).abs().max() > 1e-3


def test_all_forms_train_to_the_same_model(tiny: Callable[..., ContinualLM]) -> None:
    results = []
    for form in FORMS:
        module = tiny(adapter=adapter(*form))
        # One task: the scale of a second start follows W, which holds the first task only where that is folded into it.
        list(learnt(module, tasks=1))
        results.append(logits(module))
    for other in results[1:]:
        # AdamW divides by the root of squared gradients: rounding at entries near zero grows.
        assert torch.allclose(other, results[0], rtol=0, atol=1e-6)


def test_a_displaced_branch_is_a_plain_lora_of_rank_2r_on_the_pristine_base(tiny: Callable[..., ContinualLM]) -> None:
    module = tiny(adapter=adapter("displacement", "stack"))
    list(learnt(module, tasks=1))
    names = list(module.adapter.layers)
    config = LoraConfig(r=2 * RANK, lora_alpha=2 * RANK, target_modules=names, init_lora_weights=True)
    plain = get_peft_model(module.backbone.load(len(module.tokenizer)), config)
    for name, layer in module.adapter.layers.items():
        assert layer.stack_A.shape[0] == layer.stack_B.shape[1] == 2 * RANK
        theirs = plain.get_submodule(f"base_model.model.{name}")
        theirs.lora_A["default"].weight.data = layer.stack_A.detach().clone()
        theirs.lora_B["default"].weight.data = layer.stack_B.detach().clone()
    with torch.no_grad():
        assert torch.allclose(plain(input_ids=IDS).logits, logits(module), rtol=0, atol=1e-10)
