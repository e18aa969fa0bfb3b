"""Negative control: the command line with the loss many codes have, a mean over each rank's own tokens."""

import sys
from typing import Any

from torch import Tensor

from cl_lightning.__main__ import main
from cl_lightning.data.collate import IGNORE
from cl_lightning.model.module import ContinualLM


def rank_mean(self: ContinualLM, batch: dict[str, Any], world_size: int, accumulate: int) -> Tensor:
    return batch["weight"] / (batch["labels"] != IGNORE).sum()


if __name__ == "__main__":
    ContinualLM.step_weight = rank_mean
    sys.exit(main())
