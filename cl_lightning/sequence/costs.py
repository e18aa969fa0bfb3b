"""Measures what each task costs: seconds and peak memory of its stages, training tokens per second, stored bytes.

Costs are kept in the record and logged. They say nothing about results, differ from run to run, and are no part of a
run's identity.
"""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Costs:
    """Costs of the tasks done so far, by name of the task.

    Stages: "zero-shot" scoring; "gradients", passes over examples for gradients or inputs, wherever they are made;
    "start", other work before training; "training"; "probes"; "end", other work after training; "scoring".
    A stage that begins within another is not counted in that one. Peak memory is that of the process on rank 0: bytes
    allocated on its GPU or, without one, its resident memory (on Linux within the stage, elsewhere since its start).

    Attributes:
        tasks: task -> {"seconds": {stage: s}, "peak_bytes": {stage: bytes}, "tokens_per_second": ...,
            "trained_parameters": ..., "stored_parameters": ..., "stored_bytes": ...}.
        task: the current task.
        device: where it is trained.
    """

    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    task: str = ""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _open: list[str] = field(default_factory=list)
    _since: float = 0.0

    def begin_task(self, task: str, device: torch.device, before: dict[str, Any] | None = None) -> None:
        """Begin to measure a task; `before`: what it has cost in an earlier process."""
        self.task, self.device, self._open = task, device, []
        self.tasks[task] = before or {"seconds": {}, "peak_bytes": {}}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what happens inside as a stage of the current task."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def enter(self, name: str) -> None:
        """Begin a stage; `leave` ends it."""
        self._count()
        self._open.append(name)

    def leave(self) -> None:
        """End the stage that began last."""
        self._count()
        self._open.pop()

    def seconds(self, stage: str) -> float:
        """Return the seconds of a stage of the current task so far, 0 if it has not begun."""
        return self.tasks[self.task]["seconds"].get(stage, 0.0)

    def values(self) -> dict[str, float]:
        """Return the current task's costs by logged name."""
        of = self.tasks[self.task]
        stages = {f"cost/{stage}/{kind}": v for kind in ("seconds", "peak_bytes") for stage, v in of[kind].items()}
        return stages | {f"cost/{name}": v for name, v in of.items() if not isinstance(v, dict)}

    def add(self, **values: float) -> None:
        """Add further costs of the current task, by name."""
        self.tasks[self.task] |= values

    def _count(self) -> None:
        """Count the time and the peak since the last change of stage for the innermost open one."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.monotonic()
        if self._open and self.task:
            stage, of = self._open[-1], self.tasks[self.task]
            of["seconds"][stage] = of["seconds"].get(stage, 0.0) + now - self._since
            of["peak_bytes"][stage] = max(of["peak_bytes"].get(stage, 0), _peak(self.device))
        _reset_peak(self.device)
        self._since = now


def _peak(device: torch.device) -> int:
    """Highest memory in use since `_reset_peak`, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":
        line = next(text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        reset = Path("/proc/self/clear_refs")
        if _is_writable(reset):
            reset.write_text("5")  # the kernel then counts the peak of resident memory anew


def _is_writable(path: Path) -> bool:
    """Whether this process may write to a file of the kernel; in some containers it may not."""
    try:
        path.open("w").close()
    except OSError:
        return False
    return True
