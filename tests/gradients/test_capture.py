"""Captured gradients against autograd's weight.grad, token weighting, and what must not be disturbed."""

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn

from cl_lightning.gradients.capture import capture_gradients, capture_into, dropout_off
from cl_lightning.model.module import ContinualLM
from tests.conftest import batch_of, random_examples, relative, weight_gradients


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-6)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_capture_equals_autograd(
    tiny: Callable[..., ContinualLM], dtype: str, tolerance: float, checkpointing: bool
) -> None:
    module = tiny(dtype, gradient_checkpointing=checkpointing)
    batch = batch_of(random_examples(6))
    # The reference needs gradients in the base, which the fused function does not give: no branches here.
    wanted = weight_gradients(module, batch)
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    captured = module.gradients([batch])
    assert captured.keys() == wanted.keys()
    assert all(relative(captured[n], wanted[n]) < tolerance for n in wanted)
    assert all(layer.base.weight.grad is None for layer in module.adapter.layers.values())


def test_earlier_branches_are_in_and_the_new_one_is_out(tiny: Callable[..., ContinualLM]) -> None:
    module = tiny("float64")
    batch = batch_of(random_examples(4))
    rng = torch.Generator().manual_seed(0)
    module.adapter.begin_task(0, rng)
    for layer in module.adapter.layers.values():
        layer.lora_B.data.normal_(0, 0.1, generator=rng)
    as_new = module.gradients([batch])
    module.adapter.end_task(0)
    module.adapter.begin_task(1, rng)
    as_old = module.gradients([batch])
    base = tiny("float64")
    base.adapter.begin_task(0, rng)
    plain = base.gradients([batch])
    name = next(iter(plain))
    assert relative(as_new[name], plain[name]) < 1e-12
    assert relative(as_old[name], plain[name]) > 1e-3


def test_token_mean_does_not_depend_on_batches_duplicates_or_padding(tiny: Callable[..., ContinualLM]) -> None:
    module = tiny("float64")
    module.adapter.begin_task(0, torch.Generator())
    examples = random_examples(6)
    tokens = sum(len(e.answer_ids) for e in examples)
    whole = module.gradients([batch_of(examples)])

    def parts(chunks: list, weight: float) -> dict[str, torch.Tensor]:
        return module.gradients([{**batch_of(c), "sample_weight": torch.full((len(c),), weight)} for c in chunks])

    split = parts([examples[:1], examples[1:3], examples[3:]], 1 / tokens)
    doubled = parts([examples + examples], 1 / (2 * tokens))
    padded = batch_of(examples)
    for key, value in (("input_ids", 0), ("attention_mask", 0), ("labels", -100)):
        padded[key] = nn.functional.pad(padded[key], (0, 5), value=value)
    wider = module.gradients([padded])
    mean_of_means = parts([examples[:1], examples[1:]], 0.0)
    for chunk, share in ((examples[:1], 0.5), (examples[1:], 0.5)):
        for name, g in module.gradients([batch_of(chunk)]).items():
            mean_of_means[name] = mean_of_means[name] + share * g
    for name, g in whole.items():
        assert max(relative(other[name], g) for other in (split, doubled, wider)) < 1e-10
    assert max(relative(mean_of_means[n], whole[n]) for n in whole) > 1e-3  # negative control


def test_a_layer_called_twice_adds_up() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(5, 5, bias=False).double()
    embedding = nn.Embedding(7, 5).double().requires_grad_(False)
    ids = torch.tensor([[1, 2, 3]])

    def loss() -> torch.Tensor:
        return layer(torch.tanh(layer(embedding(ids)))).square().sum()

    (wanted,) = torch.autograd.grad(loss(), layer.weight)
    layer.requires_grad_(False)
    with capture_gradients({"layer": layer}, embedding) as grads:
        loss().backward()
    assert relative(grads["layer"], wanted) < 1e-12


def test_hooks_are_gone_after_the_context(tiny: Callable[..., ContinualLM]) -> None:
    module = tiny("float64")
    module.adapter.begin_task(0, torch.Generator())
    before = {layer: len(layer._forward_hooks) for layer in module.llm.modules()}
    module.gradients([batch_of(random_examples(2))])
    assert {layer: len(layer._forward_hooks) for layer in module.llm.modules()} == before


def test_dropout_off_keeps_train_mode_and_comes_back(tiny: Callable[..., ContinualLM]) -> None:
    module = tiny("float64")
    block = module.llm.model.layers[0].self_attn
    block.attention_dropout = 0.5
    extra = nn.Dropout(0.3)
    module.llm.add_module("extra", extra)
    module.llm.train()
    with dropout_off(module.llm):
        assert (extra.p, block.attention_dropout, extra.training) == (0.0, 0.0, True)
    assert (extra.p, block.attention_dropout) == (0.3, 0.5)


def test_inputs_are_freed_layer_by_layer(tiny: Callable[..., ContinualLM]) -> None:
    module = tiny("float32")
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    batch = batch_of(random_examples(4))
    alive: dict[str, weakref.ref] = {}
    left = []

    def watch_inputs(name: str) -> Callable:
        def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            alive[name] = weakref.ref(inputs[0].untyped_storage())

        return hook

    class Count:
        def add(self, dy: torch.Tensor, x: torch.Tensor) -> None:
            left.append(sum(storage() is not None for storage in alive.values()))

    hooks = [layer.register_forward_pre_hook(watch_inputs(n)) for n, layer in module.adapter.layers.items()]
    layers = module.adapter.layers
    with module.adapter.without_new_branch(), capture_into(dict.fromkeys(layers, Count()), layers, module.llm):
        module.sample_nll(batch, share_prefix=False).sum().backward()
    for hook in hooks:
        hook.remove()
    assert len(left) == len(alive)
    assert left[0] > left[len(left) // 2] > left[-1]
