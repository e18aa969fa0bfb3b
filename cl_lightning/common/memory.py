"""Garbage collection and the release of freed memory."""

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_frozen() -> Iterator[None]:
    """Exclude the objects that exist on entry from garbage collection, which then need not scan them.

    Does nothing where the caller has frozen objects: `gc.unfreeze` would give those back too.
    """
    if gc.get_freeze_count():
        yield
        return
    release_memory()  # garbage would be frozen too
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def machine_memory() -> int:
    """Return the bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def release_memory() -> None:
    """Collect garbage and return freed memory to the system, which glibc otherwise keeps.

    Scans all objects (0.3 s with torch and transformers loaded, unless `gc_frozen`): call it once per task.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
