"""Summarises a run in one sentence of numbers and intervals."""

from cl_lightning.metrics.bootstrap import format_interval
from cl_lightning.results.page.sections.plane import fixed_means
from cl_lightning.results.page.source import Source
from cl_lightning.results.tables import cell


def verdict(run: Source) -> str:
    """Summarise what the run learnt and kept, compared with models that learn nothing."""
    if not run.R:
        return "No task is finished yet."
    if run.resampled is None:
        return "The run has no predictions, so its scores have no intervals and are not summarised."
    return f"{standing(run)}.{_fixed(run)}"


def standing(run: Source) -> str:
    """Say in one sentence what the run learnt and kept, with intervals; the run must have predictions."""
    if run.protocol.together:
        return f"Learnt all {len(run.tasks)} tasks together: {_with_interval(run, 'fp')} on average"
    if run.protocol.alone:
        return f"Learnt {_counted(len(run.done))}, each from the base model: {_with_interval(run, 'ap')} on average"
    if len(run.done) == 1:
        return f"Learnt one task: {_with_interval(run, 'ap')}"
    if not run.whole:
        learnt = f"Learnt {_with_interval(run, 'ap')} on average over {len(run.done)} tasks"
        return f"{learnt}; the earlier ones were not scored after {run.done[-1]}, so what was kept is not known"
    ap, fp = _with_interval(run, "ap"), _with_interval(run, "fp")
    return f"Learnt {ap} on average over {len(run.done)} tasks, kept {fp}: {_forgot(run)}"


def _forgot(run: Source) -> str:
    """Describe forgetting, and whether its interval excludes 0."""
    forgotten, (low, high) = _with_interval(run, "forget_T"), run.metric_intervals["forget_T"]
    if high < 0:
        return f"gained {_with_interval(run, 'bwt_T')} points after tasks were learnt"
    if low <= 0:
        return f"forgot {forgotten} points, which these test examples do not distinguish from 0"
    lost = [(*run.lost(task), name) for task, name in enumerate(run.done[:-1])]
    value, ends, name = max(lost, key=lambda each: each[0])
    equal = sum(each[0] == value for each in lost) - 1
    also = f" and as much on {equal} more" if equal else ""
    return f"forgot {forgotten} points, most on {name}: {cell(value)} ({format_interval(ends)}){also}"


def _fixed(run: Source) -> str:
    """Compare with models that learn nothing."""
    names = {"zero-shot": "the untrained model", "majority answer": "the most frequent answer of each task"}
    scores = [f"{names[name]} scores {cell(value)}" for name, value in fixed_means(run).items()]
    return f" For comparison, {', and '.join(scores)}." if scores else ""


def _with_interval(run: Source, metric: str) -> str:
    """Format a sequence metric with its interval."""
    value = run.protocol.summary(run.R, run.record["zero_shot"])[metric]
    return f"{cell(value)} ({format_interval(run.metric_intervals[metric])})"


def _counted(count: int) -> str:
    return "one task" if count == 1 else f"{count} tasks"
