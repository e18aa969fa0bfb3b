"""The adapted layer against dense float64 formulas, and its neutral start in every dtype."""

import pytest
import torch
from torch import nn

from cl_lightning.adapters.linear import AdaptedLinear

M, N, R, TOKENS = 12, 20, 3, 7


def make(dtype: torch.dtype = torch.float64, bias: bool = True, dropout: float = 0.0) -> AdaptedLinear:
    base = nn.Linear(N, M, bias=bias).to(dtype).requires_grad_(False)
    return AdaptedLinear(base, dropout)


def factors(dtype: torch.dtype = torch.float64, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(R, N, generator=rng, dtype=dtype), torch.randn(M, R, generator=rng, dtype=dtype)


def moved(layer: AdaptedLinear, size: float = 0.1, seed: int = 2) -> AdaptedLinear:
    """Move A and B as training would."""
    rng = torch.Generator().manual_seed(seed)
    for p in (layer.lora_A, layer.lora_B):
        p.data += size * torch.randn(p.shape, generator=rng, dtype=torch.float64).to(p.dtype)
    return layer


def trained(layer: AdaptedLinear) -> list[nn.Parameter]:
    return [p for p in layer.parameters() if p.requires_grad]


def dense(layer: AdaptedLinear, x: torch.Tensor) -> torch.Tensor:
    """y = W x + b + stack + s (B A - B0 A0) x, written from the equation in autograd."""
    y = x @ layer.base.weight.t() + (layer.base.bias if layer.base.bias is not None else 0)
    y = y + layer.scaling * (x @ layer.lora_A.t()) @ layer.lora_B.t()
    if layer.lora_B0 is not None:
        y = y - layer.scaling * (x @ layer.lora_A0.t()) @ layer.lora_B0.t()
    if layer.stack_A is not None:
        y = y + (x @ layer.stack_A.t()) @ layer.stack_B.t()
    return y


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("plain_start", [False, True])
def test_forward_and_gradients_equal_the_dense_formula(stacked: bool, plain_start: bool) -> None:
    layer = make()
    if stacked:
        layer.start_branch(*factors(seed=5), 0.7)
        moved(layer, seed=6).fold(into_weight=False)
    A, B = factors()
    layer.start_branch(A, torch.zeros_like(B) if plain_start else B, 0.5)
    moved(layer)
    assert (layer.lora_B0 is None) == plain_start
    x = torch.randn(2, TOKENS, N, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, TOKENS, M, dtype=torch.float64)
    wanted = [x, layer.lora_A, layer.lora_B]
    ours = torch.autograd.grad((layer(x) * weight).sum(), wanted)
    theirs = torch.autograd.grad((dense(layer, x) * weight).sum(), wanted)
    assert torch.allclose(layer(x), dense(layer, x), atol=1e-12)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stacked", [False, True])
def test_start_is_bit_neutral(dtype: torch.dtype, stacked: bool) -> None:
    layer = make(dtype)
    if stacked:
        layer.start_branch(*factors(torch.float32, 5), 0.7)
        moved(layer).fold(into_weight=False)
    x = torch.randn(64, N).to(dtype)
    before = layer(x)
    layer.start_branch(*factors(torch.float32), 0.5)
    assert torch.equal(layer(x), before)


def test_bf16_branch_after_one_step_is_accurate_and_the_paired_form_is_not() -> None:
    layer = make(torch.bfloat16, bias=False)
    layer.start_branch(*factors(torch.float32), 0.5)
    moved(layer, 1e-4)
    x = torch.randn(64, N).to(torch.bfloat16)
    A, B, A0, B0 = (t.detach().double() for t in (layer.lora_A, layer.lora_B, layer.lora_A0, layer.lora_B0))
    exact = 0.5 * x.double() @ (B @ A - B0 @ A0).t()

    def error(branch: torch.Tensor) -> float:
        return float((branch.detach().double() - exact).norm() / exact.norm())

    layer.base.weight.zero_()
    a, b, a0, b0 = (t.bfloat16() for t in (A, B, A0, B0))
    paired = 0.5 * (x @ a.t()) @ b.t() - 0.5 * (x @ a0.t()) @ b0.t()
    assert error(layer(x)) < 0.01
    assert error(paired) > 0.2


@pytest.mark.parametrize("into_weight", [False, True])
def test_fold_keeps_the_output(into_weight: bool) -> None:
    layer = make()
    layer.start_branch(*factors(), 0.5)
    moved(layer)
    x = torch.randn(TOKENS, N, dtype=torch.float64)
    before = layer(x)
    layer.fold(into_weight)
    assert layer.lora_A is None
    assert (layer.stack_A is None) == into_weight
    assert torch.allclose(layer(x), before, atol=1e-12)


def test_stack_rank_is_2r_for_displaced_and_r_for_plain_branches() -> None:
    layer = make()
    A, B = factors()
    for start, total in ((B, 2 * R), (torch.zeros_like(B), 3 * R)):
        layer.start_branch(A, start, 0.5)
        layer.fold(into_weight=False)
        assert layer.stack_A.shape == (total, N)


def test_only_the_factors_are_trained_and_no_buffers_exist() -> None:
    layer = make(torch.bfloat16)
    layer.start_branch(*factors(torch.float32), 0.5)
    assert {n for n, p in layer.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    assert layer.lora_A.dtype == torch.float32
    assert not list(layer.buffers())


def test_inactive_branch_leaves_base_and_stack() -> None:
    layer = make()
    layer.start_branch(*factors(seed=5), 0.7)
    moved(layer).fold(into_weight=False)
    x = torch.randn(TOKENS, N, dtype=torch.float64)
    before = layer(x)
    layer.start_branch(*factors(), 0.5)
    moved(layer)
    assert not torch.allclose(layer(x), before)
    layer.active = False
    assert torch.equal(layer(x), before)


def test_one_dropout_mask_serves_both_terms() -> None:
    layer = make(bias=False, dropout=0.5)
    layer.start_branch(*factors(), 1.0)
    moved(layer)
    layer.train()
    layer.base.weight.zero_()
    x = torch.eye(N, dtype=torch.float64)
    full = layer.lora_B @ layer.lora_A - layer.lora_B0 @ layer.lora_A0
    y = layer(x)
    for i in range(N):  # with one mask a column is dropped whole or doubled whole
        assert torch.allclose(y[i], torch.zeros(M, dtype=torch.float64), atol=1e-12) or torch.allclose(
            y[i], 2 * full[:, i], atol=1e-10
        )


def test_dropout_leaves_the_base_and_earlier_branches_whole() -> None:
    layer = make(dropout=0.5)
    layer.start_branch(*factors(seed=5), 0.7)
    moved(layer, seed=6).fold(into_weight=False)
    A, B = factors()
    layer.start_branch(A, torch.zeros_like(B), 1.0)
    layer.train()
    x = torch.randn(3, TOKENS, N, dtype=torch.float64)
    torch.testing.assert_close(layer(x), dense(layer, x), rtol=1e-10, atol=1e-10)


def test_factors_that_do_not_fit_are_refused() -> None:
    A, B = factors()
    with pytest.raises(ValueError, match="do not fit"):
        make().start_branch(A[:, :-1], B, 0.5)


def test_baked_branch_computes_what_the_displaced_one_does_and_folds_to_the_same_weight() -> None:
    layers = {}
    for baked in (False, True):
        torch.manual_seed(0)
        layer = layers[baked] = make()
        layer.start_branch(*factors(), 0.5, baked=baked)
        moved(layer)
    x = torch.randn(TOKENS, N, dtype=torch.float64)
    results = {
        baked: [layer(x), *torch.autograd.grad(layer(x).square().sum(), trained(layer))]
        for baked, layer in layers.items()
    }
    for a, b in zip(results[True], results[False], strict=True):
        assert torch.allclose(a, b, atol=1e-10)
    for layer in layers.values():
        layer.fold(into_weight=True)
    assert torch.allclose(layers[True].weight, layers[False].weight, atol=1e-12)


def test_baked_start_keeps_the_output_in_float32_up_to_rounding() -> None:
    layer = make(torch.float32)
    x = torch.randn(TOKENS, N)
    before, weight = layer(x), layer.weight.clone()
    layer.start_branch(*factors(torch.float32), 0.5, baked=True)
    assert not torch.equal(layer.weight, weight)
    assert torch.allclose(layer(x), before, rtol=0, atol=1e-5 * float(before.detach().abs().max()))


def test_a_core_trains_alone_and_folds() -> None:
    layer = make()
    A, B = factors()
    core = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    layer.start_branch(A, B, 0.5, core=core, displaced=False)
    assert {n for n, p in layer.named_parameters() if p.requires_grad} == {"lora_R"}
    x = torch.randn(TOKENS, N, dtype=torch.float64)
    plain = layer.base(x)
    wanted_y = plain + 0.5 * x @ (B @ core @ A).t()
    assert torch.allclose(layer(x), wanted_y, atol=1e-12)
    (grad,) = torch.autograd.grad(layer(x).sum(), [layer.lora_R])
    assert torch.allclose(grad, 0.5 * B.t() @ torch.ones(M, TOKENS, dtype=torch.float64) @ x @ A.t(), atol=1e-11)
    stored = layer.branch()
    layer.fold(into_weight=False)
    assert torch.allclose(layer(x), wanted_y, atol=1e-12)
    assert layer.lora_R is None
    again = make()
    again.base.load_state_dict(layer.base.state_dict())
    again.load_branch(stored, 0.5)
    assert torch.allclose(again(x), wanted_y, atol=1e-12)


def test_an_undisplaced_start_and_a_shift_change_the_output_by_what_they_say() -> None:
    A, B = factors()
    x = torch.randn(TOKENS, N, dtype=torch.float64)
    layer = make()
    layer.start_branch(A, B, 0.5, displaced=False)
    assert torch.allclose(layer(x) - layer.base(x), 0.5 * x @ (B @ A).t(), atol=1e-12)
    layer.start_branch(A, B, 0.5)
    dA, dB = factors(seed=9)
    layer.shift_branch(dA, dB)
    full = (B + dB) @ (A + dA) - B @ A
    assert torch.allclose(layer(x) - layer.base(x), 0.5 * x @ full.t(), atol=1e-11)
