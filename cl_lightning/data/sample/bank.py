"""Types and word lists shared by the sample's task modules; words are kept apart by split."""

from collections.abc import Callable
from random import Random

Maker = Callable[[Random, str, int], tuple[str, str]]
"""(random source, "train" or "test", running index in the split) -> (prompt, answer)."""

Bank = dict[str, tuple[str, ...]]
"""Words by split. The two tuples share no entry, so no sentence that uses one is in both splits."""


def bank(train: str, test: str, sep: str = ",") -> Bank:
    """Build a Bank from two texts of words or phrases separated by `sep`."""
    split = {"train": _entries(train, sep), "test": _entries(test, sep)}
    assert not set(split["train"]) & set(split["test"])
    return split


def _entries(text: str, sep: str) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in text.split(sep))


NAMES = bank(
    "Anna, Ben, Clara, David, Emma, Felix, Grace, Henry, Ivy, Jack, Kate, Leo, Maria, Noah, Olive, Paul",
    "Rosa, Sam, Tina, Victor, Wendy, Yusuf, Zoe, Oscar",
)
