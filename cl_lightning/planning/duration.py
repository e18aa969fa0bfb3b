"""Estimates the time of a run: by an earlier run's costs or, without one, by arithmetic and this machine's speed."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cl_lightning.common.errors import UserError
from cl_lightning.common.wording import counted
from cl_lightning.common.yaml_files import parse_yaml
from cl_lightning.planning.work import Work
from cl_lightning.sequence.folder import CONFIG, read_record
from cl_lightning.sequence.run_files import RECORD
from cl_lightning.sequence.time_left import SCORING, TRAINING, ZERO_SHOT

#: Seconds for which products are repeated to measure a rate, and the sizes of the matrices multiplied.
MEASURED, SIDE = 0.3, 1536
#: Floating-point operations per second of a GPU that is not here.
ASSUMED = 1e14


@dataclass(frozen=True)
class Estimate:
    """Seconds by stage, and what they rest on."""

    seconds: dict[str, float]
    basis: str

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


# ---- by an earlier run -----------------------------------------------------------------------------------


def by_earlier_run(folder: Path, model: Mapping[str, Any], work: Work, zero_shot: bool) -> Estimate | None:
    """Estimate by the last run below `folder` that trained the same model; None without one.

    Args:
        model: the options of the model, which are compared with the run's.
        zero_shot: whether the untrained model is scored too.
    """
    for path in sorted((file.parent for file in folder.glob(f"*/{RECORD}")), key=lambda path: -path.stat().st_mtime):
        record = _record(path)
        if record is not None and record["costs"] and _model(path) == model:
            return _by_costs(path, record, work, zero_shot)
    return None


def _record(path: Path) -> dict[str, Any] | None:
    try:
        return read_record(path)
    except UserError:  # the estimate goes without a damaged run
        return None


def _model(path: Path) -> Any:
    return parse_yaml((path / CONFIG).read_text(encoding="utf-8"), CONFIG).get("model")


def _by_costs(path: Path, record: Mapping[str, Any], work: Work, zero_shot: bool) -> Estimate | None:
    costs = [record["costs"][name] for name in record["order"][: record["done"]]]
    answers = {name: budget["answers"] for name, budget in record["metrics"]["budgets"].items()}
    prompts = [
        sum(answers.get(name, 0) for name, score in zip(record["columns"], row, strict=True) if score is not None)
        for row in record["R"]
    ]
    tokens = sum(one["tokens_per_second"] * one["seconds"][TRAINING] for one in costs)
    if not tokens or not sum(prompts):
        return None
    other = sum(
        s for one in costs for stage, s in one["seconds"].items() if stage not in (TRAINING, SCORING, ZERO_SHOT)
    )
    each = sum(one["seconds"][SCORING] for one in costs) / sum(prompts)
    count = sum(task.scored for task in work.tasks) + (work.zero_shot().scored if zero_shot else 0)
    seconds = {
        TRAINING: sum(task.tokens for task in work.tasks) * sum(one["seconds"][TRAINING] for one in costs) / tokens,
        SCORING: count * each,
        "other work": other / len(costs) * len(work.tasks),
    }
    return Estimate(seconds, f"the costs of {counted(len(costs), 'task')} of {path}")


# ---- by arithmetic ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Products:
    """Floating-point operations of matrix products, on one rank.

    Attributes:
        training, reading, writing: of all steps, of the prompts, and of the answers, which are as long as allowed.
    """

    training: float
    reading: float
    writing: float


def products(work: Work, of_micro_batch: int, recomputed: bool, zero_shot: bool) -> Products:
    """Count a run's products from those of the largest micro-batch, in proportion to the tokens.

    Args:
        of_micro_batch: its floating-point operations, forward and backward.
        recomputed: whether the forward pass runs twice, for gradient checkpointing.
        zero_shot: whether the untrained model is scored too.
    """
    each = of_micro_batch / work.micro_batch.tokens
    # Weights are frozen: a backward pass has as many products as a forward pass.
    forward = each / (3 if recomputed else 2)
    scored = [*work.tasks, *([work.zero_shot()] if zero_shot else [])]
    share = forward / work.division.ranks
    return Products(
        each * sum(task.padded for task in work.tasks),
        share * sum(one.read for one in scored),
        share * sum(one.generated for one in scored),
    )


def by_arithmetic(done: Products, rows: int, dtype: torch.dtype) -> Estimate:
    """Estimate by products alone, at the rates measured now on this machine. `rows`: prompts answered at a time."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    wide, narrow = (_rate(count, dtype, device) for count in (SIDE, rows))
    name = str(dtype).removeprefix("torch.")
    basis = f"matrix products alone at {wide / 1e9:,.0f} GFLOP/s in {name}, measured now ({device.type})"
    return Estimate(_seconds(done, wide, narrow), basis)


def by_assumption(done: Products) -> Estimate:
    """Estimate by products alone, for a GPU that is not here."""
    basis = f"matrix products alone at an assumed {ASSUMED / 1e12:.0f} TFLOP/s: no GPU here"
    return Estimate(_seconds(done, ASSUMED, ASSUMED), basis)


def _seconds(done: Products, wide: float, narrow: float) -> dict[str, float]:
    return {TRAINING: done.training / wide, SCORING: done.reading / wide + done.writing / narrow}


def _rate(rows: int, dtype: torch.dtype, device: torch.device) -> float:
    """Measure the floating-point operations per second of products of (rows, SIDE) with (SIDE, SIDE) matrices."""
    one, other = (torch.ones(count, SIDE, dtype=dtype, device=device) for count in (rows, SIDE))
    float((one @ other.t()).sum())
    started, count = time.monotonic(), 0
    while (spent := time.monotonic() - started) < MEASURED:
        float((one @ other.t())[0, 0])
        count += 1
    return count * 2 * rows * SIDE * SIDE / spent
