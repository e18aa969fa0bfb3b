"""Words and the table of a plan, in at most 80 columns."""

from collections.abc import Iterator

from rich.table import Table

from cl_lightning.common.console import table
from cl_lightning.common.wording import counted, duration
from cl_lightning.planning.duration import Estimate
from cl_lightning.planning.memory import PARTS, STAGES, Memory
from cl_lightning.planning.work import Work
from cl_lightning.sequence.out_of_memory import BOUNDARY, SCORING, TRAINING

#: What to do where a stage does not fit.
ADVICE = {"training": TRAINING, "scoring": SCORING, "boundary": BOUNDARY}
#: Share of a GPU's memory that its driver, kernels and fragments may take beside what is counted. Not measured.
RESERVE = 0.1
UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}


def size(count: float) -> str:
    """Return bytes in the largest unit of which there is one or more, e.g. "1.52 GiB"."""
    name = next((name for name, unit in UNITS.items() if abs(count) >= unit), "KiB")
    return f"{count / UNITS[name]:.3g} {name}" if count < 1000 * UNITS[name] else f"{count / UNITS[name]:,.0f} {name}"


def millions(count: float) -> str:
    """Return a large number in words, e.g. "135 million"."""
    for unit, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f}"


def amounts(work: Work, rows: int, zero_shot: bool, longest: bool) -> Iterator[tuple[str, str]]:
    """Yield the amount of work, each line with a name.

    `rows`: prompts answered at a time; `longest`: lengths are the options' limits.
    """
    data, division, batch = work.data, work.division, work.micro_batch
    parts = f", {division.parts} micro-batches each" if division.parts > 1 else ""
    parts += f", on {division.ranks} ranks" if division.ranks > 1 else ""
    parts += " that share the base" if division.sharded else ""
    yield "steps", f"{work.steps:,} optimiser steps in {counted(len(data.order), 'task')}{parts}"
    after = sum(task.scored for task in work.tasks)
    before = f", {work.zero_shot().scored:,} before the first" if zero_shot else ""
    yield "scored", f"{after:,} prompts after tasks{before}, in batches of {rows}"
    yield "batch", f"at most {counted(batch.rows, 'example')} of {batch.length:,} tokens at a time"
    if longest:
        yield "lengths", "the longest that the options allow: there is no tokenizer"


def contents(memory: Memory, tasks: int, base: str) -> Iterator[tuple[str, str]]:
    """Yield what the model and the run folder hold, each line with a name."""
    trained = millions(memory.parameters["trained"])
    yield "model", f"{millions(memory.parameters['base'])} parameters in {base}, {trained} trained"
    kept = f"{counted(tasks, 'branch', 'branches')} of {size(memory.stored)}"
    yield "on disk", f"{size(tasks * memory.stored)}: {kept}; {size(memory.checkpoint)} inside a task"


def parts_table(memory: Memory) -> Table:
    """Build the table of memory by part and stage."""
    unit = "GiB" if memory.total(memory.peak) >= UNITS["GiB"] else "MiB"
    found = {part: memory.parts[part] for part in PARTS if part in memory.parts}
    rows = [[part, *(_cell(of.get(stage, 0), unit) for stage in STAGES)] for part, of in found.items()]
    total = ["together", *(_cell(memory.total(stage), unit) for stage in STAGES)]
    return table([f"{unit} at the last task", *STAGES], [*rows, total])


def _cell(count: int, unit: str) -> str:
    return f"{count / UNITS[unit]:,.2f}" if count else "-"


def verdict(memory: Memory, limit: int) -> Iterator[str]:
    """Say whether a run fits a GPU of `limit` bytes, or what to turn, in lines."""
    stage, need = memory.peak, memory.total(memory.peak)
    free = limit * (1 - RESERVE) - need
    if free >= 0:
        yield f"fits {size(limit)}: {size(free)} to spare in {stage}, and {RESERVE:.0%} for what is not counted"
        return
    parts = {part: of.get(stage, 0) for part, of in memory.parts.items()}
    largest = max(parts, key=parts.__getitem__)
    yield f"does not fit {size(limit)}, of which {RESERVE:.0%} is left for what is not counted"
    yield f"{stage} takes {size(need)}, the most by {largest} ({size(parts[largest])}):"
    yield f"{ADVICE[stage]}; or load the base with model.backbone.load_in_4bit=true"


def times(estimate: Estimate) -> Iterator[tuple[str, str]]:
    """Yield how long a run takes, and what that rests on, each line with a name."""
    stages = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in estimate.seconds.items())
    yield "time", f"{duration(estimate.total)}: {stages}"
    yield "", f"by {estimate.basis}"
