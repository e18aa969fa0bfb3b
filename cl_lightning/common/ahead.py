"""Computes the next item in a thread while the one before it is used."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")


def ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """Yield each item with `function` of it, in order, and its errors in its turn.

    While an item is used, the next one is made, and `function` of it runs in a thread: worthwhile where that lets go of
    Python's lock.
    """
    with ThreadPoolExecutor(1) as pool:
        before: tuple[Item, Future[Result]] | None = None
        for item in items:
            pending = item, pool.submit(function, item)
            if before is not None:
                yield before[0], before[1].result()
            before = pending
        if before is not None:
            yield before[0], before[1].result()
