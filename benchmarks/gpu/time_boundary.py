"""SLICE's boundary in units of a plain forward and backward pass: gradients, sketches, decompositions, memory.

PEFT has no boundary; the peer is the plain pass through the frozen model that both would need.
"""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from _common import Stopwatch, device
from _memory import BATCH, BUDGET, LENGTH, RANK, batches_of, boundary, plain_pass, plans
from measure import forget_peak, peak_gib, run
from models import backbone_of
from slice_init import decomposition

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.gradients.memory_plan import Plan
from cl_lightning.model.module import ContinualLM


def boundaries(model: str, tiny: bool) -> Iterator[dict[str, Any]]:
    module = ContinualLM(backbone_of(model, tiny), SeqLoRA(RANK, 2))
    module.load(module.backbone.load_tokenizer())
    module.to(device())
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    batches, watch = batches_of(module, 1, 64 if tiny else LENGTH), Stopwatch("wall")
    tokens = batches[0]["input_ids"].numel()

    def timed(work: Any, passes: int) -> dict[str, float]:
        work()  # prepares kernels
        forget_peak()
        watch.start()
        work()
        watch.stop()
        return {"seconds": watch.seconds, "tokens_per_s": passes * tokens / watch.seconds, "peak_gib": peak_gib()}

    yield {"peer": timed(lambda: plain_pass(module, batches), 1), "batch": [BATCH, tokens // BATCH], "rank": RANK}
    shapes = {name: layer.shape for name, layer in module.adapter.layers.items()}
    chosen = plans(shapes, 4.0 if tiny else BUDGET)  # sketches of tiny matrices are larger than these
    # What needs most memory comes last.
    for mode, plan in sorted(chosen.items(), key=lambda item: item[1].held):
        passes = 2 * plan.passes  # of the new task and of memory

        def work(plan: Plan = plan) -> None:
            boundary(module, plan, module.gradient_pass(batches))

        yield {mode: timed(work, passes)}
    forget_peak()
    yield {"decomposition": decomposition(module, "wall") | {"peak_gib": peak_gib()}}


if __name__ == "__main__":
    sys.exit(run(boundaries))
