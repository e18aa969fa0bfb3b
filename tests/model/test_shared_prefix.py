"""The shared prefix in training: same losses and gradients as the whole batch, and used only if it is exact."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from transformers import MistralConfig, MistralForCausalLM
from transformers.cache_utils import DynamicCache, DynamicLayer

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.data.collate import training_batch
from cl_lightning.data.prompt import Encoded
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.prefix_cache import common_columns, has_plain_cache
from tests.conftest import batch_of, random_examples

PREFIX = 20


def examples_with_prefix() -> list[Encoded]:
    head = tuple(range(20, 20 + PREFIX))
    return [Encoded(e.example, (*head, *e.prompt_ids), e.answer_ids, 0) for e in random_examples(6)]


def loss_and_gradients(module: ContinualLM, batch: dict[str, Any]) -> list[torch.Tensor]:
    """Return sample losses, gradients of the factors and captured gradients of the weights."""
    module.train()
    nll = module.sample_nll(batch)
    factors = [p for group in module.adapter.param_groups() for p in group["params"]]
    captured = module.gradients([batch])
    return [nll.detach(), *torch.autograd.grad(nll.sum(), factors), *captured.values()]


def begun(tiny: Callable[..., ContinualLM], **options: Any) -> ContinualLM:
    module = tiny("float64", **options)
    rng = torch.Generator().manual_seed(0)
    module.adapter.begin_task(0, rng)
    for layer in module.adapter.layers.values():
        layer.lora_B.data.normal_(0, 0.05, generator=rng)
    return module


def test_losses_and_gradients_are_unchanged(tiny: Callable[..., ContinualLM]) -> None:
    module, batch = begun(tiny), batch_of(examples_with_prefix())
    assert module._shared_columns(batch) == PREFIX
    shared = loss_and_gradients(module, batch)
    module._plain_cache = False
    assert module._shared_columns(batch) == 0
    whole = loss_and_gradients(module, batch)
    assert len(shared) == len(whole) > 20
    # This model's norms compute gradients in float32, for all rows at once or one after the other.
    worst = max(float((a - b).norm() / b.norm()) for a, b in zip(shared, whole, strict=True))
    assert worst < 1e-6


def test_not_with_dropout_or_checkpointing(tiny: Callable[..., ContinualLM]) -> None:
    batch = batch_of(examples_with_prefix())
    dropout = begun(tiny, adapter=SeqLoRA(rank=4, dropout=0.1))
    assert dropout.eval()._shared_columns(batch) == PREFIX
    assert dropout.train()._shared_columns(batch) == 0
    assert begun(tiny, gradient_checkpointing=True)._shared_columns(batch) == 0


def test_columns_that_predict_a_label_are_not_shared() -> None:
    examples = examples_with_prefix()
    batch = training_batch(examples, pad_id=0, loss_on="full")
    assert common_columns(batch["input_ids"], batch["labels"]) == 0
    batch = training_batch([examples[0]] * 6, pad_id=0)
    assert common_columns(batch["input_ids"], batch["labels"]) == len(examples[0].prompt_ids) - 1


def test_models_with_other_caches_are_detected(tiny: Callable[..., ContinualLM]) -> None:
    assert has_plain_cache(tiny("float32").llm)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    sliding = MistralForCausalLM(MistralConfig(**sizes, **heads, sliding_window=8))
    assert not has_plain_cache(sliding)


@pytest.mark.parametrize("rows", [1, 2])
def test_small_savings_are_not_used(rows: int) -> None:
    batch = training_batch(examples_with_prefix()[:rows], pad_id=0)
    assert common_columns(batch["input_ids"], batch["labels"]) == 0


@pytest.mark.parametrize("kind", ["rwkv", "gpt1"])
def test_a_model_that_takes_no_cache_shares_no_prefix(kind: str) -> None:
    """Its configuration does not say so."""
    if kind == "rwkv":
        llm = tf.RwkvForCausalLM(tf.RwkvConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2))
    else:
        llm = tf.OpenAIGPTLMHeadModel(tf.OpenAIGPTConfig(vocab_size=50, n_embd=16, n_layer=1, n_head=2))
    assert all(type(layer) is DynamicLayer for layer in DynamicCache(config=llm.config).layers)
    assert not has_plain_cache(llm)
