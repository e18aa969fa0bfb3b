"""Measures the memory of a run from its allocations, which PyTorch's profiler notes: nothing of the plan is used."""

import gc
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from cl_lightning.commands.trainer import ContinualTrainer
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.module import ContinualLM
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.context import RunContext
from cl_lightning.sequence.settings import SequenceSettings
from cl_lightning.sequence.stages import Stages

#: Stages of a run -> those of a plan; "boundary" is the time after training.
STAGES = {
    "start": "boundary",
    "gradients": "boundary",
    "inputs": "boundary",
    "training": "training",
    "scoring": "scoring",
}


class Allocations(TaskCallback):
    """Notes allocations from when the base is loaded until the last task is scored."""

    def __init__(self) -> None:
        self.profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self.moments: list[tuple[int, str]] = []
        self.base = 0

    def on_sequence_start(self, run: RunContext) -> None:
        gc.collect()
        self.base = sum(p.numel() * p.element_size() for p in run.module.llm.parameters())
        self.profile.start()

    def on_stage(self, run: RunContext, stages: Stages) -> None:
        last = stages.task == len(run.order) - 1
        self.moments.append((time.time_ns(), STAGES.get(stages.current.name, "") if last else ""))

    def on_task_scored(self, run: RunContext, task: int) -> None:
        if task == len(run.order) - 1:
            self.moments.append((time.time_ns(), ""))
            self.profile.stop()

    def peaks(self) -> dict[str, int]:
        """Stage of the last task -> the most bytes in use in it."""
        found = dict.fromkeys(STAGES.values(), 0)
        now, stage, moments = self.base, "", iter(self.moments)
        at, following = next(moments)
        for event in sorted(
            (e for e in self.profile.profiler.kineto_results.events() if e.name() == "[memory]"),
            key=lambda e: e.start_ns(),
        ):
            while event.start_ns() >= at:
                stage = following
                at, following = next(moments, (1 << 63, ""))
                if stage:
                    found[stage] = max(found[stage], now)
            now += event.nbytes()
            if stage:
                found[stage] = max(found[stage], now)
        return found


def peaks(
    module: ContinualLM, data: TaskSequence, boundary: Mapping[str, TaskCallback], folder: Path, **trainer: Any
) -> dict[str, int]:
    """Run a sequence, and return the most bytes in use in each stage of its last task."""
    noted = Allocations()
    settings = SequenceSettings(run_dir=str(folder), wandb="off", report=False, zero_shot=False, threads=1)
    ContinualTrainer(boundary, {"allocations": noted}, settings, accelerator="cpu", **trainer).fit(module, data)
    return noted.peaks()
