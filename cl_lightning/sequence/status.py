"""Messages on the progress of a run: what is saved when it is stopped, and where the next start continues."""

from collections.abc import Sequence
from pathlib import Path

from cl_lightning.sequence.unfinished import Unfinished


def resume_advice(fresh: bool) -> str:
    """Say how to resume. `fresh`: the command starts over, so running it again would delete what it has saved."""
    return "run the same command again" + (" without FRESH=1 (sequence.fresh=true)" if fresh else "")


def saved(folder: Path, done: int, order: Sequence[str], fresh: bool = False, inside: Unfinished | None = None) -> str:
    """Say what of a run is saved, and which command resumes it.

    Args:
        folder: the run folder.
        done: number of committed tasks.
        order: names of the trained tasks.
        fresh: whether the command starts over.
        inside: what is saved of the task after them.
    """
    total, purpose = len(order), "continue from there" if done < len(order) else "see the result"
    parts = [*([f"tasks 1 to {done} of {total}" if done > 1 else f"task 1 of {total}"] if done else [])]
    if inside is not None and (what := _within(inside, total)):
        parts.append(what)
    if not parts:
        return f"none of {total} tasks was finished; run the same command again to begin"
    verb = "is" if len(parts) == 1 and done < 2 and not parts[0].startswith("scores") else "are"
    return f"{' and '.join(parts)} {verb} saved in {folder}; {resume_advice(fresh)} to {purpose}"


def resumed(done: int, order: Sequence[str], inside: Unfinished | None = None) -> str | None:
    """Say where a run continues; None if nothing is done."""
    if done == len(order):
        return "finished: showing its result"
    if inside is not None and _within(inside, len(order)):
        task = f"task {done + 1} of {len(order)} ({order[done]})"
        trained = f"continuing {task} after step {inside.step}"
        untrained = trained if inside.checkpoint else "continuing after the scores of the untrained model"
        return f"continuing with the scores after {task}" if inside.stage == "scoring" else untrained
    return f"continuing after task {done} of {len(order)} ({order[done - 1]})" if done else None


def _within(inside: Unfinished, total: int) -> str:
    """Say what of a task is saved; "" if nothing is."""
    if inside.stage == "scoring":
        return f"task {inside.task + 1} of {total} up to its scores"
    if inside.checkpoint:
        return f"task {inside.task + 1} of {total} up to step {inside.step}"
    return "scores of the untrained model" if inside.cells else ""
