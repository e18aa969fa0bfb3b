"""One measurement in a process of its own: options, memory, work in FLOPs, and figures as JSON.

A measurement yields figures as it gets them; each is written at once, so that they survive what comes later.
"""

import argparse
import json
import logging
import resource
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from _common import device

from cl_lightning.common.memory import release_memory

Measurement = Callable[[str, bool], Iterator[dict[str, Any]]]


def run(measurement: Measurement) -> int:
    """Run `measurement(model, tiny)` as a script: FILE.py --model=NAME --json=FILE [--tiny]."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning|transformers|torch")
    found: dict[str, Any] = {}
    for figures in measurement(arguments.model, arguments.tiny):
        found |= figures
        arguments.json.write_text(json.dumps(found), encoding="utf-8")
    return 0


def forget_peak() -> None:
    """Free what is free, and begin to look for the peak of the accelerator's memory anew."""
    release_memory()
    if device().type != "cpu":
        torch.accelerator.empty_cache()
        torch.accelerator.reset_peak_memory_stats()


def peak_gib() -> float:
    """Return the accelerator's peak since `forget_peak`; without one, the process's own since its start."""
    if device().type == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return torch.accelerator.max_memory_allocated() / 2**30


def training_flops(
    matrices: Mapping[str, tuple[int, int]], head: tuple[int, int], rank: int, width: int,
    sequences: Iterable[tuple[int, int]],
) -> float:  # fmt: skip
    """Compute the operations that a step's mathematics needs, whatever a program runs beside them.

    A frozen W (m, n): 2mn per token forward, and as many for the gradient of its input. Factors of rank r: 6 r(m + n),
    since they also get gradients. Attention over L tokens, causal: 2 L^2 width per layer forward, twice that backward.
    The output head counts at the answer's tokens only. Recomputed work does not count.

    Args:
        matrices: shapes of the adapted layers, which are all linear layers of the blocks.
        head: the output head's shape.
        rank: r.
        width: of the queries, summed over layers (heads times the width of a head).
        sequences: (all tokens, answer tokens) of each.
    """
    per_token = sum(4 * m * n + 6 * rank * (m + n) for m, n in matrices.values())
    lengths = list(sequences)
    tokens, answers = sum(length for length, _ in lengths), sum(answer for _, answer in lengths)
    attention = sum(6 * width * length**2 for length, _ in lengths)
    return float(per_token * tokens + attention + 4 * head[0] * head[1] * answers)
