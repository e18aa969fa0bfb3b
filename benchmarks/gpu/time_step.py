"""Training steps of this package against transformers' Trainer with a PEFT LoRA, as `train_step.py` compares them.

The same examples, rank, targets, attention kernel (sdpa) and fused AdamW; PEFT's adapters in the base's dtype
(autocast_adapter_dtype=False), ours in float32. One side after the other, each alone on the device.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

from _common import Stopwatch, summary
from _epochs import BATCH, our_epoch, their_epoch
from measure import forget_peak, peak_gib, run, training_flops
from models import backbone_of
from train_step import RANK, TOLERANCE, loss_difference, our_model, their_model
from words import words

from cl_lightning.data.prompt import Encoded
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM

#: The smallest shape, whose losses are compared in float32 before anything is timed.
COMPARED = "Llama-3.2-1B"


def steps(model: str, tiny: bool) -> Iterator[dict[str, Any]]:
    backbone = backbone_of(model, tiny)
    tokenizer = backbone.load_tokenizer()
    tokenizer.padding_side = "right"
    count, prompt, answer, rounds = (2 * BATCH, 48, 16, 1) if tiny else (8 * BATCH, 448, 64, 3)
    data = words(tokenizer, count, prompt, answer, BATCH)
    examples, watch = data.tasks[0].train, Stopwatch("wall")
    tokens = sum(e.length for e in examples)
    yield {"tokens": tokens, "steps": count // BATCH, "batch": BATCH}
    if model == COMPARED:
        yield {"max_loss_difference": _compared(backbone, tokenizer)}

    def side(epoch: Callable[[], float], flops: float) -> dict[str, Any]:
        epoch()  # prepares kernels
        forget_peak()
        seconds = [epoch() for _ in range(rounds)]
        median = summary(seconds)["median_s"]
        rates = {"tokens_per_s": tokens / median, "flops_per_s": flops / median}
        return {**rates, "peak_gib": peak_gib(), **summary(seconds)}

    def ours() -> tuple[dict[str, Any], float]:
        module = our_model(backbone, tokenizer)
        flops = _flops(module, examples)
        return side(lambda: our_epoch(module, data, 0, watch), flops), flops

    def theirs(flops: float) -> dict[str, Any]:
        llm = their_model(backbone, tokenizer, autocast=False)
        return side(lambda: their_epoch(llm, examples, tokenizer, watch, optim="adamw_torch_fused"), flops)

    forget_peak()
    found, flops = ours()
    yield {"ours": found}
    data.trainer = None  # it holds the model
    forget_peak()
    yield {"peer": theirs(flops)}


def _compared(backbone: Backbone, tokenizer: Any) -> float:
    # Both models are there at once, in float32: short examples.
    examples = words(tokenizer, BATCH, 48, 16, BATCH).tasks[0].train
    difference = loss_difference(backbone, examples, tokenizer, 3)
    if not difference <= TOLERANCE:
        raise SystemExit(f"error: the losses of both sides differ by {difference:.1e}")
    return difference


def _flops(module: ContinualLM, examples: tuple[Encoded, ...]) -> float:
    shapes = {name: layer.shape for name, layer in module.adapter.layers.items()}
    width = sum(m for name, (m, _) in shapes.items() if name.endswith("q_proj"))
    head = module.llm.get_output_embeddings()
    lengths = [(e.length, len(e.answer_ids)) for e in examples]
    return training_flops(shapes, (head.out_features, head.in_features), RANK, width, lengths)


if __name__ == "__main__":
    sys.exit(run(steps))
