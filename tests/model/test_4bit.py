"""A 4-bit base on the CPU: trains after an evaluation, starts neutrally, stays on its device, is trained under DDP."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.common.errors import ConfigError
from cl_lightning.evaluation.generate import generate
from cl_lightning.initializers.slice import SLICE
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.random_llama import random_tokenizer
from tests.conftest import batch_of, random_examples
from tests.runs import adapters, record, relative, smoke

bnb = pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    tokenizer = random_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def module(folder: Path) -> ContinualLM:
    made = ContinualLM(Backbone(str(folder), dtype="float32", load_in_4bit=True), SeqLoRA(rank=4, alpha=8))
    made.load(made.backbone.load_tokenizer())
    return made


def test_adapters_get_gradients_after_an_evaluation(module: ContinualLM) -> None:
    assert all(isinstance(layer.base, bnb.nn.Linear4bit) for layer in module.adapter.layers.values())
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    generate(module.llm, module.tokenizer, [e.prompt_ids for e in random_examples(3)], 3, 3)
    module.llm.train()
    for layer in module.adapter.layers.values():
        layer.lora_B.data.normal_(0, 0.1)
    module.sample_nll(batch_of(random_examples(3))).sum().backward()
    for name, layer in module.adapter.layers.items():
        assert layer.lora_A.grad.norm() > 0, name
        assert layer.lora_B.grad.norm() > 0, name


def test_capture_and_neutral_start(module: ContinualLM) -> None:
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    batch = batch_of(random_examples(4))
    before = module.llm(input_ids=batch["input_ids"]).logits
    for name, g in module.gradients([batch]).items():
        assert g.norm() > 0, name
        layer = module.adapter.layers[name]
        factors = SLICE().factors(layer.dense_weight(), g, 4, module.adapter.scaling, torch.Generator().manual_seed(0))
        module.adapter.set_factors(name, *factors)
    assert torch.equal(module.llm(input_ids=batch["input_ids"]).logits, before)


def test_folding_into_the_stack_works_and_into_the_weight_is_refused(module: ContinualLM, folder: Path) -> None:
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    packed = {n: layer.weight.clone() for n, layer in module.adapter.layers.items()}
    module.adapter.end_task(0)
    for name, layer in module.adapter.layers.items():
        assert layer.stack_A is not None
        assert torch.equal(layer.weight, packed[name])
    refused = ContinualLM(Backbone(str(folder), load_in_4bit=True), SeqLoRA(rank=4, fold_into="weight"))
    with pytest.raises(ConfigError, match="needs a float32 base"):
        refused.load(refused.backbone.load_tokenizer())


def test_the_module_stays_on_its_device_after_a_fit(module: ContinualLM) -> None:
    assert module.cpu() is module


@pytest.mark.long
def test_two_ranks_end_where_one_does(folder: Path, tmp_path: Path) -> None:
    """SLICE with replay under DDP, in float32: bitsandbytes computes no wider."""
    base = (f"--model.backbone.name={folder}", "--model.backbone.load_in_4bit=true")
    one, two = tmp_path / "one", tmp_path / "two"
    smoke(one, *base)
    smoke(two, *base, ranks=2)
    assert record(one)["R"] == record(two)["R"]
    branches, others = adapters(one), adapters(two)
    for task, branch in branches.items():
        assert relative(others[task], branch) < 1e-5, task
    smoke(tmp_path / "dense", f"--model.backbone.name={folder}")
    dense = adapters(tmp_path / "dense")
    assert min(relative(dense[task], branches[task]) for task in branches) > 1e-3, "the control: another base"
