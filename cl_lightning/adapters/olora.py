"""O-LoRA: each task's branch looks in directions that earlier branches do not look in.

    loss = NLL + lambda_1 sum over layers, i < t of |A_i A_t^T|_1 + lambda_2 sum over layers of ||A_t||_F + ||B_t||_F

Trained: A and B of the current task. Frozen: everything else; earlier branches stay on. Source: Wang et al. 2023 (arXiv
2310.14152). Their code adds the penalties after the loss is divided by the accumulated micro-batches, so that they
weigh more the more of these there are; here they count once per optimiser step. With a start B0 A0 != 0 an earlier
branch's rows are A_i and what they moved by, and all of them count.
"""

from typing import Any

from torch import Tensor

from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.common.errors import ConfigError


class OLoRA(IncLoRA):
    """IncLoRA whose new A is pulled towards the orthogonal complement of the old ones.

    Args:
        lambda_orthogonal: lambda_1, of the entries' absolute values (not the squared norm).
        lambda_norm: lambda_2, of the norms themselves (not squared).
    """

    def __init__(self, lambda_orthogonal: float = 0.5, lambda_norm: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, value in (("lambda_orthogonal", lambda_orthogonal), ("lambda_norm", lambda_norm)):
            if not value >= 0:
                raise ConfigError(f"model.adapter.{name}: {value} must not be negative")
        self.lambda_orthogonal, self.lambda_norm = lambda_orthogonal, lambda_norm

    def penalties(self) -> dict[str, Tensor]:
        layers = list(self.layers.values())
        out: dict[str, Tensor] = {}
        stacked = [layer for layer in layers if layer.stack_A is not None]
        overlaps = [(layer.stack_A @ layer.factors()[0].t()).abs().sum() for layer in stacked]
        if self.lambda_orthogonal and overlaps:
            out["orthogonality"] = self.lambda_orthogonal * sum(overlaps)
        if self.lambda_norm:
            norms = [factor.norm() for layer in layers for factor in layer.factors()]
            out["norm"] = self.lambda_norm * sum(norms)
        return out
