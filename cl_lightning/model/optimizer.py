"""Learning-rate schedules, and AdamW as in transformers 4."""

import math
from collections.abc import Callable
from typing import Any

from torch.optim import AdamW

SCHEDULES = {
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "constant": lambda progress: 1.0,
}


def rate(schedule: str, warmup: float, total: int) -> Callable[[int], float]:
    """Return the factor of the peak rate at each step. `warmup`: share of the `total` steps in which it rises."""
    rising, decay = math.ceil(warmup * total), SCHEDULES[schedule]

    def factor(step: int) -> float:
        return (step + 1) / (rising + 1) if step < rising else decay((step - rising) / max(1, total - rising))

    return factor


def eps_before_correction(optimizer: AdamW, *_: Any) -> None:
    """Scale eps before a step so that it is added before the bias correction: eps / sqrt(1 - beta_2^t)."""
    for group in optimizer.param_groups:
        steps = max((int(optimizer.state[p]["step"]) for p in group["params"] if optimizer.state[p]), default=0)
        group["eps"] = optimizer.defaults["eps"] / math.sqrt(1 - group["betas"][1] ** (steps + 1))
