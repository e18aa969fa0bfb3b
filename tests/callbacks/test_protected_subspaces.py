"""ProtectedSubspaces: leading singular triplets stay triplets, whatever start and optimiser. Float64, tiny Llama."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.protected_subspaces import ProtectedSubspaces
from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.adapters.inflora import InfLoRA
from cl_lightning.adapters.linear import AdaptedLinear
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.common.errors import ConfigError
from cl_lightning.model.module import ContinualLM
from tests.adapters.test_branch_strategies import begin, train
from tests.conftest import batch_of, random_examples

Make = Callable[..., ContinualLM]
RANK = 3


def weight(layer: AdaptedLinear) -> Tensor:
    """W and the earlier branches, formed anew."""
    W = layer.base.weight.detach().clone()
    return W if layer.stack_A is None else W + layer.stack_B @ layer.stack_A


def started(tiny: Make, rule: ProtectedSubspaces | None, displaced: bool = True) -> ContinualLM:
    """A second task with a random start that is subtracted again, as SLICE's is; constrained by `rule`."""
    module = tiny(adapter=IncLoRA(rank=RANK, alpha=6))
    begin(module, 0)
    train(module, 1)
    module.adapter.end_task(0)
    begin(module, 1)
    rng = torch.Generator().manual_seed(7)
    for name, layer in module.adapter.layers.items():
        shapes = (RANK, layer.in_features), (layer.out_features, RANK)
        A0, B0 = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes)
        module.adapter.set_factors(name, A0, B0, displaced=displaced)
    if rule is not None:
        rule.on_task_start(SimpleNamespace(module=module, order=["a", "b"]), 1)
    return module


def trained(module: ContinualLM, hook: Callable[[torch.optim.Optimizer], Any], steps: int = 12) -> None:
    """AdamW with decay, and what `hook` does to the optimiser."""
    optimizer = torch.optim.AdamW(module.adapter.param_groups(), lr=1e-2, weight_decay=0.1)
    hook(optimizer)
    batch = batch_of(random_examples(6, 3))
    for _ in range(steps):
        optimizer.zero_grad()
        (module.sample_nll(batch) * batch["sample_weight"]).sum().backward()
        optimizer.step()


def leaks(module: ContinualLM, share: float = 0.5) -> tuple[float, float]:
    """Largest shares of ||dW|| inside the leading left and right singular spaces of the earlier weight."""
    left, right = [], []
    for layer in module.adapter.layers.values():
        U, _, Vh = torch.linalg.svd(weight(layer))
        k, dW = int(share * min(layer.shape)), layer.update().detach()
        left.append(float((U[:, :k].t() @ dW).norm() / dW.norm()))
        right.append(float((dW @ Vh[:k].t()).norm() / dW.norm()))
    return max(left), max(right)


def constrain(rule: ProtectedSubspaces, module: ContinualLM) -> Callable[[torch.optim.Optimizer], None]:
    return lambda optimizer: rule.on_train_start(SimpleNamespace(optimizers=[optimizer]), module)


@pytest.mark.parametrize("displaced", [True, False])
def test_leading_triplets_are_kept(tiny: Make, displaced: bool) -> None:
    rule = ProtectedSubspaces(share=0.5)
    module = started(tiny, rule, displaced)
    trained(module, constrain(rule, module))
    assert max(leaks(module)) < 1e-12
    for layer in module.adapter.layers.values():
        U, S, Vh = torch.linalg.svd(weight(layer))
        k, after = min(layer.shape) // 2, weight(layer) + layer.update().detach()
        torch.testing.assert_close(after @ Vh[:k].t(), U[:, :k] * S[:k], rtol=0, atol=1e-11)
        torch.testing.assert_close(U[:, :k].t() @ after, S[:k, None] * Vh[:k], rtol=0, atol=1e-11)
        assert layer.update().norm() > 1e-2, "the branch has learnt"


def test_projected_gradients_alone_leak_under_adam(tiny: Make) -> None:
    """Negative control."""
    rule = ProtectedSubspaces(share=0.5)
    module = started(tiny, rule)
    layers, bases = module.adapter.layers, rule._bases

    def project_gradients(*_: Any) -> None:
        for name, (U, V) in bases.items():
            A, B = layers[name].lora_A.grad, layers[name].lora_B.grad
            A -= A @ V @ V.t()
            B -= U @ (U.t() @ B)

    trained(module, lambda optimizer: optimizer.register_step_pre_hook(project_gradients))
    assert min(leaks(module)) > 0.1


def test_a_start_that_is_not_projected_leaks(tiny: Make) -> None:
    """Negative control."""
    rule = ProtectedSubspaces(share=0.5)
    started(tiny, rule)
    again = started(tiny, None)
    trained(again, constrain(rule, again))
    assert min(leaks(again)) > 0.1


@pytest.mark.parametrize(("side", "kept"), [("output", 0), ("input", 1)])
def test_one_side_alone(tiny: Make, side: str, kept: int) -> None:
    rule = ProtectedSubspaces(share=0.5, side=side)
    module = started(tiny, rule)
    trained(module, constrain(rule, module))
    assert leaks(module)[kept] < 1e-12
    assert leaks(module)[1 - kept] > 0.1


def test_the_share_grows_with_the_tasks_and_leaves_room_for_the_branch(tiny: Make) -> None:
    module = tiny(adapter=IncLoRA(rank=RANK))
    begin(module, 0)
    run = SimpleNamespace(module=module, order=["a", "b", "c", "d"])
    rule = ProtectedSubspaces(share="tasks")
    for task in range(4):
        rule.on_task_start(run, task)
    small = min(min(layer.shape) for layer in module.adapter.layers.values())
    assert [row[1] for row in rule.rows] == [0, small // 4, small // 2, 3 * small // 4]
    full = ProtectedSubspaces(share=0.999)
    full.on_task_start(run, 0)
    assert full.rows[0][1] == small - RANK


def test_what_does_not_go_together_is_refused() -> None:
    rule = ProtectedSubspaces()
    assert "a branch per task" in rule.check({}, SeqLoRA(per_task="continue"))[0]
    assert "offset=displacement" in rule.check({}, SeqLoRA(offset="baked"))[0]
    assert "side=output" in rule.check({}, InfLoRA())[0]
    assert not ProtectedSubspaces(side="output").check({}, InfLoRA())
    assert not rule.check({}, SeqLoRA())
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError, match=r"boundary\.protection\.share"):
            ProtectedSubspaces(share=share)
