"""Where a run stands, in words: what is saved when it is stopped, and what its next start goes on from."""

from collections.abc import Sequence
from pathlib import Path


def again(fresh: bool) -> str:
    """How to go on. `fresh`: the command starts over, so the same one would delete what it has saved itself."""
    return "run the same command again" + (" without FRESH=1 (sequence.fresh=true)" if fresh else "")


def saved(folder: Path, done: int, order: Sequence[str], fresh: bool = False) -> str:
    """What of a run is saved, and which command goes on from it.

    Args:
        folder: the run folder.
        done: how many of `order` are committed there.
        order: the tasks that are trained.
        fresh: whether the command starts over.
    """
    if done == 0:
        return f"none of {len(order)} tasks was finished; run the same command again to begin anew"
    tasks = f"tasks 1 to {done} of {len(order)} are" if done > 1 else f"task 1 of {len(order)} is"
    further = "go on from there" if done < len(order) else "see the result"
    return f"{tasks} saved in {folder}; {again(fresh)} to {further}"


def continuation(done: int, order: Sequence[str]) -> str | None:
    """What a start says when tasks are done already; None when there are none."""
    if done == len(order):
        return "finished: showing its result"
    return f"continuing after task {done} of {len(order)} ({order[done - 1]})" if done else None
