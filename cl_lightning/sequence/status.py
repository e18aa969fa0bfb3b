"""Messages on the progress of a run: what is saved when it is stopped, and where the next start continues."""

from collections.abc import Sequence
from pathlib import Path


def resume_advice(fresh: bool) -> str:
    """Say how to resume. `fresh`: the command starts over, so running it again would delete what it has saved."""
    return "run the same command again" + (" without FRESH=1 (sequence.fresh=true)" if fresh else "")


def saved(folder: Path, done: int, order: Sequence[str], fresh: bool = False) -> str:
    """Say which tasks of a run are saved, and which command resumes it.

    Args:
        folder: the run folder.
        done: number of committed tasks.
        order: names of the trained tasks.
        fresh: whether the command starts over.
    """
    if done == 0:
        return f"none of {len(order)} tasks was finished; run the same command again to begin"
    tasks = f"tasks 1 to {done} of {len(order)} are" if done > 1 else f"task 1 of {len(order)} is"
    purpose = "continue from there" if done < len(order) else "see the result"
    return f"{tasks} saved in {folder}; {resume_advice(fresh)} to {purpose}"


def resumed(done: int, order: Sequence[str]) -> str | None:
    """Say where a run continues; None if no task is done."""
    if done == len(order):
        return "finished: showing its result"
    return f"continuing after task {done} of {len(order)} ({order[done - 1]})" if done else None
