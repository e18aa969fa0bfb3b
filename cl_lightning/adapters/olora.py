"""O-LoRA: penalises overlap of the new A with the A of earlier branches.

    loss = NLL + lambda_1 sum over layers, i < t of |A_i A_t^T|_1 + lambda_2 sum over layers of ||A_t||_F + ||B_t||_F

Trained: A and B of the current task. Frozen: everything else; earlier branches stay on. Source: Wang et al. 2023 (arXiv
2310.14152). Their code adds the penalties after dividing the loss by the number of accumulated micro-batches, so
their weight grows with it; here they count once per optimiser step. With a start B0 A0 != 0 the rows of an earlier
branch are those of A_i and of its displacement, and all of them count.
"""

from typing import Any

from torch import Tensor

from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite


class OLoRA(IncLoRA):
    """IncLoRA whose new A is penalised towards the orthogonal complement of the old ones.

    Args:
        lambda_orthogonal: lambda_1, weight of the entries' absolute values (not the squared norm).
        lambda_norm: lambda_2, weight of the norms (not squared).
    """

    def __init__(self, lambda_orthogonal: Finite = 0.5, lambda_norm: Finite = 0.0, **kwargs: Any) -> None:
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
