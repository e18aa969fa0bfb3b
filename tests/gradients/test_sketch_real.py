"""Sketches of a real model's gradients, SmolLM2-135M after a few steps on an old task: the benchmark in small.

Of made gradients `test_sketch` says the same.
"""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.data.base import Example
from cl_lightning.data.prompt import Encoded
from cl_lightning.data.sample.tasks import load
from cl_lightning.gradients.accumulate import inner_product
from cl_lightning.gradients.sketch import FourPass, SinglePass, Sketch, TestMatrices
from cl_lightning.linalg.low_rank import LowRank
from cl_lightning.linalg.svd import top_singular
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from tests.conftest import batch_of

pytestmark = pytest.mark.long
RANK, OVERSAMPLING = 16, 10
COLUMNS = 2 * RANK + OVERSAMPLING
BLOCKS = (1, 3)  # early ones have the heaviest tails
EXAMPLES, BATCH, STEPS = 16, 8, 8
NEXT = {"A": "B", "B": "C", "C": "A"}

Batches = list[tuple[Tensor, Tensor]]
Streams = dict[str, Batches]


@dataclass
class Calls:
    """Keeps every call of a layer."""

    calls: Batches

    def add(self, dy: Tensor, x: Tensor) -> None:
        self.calls.append((dy.clone(), x.clone()))


@pytest.fixture(scope="module")
def streams() -> tuple[Streams, Streams]:
    """dy and x, batch by batch, of the old task and of the same prompts with other labels; by matrix."""
    torch.set_num_threads(1)
    module = ContinualLM(Backbone("smollm2-135m-instruct", dtype="float32"), SeqLoRA(rank=RANK, alpha=2 * RANK))
    tokenizer = module.backbone.load_tokenizer()
    module.load(tokenizer)
    chosen = load("FOMC").train[:EXAMPLES]

    def encoded(examples: list[Example]) -> list[Encoded]:
        ids = [(tokenizer(e.prompt)["input_ids"][-16:], tokenizer(e.answer)["input_ids"]) for e in examples]
        return [
            Encoded(e, tuple(prompt), (*answer, tokenizer.eos_token_id), 0)
            for e, (prompt, answer) in zip(examples, ids, strict=True)
        ]

    def batched(examples: list[Encoded]) -> list[dict[str, Any]]:
        return [batch_of(examples[i : i + BATCH]) for i in range(0, EXAMPLES, BATCH)]

    old = batched(encoded(chosen))
    new = batched(encoded([replace(e, answer=NEXT[e.answer]) for e in chosen]))
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(module.adapter.param_groups(), lr=3e-3)
    for step in range(STEPS):
        batch = old[step % len(old)]
        optimizer.zero_grad()
        (module.sample_nll(batch) * batch["sample_weight"]).sum().backward()
        optimizer.step()
    module.adapter.end_task(0)
    module.adapter.begin_task(1, torch.Generator().manual_seed(1))

    def stream(batches: list[dict[str, Any]]) -> Streams:
        out: Streams = {name: [] for name in module.adapter.layers if int(name.split(".")[2]) in BLOCKS}

        module.gradient_pass(batches).run({name: Calls(calls) for name, calls in out.items()})
        return out

    return stream(old), stream(new)


def run(sketch: Sketch, batches: Batches) -> LowRank:
    for _ in range(sketch.passes):
        for dy, x in batches:
            sketch.add(dy, x)
        result = sketch.finish_pass()
    return result


def energy(result: LowRank, G: Tensor) -> float:
    """Of the sketch's top 2r directions, as a share of the best 2r directions' energy."""
    U, _, V = top_singular(result, 2 * RANK, torch.Generator().manual_seed(0))
    best = torch.linalg.svdvals(G)[: 2 * RANK].square().sum()
    return float((U.t() @ G @ V).square().sum() / best)


def test_top_energy_and_conflicts_survive_in_every_matrix(streams: tuple[Streams, Streams]) -> None:
    tests = TestMatrices(0, torch.float32, torch.device("cpu"))
    two, one, negative = {}, {}, 0
    for name, new in streams[1].items():
        old = streams[0][name]
        G, M = (sum(dy.double().t() @ x.double() for dy, x in batches) for batches in (new, old))
        sketch, memory = (run(FourPass(tuple(G.shape), COLUMNS, tests, 2 * COLUMNS), batches) for batches in (new, old))
        two[name] = energy(sketch, G.float())
        one[name] = energy(run(SinglePass(tuple(G.shape), COLUMNS, tests, 2 * COLUMNS + 1), new), G.float())
        exact = float((G * M).sum() / (G.norm() * M.norm()))
        inner = float(sum(inner_product(dy, x, memory) for dy, x in new))
        norms = [float(g.dense().norm()) / g.captured**0.5 for g in (sketch, memory)]
        assert abs(inner / (norms[0] * norms[1]) - exact) < 4e-3, name
        negative += exact < 0
    assert min(two.values()) >= 0.999, two
    assert min(one.values()) < 0.999, "negative control: one pass is not enough"
    assert negative > 0, "the labels are at odds"
