"""SLAO: the start of each task, the merge after it, and the model that is scored. Float64, tiny Llama."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.adapters.slao import SLAO, orthonormalised
from cl_lightning.common.errors import ConfigError
from cl_lightning.model.module import ContinualLM
from tests.adapters.test_branch_strategies import begin, logits, train

Make = Callable[..., ContinualLM]
Factors = dict[str, tuple[Tensor, Tensor]]


def factors(module: ContinualLM) -> Factors:
    return {n: (la.lora_A.detach().clone(), la.lora_B.detach().clone()) for n, la in module.adapter.layers.items()}


def learnt(module: ContinualLM, tasks: int) -> tuple[list[Factors], list[Factors]]:
    """Train so many tasks; the factors at the start and at the end of each one's training."""
    starts, ends = [], []
    for task in range(tasks):
        begin(module, task)
        starts.append(factors(module))
        train(module, task)
        ends.append(factors(module))
        module.adapter.end_task(task)
    return starts, ends


def test_a_task_starts_in_the_last_ones_row_space_with_its_trained_B(tiny: Make) -> None:
    module = tiny(adapter=SLAO(rank=3, alpha=6))
    starts, ends = learnt(module, 3)
    merged = factors(module)
    for before, start in zip(ends, starts[1:], strict=False):
        for name, (A, B) in start.items():
            old_A, old_B = before[name]
            torch.testing.assert_close(A @ A.t(), torch.eye(3, dtype=A.dtype), rtol=0, atol=1e-12)
            torch.testing.assert_close(A.t() @ A, torch.linalg.pinv(old_A) @ old_A, rtol=0, atol=1e-10)
            assert torch.equal(B, old_B)
    assert not any(torch.equal(merged[name][1], B) for name, (_, B) in ends[-1].items()), "the control: B is merged"


def test_the_orthonormal_rows_have_the_signs_of_the_rows_they_come_from() -> None:
    A = torch.randn(3, 7, dtype=torch.float64)
    Q = orthonormalised(A)
    assert bool(((Q * A).sum(1) > 0).all())
    torch.testing.assert_close(orthonormalised(Q), Q)
    assert not torch.allclose(torch.linalg.qr(Q.t()).Q.t(), Q), "the control: LAPACK's signs"


def test_merged_B_is_the_weighted_mean_in_closed_form(tiny: Make) -> None:
    module = tiny(adapter=SLAO(rank=3, alpha=6))
    _, ends = learnt(module, 4)
    rates = [i**-0.5 for i in range(1, 5)]
    weights = [rate * float(torch.tensor([1 - r for r in rates[i + 1 :]]).prod()) for i, rate in enumerate(rates)]
    assert sum(weights) == pytest.approx(1)
    for name, (A, B) in factors(module).items():
        wanted = sum(w * end[name][1] for w, end in zip(weights, ends, strict=True))
        torch.testing.assert_close(B, wanted, rtol=0, atol=1e-8)
        assert torch.equal(A, ends[-1][name][0])


def test_the_last_of_fifteen_tasks_weighs_a_quarter() -> None:
    adapter, weights = SLAO(), []
    for task in range(15):
        rate = adapter.weight_of(task)
        weights = [w * (1 - rate) for w in weights] + [rate]
    assert sum(weights) == pytest.approx(1)
    assert weights[-1] == pytest.approx(0.258, abs=5e-4)
    assert weights[0] < 1e-3


def test_one_task_is_lora(tiny: Make) -> None:
    found = []
    for adapter in (SLAO(rank=3), SeqLoRA(rank=3, per_task="continue")):
        module = tiny(adapter=adapter)
        learnt(module, 1)
        found.append(logits(module))
    assert torch.equal(*found)


def test_a_constant_weight_of_one_keeps_the_last_B_and_of_zero_the_first(tiny: Make) -> None:
    for weight, kept in ((1.0, -1), (0.0, 0)):
        module = tiny(adapter=SLAO(rank=3, merge_weight=weight))
        _, ends = learnt(module, 3)
        assert all(torch.equal(B, ends[kept][name][1]) for name, (_, B) in factors(module).items())
    assert SLAO(merge_weight="mean").weight_of(3) == 1 / 4
    with pytest.raises(ConfigError, match=r"merge_weight: 1\.5 must be at least 0 and at most 1"):
        SLAO(merge_weight=1.5)


@pytest.mark.parametrize("start", ["merged", "random"])
def test_other_starts(tiny: Make, start: str) -> None:
    module = tiny(adapter=SLAO(rank=3, start=start, orthonormal=False))
    learnt(module, 2)
    merged = factors(module)
    begin(module, 2)
    for name, (A, B) in factors(module).items():
        if start == "merged":
            assert torch.equal(A, merged[name][0])
            assert torch.equal(B, merged[name][1])
        else:
            assert not torch.equal(A, merged[name][0])
            assert not B.any()
