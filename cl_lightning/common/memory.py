"""Garbage collection and the release of freed memory."""

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: New objects after which the young ones are searched for garbage, and collections of those before one of all objects.
OBJECTS, NEVER = 50_000, 1_000_000


class _Process:
    """Whether what is frozen in this process are its imports."""

    imports_frozen: bool = False


@contextmanager
def frozen_imports() -> Iterator[None]:
    """Collect no garbage inside, and exclude from later collections, to the process's end, what is there by then.

    For the imports of a command: nearly all of their objects stay, and each collection would scan them all.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        _Process.imports_frozen = True
        gc.enable()


@contextmanager
def gc_frozen() -> Iterator[None]:
    """Exclude the objects that exist on entry from garbage collection, which then need not scan them.

    Does nothing where the caller has frozen objects: `gc.unfreeze` would give those back too.
    """
    if gc.get_freeze_count() and not _Process.imports_frozen:
        yield
        return
    release_memory()  # garbage would be frozen too
    gc.freeze()
    try:
        yield
    finally:
        if not _Process.imports_frozen:
            gc.unfreeze()


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Look for garbage seldom while much is made that stays: each search among all of it finds next to nothing."""
    before = gc.get_threshold()
    if before[0]:  # else the caller has turned it off
        gc.set_threshold(OBJECTS, before[1], NEVER)
    try:
        yield
    finally:
        gc.set_threshold(*before)


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
