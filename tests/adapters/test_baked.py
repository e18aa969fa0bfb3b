"""offset=baked: what a task has changed, and the model before it, are what they are with offset=displacement."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from callbacks.ewc import EWC
from callbacks.lwf import LwF
from callbacks.migu import MIGU
from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.clora import CLoRA
from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.adapters.olora import OLoRA
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.model.module import ContinualLM
from tests.adapters.test_branch_strategies import begin, logits, train
from tests.callbacks.test_regularizers import OneRank, step_of
from tests.conftest import batch_of, random_examples

Make = Callable[..., ContinualLM]
KINDS = {
    "folded into the stack": lambda offset: SeqLoRA(rank=2, fold_into="stack", offset=offset),
    "folded into W": lambda offset: SeqLoRA(rank=2, fold_into="weight", offset=offset),
    "IncLoRA": lambda offset: IncLoRA(rank=2, offset=offset),
    "O-LoRA": lambda offset: OLoRA(rank=2, lambda_norm=0.1, offset=offset),
    "C-LoRA": lambda offset: CLoRA(rank=2, offset=offset),
}


def start(module: ContinualLM, seed: int) -> None:
    """Set a start with B0 A0 far from 0, as an initialiser does."""
    rng = torch.Generator().manual_seed(seed)
    for name, layer in module.adapter.layers.items():
        factors = (torch.randn(t.shape, generator=rng, dtype=torch.float64) for t in (layer.lora_A, layer.lora_B))
        module.adapter.set_factors(name, *factors)


def learnt(tiny: Make, adapter: AdapterStrategy) -> ContinualLM:
    """A model that has learnt a first task from such a start."""
    module = tiny("float64", adapter)
    begin(module, 0)
    start(module, 0)
    train(module, 1)
    module.adapter.end_task(0)
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_before_the_task_is_the_model_before_the_task(tiny: Make, kind: str) -> None:
    module = learnt(tiny, KINDS[kind]("baked"))
    before, gradients = logits(module), module.gradients([batch_of(random_examples(4, 3))])
    begin(module, 1)
    start(module, 1)
    for steps in (0, 4):
        train(module, 2, steps=steps)
        for as_it_was in (module.adapter.before_task, module.adapter.without_new_branch):
            with as_it_was():
                assert torch.allclose(logits(module), before, rtol=0, atol=1e-10)
        again = module.gradients([batch_of(random_examples(4, 3))])
        assert all(torch.allclose(again[n], g, rtol=0, atol=1e-10) for n, g in gradients.items())
    assert (logits(module) - before).abs().max() > 1e-3, "it learnt something"
    with torch.no_grad():
        for layer in module.adapter.layers.values():
            layer.lora_A0.zero_()
    with module.adapter.before_task():
        assert (logits(module) - before).abs().max() > 1e-3, "negative control: without the start"


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_task_leaves_behind_is_what_displacement_leaves(tiny: Make, kind: str) -> None:
    baked, displaced = (learnt(tiny, KINDS[kind](offset)) for offset in ("baked", "displacement"))
    for one, other in zip(baked.adapter.layers.values(), displaced.adapter.layers.values(), strict=True):
        assert torch.allclose(one.weight, other.weight, rtol=0, atol=1e-6)
        if one.stack_A is not None:
            assert one.stack_A.shape == other.stack_A.shape == (4, one.in_features)
            assert torch.allclose(one.stack_B @ one.stack_A, other.stack_B @ other.stack_A, rtol=0, atol=1e-6)
    begin(baked, 1), begin(displaced, 1)
    start(baked, 1), start(displaced, 1)
    for module in (baked, displaced):
        train(module, 2)
    penalties = [module.adapter.penalties() for module in (baked, displaced)]
    assert penalties[0].keys() == penalties[1].keys()
    for name, value in penalties[0].items():
        assert torch.allclose(value, penalties[1][name], rtol=1e-4), name


def test_a_restart_and_a_discarded_branch_give_w_back(tiny: Make) -> None:
    module = learnt(tiny, IncLoRA(rank=2, offset="baked"))
    before, weights = logits(module), [layer.weight.clone() for layer in module.adapter.layers.values()]
    begin(module, 1)
    for seed in (1, 2, 3):
        start(module, seed)
        assert torch.allclose(logits(module), before, rtol=0, atol=1e-10)
        moved = [layer.weight - W for layer, W in zip(module.adapter.layers.values(), weights, strict=True)]
        assert max(float(d.abs().max()) for d in moved) > 1, "W is edited while the branch trains"
    module.adapter.discard()
    for layer, W in zip(module.adapter.layers.values(), weights, strict=True):
        assert torch.allclose(layer.weight, W, rtol=0, atol=1e-12)


def test_c_loras_penalty_is_zero_where_nothing_has_moved(tiny: Make) -> None:
    module = learnt(tiny, CLoRA(rank=2, offset="baked"))
    begin(module, 1)
    start(module, 1)
    assert not module.adapter.penalties()["overlap"].detach().any()
    whole = sum(
        ((la.stack_B @ la.stack_A).abs() * la.scaling * (la.lora_B @ la.lora_A)).square().sum()
        for la in module.adapter.layers.values()
    )
    assert float(whole.detach()) > 1, "negative control: of B A with its start"
    train(module, 2)
    assert module.adapter.penalties()["overlap"].item() > 0


def test_ewc_holds_where_theta_was_before_the_start_was_set(tiny: Make) -> None:
    module = learnt(tiny, IncLoRA(rank=2, offset="baked"))
    begin(module, 1)
    run, rule = OneRank(module), EWC(strength=2.0)
    rule.on_task_end(run, 0)
    rule.on_task_start(run, 1)  # phase 25, an initialiser comes at 40
    start(module, 1)
    assert float(rule.loss_terms(step_of(module))["ewc"]) == 0
    train(module, 2)
    s = module.adapter.scaling
    by_hand = sum(
        (F * (s * (la.lora_B @ la.lora_A - la.lora_B0 @ la.lora_A0)).square()).sum()
        for (F,), la in zip(rule.fisher.values(), module.adapter.layers.values(), strict=True)
    )
    assert float(by_hand) > 0
    assert torch.allclose(rule.loss_terms(step_of(module))["ewc"], by_hand, rtol=1e-6)


def test_the_teacher_says_what_the_model_said(tiny: Make) -> None:
    module = learnt(tiny, IncLoRA(rank=2, offset="baked", dropout=0.5))
    module.eval()
    batch = batch_of(random_examples(5, 5))
    with torch.no_grad():
        before = module.answer_logits(batch)[0]
    begin(module, 1)
    start(module, 1)
    rule = LwF(strength=1.0, temperature=1.0)
    rule.on_task_start(OneRank(module), 1)
    assert float(rule.loss_terms(step_of(module))["distillation"]) == pytest.approx(0, abs=1e-9)
    train(module, 2)
    module.train()
    step = step_of(module)
    p, q = (z.softmax(-1) for z in (before, step.logits))
    by_hand = (p * (p / q).log()).sum() / batch["step_tokens"]
    assert torch.allclose(rule.loss_terms(step)["distillation"], by_hand, rtol=1e-8)


@pytest.mark.parametrize("adapter", [SeqLoRA(rank=4, per_task="continue"), IncLoRA(rank=4)], ids=["continue", "fresh"])
def test_a_teacher_is_not_counted_by_migu(tiny: Make, adapter: AdapterStrategy) -> None:
    module = learnt(tiny, adapter)
    begin(module, 1)
    train(module, 2, steps=20, lr=0.1)
    module.train()
    batch, teacher = batch_of(random_examples(5, 5)), LwF()
    teacher.on_task_start(OneRank(module), 1)

    def counted(with_teacher: bool, grad: bool = True) -> dict[str, list[Tensor]]:
        rule = MIGU()
        rule.on_train_start(None, module)
        rule.on_train_batch_start(None, module, batch, 0)
        step = step_of(module)
        if with_teacher:
            with torch.set_grad_enabled(True):
                assert float(teacher.loss_terms(step)["distillation"]) > 0
        if not grad:
            with module.adapter.before_task():
                module.answer_logits(batch)
        magnitudes = rule._magnitudes
        rule.on_train_end(None, module)
        return magnitudes

    alone, beside = counted(False), counted(True)
    assert len(alone) == len(module.adapter.layers)
    assert all(torch.equal(a, b) for name in alone for a, b in zip(alone[name], beside[name], strict=True))
    if adapter.continues:
        other = counted(False, grad=False)
        assert any(not torch.equal(a, b) for name in alone for a, b in zip(alone[name], other[name], strict=True)), (
            "negative control: a pass with gradients through the same layers counts"
        )
