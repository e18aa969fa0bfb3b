"""What depends on the machine: in which dtype a bf16 base is held, how products are summed, when memory goes back."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loaded_stays() -> Iterator[None]:
    """Keep the garbage collector from looking through what is loaded already, time and again."""
    give_back_memory()  # what is garbage now would stay, too
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def give_back_memory() -> None:
    """Return freed memory to the system: glibc keeps what a boundary's accumulators and scoring's caches leave behind.

    Looks through all objects (0.3 s after torch and transformers are loaded, unless `loaded_stays`): once a task.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
