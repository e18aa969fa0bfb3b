"""The dtypes in which a base is held and gradients are summed."""

import pytest
import torch

from cl_lightning.gradients.accumulate import add_outer_
from cl_lightning.model import precision


@pytest.mark.parametrize("units", [True, False])
def test_bf16_is_held_in_float32_only_without_bf16_units(units: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_multiplies_bf16", lambda: units)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert precision.held_dtype(torch.bfloat16) == (torch.bfloat16 if units else torch.float32)
    for other in (torch.float16, torch.float32, torch.float64):
        assert precision.held_dtype(other) == other
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert precision.held_dtype(torch.bfloat16) == torch.bfloat16


def test_add_outer_sums_bf16_products_in_float32() -> None:
    dy, x = torch.randn(50, 4).bfloat16(), torch.randn(50, 6).bfloat16()
    total, low = torch.zeros(4, 6), torch.zeros(4, 6, dtype=torch.bfloat16)
    for _ in range(300):
        add_outer_(total, dy, x)
        add_outer_(low, dy, x)
    exact = 300 * dy.double().t() @ x.double()
    assert (total - exact).abs().max() < 0.01 * exact.abs().max()
    assert (low - exact).abs().max() > 0.05 * exact.abs().max()  # negative control: a bf16 sum stalls
