"""PS-LoRA's penalty: a new branch is held back where its update has another sign than that of earlier branches.

    loss = NLL + lambda sum over layers of sum over entries of (1 - tanh(a D) tanh(a P)) D^2,
    D = s B_t A_t,   P = sum over i < t of s B_i A_i

The factor lies between 0 (large, same sign) and 2 (large, opposed), and is 1 where there is no earlier update, so that
the first task has plain decay of its update. Trained: A and B of the current task. Frozen: everything else; earlier
branches stay on. Every step the penalty forms two (m, n) matrices per layer temporarily.

Source: "PS-LoRA" (arXiv 2512.08960), which publishes no code. The penalty's form is read from reviews of the paper,
which leave a and lambda open; both defaults are ours. The paper also merges tasks at the end, entry by entry by the
largest magnitude: that has full rank and is not built.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.adapters.linear import AdaptedLinear
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite


class PSLoRA(IncLoRA):
    """IncLoRA whose new update s B A costs more where it opposes those of earlier branches.

    Source: arXiv 2512.08960, its loss without its merge.

    Args:
        lambda_sign: weight of the penalty.
        sharpness: a: entries well above 1 / a count by their sign, those well below hardly at all.
    """

    def __init__(self, lambda_sign: Finite = 0.1, sharpness: Finite = 100.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not lambda_sign >= 0:
            raise ConfigError(f"model.adapter.lambda_sign: {lambda_sign} must not be negative")
        if not sharpness > 0:
            raise ConfigError(f"model.adapter.sharpness: {sharpness} must be positive")
        self.lambda_sign, self.sharpness = lambda_sign, sharpness

    def penalties(self) -> dict[str, Tensor]:
        if not self.lambda_sign:
            return {}
        # Checkpointed: autograd would keep several (m, n) matrices of every layer until the backward pass.
        terms = [checkpoint(_opposed, layer, self.sharpness, use_reentrant=False) for layer in self.layers.values()]
        return {"sign": self.lambda_sign * sum(terms)}


def _opposed(layer: AdaptedLinear, sharpness: float) -> Tensor:
    update = layer.update()
    if layer.stack_A is None:
        return update.square().sum()
    with torch.no_grad():
        signs = (sharpness * (layer.stack_B @ layer.stack_A)).tanh()
    return ((1 - (sharpness * update).tanh() * signs) * update.square()).sum()
