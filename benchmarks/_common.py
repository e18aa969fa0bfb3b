"""Shared by all benchmarks: options, description of the machine, interleaved timing, results as JSON."""

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import transformers

from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.precision import held_dtype

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

BACKBONE = "smollm2-135m-instruct"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Stopwatch:
    """Measures seconds between `start` and `stop`, including accelerator work."""

    def __init__(self, clock: str) -> None:
        self.clock = CLOCKS[clock]

    def start(self) -> None:
        _wait()
        self.begun = self.clock()

    def stop(self) -> None:
        _wait()
        self.seconds = self.clock() - self.begun


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def options(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the common options; a script adds its own."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few samples and rounds: does it run, not how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    parser.add_argument("--data", metavar="ROOT", help="real data (default: CL_DATA, else the built-in sample)")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own)")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: CPU seconds, for a busy machine (use --threads 1)"
    )
    parser.add_argument("--rounds", type=int, help="timed repetitions of each side")
    return parser


def start(arguments: argparse.Namespace) -> None:
    """Set threads, resolve the dtype "auto", and print machine and dtype."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.dtype == "auto":
        arguments.dtype = str(held_dtype(torch.bfloat16)).removeprefix("torch.")
        if arguments.dtype != "bfloat16":
            print(f"auto: this machine holds bfloat16 in {arguments.dtype}")
    print(f"{machine()}; {BACKBONE} in {arguments.dtype}; {arguments.clock} seconds")


def device() -> torch.device:
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def machine() -> str:
    """Describe device, threads, load of the machine at the start (1 minute) and versions in one line."""
    if device().type == "cuda":
        name = torch.cuda.get_device_name()
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.exists() else []
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), platform.processor())
        name += f", {torch.get_num_threads()} of {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{name}{load}; torch {torch.__version__}, transformers {transformers.__version__}"


def tasks(arguments: argparse.Namespace, names: list[str], tokenizer: Any, **settings: Any) -> TaskSequence:
    """Load the encoded tasks from --data; train examples with answers over the budget are dropped."""
    data = TaskSequence(root=arguments.data, order=names, long_answers="drop", **settings)
    data.prepare(tokenizer, encoder_decoder=False)
    print(f"data: {data.source}")
    return data


def interleaved(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Time each side in the order A B C A B C ..., so that temporary load affects all sides.

    A side runs once and returns its own seconds, so that it may prepare outside of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            seconds[name].append(side())
    return seconds


def paired_ratio(slow: list[float], fast: list[float]) -> float:
    """Return the median over rounds of slow / fast."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def summary(seconds: list[float]) -> dict[str, float]:
    """Return median and minimum in seconds."""
    return {"median_s": round(statistics.median(seconds), 4), "min_s": round(min(seconds), 4)}


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def finish(
    arguments: argparse.Namespace,
    name: str,
    ratios: dict[str, float],
    figures: dict[str, Any],
    less_is_better: Iterable[str] = (),
) -> None:
    """Print the ratios, and write the JSON file if requested. More is better, but for ratios of `less_is_better`."""
    ratios = {key: round(value, 3) for key, value in ratios.items()}
    print("  ".join(f"{key} {value:.2f}x" for key, value in ratios.items()))
    if arguments.json:
        figures = {"dtype": arguments.dtype, "clock": arguments.clock, "quick": arguments.quick, **figures}
        less = sorted(less_is_better)
        result = {
            "name": name, "machine": machine(), "ratios": ratios, "less_is_better": less, "figures": figures
        }  # fmt: skip
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
