"""PS-LoRA's penalty against its equation, in float64 on the tiny Llama."""

from collections.abc import Callable

import pytest
import torch

from cl_lightning.adapters.pslora import PSLoRA
from cl_lightning.common.errors import ConfigError
from cl_lightning.model.module import ContinualLM
from tests.adapters.test_branch_strategies import begin, train

Make = Callable[..., ContinualLM]


def trained(tiny: Make, tasks: int, **options: float) -> ContinualLM:
    """So many finished tasks, and one more in training."""
    module = tiny(adapter=PSLoRA(rank=3, alpha=6, **options))
    for task in range(tasks + 1):
        begin(module, task)
        train(module, task)
        if task < tasks:
            module.adapter.end_task(task)
    return module


def penalty(module: ContinualLM) -> float:
    return module.adapter.penalties()["sign"].item()


def test_it_is_the_equation(tiny: Make) -> None:
    module = trained(tiny, 2, lambda_sign=0.3, sharpness=50.0)
    by_hand = 0.0
    for layer in module.adapter.layers.values():
        D = 2.0 * layer.lora_B.detach() @ layer.lora_A.detach()
        P = sum(layer.stack_B[:, 3 * i : 3 * i + 3] @ layer.stack_A[3 * i : 3 * i + 3] for i in range(2))
        by_hand += float(((1 - torch.tanh(50 * D) * torch.tanh(50 * P)) * D**2).sum())
    assert by_hand > 1e-6
    assert penalty(module) == pytest.approx(0.3 * by_hand, rel=1e-10)


def test_the_first_task_pays_for_the_size_of_its_update(tiny: Make) -> None:
    module = trained(tiny, 0, lambda_sign=0.3)
    size = sum(float(layer.update().square().sum()) for layer in module.adapter.layers.values())
    assert penalty(module) == pytest.approx(0.3 * size, rel=1e-10)


def test_opposed_signs_cost_up_to_twice_and_equal_ones_down_to_nothing(tiny: Make) -> None:
    found = {}
    for sign in (1.0, -1.0, 0.0):
        module = trained(tiny, 1, lambda_sign=1.0, sharpness=1e9)
        for layer in module.adapter.layers.values():
            layer.stack_A.data = layer.lora_A.detach().clone()
            layer.stack_B.data = sign * layer.lora_B.detach()
        found[sign] = penalty(module)
    assert found[1.0] == pytest.approx(0, abs=1e-6 * found[0.0])
    assert found[-1.0] == pytest.approx(2 * found[0.0], rel=1e-6)


def test_its_gradient_is_that_of_the_equation(tiny: Make) -> None:
    """By differences, since the penalty is computed anew in the backward pass."""
    module = trained(tiny, 1, lambda_sign=1.0, sharpness=20.0)
    layer = next(iter(module.adapter.layers.values()))
    module.zero_grad()
    module.adapter.penalties()["sign"].backward()
    found, step = float(layer.lora_B.grad[1, 2]), 1e-6
    ends = []
    for sign in (1, -1):
        layer.lora_B.data[1, 2] += sign * step
        ends.append(penalty(module))
        layer.lora_B.data[1, 2] -= sign * step
    assert found == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4)
    assert layer.stack_B.grad is None, "earlier branches stay"


def test_options(tiny: Make) -> None:
    assert trained(tiny, 1, lambda_sign=0.0).adapter.penalties() == {}
    with pytest.raises(ConfigError, match=r"lambda_sign: -1 must not be negative"):
        PSLoRA(lambda_sign=-1)
    with pytest.raises(ConfigError, match=r"sharpness: 0 must be positive"):
        PSLoRA(sharpness=0)
