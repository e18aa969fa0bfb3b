"""C-LoRA: penalises the new branch for changing entries of W that earlier branches have changed.

    loss = NLL + lambda sum over layers of || |sum over i < t of s B_i A_i| * (s B_t A_t) ||_F^2      (* entrywise)

Trained: A and B of the current task. Frozen: everything else; earlier branches stay on. Every step the
penalty forms one (m, n) matrix per layer temporarily. Source: Smith et al. 2023 (arXiv 2304.06027); the factor
s = alpha / r is ours, since s B A is what is added to W. ELLA (arXiv 2601.02232) is this method under another name: it
leaves out the absolute value, which the square makes irrelevant.
"""

from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.adapters.linear import AdaptedLinear
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite


class CLoRA(IncLoRA):
    """IncLoRA whose new update s B A is small where those of earlier branches are large.

    Args:
        lambda_overlap: weight of the penalty.
    """

    def __init__(self, lambda_overlap: Finite = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not lambda_overlap >= 0:
            raise ConfigError(f"model.adapter.lambda_overlap: {lambda_overlap} must not be negative")
        self.lambda_overlap = lambda_overlap

    def penalties(self) -> dict[str, Tensor]:
        # Checkpointed: autograd would keep two (m, n) matrices of every layer until the backward pass.
        overlaps = [
            checkpoint(_overlap, layer, use_reentrant=False)
            for layer in self.layers.values()
            if layer.stack_A is not None
        ]
        return {"overlap": self.lambda_overlap * sum(overlaps)} if overlaps and self.lambda_overlap else {}


def _overlap(layer: AdaptedLinear) -> Tensor:
    return ((layer.stack_B @ layer.stack_A).abs() * layer.update()).square().sum()
