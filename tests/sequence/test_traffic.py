"""What ranks send each other: a step's trained parameters, a boundary's gradients or sketches, and factors."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from cl_lightning.common import distributed
from cl_lightning.gradients.sketch import PROBES
from cl_lightning.sequence.callback import TaskCallback
from tests.runs import adapters, smoke

FLOAT32 = 4
#: Lightning compares the lengths of the ranks' loaders, twice, before a task's first step.
LENGTHS = 2 * 8
Traffic = dict[str, dict[str, int]]
STEPS = 5


class Count(TaskCallback):
    """Counts the bytes of tensors that rank 0 sums or broadcasts, by stage of the run, and DDP's by step."""

    def __init__(self, file: str) -> None:
        self.file, self.stage, self.sent = file, "before", Counter[tuple[str, str]]()

    def on_sequence_start(self, run: Any) -> None:
        for name in ("all_reduce", "broadcast"):
            setattr(dist, name, self._counted(name, getattr(dist, name)))
        self.stage = "boundary 0"

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(tensor: torch.Tensor, *more: Any, **named: Any) -> Any:
            self.sent[self.stage, name] += tensor.nbytes
            return function(tensor, *more, **named)

        return counted

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stage = "training"

        def hook(state: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
            self.sent[f"step {trainer.global_step}", "gradients"] += bucket.buffer().nbytes
            stage, self.stage = self.stage, "DDP"
            try:
                return allreduce_hook(None, bucket)
            finally:
                self.stage = stage

        trainer.strategy.model.register_comm_hook(None, hook)

    def on_task_end(self, run: Any, task: int) -> None:
        self.stage = "scoring"

    def on_task_scored(self, run: Any, task: int) -> None:
        self.stage = f"boundary {task + 1}"

    def on_sequence_end(self, run: Any) -> None:
        if distributed.rank() == 0:
            table: Traffic = {}
            for (stage, what), count in self.sent.items():
                table.setdefault(stage, {})[what] = count
            Path(self.file).write_text(json.dumps(table))


def traffic(folder: Path, *options: str) -> tuple[Traffic, list[tuple[int, int]], int, str]:
    """The bytes counted in a run of two ranks, the matrices' shapes, the rank, and what the run printed."""
    file, run = folder / "traffic.json", folder / "run"
    counting = (f"--observers.count={Count.__module__}.Count", f"--observers.count.file={file}")
    printed = smoke(run, *counting, "--sequence.wandb=off", "--sequence.zero_shot=false", *options, ranks=2).stdout
    branch = next(iter(adapters(run).values()))
    A = {name.removesuffix(".lora_A"): t for name, t in branch.items() if name.endswith(".lora_A")}
    shapes = [(branch[f"{name}.lora_B"].shape[0], a.shape[1]) for name, a in A.items()]
    return json.loads(file.read_text()), shapes, next(iter(A.values())).shape[0], printed


@pytest.mark.long
def test_a_step_sends_the_trained_parameters_and_a_boundary_its_gradients(tmp_path: Path) -> None:
    sent, shapes, rank, printed = traffic(tmp_path)
    assert "gradients exact" in printed
    factors = sum(rank * (m + n) for m, n in shapes) * FLOAT32
    gradient = sum(m * n for m, n in shapes) * FLOAT32
    for step in range(STEPS):  # of each of the two tasks
        assert sent[f"step {step}"] == {"gradients": 2 * factors}
    # Loss, tokens and two signs of saving; Lightning's own sign to stop.
    assert sent["training"] == {"all_reduce": 2 * STEPS * 4 * FLOAT32, "broadcast": 2 * STEPS * 8}
    # The second task's boundary has memory's gradient as well.
    assert sent["boundary 0"] == {"all_reduce": gradient + LENGTHS, "broadcast": factors}
    assert sent["boundary 1"] == {"all_reduce": 2 * gradient + LENGTHS, "broadcast": factors}
    assert sent.get("scoring", {}).get("all_reduce", 0) == 0


def sketched(m: int, n: int, columns: int) -> tuple[int, int]:
    """Numbers that one gradient's four passes sum, and numbers of the bases between them (`sketch.FourPass`)."""
    k, both = min(columns, m, n), min(2 * columns, m, n)
    more = both - k
    return m * (k + PROBES) + n * k + m * more + n * more, m * k + n * more + m * more


@pytest.mark.long
def test_a_boundary_within_a_memory_budget_sends_sketches(tmp_path: Path) -> None:
    size = "--model.backbone.config={hidden_size: 128, intermediate_size: 256}"
    options = ("--boundary.init.memory_budget=1200000", "--boundary.init.oversampling=2", size)
    sent, shapes, rank, printed = traffic(tmp_path, *options, "--model.adapter.rank=2")
    (columns,) = {int(k) for k in re.findall(r"sketched with (\d+) columns, 4 passes", printed)}
    summed, bases = (FLOAT32 * sum(part) for part in zip(*(sketched(m, n, columns) for m, n in shapes), strict=True))
    factors = sum(rank * (m + n) for m, n in shapes) * FLOAT32
    assert sent["boundary 0"] == {"all_reduce": summed + LENGTHS, "broadcast": bases + factors}
    assert sent["boundary 0"]["all_reduce"] < sum(m * n for m, n in shapes) * FLOAT32
