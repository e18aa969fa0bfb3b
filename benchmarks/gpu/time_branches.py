"""A training step with 1, 5, 15 and 30 gated branches on one model, as `branches.py` measures it."""

import sys
from collections.abc import Iterator
from typing import Any

from _common import summary
from branches import BATCH, COUNTS, LENGTH, Side, gated, grow
from measure import forget_peak, peak_gib, run
from models import backbone_of


def branches(model: str, tiny: bool) -> Iterator[dict[str, Any]]:
    module, length, rounds = gated(backbone_of(model, tiny)), 32 if tiny else LENGTH, 1 if tiny else 5
    yield {"batch": [BATCH, length]}
    there = 0
    for count in COUNTS:
        grow(module, there, count)
        there, side = count, Side(module, length, "wall")
        side()  # prepares kernels
        forget_peak()
        seconds = [side() for _ in range(rounds)]
        rate = BATCH * length / summary(seconds)["median_s"]
        # With one branch it is a gated LoRA, the peer of the others.
        yield {
            "peer" if count == 1 else f"{count} branches": {
                "tokens_per_s": rate, "peak_gib": peak_gib(), **summary(seconds)
            }
        }  # fmt: skip


if __name__ == "__main__":
    sys.exit(run(branches))
