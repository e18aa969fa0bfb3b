"""What each task costs: seconds and peak memory of its stages, training tokens per second, stored bytes.

Costs are kept in the record and logged. They say nothing about results, differ from run to run, and are no part of a
run's identity. `sequence.stages` has the clock.
"""

import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

#: A stage, and the task that it scores, or "".
Key = tuple[str, str]


@dataclass
class Costs:
    """Costs of the tasks done so far, by name of the task.

    Stages: "zero-shot" scoring; "gradients" and "inputs", passes over examples, wherever they are made; "start", other
    work before training; "training"; "probes"; "end", other work after training; "scoring"; "saving"; and those of
    callbacks. A stage that begins within another is not counted in that one. Peak memory is that of the process on
    rank 0: bytes allocated on its GPU or, without one, its resident memory (on Linux within the stage, elsewhere since
    its start).

    Attributes:
        tasks: task -> {"seconds": {stage: s}, "parts": {"stage/scored task": s}, "peak_bytes": {stage: bytes},
            "tokens_per_second": ..., "trained_parameters": ..., "stored_parameters": ..., "stored_bytes": ...}.
        task: the current task.
        device: where it is trained.
    """

    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    task: str = ""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def begin_task(self, task: str, device: torch.device, before: dict[str, Any] | None = None) -> None:
        """Begin to measure a task; `before`: what it has cost in an earlier process."""
        self.task, self.device = task, device
        self.tasks[task] = before or {"seconds": {}, "parts": {}, "peak_bytes": {}}
        _reset_peak(self.device)

    def wait(self) -> None:
        """Wait for the device, so that a clock that is read next counts its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def count(self, key: Key | None, seconds: float) -> None:
        """Count these seconds, and the peak of memory since the last count, for a stage; None: for none."""
        if key is not None and self.task:
            (stage, item), of = key, self.tasks[self.task]
            of["seconds"][stage] = of["seconds"].get(stage, 0.0) + seconds
            of["peak_bytes"][stage] = max(of["peak_bytes"].get(stage, 0), _peak(self.device))
            if item:
                parts = of.setdefault("parts", {})
                parts[f"{stage}/{item}"] = parts.get(f"{stage}/{item}", 0.0) + seconds
        _reset_peak(self.device)

    def seconds(self, stage: str) -> float:
        """Return the seconds of a stage of the current task so far, 0 if it has not begun."""
        return self.tasks[self.task]["seconds"].get(stage, 0.0)

    def by_key(self, task: str) -> dict[Key, float]:
        """Return the seconds of a task's stages, and of each scored task."""
        of = self.tasks.get(task, {})
        parts = {tuple(name.split("/", 1)): seconds for name, seconds in dict(of.get("parts", {})).items()}
        return {(stage, ""): seconds for stage, seconds in dict(of.get("seconds", {})).items()} | parts

    def values(self) -> dict[str, float]:
        """Return the current task's costs by logged name."""
        of = self.tasks[self.task]
        stages = {f"cost/{stage}/{kind}": v for kind in ("seconds", "peak_bytes") for stage, v in of[kind].items()}
        return stages | {f"cost/{name}": v for name, v in of.items() if not isinstance(v, dict)}

    def add(self, **values: float) -> None:
        """Add further costs of the current task, by name."""
        self.tasks[self.task] |= values


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
