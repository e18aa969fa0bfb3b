"""Where a run stands, in words: what is saved when it is stopped, and what its next start goes on from."""

from collections.abc import Sequence
from pathlib import Path


def saved(folder: Path, done: int, order: Sequence[str]) -> str:
    """What of a run is saved, and what the same command does next.

    Args:
        folder: the run folder.
        done: how many of `order` are committed there.
        order: the tasks that are trained.
    """
    if done == 0:
        return f"none of {len(order)} tasks was finished; run the same command again to begin anew"
    tasks = f"tasks 1 to {done} of {len(order)} are" if done > 1 else f"task 1 of {len(order)} is"
    further = "go on from there" if done < len(order) else "see the result"
    return f"{tasks} saved in {folder}; run the same command again to {further}"


def continuation(done: int, order: Sequence[str]) -> str | None:
    """What a start says when tasks are done already; None when there are none."""
    if done == len(order):
        return "finished: showing its result"
    return f"continuing after task {done} of {len(order)} ({order[done - 1]})" if done else None
