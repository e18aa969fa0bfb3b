"""A branch's dropout: on the new branch's input alone, in training alone."""

import pytest
import torch
from torch import Tensor, nn

from cl_lightning.adapters.linear import AdaptedLinear


def layer() -> AdaptedLinear:
    """A folded branch and one that has moved from a displaced start, scaled by 3."""
    torch.manual_seed(1)
    made = AdaptedLinear(nn.Linear(6, 5, dtype=torch.float64), dropout=0.5)
    for _ in range(2):
        made.start_branch(*(torch.randn(shape, dtype=torch.float64) for shape in ((2, 6), (5, 2))), 3.0)
        made.shift_branch(torch.randn(2, 6), torch.randn(5, 2))
        if not made.columns:
            made.fold(into_weight=False)
    return made


def by_hand(made: AdaptedLinear, x: Tensor, dropped: Tensor) -> Tensor:
    kept = x @ (made.base.weight + made.stack_B @ made.stack_A).t() + made.base.bias
    return kept + 3.0 * dropped @ (made.lora_B @ made.lora_A - made.lora_B0 @ made.lora_A0).t()


@pytest.mark.parametrize("training", [True, False])
def test_the_new_branch_alone_sees_dropped_inputs_while_it_trains(training: bool) -> None:
    made, x = layer().train(training), torch.randn(7, 6, dtype=torch.float64)
    torch.manual_seed(0)
    found = made(x)
    torch.manual_seed(0)
    dropped = nn.functional.dropout(x, 0.5) if training else x
    assert torch.allclose(found, by_hand(made, x, dropped), atol=1e-12)
    assert torch.allclose(found, by_hand(made, x, x), atol=1e-12) != training, "negative control"
    assert not torch.allclose(found, by_hand(made, dropped, dropped), atol=1e-6) or not training
