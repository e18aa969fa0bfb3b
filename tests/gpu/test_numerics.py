"""On the device against float64 on the CPU: losses, gradients, capture, 4-bit, checkpointing, bf16, generation."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.evaluation.generate import continuations
from cl_lightning.initializers.slice import SLICE
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.random_llama import random_tokenizer
from tests.conftest import batch_of, random_examples, relative
from tests.gpu.reference import dense_model, effective, loss, moved, weight_gradients, wide

pytestmark = pytest.mark.gpu

Make = Callable[..., ContinualLM]
#: Largest relative errors of losses and gradients on a model of two layers.
LOSS = {"float32": 1e-5, "bfloat16": 1e-2}
GRADIENT = {"float32": 1e-4, "bfloat16": 5e-2}


def begun(module: ContinualLM, displaced: bool = False) -> ContinualLM:
    """Begin a branch whose factors are not zero, in displacement form or not."""
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(1)
    for layer in module.adapter.layers.values():
        A, B = (torch.randn(shape, generator=rng) / 8 for shape in (layer.lora_A.shape, layer.lora_B.shape))
        layer.start_branch(A.to(layer.lora_A), B.to(layer.lora_B), layer.scaling, displaced=displaced)
    return module


def mean_loss(module: ContinualLM, batch: dict) -> Tensor:
    return (module.sample_nll(batch) * batch["sample_weight"]).sum()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loss_and_the_gradients_of_factors(on: Make, device: torch.device, dtype: str, checkpointing: bool) -> None:
    module, batch = begun(on(dtype, gradient_checkpointing=checkpointing)), batch_of(random_examples(6))
    module.llm.train()
    found = mean_loss(module, moved(batch, device))
    found.backward()
    weights = effective(module)
    llm = dense_model(module, weights)
    wanted = float(loss(llm, batch).detach())
    assert abs(float(found.detach()) - wanted) < LOSS[dtype] * wanted
    assert abs(float(loss(dense_model(module), batch).detach()) - wanted) > 2 * LOSS[dtype] * wanted, (
        "control: no branch"
    )
    for name, G in weight_gradients(llm, batch, [*weights]).items():
        layer = module.adapter.layers[name]
        for grad, product in (
            (layer.lora_B.grad, G @ wide(layer.lora_A).t()), (layer.lora_A.grad, wide(layer.lora_B).t() @ G)
        ):  # fmt: skip
            assert relative(wide(grad), layer.scaling * product) < GRADIENT[dtype], name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_captured_gradients(on: Make, device: torch.device, dtype: str) -> None:
    module, batch = begun(on(dtype)), batch_of(random_examples(6))
    captured = module.gradients([moved(batch, device)])
    wanted = weight_gradients(dense_model(module), batch, [*captured])
    for name, G in captured.items():
        assert (G.device.type, G.dtype) == (device.type, torch.float32), name
        assert relative(wide(G), wanted[name]) < GRADIENT[dtype], name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_displaced_start_changes_no_bit(on: Make, device: torch.device, dtype: str) -> None:
    module, batch = on(dtype), moved(batch_of(random_examples(4)), device)
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    before = module.answer_logits(batch)[0]
    begun(module, displaced=True)
    assert torch.equal(module.answer_logits(batch)[0], before)
    begun(module, displaced=False)
    assert not torch.equal(module.answer_logits(batch)[0], before), "control"


def test_generation_takes_the_most_likely_token(on: Make, device: torch.device) -> None:
    module, count = begun(on("float32")), 6
    prompts = [e.prompt_ids for e in random_examples(5)]
    made = continuations(module.llm, module.tokenizer, prompts, count, batch_size=3)
    llm = dense_model(module, effective(module))
    plain = dense_model(module)
    differs = 0
    for prompt, found in zip(prompts, made, strict=True):
        ids = [*prompt]
        for token in found:
            with torch.no_grad():
                scores, without = (one(torch.tensor([ids])).logits[0, -1] for one in (llm, plain))
            assert scores[token] > scores.max() - 1e-4
            differs += int(without.argmax()) != token
            ids.append(token)
            if token == module.tokenizer.eos_token_id:
                break
    assert differs, "control: the branch changes some answer"


def test_a_4_bit_base(tmp_path: Path, device: torch.device) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    dense = Backbone("random-llama", dtype="float32", config={"intermediate_size": 128})
    dense.load(len(random_tokenizer())).save_pretrained(tmp_path)
    random_tokenizer().save_pretrained(tmp_path)
    module = ContinualLM(Backbone(str(tmp_path), dtype="float32", load_in_4bit=True), SeqLoRA(rank=4, alpha=8))
    module.load(module.backbone.load_tokenizer())
    module.to(device)
    batch = batch_of(random_examples(6))
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    before = module.answer_logits(moved(batch, device))[0]
    captured = module.gradients([moved(batch, device)])
    weights = {name: wide(layer.dense_weight()) for name, layer in module.adapter.layers.items()}
    assert all(isinstance(layer.base, bnb.nn.Linear4bit) for layer in module.adapter.layers.values())
    plain = ContinualLM(dense, SeqLoRA(rank=4, alpha=8))
    plain.load(module.tokenizer)
    wanted = weight_gradients(dense_model(plain, weights), batch, [*captured])
    unquantised = weight_gradients(dense_model(plain), batch, [*captured])
    for name, G in captured.items():
        assert relative(wide(G), wanted[name]) < 1e-4, name
        assert relative(wide(G), unquantised[name]) > 1e-2, "control"
        A, B = SLICE().factors(
            module.adapter.layers[name].dense_weight(), G, 4, module.adapter.scaling, torch.Generator().manual_seed(0)
        )
        assert A.device.type == B.device.type == device.type
        module.adapter.set_factors(name, A, B)
    assert torch.equal(module.answer_logits(moved(batch, device))[0], before)
