"""Blocks that add to an adapted layer's output in place, as Falcon's parallel ones do: same numbers, same gradients."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

from cl_lightning.adapters.linear import AdaptedLinear
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.random_llama import random_tokenizer
from tests.conftest import batch_of, random_examples, weight_gradients

N, M, R, B, L = 20, 12, 3, 4, 7
WIDE = torch.float64


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=WIDE, generator=torch.Generator().manual_seed(seed))


def layer_with(old: int, bias: bool, dropout: float) -> AdaptedLinear:
    """`old` frozen branches, some of them displaced, and a new one that has moved."""
    layer = AdaptedLinear(nn.Linear(N, M, bias=bias).double().requires_grad_(False), dropout)
    for seed in range(old + 1):
        layer.start_branch(normal(R, N, seed=seed), normal(M, R, seed=seed + 50), 0.5, displaced=seed % 2 == 0)
        layer.shift_branch(normal(R, N, seed=seed + 90), normal(M, R, seed=seed + 95))
        if seed < old:
            layer.fold(into_weight=False)
    return layer


def in_place(y: Tensor, added: Tensor, factor: Tensor) -> Tensor:
    return y.add_(added).mul_(factor).sub_(1.0)


def out_of_place(y: Tensor, added: Tensor, factor: Tensor) -> Tensor:
    return (y + added) * factor - 1.0


@pytest.mark.parametrize("shape", [(B, L, N), (B, N), (2, B, L, N)], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("old", [0, 2])
def test_an_output_may_be_changed_in_place(
    old: int, gated: bool, bias: bool, dropout: float, shape: tuple[int, ...]
) -> None:
    if gated and len(shape) != 3:
        shape = (B, L, N)
    layer = layer_with(old, bias, dropout)
    x, gates = normal(*shape, seed=7).requires_grad_(), normal(B, old + 1, seed=8).requires_grad_()
    added, factor = (normal(*shape[:-1], M, seed=seed).requires_grad_() for seed in (9, 10))
    layer.gates, layer.old_gates_learn = gates if gated else None, True
    wanted = [x, added, factor, layer.lora_A, layer.lora_B, *([gates] if gated else [])]

    def outcome(change: Callable[..., Tensor]) -> list[Tensor]:
        torch.manual_seed(3)
        y = change(layer(x), added, factor)
        return [y, *torch.autograd.grad((y * normal(*y.shape, seed=11)).sum(), wanted)]

    found, reference = outcome(in_place), outcome(out_of_place)
    assert all(torch.equal(a, b) for a, b in zip(found, reference, strict=True))


def test_no_output_shares_memory_with_what_the_backward_pass_needs() -> None:
    layer = layer_with(2, True, 0.0)
    layer.gates = normal(B, 3, seed=8)
    y = layer(normal(B, L, N, seed=7).requires_grad_())
    assert not y._is_view()
    saved = [t for t in y.grad_fn.saved_tensors if t is not None]
    assert saved and y.untyped_storage().data_ptr() not in {t.untyped_storage().data_ptr() for t in saved}


SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES: dict[str, Callable[..., tf.PreTrainedConfig]] = {
    "falcon, parallel": partial(tf.FalconConfig, parallel_attn=True),
    "falcon, alibi": partial(tf.FalconConfig, alibi=True),
    "falcon, serial": partial(tf.FalconConfig, parallel_attn=False, bias=True),
    "falcon, new architecture": partial(tf.FalconConfig, new_decoder_architecture=True, num_kv_heads=2),
    "gptj": partial(tf.GPTJConfig, rotary_dim=4),
    "gptneox": partial(tf.GPTNeoXConfig, intermediate_size=48),
}


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    tokenizer = random_tokenizer()
    torch.manual_seed(0)
    config = FAMILIES[request.param](vocab_size=len(tokenizer), **SIZES)
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_parallel_blocks_train_with_the_base_weights_gradients(folder: Path) -> None:
    """With B = 0 a branch changes nothing: dLoss/dB = s G A^T, G from plain autograd on the base's own layers."""
    module = ContinualLM(Backbone(str(folder), dtype="float64"), SeqLoRA(rank=2, alpha=4, fold_into="stack"))
    module.load(module.backbone.load_tokenizer())
    batch = batch_of(random_examples(4))
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    expected = weight_gradients(module, batch)
    (module.sample_nll(batch) * batch["sample_weight"]).sum().backward()
    for name, layer in module.adapter.layers.items():
        assert torch.allclose(layer.lora_B.grad, 2.0 * expected[name] @ layer.lora_A.detach().t(), atol=1e-9), name


def test_gradients_are_captured_where_a_block_adds_to_the_output(folder: Path) -> None:
    """At the layer's own output, before the block adds to it; with an earlier branch in a stack and folded into W."""
    found = []
    for fold in ("stack", "weight"):
        module = ContinualLM(Backbone(str(folder), dtype="float64"), SeqLoRA(rank=2, alpha=4, fold_into=fold))
        module.load(module.backbone.load_tokenizer())
        module.adapter.begin_task(0, torch.Generator().manual_seed(0))
        for seed, layer in enumerate(module.adapter.layers.values()):
            layer.shift_branch(*(0.1 * normal(*f.shape, seed=seed) for f in (layer.lora_A, layer.lora_B)))
        module.adapter.end_task(0)
        batch = batch_of(random_examples(4))
        found.append(module.gradients([batch]))
        if fold == "weight":
            expected = weight_gradients(module, batch)
    for name, gradient in expected.items():
        assert all(torch.allclose(g[name], gradient, atol=1e-9) for g in found), name
